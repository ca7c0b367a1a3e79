"""`gaincell map`: every stage of a mapping; their results in run.json, figures and the adapted model.

    software                  the pretrained model with softmax attention
    software-continued        the same, trained further on the tokens of the linear model
    linear                    the linear hardware model
    unadapted                 only the cell exchanged
    adapted                   gains and offsets adapted
    software-continued-more   the softmax model, trained further on the tokens of the fine-tuned model as well
    fine-tuned                the adapted model, trained further

Each starts from the stored result of an earlier one, so that any can be the first to run.

Every training of the softmax model sees the same blocks in the same order on the same schedule as the
hardware model it is compared with, and minimises the cross-entropy; the hardware model learns the softmax
model's distribution instead (distillation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from gaincell.adaptation import adapt, collect_statistics
from gaincell.adaptation.statistics import attached
from gaincell.evaluation.codes import code_use
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attach
from gaincell.mapping import summary
from gaincell.mapping.engine import freeze_embeddings
from gaincell.mapping.initial_gains import calibrate
from gaincell.mapping.job import Job, prepare
from gaincell.mapping.run_folder import Told, run_lock
from gaincell.mapping.settings import MapSettings
from gaincell.progress import StageProgress, silent_stages
from gaincell.reports.figures import FIGURES
from gaincell.reports.style import save_all
from gaincell.results.provenance import hash_of
from gaincell.results.run import Adaptation, MappedResult, UsedText
from gaincell.training.distillation import Distillation
from gaincell.training.log import Tracker
from gaincell.training.loss import Loss
from gaincell.training.transfer import AttentionTransfer, only_attention

CODE_BLOCKS = 4
"""Blocks of calibration text on which the use of codes is counted."""
INITIAL_BLOCKS = 2
"""Blocks of calibration text for the first gains and offsets."""


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
        settings: The model, the chip, the text and how much of it.
        out: The directory RUN.
        command: The command line, for the record.
        progress: Opens the progress of every step.
        tracker: Where trainings are logged too.

    Raises:
        GaincellError: model, text, design or directory are not acceptable, or a loss is not finite.
    """
    with run_lock(out, "map"):
        torch.manual_seed(settings.seed)
        job = prepare(settings, out, progress, tracker)
        run = job.finished(MappedResult)
        if run is None:
            stages = STAGES if len(job.training) > job.linear_blocks else STAGES[:5]
            for stage in stages:
                job.stage(stage.name, partial(stage.carry_out, job), keep=stage.trained)
            run = _assemble(job, stages, command)
            job.hardware(job.folder.state(stages[-1].name), linear=False)
            job.finish(run, job.save, partial(save_all, FIGURES))
        return run


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: In files.
        title: In tables.
        run: Does it, leaves the job's model as its result, and returns what there is to tell.
        compared_with: The software stage trained on the same tokens.
        trained: Whether its parameters are kept.
    """

    name: str
    title: str
    run: Callable[[Job], Told]
    compared_with: str | None = None
    trained: bool = True

    def carry_out(self, job: Job) -> tuple[Told, PreTrainedModel]:
        """Do it; what there is to tell, and the model that came of it."""
        return self.run(job), job.model


def _software(job: Job) -> Told:
    job.software(None)
    return Told()


def _software_continued(job: Job) -> Told:
    job.software(job.shipped.software if job.shipped else None)
    return Told(training_tokens=_train_linear_share(job, "software-continued", None))


def _linear(job: Job) -> Told:
    """From the shipped version, or by first gains and offsets, attention transfer, then distillation."""
    if job.shipped is not None:
        job.hardware(job.shipped.linear, linear=True)
        return Told(training_tokens=_train_linear_share(job, "linear", None))
    teacher = job.teacher(None)
    attach(teacher, job.design(linear=True), attention="softmax")
    model = job.hardware(None, linear=True)
    progress = job.progress("linear: first gains and offsets")
    silent = calibrate(model, [job.calibration[:INITIAL_BLOCKS]], progress=progress)
    tokens = _train_linear_share(job, "linear", teacher)
    return Told(training_tokens=tokens, silent=tuple(map(str, silent)))


def _train_linear_share(job: Job, stage: str, teacher: PreTrainedModel | None) -> int:
    """Train on the linear model's blocks, in two phases where there is nothing shipped to begin with.

    With a teacher: attention transfer, then distillation end to end. Without: cross-entropy in both, which is
    how the softmax model keeps in step.

    Returns:
        The tokens it was trained on, those of a shipped version included.
    """
    blocks = job.training[: job.linear_blocks]
    first = 0 if job.shipped else round(job.settings.transfer_share * len(blocks))
    tokens = job.shipped.tokens if job.shipped else 0
    if first and teacher is not None:
        only_attention(job.model)
        tokens += job.train_phase(stage, "1 of 2", "transfer", blocks[:first], AttentionTransfer(teacher))
    elif first:
        tokens += job.train_phase(stage, "1 of 2", "end-to-end", blocks[:first], None)
    freeze_embeddings(job.model)
    if len(blocks) > first:
        part = "2 of 2" if first else "1 of 1"
        loss = None if teacher is None else Distillation(teacher, weight=1.0)
        tokens += job.train_phase(stage, part, "end-to-end", blocks[first:], loss)
    return tokens


def _unadapted(job: Job) -> Told:
    job.hardware(job.folder.state("linear"), linear=False)
    return Told(training_tokens=job.records["linear"].training_tokens)


def _adapted(job: Job) -> Told:
    """Both methods from the same start; the model keeps the closed form's result."""
    batches = [job.calibration]
    linear = job.hardware(job.folder.state("linear"), linear=True)
    target = collect_statistics(linear, batches, job.progress("adapted: statistics of the linear model"))
    curve = [job.calibration[: max(1, job.settings.published_tokens // job.block)]]
    curve_target = target if len(curve[0]) == len(job.calibration) else collect_statistics(linear, curve)
    some = [job.calibration[:CODE_BLOCKS]]
    codes = {"linear": code_use(linear, some)}
    model = job.hardware(job.folder.state("linear"), linear=False)
    before = collect_statistics(model, batches, job.progress("adapted: statistics before"))
    codes["unadapted"] = code_use(model, some)
    results: dict[str, Adaptation] = {}
    if job.settings.published:
        progress = job.progress("adapted: published iteration")
        found = adapt(model, curve, curve_target, "published", progress=progress)
        results["published"] = summary.adaptation(found)
        model = job.hardware(job.folder.state("linear"), linear=False)
    closed = adapt(model, batches, target, progress=job.progress("adapted: closed form"))
    reached = perplexity(model, curve[0].flatten(), job.protocol)
    results["closed-form"] = summary.adaptation(closed, calibration_perplexity=reached.perplexity)
    codes["adapted"] = code_use(model, some)
    return Told(
        training_tokens=job.records["linear"].training_tokens,
        adaptations=results,
        mismatch=summary.mismatch(before, closed.statistics, target),
        codes=codes,
    )


def _software_continued_more(job: Job) -> Told:
    job.software(job.folder.state("software-continued"))
    return _fine_tune(job, "software-continued-more", "software-continued")


def _fine_tuned(job: Job) -> Told:
    """Distillation from the softmax model that was trained on the same tokens."""
    teacher = job.teacher(job.folder.state("software-continued-more"))
    job.hardware(job.folder.state("adapted"), linear=False)
    return _fine_tune(job, "fine-tuned", "adapted", Distillation(teacher, weight=1.0))


def _fine_tune(job: Job, stage: str, before: str, loss: Loss | None = None) -> Told:
    blocks = job.training[job.linear_blocks :]
    tokens = job.train_phase(stage, "1 of 1", "fine-tuning", blocks, loss)
    return Told(training_tokens=job.records[before].training_tokens + tokens)


STAGES = (
    Stage("software", "software", _software, trained=False),
    Stage("software-continued", "software, continued", _software_continued),
    Stage("linear", "linear hardware", _linear, "software-continued"),
    Stage("unadapted", "nonlinear, unadapted", _unadapted, "software-continued", trained=False),
    Stage("adapted", "nonlinear, adapted", _adapted, "software-continued"),
    Stage("software-continued-more", "software, continued more", _software_continued_more),
    Stage("fine-tuned", "nonlinear, fine-tuned", _fine_tuned, "software-continued-more"),
)


def _assemble(job: Job, stages: Sequence[Stage], command: Sequence[str]) -> MappedResult:
    design = attached(job.hardware(None, linear=False))[0].design
    records = job.records
    software, adapted = records["software"], records["adapted"]
    inputs = {"training text": hash_of(job.training), "evaluation text": hash_of(job.evaluation)}
    remark = "" if job.model.dtype == torch.float32 else "; weights in bfloat16"
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
            summary.stage(s.name, s.title, records[s.name], software, records.get(s.compared_with or ""))
            for s in stages
        ),
        adaptation=adapted.adaptations or {},
        mismatch=adapted.mismatch,
        codes=adapted.codes,
        cell=summary.cell(design),
        silent=records["linear"].silent,
        provenance=job.provenance(command, design, inputs, seed=job.settings.seed, remark=remark),
    )
