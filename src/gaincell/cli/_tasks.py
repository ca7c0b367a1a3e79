"""Tasks of the evaluation harness, for `gaincell evaluate --tasks`."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from gaincell.cli._chips import ChipOptions
    from gaincell.evaluation.harness import TaskResult
    from gaincell.evaluation.harness import TasksResult as TasksResults
    from gaincell.integrations.hf.base_model import LoadedModel
    from gaincell.progress import StageProgress
    from gaincell.reports.tables import Rows
    from gaincell.results.codec import Kind
    from gaincell.results.evaluation import TaskScores, TasksResult


@dataclass(frozen=True)
class TaskOptions:
    """Which tasks, and how they are run."""

    tasks: Annotated[
        str | None,
        typer.Option("--tasks", metavar="NAME,...|paper", help="Tasks of lm-evaluation-harness instead."),
    ] = None
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="DIR", help="Folder with the tasks' files; else they are downloaded."),
    ] = None
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length", metavar="TOKENS", min=2, help="Longest context of a task; by default 1024."
        ),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option("--batch", metavar="N", min=1, help="Requests of a task in one forward pass; 8."),
    ] = None
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep every answer, so that a broken run goes on.")
    ] = True


def by_tasks(
    loaded: LoadedModel, options: TaskOptions, limit: int, chips: ChipOptions, progress: StageProgress
) -> tuple[Rows, TasksResult]:
    """Table and result; of many chips the result holds that of the nominal one."""
    from gaincell.cli._chips import tasks_by_chips
    from gaincell.evaluation.harness import evaluate_tasks
    from gaincell.evaluation.noise import noise_remark
    from gaincell.integrations.hf.attach import attached_layers

    names = [task.strip() for task in (options.tasks or "").split(",") if task.strip()]
    layers = attached_layers(loaded.model)
    remark = noise_remark(loaded.model)
    dtype = str(next(loaded.model.parameters()).dtype).removeprefix("torch.")
    runs: list[TasksResults] = []

    def run() -> dict[str, float]:
        runs.append(
            evaluate_tasks(
                loaded.model,
                loaded.tokenizer,
                names,
                data=options.data,
                limit=limit or None,
                batch=options.batch or 8,
                max_length=options.max_length,
                window=layers[0].design.window if layers else None,
                cache=cache_file(loaded, options.max_length) if options.cache else None,
                progress=progress,
            )
        )
        tasks = runs[-1].tasks
        return {f"{t.task}/{name}": score for t in tasks for name, (score, _) in t.metrics.items()}

    if chips.chips is not None:
        table, spread = tasks_by_chips(run, loaded, chips, progress)
        scores = dict(spread.scores)
        for n, task in enumerate(runs[0].tasks):
            for metric in task.items:
                kept = tuple(_short(chip.tasks[n].items[metric]) for chip in runs[1:])
                name = f"{task.task}/{metric}"
                scores[name] = replace(scores[name], per_item=kept)
        return table, replace(
            result_of(loaded, runs[0], True, dtype, remark), chips=replace(spread, scores=scores)
        )
    run()
    words = describe(runs[0]) + remark
    return _table(runs[0], words), result_of(loaded, runs[0], bool(layers), dtype, remark)


def result_of(
    loaded: LoadedModel, found: TasksResults, in_arrays: bool, dtype: str, remark: str
) -> TasksResult:
    """The result."""
    from gaincell.cli._perplexity import result
    from gaincell.results.evaluation import Harness, TasksResult

    kind: Kind = "simulated" if in_arrays else "measured"
    head = result(loaded, describe(found) + remark, [task.fingerprint for task in found.tasks])
    return TasksResult(
        **vars(head),
        numbers=kind,
        harness=Harness("lm-evaluation-harness", found.harness),
        dtype=dtype,
        softmax=found.softmax,
        longest_context=found.max_length,
        requests=found.requests,
        requests_cached=found.cached,
        requests_truncated=found.truncated,
        requests_beyond_window=found.beyond_window,
        model_seconds=found.seconds,
        tasks=tuple(_scores(task, kind) for task in found.tasks),
    )


def _scores(task: TaskResult, kind: Kind) -> TaskScores:
    from gaincell.results.common import Value
    from gaincell.results.evaluation import Metric, TaskScores

    metrics = {}
    for metric, (score, error) in task.metrics.items():
        unit = "bit/byte" if metric == "bits_per_byte" else "1"
        spread = None if error is None else Value(error, unit, kind)
        metrics[metric] = Metric(Value(score, unit, kind), spread)
    items = {name: _short(items) for name, items in task.items.items()}
    return TaskScores(task.task, task.version, task.split, task.n, task.of, task.fingerprint, metrics, items)


def _short(items: list[Any]) -> tuple[Any, ...]:
    """Log-likelihoods with the digits that a float32 sum has."""
    return tuple(tuple(round(x, 4) for x in i) if isinstance(i, list) else round(i, 5) for i in items)


def describe(found: TasksResults) -> str:
    """The protocol in words."""
    first = ", ".join(f"{t.task} {t.n} of {t.of}" for t in found.tasks)
    return (
        f"lm-evaluation-harness {found.harness}, 0-shot, contexts up to {found.max_length} tokens; "
        f"items: {first}"
    )


def cache_file(loaded: LoadedModel, max_length: int | None) -> Path:
    """Where results of this very model, chip, implementation and code are kept."""
    from importlib import metadata

    import torch

    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.base_model import fingerprint

    layers = attached_layers(loaded.model)
    dtype = next(loaded.model.parameters()).dtype
    scaling = [p.tolist() for layer in layers for p in layer.parameters()]
    parts = [
        fingerprint(loaded.model),
        str(scaling),
        *sorted({f"{layer.design.hash} {layer.design.mismatch} {layer.backend}" for layer in layers}),
        str(dtype),
        loaded.model.device.type,
        str(max_length),
        str(sorted(loaded.tokenizer.get_vocab().items())),
        _code(),
        metadata.version("lm_eval"),
        metadata.version("transformers"),
        torch.__version__,
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "gaincell" / "evaluations" / f"{key}.json.db"


COMPUTING = ("arrays", "circuits", "devices", "evaluation", "integrations", "native", "nn", "ops", ".")
"""Folders of the package whose code an answer depends on."""


def _code() -> str:
    """Hash of that code, compiled or not: another version, or a changed checkout, answers anew."""
    import gaincell

    found = hashlib.sha256()
    for folder in COMPUTING:
        paths = (Path(gaincell.__file__).parent / folder).glob("*" if folder == "." else "**/*")
        for path in sorted(p for p in paths if p.suffix in (".py", ".so", ".pyd")):
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def _table(found: TasksResults, protocol: str) -> Rows:
    from gaincell.reports.tables import Rows

    notes = [protocol]
    if found.cached:
        notes.append(f"{found.cached} of {found.requests} answers were kept from an earlier run")
    if found.truncated:
        notes.append(f"{found.truncated} requests were longer and lost tokens on the left")
    if found.beyond_window:
        notes.append(
            f"{found.beyond_window} requests were longer than the ring, which then forgot their beginning"
        )
    rows = [
        (task.task, metric, *(_shown(metric, x) for x in scores), f"{task.n:,} of {task.of:,}")
        for task in found.tasks
        for metric, scores in task.metrics.items()
    ]
    return Rows("", ("task", "metric", "value", "±", "items"), rows, "; ".join(notes), text=(0, 1))


def _shown(metric: str, score: float | None) -> str:
    from gaincell.reports.tables import readable

    if score is None:
        return "–"
    return f"{100 * score:.2f} %" if metric.startswith("acc") else readable(score)
