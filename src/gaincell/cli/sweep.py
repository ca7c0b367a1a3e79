"""`gaincell sweep`: points of a design space, measured by processes and machines that share a storage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincell.cli._json import JsonFile, command_line, directory, show, show_result
from gaincell.cli._options import Computing, argument, check_needed, command, flag, option, use
from gaincell.errors import InputError, RunError
from gaincell.files import read_json, write_json

if TYPE_CHECKING:
    from gaincell.sweeps.settings import Sweep
    from gaincell.sweeps.study import Survey


RESUME = "points in progress are lost, finished ones are not; the same command continues"
JOURNAL, POINTS = "points.journal", "points"


@command
def sweep(
    context: typer.Context,
    *,
    file: Annotated[Path, argument("Sweep file, see docs/sweeps.md.", "SWEEP.toml")],
    out: Annotated[
        Path | None, directory("Directory for results, points and figures; by default runs/sweeps/NAME.")
    ] = None,
    workers: Annotated[int, option("Processes on this machine.", "N", min=1, max=1024)] = 1,
    storage: Annotated[
        str | None, option("Shared database or journal; by default a journal in DIR.", "URL|FILE")
    ] = None,
    keep_models: Annotated[
        bool, flag("--keep-models", "Keep the model of every point that is measured: points/NNNN is a RUN.")
    ] = False,
    dry_run: Annotated[bool, flag("--dry-run", "Check everything and show what is planned.")] = False,
    retry_elsewhere: Annotated[
        bool, flag("--retry-elsewhere", "Treat points in progress on other machines as lost.")
    ] = False,
    computing: Computing,
    json: JsonFile = None,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
    parent: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Measure a model on many designs: perplexity, energy, latency, area and yield.

    After an interruption, the same command continues and repeats no finished point. Several commands, on any
    number of machines, share the work when they name the same --storage. The sweeps in the examples come
    with gaincell.

    Example: gaincell sweep recipes/sweeps/levels.toml --workers 2

    Example: gaincell sweep recipes/sweeps/front.toml --storage front.journal --out runs/front
    """
    measured = "points that are measured, without --dry-run"
    needing = ("--json", "--keep-models", "--retry-elsewhere", "--workers", "--backend")
    check_needed(context, needing, measured, not dry_run)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = computing.threads or max(1, cores // workers)
    use(threads, computing.device)
    from gaincell.sweeps.file import load_sweep
    from gaincell.sweeps.study import existing_storage, open_storage

    asked = load_sweep(file)
    if keep_models and not asked.measures:
        raise InputError(
            f"--keep-models, but {' and '.join(asked.objectives)} follow from sizes alone, without a model; "
            "leave it out, or add the objective perplexity"
        )
    place = out or Path("runs") / "sweeps" / asked.name
    shared = storage or str(place / JOURNAL)
    if worker is not None:
        from gaincell.sweeps.point import Bench, measure_into
        from gaincell.sweeps.work import work

        opened, bench = open_storage(shared), Bench(asked, computing.backend, computing.device)
        command = command_line()[:-4]  # but --parent, --worker
        measure = measure_into(bench, place / POINTS, command, weights=keep_models)
        work(asked, opened, measure, worker, parent)
        return
    if dry_run:
        _dry_run(asked, existing_storage(shared) if storage or Path(shared).is_file() else None)
        return
    if storage is not None or Path(shared).exists():
        open_storage(shared)
    _claim(place, asked, storage)
    command = [sys.executable, "-m", "gaincell", "sweep", str(file), "--out", str(place), "--storage", shared]
    command += ["--backend", computing.backend, "--device", computing.device, "--threads", str(threads)]
    command += ["--keep-models"] if keep_models else []
    found = _oversee(asked, open_storage(shared), workers, command, place / "logs", retry_elsewhere)
    _report(asked, found, place, json, keep_models=keep_models)


def _claim(place: Path, asked: Sweep, storage: str | None) -> None:
    """Make DIR that of the sweep; say where points are of other code.

    Raises:
        RunError: it is another's.
    """
    from gaincell.results import SWEEP
    from gaincell.results.provenance import code

    known, content = place / SWEEP, {"study": asked.study, "code": code(), "identity": asked.identity}
    if known.is_file():
        try:
            before = read_json(known)
            study = before["study"]
        except (OSError, ValueError, KeyError, TypeError):
            raise RunError(f"{known} is damaged; remove {place}, or choose another --out") from None
        if study != asked.study:
            raise RunError(
                f"{place} holds another sweep, or this one from before its file, model, text, design or a "
                "device was changed; choose another --out, or remove it"
            )
        if before.get("code", content["code"]) != content["code"]:
            anew = "Remove it" if storage is None else "Give another --storage"
            typer.echo(
                f"{place} was begun with gaincell {before['code']}, this is {content['code']}; finished "
                f"points are kept. {anew} to measure them all with this one.",
                err=True,
            )
            return
    write_json(known, content, indent=1)


def _oversee(
    asked: Sweep, storage: Any, workers: int, command: list[str], logs: Path, retry_elsewhere: bool
) -> Survey:
    """Have all points measured; the command is that of a worker, without its number."""
    from gaincell.cli._progress import progress_bars
    from gaincell.sweeps.work import oversee

    def log_of(number: int) -> Path:
        return logs / f"worker-{number}.log"

    def launch(number: int) -> subprocess.Popen[bytes]:
        logs.mkdir(parents=True, exist_ok=True)
        numbered = [*command, "--parent", str(os.getpid()), "--worker", str(number)]
        with log_of(number).open("wb") as log:
            return subprocess.Popen(numbered, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    try:
        with progress_bars() as progress:
            return oversee(
                asked, storage, launch, workers, log_of, retry_elsewhere=retry_elsewhere,
                progress=progress(f"{asked.points} points of {asked.name}"),
            )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(RESUME) from None


def _dry_run(asked: Sweep, storage: Any | None) -> None:
    from gaincell.reports.tables import Rows
    from gaincell.sweeps.settings import LEARNING, OBJECTIVES
    from gaincell.sweeps.study import open_study, survey

    rows = [(parameter.name, parameter.unit, parameter.describe()) for parameter in asked.parameters]
    title = f"{asked.name}: {asked.points} points, {asked.sampler}"
    table = Rows(title, ("parameter", "unit", "values"), rows, text=range(3))
    directions = ", ".join(f"{OBJECTIVES[name][0]} {name}" for name in asked.objectives)
    show(table, f"objectives: {directions}")
    if asked.sampler not in LEARNING:
        reasons = [reason for reason in asked.possible() if reason]
        if reasons:
            show(f"{len(reasons)} points will fail, such as: {reasons[0]}")
    if storage is not None and asked.study in (known.study_name for known in storage.get_all_studies()):
        found = survey(open_study(asked, storage), asked.points)
        show(f"already complete: {len(found.complete)}, failed: {len(found.failed)}")


def _report(
    asked: Sweep, found: Survey, place: Path, json: Path | None, *, keep_models: bool = False
) -> None:
    """Result files, table, figures; with `keep_models`, how many points have no model in DIR."""
    from gaincell.integrations.hf.run import HARDWARE
    from gaincell.reports.style import save_all
    from gaincell.reports.sweep import rows
    from gaincell.reports.sweep_aware import remarks
    from gaincell.reports.sweep_figures import FIGURES
    from gaincell.results import RESULT, write
    from gaincell.sweeps.result import assemble

    result = assemble(asked, found, command_line())
    write(result, place / RESULT)
    show_result(result, json, rows(result), *remarks(result))
    folders = [place / POINTS / f"{point.point:04d}" for point in result.complete]
    without = sum(not (folder / HARDWARE).is_file() for folder in folders) if keep_models else 0
    if without:
        show(
            f"{without} measured points have no model in {place / POINTS}: they were measured without "
            "--keep-models, or on another machine; choose another --out to measure them again"
        )
    if found.elsewhere:
        show(
            f"{len(found.elsewhere)} points are in progress on other machines; give the command again when "
            "they are done, with --retry-elsewhere if those machines are gone"
        )
    if not found.complete and not found.elsewhere:
        reason = next((p.reason for p in result.points if p.reason is not None), "none was finished")
        raise RunError(f"all points failed: {reason}")
    if found.complete:
        show(*save_all(FIGURES, result, place / "figures"))
