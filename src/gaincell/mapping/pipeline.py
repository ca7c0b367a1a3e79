"""`gaincell map`: every stage of a mapping; their results in run.json, figures and the adapted model.

    software                  the pretrained model with softmax attention
    software-continued        the same, trained further on the tokens of the linear model
    linear                    the linear hardware model
    unadapted                 only the cell exchanged
    adapted                   gains and offsets adapted
    software-continued-more   the softmax model, trained further on the tokens of the fine-tuned model as well
    fine-tuned                the adapted model, trained further

Each starts from the stored result of an earlier one, so that any can be the first to run.

Every training of the softmax model sees the same blocks in the same order as the hardware model it is
compared with, and minimises the cross-entropy; the hardware model learns the softmax model's distribution
instead (distillation), and where no linear version is shipped, its attention alone first, at a rate of its
own. A linear version that is shipped for another chip is trained further by cross-entropy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.adaptation import adapt, collect_statistics
from gaincell.adaptation.statistics import Place
from gaincell.chips.design import Design
from gaincell.errors import InputError, ModelError
from gaincell.evaluation.codes import code_use
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_design
from gaincell.integrations.hf.base_model import base_weights
from gaincell.integrations.hf.checkpoint import read_state, save_differences, trained_parameters
from gaincell.integrations.hf.context import check_length, default_length, read_tokens
from gaincell.integrations.hf.lora import add_lora, check_peft, without_adapters
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.sources import find_source
from gaincell.integrations.hf.support import attention_modules
from gaincell.mapping import summary
from gaincell.mapping.engine import Engine, freeze_embeddings, read_evaluation
from gaincell.mapping.initial_gains import calibrate
from gaincell.mapping.load_hardware import Shipped, find_shipped
from gaincell.mapping.run_folder import RunFolder, Told, run_lock
from gaincell.mapping.settings import MapSettings, Phase
from gaincell.progress import StageProgress, silent_stages
from gaincell.reports.figures import FIGURES
from gaincell.reports.style import save_all
from gaincell.results.provenance import hash_of
from gaincell.results.run import Adaptation, MappedResult, UsedText
from gaincell.text import open_text
from gaincell.training.data import pack_blocks
from gaincell.training.distillation import Distillation
from gaincell.training.log import Tracker
from gaincell.training.loop import train
from gaincell.training.loss import Loss, next_token_loss
from gaincell.training.transfer import AttentionTransfer, only_attention

CODE_BLOCKS = 4
"""Blocks of calibration text on which the use of codes is counted."""
INITIAL_BLOCKS = 2
"""Blocks of calibration text for the first gains and offsets."""
Form = Literal["software", "linear", "chip"]
"""Softmax attention; arrays with linear cells; arrays with the cells of the chip."""


class Stage(NamedTuple):
    """One stage.

    Attributes:
        name: In files.
        title: In tables.
        form: That the model takes.
        start: The stage whose parameters it starts from; None: the pretrained model, or what is shipped.
        task: "convert": it is trained on the blocks of the linear model; "adapt"; "fine-tune": it is trained
            on the blocks behind these; None: its parameters are those it starts from, and are not kept.
        teacher: The stage in software that it learns from; a linear model of which none is shipped learns
            from the pretrained model.
        compared_with: The software stage trained on the same tokens.
    """

    name: str
    title: str
    form: Form
    start: str | None = None
    task: Literal["convert", "adapt", "fine-tune"] | None = None
    teacher: str | None = None
    compared_with: str | None = None


FIRST, MORE = "software-continued", "software-continued-more"
STAGES = (
    Stage("software", "software", "software"),
    Stage(FIRST, "software, continued", "software", None, "convert"),
    Stage("linear", "linear hardware", "linear", None, "convert", None, FIRST),
    Stage("unadapted", "nonlinear, unadapted", "chip", "linear", None, None, FIRST),
    Stage("adapted", "nonlinear, adapted", "chip", "linear", "adapt", None, FIRST),
    Stage(MORE, "software, continued more", "software", FIRST, "fine-tune"),
    Stage("fine-tuned", "nonlinear, fine-tuned", "chip", "adapted", "fine-tune", MORE, MORE),
)


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
    if not Path(settings.model).exists():
        find_source(settings.model)  # before there is a folder, which may have the model's name
    with run_lock(out, "map"):
        torch.manual_seed(settings.seed)
        job = prepare(settings, out, progress, tracker)
        run = job.finished(MappedResult)
        if run is None:
            stages = STAGES if len(job.training) > job.linear_blocks else STAGES[:5]
            for stage in stages:
                job.stage(stage.name, partial(job.carry_out, stage), keep=stage.task is not None)
            job.turn_into("chip", job.folder.state(stages[-1].name))
            run = job.finish(job.result(stages, command), job.save, partial(save_all, FIGURES))
        return run


def linear_is_shipped(settings: MapSettings, layers: int) -> bool:
    """Whether the linear model comes with the model, of so many layers, for this chip: it is not trained."""
    shipped = None if settings.lora else find_shipped(settings.model)
    linear = settings.design.replace(cell="linear", layers=layers)
    return shipped is not None and shipped.design_hash == linear.hash


def prepare(settings: MapSettings, out: Path, progress: StageProgress, tracker: Tracker | None = None) -> Job:
    """Load the model, share out the text, open the directory.

    Raises:
        GaincellError: model, text or directory are not acceptable.
    """
    if settings.lora:
        check_peft()
    loaded = load_model(settings.model, None if settings.lora else torch.float32)
    loaded.model.to(settings.device)  # type: ignore[arg-type]
    if attached_layers(loaded.model):
        raise ModelError(f"{settings.model} is in arrays already; give the pretrained model it was made from")
    layers = len(attention_modules(loaded.model))  # refuses what cannot be mapped, before any work
    block = settings.block or default_length(loaded.model)
    protocol = f"blocks-{block}"
    check_length(loaded.model, block)
    shipped = None if settings.lora else find_shipped(settings.model)
    text = open_text(settings.text)
    wanted = max(settings.budget, settings.calibration_tokens) + block
    reading = progress("read the training text")
    stream = read_tokens(loaded, text, "training", wanted, reading, block=block + 1)
    evaluation = read_evaluation(loaded, text, settings.evaluation_tokens, protocol, progress)
    blocks = pack_blocks(stream, block, settings.seed)
    training = blocks[: settings.budget // block]
    has_linear = linear_is_shipped(settings, layers)
    linear_blocks = 0 if has_linear else round(settings.linear_share * len(training))
    if shipped is None and linear_blocks < 2:
        raise InputError(
            f"{len(training)} blocks of {block} tokens are too few to convert {settings.model}; "
            "give more text or a larger --budget"
        )
    inputs = {"training text": hash_of(training), "evaluation text": hash_of(evaluation)}
    identity = settings.identity() | {"base_sha256": loaded.sha256, "block": block}
    identity |= {name.replace(" ", "_"): digest for name, digest in inputs.items()}
    if loaded.model.dtype != torch.float32:
        identity["weights"] = str(loaded.model.dtype)
    if settings.lora:
        add_lora(loaded.model, settings.lora, seed=settings.seed)
    freeze_embeddings(loaded.model)
    return Job(
        settings=settings,
        folder=RunFolder(out, identity, keeps=("linear",)),
        tracker=tracker,
        loaded=loaded,
        protocol=protocol,
        block=block,
        training=training,
        linear_blocks=linear_blocks,
        evaluation=evaluation,
        calibration=blocks[: max(1, settings.calibration_tokens // block), :-1].long(),
        text_name=text.name,
        inputs=inputs,
        shipped=shipped,
        progress=progress,
        original={name: tensor.clone() for name, tensor in trained_parameters(loaded.model).items()},
    )


@dataclass(kw_only=True)
class Job(Engine):
    """A mapping in progress: its one model is turned into what each stage needs.

    Attributes:
        linear_blocks: How many of the training blocks are for the linear model.
        inputs: Hashes of the texts.
        original: The pretrained values of what is trained.
    """

    settings: MapSettings
    folder: RunFolder
    block: int
    training: Int[Tensor, "blocks T_plus_1"]
    linear_blocks: int
    calibration: Int[Tensor, "sequences T"]
    text_name: str
    inputs: dict[str, str]
    shipped: Shipped | None
    original: dict[str, Tensor]

    def turn_into(self, form: Form, state: Path | None) -> PreTrainedModel:
        """Give the model a form, with the pretrained weights or those of `state`."""
        model, attached = self.loaded.model, bool(attached_layers(self.loaded.model))
        if form == "software" and attached:
            detach(model)
        elif form != "software" and attached:
            set_design(model, self._chip(form))
        elif form != "software":
            settings = self.settings
            attach(model, self._chip(form), backend=settings.backend, gradient=settings.gradient)
        freeze_embeddings(model)
        model.load_state_dict(self.original, strict=False)
        if state is not None:
            read_state(model, state)
        return model

    def _chip(self, form: Form) -> Design:
        design = self.settings.design
        return design.replace(cell="linear") if form == "linear" else design

    def teacher(self, state: Path | None) -> PreTrainedModel:
        """A copy of the softmax model, to learn from: it shares the weights that are not trained."""
        software = self.turn_into("software", state)
        return copy.deepcopy(software, {id(p): p for p in software.parameters() if not p.requires_grad})

    def carry_out(self, stage: Stage) -> tuple[Told, PreTrainedModel]:
        """Do a stage; what there is to tell, and the model, which is left as its result."""
        tokens, state = self._start(stage)
        if stage.task == "adapt":
            return replace(self._adapt(state), training_tokens=tokens), self.loaded.model
        teacher, silent, is_new = None, tuple[Place, ...](), stage.form == "linear" and state is None
        if is_new:
            teacher = attach(self.teacher(None), self._chip("linear"), attention="softmax")
        elif stage.teacher is not None:
            teacher = self.teacher(self.folder.state(stage.teacher))
        model = self.turn_into(stage.form, state)
        if is_new:
            fitting = self.progress(f"{stage.name}: first gains and offsets")
            silent = calibrate(model, [self.calibration[:INITIAL_BLOCKS]], progress=fitting)
        if stage.task is not None:
            tokens += self._train(stage, teacher)
        return Told(training_tokens=tokens, silent=tuple(map(str, silent))), model

    def _start(self, stage: Stage) -> tuple[int, Path | None]:
        """On how many tokens what a stage starts from was trained, and its parameters; None: pretrained."""
        if stage.start is not None:
            return self.records[stage.start].training_tokens, self.folder.state(stage.start)
        if stage.task is None or self.shipped is None:
            return 0, None
        return self.shipped.tokens, self.shipped.linear if stage.form == "linear" else self.shipped.software

    def _train(self, stage: Stage, teacher: PreTrainedModel | None) -> int:
        """Train the model as it is on the stage's blocks; on how many tokens that was. A linear model of
        which none is shipped for any chip is trained in two phases, attention transfer and then distillation
        end to end; the softmax model keeps in step, by cross-entropy.
        """
        converts, tokens = stage.task == "convert", 0
        blocks = self.training[: self.linear_blocks] if converts else self.training[self.linear_blocks :]
        first = round(self.settings.transfer_share * len(blocks)) if converts and not self.shipped else 0
        if first and teacher is not None:
            only_attention(self.loaded.model)
            loss: Loss = AttentionTransfer(teacher)
            tokens += self._train_phase(stage, "1 of 2", "transfer", blocks[:first], loss)
        elif first:
            tokens += self._train_phase(stage, "1 of 2", "end-to-end", blocks[:first], next_token_loss)
        freeze_embeddings(self.loaded.model)
        if len(blocks) > first:
            loss = next_token_loss if teacher is None else Distillation(teacher, weight=1.0)
            phase: Phase = "end-to-end" if converts else "fine-tuning"
            tokens += self._train_phase(stage, "2 of 2" if first else "1 of 1", phase, blocks[first:], loss)
        return tokens

    def _train_phase(self, stage: Stage, part: str, phase: Phase, blocks: Tensor, loss: Loss) -> int:
        model, by = self.loaded.model, partial(train, loss_of=loss)
        settings = self.settings.training(phase, len(blocks), self.block, model.config.vocab_size)
        return self.train(model, blocks, settings, stage.name, part, by=by).tokens

    def _adapt(self, state: Path | None) -> Told:
        """Both methods from the same start; the model keeps the closed form's result."""
        batches = [self.calibration]
        linear = self.turn_into("linear", state)
        target = collect_statistics(linear, batches, self.progress("adapted: statistics of the linear model"))
        curve = [self.calibration[: max(1, self.settings.published_tokens // self.block)]]
        curve_target = target if len(curve[0]) == len(self.calibration) else collect_statistics(linear, curve)
        some = [self.calibration[:CODE_BLOCKS]]
        codes = {"linear": code_use(linear, some)}
        model = self.turn_into("chip", state)
        before = collect_statistics(model, batches, self.progress("adapted: statistics before"))
        codes["unadapted"] = code_use(model, some)
        results: dict[str, Adaptation] = {}
        if self.settings.published:
            progress = self.progress("adapted: published iteration")
            found = adapt(model, curve, curve_target, "published", progress=progress)
            results["published"] = summary.adaptation(found)
            model = self.turn_into("chip", state)
        closed = adapt(model, batches, target, progress=self.progress("adapted: closed form"))
        reached = perplexity(model, curve[0].flatten(), self.protocol)
        results["closed-form"] = summary.adaptation(closed, calibration_perplexity=reached.perplexity)
        codes["adapted"] = code_use(model, some)
        mismatch = summary.mismatch(before, closed.statistics, target)
        return Told(adaptations=results, mismatch=mismatch, codes=codes)

    def save(self, out: Path) -> None:
        """Save the model as it is. The weights it came with are here: its base model is not read again."""
        weights = without_adapters(base_weights(self.loaded.model))
        original = {name: self.original.get(name, weight) for name, weight in weights.items()}
        save_differences(self.loaded.model, out, original, self.loaded.id, self.loaded.sha256)

    def result(self, stages: Sequence[Stage], command: Sequence[str]) -> MappedResult:
        """What run.json holds; the model is on the chip."""
        design, records = attached_layers(self.loaded.model)[0].design, self.records
        software, adapted = records["software"], records["adapted"]
        remark = "" if self.loaded.model.dtype == torch.float32 else "; weights in bfloat16"
        return MappedResult(
            model=summary.model(self.loaded),
            design=summary.chip_of(design),
            text=UsedText(
                self.text_name,
                evaluation_tokens=len(self.evaluation),
                calibration_tokens=self.calibration.numel(),
                training_tokens=self.training.shape[0] * self.block,
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
            provenance=self.provenance(command, design, self.inputs, seed=self.settings.seed, remark=remark),
        )
