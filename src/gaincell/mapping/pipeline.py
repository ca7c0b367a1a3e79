"""`gaincell map`: run every stage, and put the results into run.json, figures and the adapted model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from gaincell.adaptation.statistics import attached
from gaincell.integrations.hf.checkpoint import save_differences
from gaincell.mapping import summary
from gaincell.mapping.folder import run_lock
from gaincell.mapping.job import Job, prepare
from gaincell.mapping.records import StageRecord
from gaincell.mapping.settings import MapSettings
from gaincell.mapping.stages import STAGES, Stage, run_stage
from gaincell.progress import StageProgress, silent_stages
from gaincell.reports.figures import draw_all
from gaincell.results import read, write
from gaincell.results.provenance import hash_of
from gaincell.results.run import FILE, MappedResult, UsedText
from gaincell.training.tracker import Tracker


def map_model(
    settings: MapSettings,
    out: Path,
    *,
    command: Sequence[str] = ("gaincell", "map"),
    progress: StageProgress = silent_stages,
    tracker: Tracker | None = None,
) -> MappedResult:
    """Map a pretrained model onto gain-cell hardware; returns what RUN/run.json holds.

    Interrupted at any point, the same call goes on where it stopped, to the same result. Of the finished run
    the parameters of the linear model are kept beside those of the last stage, for `gaincell adapt`.

    Example:

        >>> import gaincell, pathlib, tempfile
        >>> settings = gaincell.MapSettings(
        ...     model="tiny", design=gaincell.load_design("leroux2025"), text="sample", budget=0, block=64,
        ...     evaluation_tokens=128, calibration_tokens=128, published=False,
        ... )
        >>> result = gaincell.map_model(settings, pathlib.Path(tempfile.mkdtemp()) / "run")
        >>> result.adaptation["closed-form"].converged
        True

    Args:
        settings: see `MapSettings`.
        out: the directory RUN.
        command: the command line, for the record.
        progress: opens the progress of every step.
        tracker: where trainings are logged too.

    Raises:
        GaincellError: model, text, design or directory are not acceptable, or a loss is not finite.
    """
    with run_lock(out):
        return _map(settings, out, command, progress, tracker)


def _map(
    settings: MapSettings, out: Path, command: Sequence[str], progress: StageProgress, tracker: Tracker | None
) -> MappedResult:
    torch.manual_seed(settings.seed)
    job = prepare(settings, out, progress)
    job.tracker = tracker
    if (out / FILE).exists():
        return read(out, MappedResult)
    stages = STAGES if len(job.training) > job.linear_blocks else STAGES[:5]
    records = {stage.name: run_stage(job, stage) for stage in stages}
    run = assemble(job, stages, records, command)
    mapped = job.hardware(job.folder.state(stages[-1].name), linear=False)
    save_differences(mapped, out, job.pretrained_weights(), job.loaded.id, job.loaded.sha256)
    draw_all(run, out / "figures")
    write(run, out / FILE)
    job.folder.forget(but="linear")
    return run


def assemble(
    job: Job, stages: Sequence[Stage], records: Mapping[str, StageRecord], command: Sequence[str]
) -> MappedResult:
    """run.json of a mapping."""
    design = attached(job.hardware(None, linear=False))[0].design
    adapted = records["adapted"]
    return MappedResult(
        command="map",
        model=summary.model(job.loaded),
        design=summary.chip_of(design),
        text=UsedText(
            job.text_name,
            evaluation_tokens=len(job.evaluation),
            calibration_tokens=job.calibration.numel(),
            training_tokens=job.training.shape[0] * job.block,
        ),
        stages=tuple(
            summary.stage(
                stage.name,
                stage.title,
                records[stage.name],
                software=records["software"],
                continued=records.get(stage.compared_with or ""),
            )
            for stage in stages
        ),
        adaptation=adapted.adaptations or {},
        mismatch=adapted.mismatch,
        codes=adapted.codes,
        cell=summary.cell(design),
        silent=records["linear"].silent,
        provenance=job.provenance(
            command,
            design,
            records["software"],
            {"training text": hash_of(job.training), "evaluation text": hash_of(job.evaluation)},
            seed=job.settings.seed,
            remark="" if job.model.dtype == torch.float32 else "; weights in bfloat16",
        ),
    )
