"""The stages of a mapping. Each starts from the stored result of an earlier one, so that any can be the
first to run.

    software                  the pretrained model with softmax attention
    software-continued        the same, trained further on the tokens of the linear model
    linear                    the linear hardware model
    unadapted                 only the cell exchanged
    adapted                   gains and offsets adapted
    software-continued-more   the softmax model, trained further on the tokens of the fine-tuned model as well
    fine-tuned                the adapted model, trained further

Every training of the softmax model sees the same blocks in the same order on the same schedule as the
hardware model it is compared with, and minimises the cross-entropy; the hardware model learns the softmax
model's distribution instead (distillation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from transformers import PreTrainedModel

from gaincell.adaptation import adapt, collect_statistics
from gaincell.evaluation.codes import code_use
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attach
from gaincell.mapping import summary
from gaincell.mapping.initial import calibrate
from gaincell.mapping.job import Job, freeze_embeddings
from gaincell.mapping.records import StageRecord, Told
from gaincell.mapping.settings import Phase
from gaincell.mapping.transfer import AttentionTransfer, only_attention
from gaincell.results.run import Adaptation
from gaincell.training.distillation import Distillation
from gaincell.training.loop import Loss

CODE_BLOCKS = 4
"""Blocks of calibration text on which the use of codes is counted."""
INITIAL_BLOCKS = 2
"""Blocks of calibration text for the first gains and offsets."""


@dataclass(frozen=True)
class Stage:
    """One stage.

    name: in files.  title: in tables.  run: does it, leaves the job's model as its result, and returns what
    there is to tell.  compared_with: the software stage trained on the same tokens.
    """

    name: str
    title: str
    run: Callable[[Job], Told]
    compared_with: str | None = None
    trained: bool = True


def _software(job: Job) -> Told:
    job.software(None)
    return Told()


def _software_continued(job: Job) -> Told:
    model = job.software(job.shipped.software if job.shipped else None)
    return Told(training_tokens=_train_linear_share(job, model, "software-continued", None))


def _linear(job: Job) -> Told:
    """From the shipped linear version, or by first gains and offsets, attention transfer, and distillation
    from the softmax model.
    """
    if job.shipped is not None:
        model = job.hardware(job.shipped.linear, linear=True)
        return Told(training_tokens=_train_linear_share(job, model, "linear", None))
    teacher = job.teacher(None)
    attach(teacher, job.design(linear=True), attention="softmax")
    model = job.hardware(None, linear=True)
    progress = job.progress("linear: first gains and offsets")
    silent = calibrate(model, [job.calibration[:INITIAL_BLOCKS]], progress=progress)
    tokens = _train_linear_share(job, model, "linear", teacher)
    return Told(training_tokens=tokens, silent=tuple(map(str, silent)))


def _train_linear_share(job: Job, model: PreTrainedModel, stage: str, teacher: PreTrainedModel | None) -> int:
    """Train on the linear model's blocks, in two phases where there is nothing shipped to begin with.

    With a teacher: attention transfer, then distillation end to end. Without: cross-entropy in both, which is
    how the softmax model keeps in step.

    Returns:
        Tokens the model was trained on, those of a shipped version included.
    """
    before = job.shipped.tokens if job.shipped else 0
    blocks = job.training[: job.linear_blocks]
    first = 0 if job.shipped else round(job.settings.transfer_share * len(blocks))
    if first:
        phase: Phase = "end-to-end"
        transfer: Loss | None = None
        if teacher is not None:
            only_attention(model)
            phase, transfer = "transfer", AttentionTransfer(teacher)
        job.train(stage, "1 of 2", phase, blocks[:first], transfer)
        freeze_embeddings(model)
    if len(blocks) > first:
        part = "2 of 2" if first else "1 of 1"
        loss = None if teacher is None else Distillation(teacher, weight=1.0)
        job.train(stage, part, "end-to-end", blocks[first:], loss)
    return before + len(blocks) * job.block


def _unadapted(job: Job) -> Told:
    job.hardware(job.folder.state("linear"), linear=False)
    return Told(training_tokens=_tokens(job, "linear"))


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
        results["published"] = summary.adaptation(
            adapt(model, curve, curve_target, "published", progress=progress)
        )
        model = job.hardware(job.folder.state("linear"), linear=False)
    closed = adapt(model, batches, target, progress=job.progress("adapted: closed form"))
    reached = perplexity(model, curve[0].flatten(), job.protocol)
    results["closed-form"] = summary.adaptation(closed, calibration_perplexity=reached.perplexity)
    codes["adapted"] = code_use(model, some)
    return Told(
        training_tokens=_tokens(job, "linear"),
        adaptations=results,
        mismatch={
            "before": summary.mismatch(before, target),
            "after": summary.mismatch(closed.statistics, target),
        },
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


def _fine_tune(job: Job, stage: str, before: str, loss_of: Loss | None = None) -> Told:
    blocks = job.training[job.linear_blocks :]
    job.train(stage, "1 of 1", "fine-tuning", blocks, loss_of)
    return Told(training_tokens=_tokens(job, before) + len(blocks) * job.block)


STAGES = (
    Stage("software", "software", _software, trained=False),
    Stage("software-continued", "software, continued", _software_continued),
    Stage("linear", "linear hardware", _linear, "software-continued"),
    Stage("unadapted", "nonlinear, unadapted", _unadapted, "software-continued", trained=False),
    Stage("adapted", "nonlinear, adapted", _adapted, "software-continued"),
    Stage("software-continued-more", "software, continued more", _software_continued_more),
    Stage("fine-tuned", "nonlinear, fine-tuned", _fine_tuned, "software-continued-more"),
)


def run_stage(job: Job, stage: Stage) -> StageRecord:
    """The record of a stage: read when it is finished, else made and stored."""
    return job.stage(stage.name, lambda: (stage.run(job), job.model), keep=stage.trained)


def _tokens(job: Job, stage: str) -> int:
    record = job.folder.record(stage)
    return record.training_tokens if record is not None else 0
