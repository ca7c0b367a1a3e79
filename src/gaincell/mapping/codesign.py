"""`gaincell codesign`: a hardware model and circuits of its chip, learned together.

statistics of the model as it was made -> on the chip -> adapted in closed form -> trained, with the chip's
circuits among what is learned -> the learned chip, an ordinary design -> perplexity, activity, energy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.adaptation import adapt, collect_statistics
from gaincell.backend_names import BackendName
from gaincell.chips.design import Design
from gaincell.costs import roll_up
from gaincell.costs.technology import load_technology
from gaincell.errors import InputError, RunError
from gaincell.evaluation.activity import measure_activity
from gaincell.evaluation.codes import signal_use
from gaincell.evaluation.perplexity import cut_blocks
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.checkpoint import save_beside_results
from gaincell.integrations.hf.context import default_length, read_tokens
from gaincell.integrations.hf.size import model_size
from gaincell.mapping import summary
from gaincell.mapping.engine import Engine, freeze_embeddings, read_evaluation
from gaincell.mapping.load_hardware import find_start
from gaincell.mapping.run_folder import Told, check_kind, run_lock
from gaincell.progress import StageProgress, silent_stages
from gaincell.results import run as results
from gaincell.results import write
from gaincell.results.provenance import hash_of
from gaincell.schema import Count, Factor, Instance, OneOf, Rate, Whole, checked
from gaincell.text import Text, open_text
from gaincell.training import checkpoint as disk
from gaincell.training.codesign import LEARNED, codesign, stated_levels, with_zero_code
from gaincell.training.loop import digest
from gaincell.training.settings import TrainSettings

ACTIVITY_BLOCKS = 1
"""Blocks of the evaluated text on which activity and signals are measured."""


@checked
@dataclass(frozen=True)
class CodesignSettings:
    """Settings of `gaincell codesign`.

    model: a RUN (its final weights), or a model with a linear version shipped.
    design: the chip to start from; None: that of the RUN, or `default_design`.
    learn: some of training.codesign.LEARNED; none: the same training on the fixed chip.
    steps: of training, of `batch` sequences each.
    learning_rate: peak, of the weights.  scale_learning_rate: of gains and offsets.  rate: of circuits.
    weights: whether weights are trained along, or gains and offsets alone.
    """

    model: str
    design: Annotated[Design, Instance] | None = None
    learn: Annotated[tuple[Annotated[str, OneOf(LEARNED)], ...], Field(strict=False)] = LEARNED
    steps: Count = 100
    batch: Count = 2
    learning_rate: Rate = 1e-4
    scale_learning_rate: Rate = 1e-3
    rate: Factor = 3e-2
    weights: bool = True
    text: str = "sample"
    evaluation_tokens: Whole = 32_768
    calibration_tokens: Whole = 4096
    technology: str = "28nm"
    backend: BackendName = "auto"
    device: str = "cpu"

    def training(self, chip: Design) -> TrainSettings:
        return TrainSettings(
            learning_rate=self.learning_rate,
            scale_learning_rate=self.scale_learning_rate,
            batch=self.batch,
            micro_batch=self.batch,
            warmup_steps=5,
            gradient_checkpointing=None,
            redraw="chip" if chip.drawn("chip") else "noise",
            checkpoint_every=20,
            keep_checkpoints=1,
        )


def codesign_model(
    settings: CodesignSettings,
    default_design: Design,
    out: Path | None = None,
    *,
    command: Sequence[str] = ("gaincell", "codesign"),
    progress: StageProgress = silent_stages,
) -> results.CodesignResult:
    """Adapt a model to a chip and train both; returns what run.json holds, and writes a RUN into `out`, where
    an interrupted training goes on from its checkpoint.

    Raises GaincellError: model, text, design or what is to be learned are not acceptable.
    """
    with run_lock(out):
        if out is not None:
            _check_unfinished(out)
        start = find_start(settings.model, linear=False)
        loaded = start.load(backend=settings.backend)
        size, technology = model_size(settings.model), load_technology(settings.technology)
        size.check_equal()
        model: PreTrainedModel = loaded.model.to(settings.device)  # type: ignore[arg-type]
        weights = digest(p.detach().flatten()[:64] for p in model.parameters())
        chip = settings.design or start.design or default_design
        if "levels" in settings.learn and not chip.levels.storage:
            chip = chip.replace(levels=with_zero_code(chip))
        block, text = default_length(model), open_text(settings.text)
        evaluation = read_evaluation(loaded, text, settings.evaluation_tokens, f"blocks-{block}", progress)
        training, calibration = _training_text(settings, block, loaded, text, progress)
        engine = Engine(loaded=loaded, evaluation=evaluation, protocol=f"blocks-{block}", progress=progress)
        target = collect_statistics(model, [calibration], progress("statistics of the model as it was made"))
        set_design(model, chip)
        chip = attached_layers(model)[0].design
        adapted = adapt(model, [calibration], target, progress=progress("adapt"))
        before = engine.stage("adapted", lambda: (Told(training_tokens=start.tokens), model))
        trained = "-".join((chip.hash, weights, *(settings.learn or ("fixed",))))
        checkpoint = None if out is None else out / f"{trained}.checkpoint"
        freeze_embeddings(model, weights=settings.weights)
        done = codesign(
            model,
            cut_blocks(training[calibration.numel() :], block + 1),
            settings.training(chip),
            settings.learn,
            rate=settings.rate,
            progress=progress("train model and chip"),
            checkpoint=checkpoint,
        )
        after = engine.stage("trained", lambda: (Told(training_tokens=start.tokens + done.tokens), model))
        learned = attached_layers(model)[0].design
        some = cut_blocks(evaluation, block)[:ACTIVITY_BLOCKS].long()
        activity = measure_activity(model, [some], settings.text, progress=progress("activity"))
        inputs = {"training text": hash_of(training), "evaluation text": hash_of(evaluation)}
        run = results.CodesignResult(
            command="codesign",
            model=summary.model(loaded),
            design=summary.chip_of(learned),
            start=summary.chip_of(chip),
            learn=tuple(settings.learn),
            circuits=results.LearnedCircuits(_circuits(chip), _circuits(learned)),
            training=results.JointTraining(
                steps=done.steps,
                tokens=done.tokens,
                learning_rate=settings.learning_rate,
                scale_learning_rate=settings.scale_learning_rate,
                circuit_rate=settings.rate,
                weights=settings.weights,
                seconds=done.seconds,
            ),
            text=results.UsedText(text.name, len(evaluation), calibration.numel()),
            adaptation={"closed-form": summary.adaptation(adapted)},
            stages=tuple(summary.stage(name, name, record) for name, record in engine.records.items()),
            blocks=results.PairedLosses(after.blocks.predictions, before.blocks.nll, after.blocks.nll),
            energy=roll_up.of_model(size, learned, technology, activity).energy_bottom_up,
            signals=signal_use(model, [some]),
            provenance=engine.provenance(command, learned, inputs),
        )
        if out is not None and checkpoint is not None:
            save_beside_results(model, out)
            write(run, out / results.FILE)
            disk.remove(checkpoint)
        return run


def _check_unfinished(out: Path) -> None:
    check_kind(out, "codesign", staged=False)
    if (out / results.FILE).exists():
        raise RunError(f"{out.name} holds a finished co-design; choose another --out, or remove it")


def _training_text(
    settings: CodesignSettings, block: int, loaded: LoadedModel, text: Text, progress: StageProgress
) -> tuple[Tensor, Tensor]:
    """The training text, and the blocks at its beginning that are for calibration."""
    if settings.calibration_tokens < block:
        raise InputError(
            f"{settings.calibration_tokens} calibration tokens are less than one block of {block}; give "
            f"--calibration-tokens {block} or more"
        )
    before = settings.calibration_tokens // block * block
    wanted = before + settings.steps * settings.batch * (block + 1)
    training = read_tokens(loaded, text, "training", wanted, progress("read the training text"))
    if len(training) < wanted:
        raise InputError(
            f"{settings.steps} steps need {wanted} tokens of training text, those of calibration included; "
            f"{text.name} has {len(training)}; give more text or fewer --steps"
        )
    return training, cut_blocks(training[:before], block).long()


def _circuits(design: Design) -> results.Circuits:
    """What of a chip can be learned: saturations, and every level as it is, stated or even."""
    levels = (tuple(round(level, 6) for level in found) or None for found in stated_levels(design))
    return results.Circuits(design.score_saturation_per_row, design.output_saturation_per_column, *levels)
