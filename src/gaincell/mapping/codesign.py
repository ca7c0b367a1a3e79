"""`gaincell codesign`: a hardware model and circuits of its chip, learned together.

statistics of the model as it was made -> on the chip -> adapted in closed form -> trained, with the chip's
circuits among what is learned -> the learned chip, an ordinary design -> perplexity, activity, energy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.adaptation import adapt, collect_statistics
from gaincell.backend_names import BackendName
from gaincell.chips.design import Design
from gaincell.costs import roll_up
from gaincell.costs.technology import inputs_of_technology, load_technology
from gaincell.errors import InputError
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
from gaincell.mapping.load_hardware import HardwareVersion, find_start
from gaincell.mapping.run_folder import RunFolder, Told, run_lock
from gaincell.progress import StageProgress, silent_stages
from gaincell.reports.figures import FIGURES
from gaincell.reports.style import save_all
from gaincell.results import run as results
from gaincell.results.provenance import hash_of
from gaincell.schema import Count, Factor, Instance, OneOf, Rate, Whole, checked
from gaincell.text import Text, open_text
from gaincell.training.codesign import LEARNED, codesign, stated_levels, with_zero_code
from gaincell.training.settings import TrainSettings

ACTIVITY_BLOCKS = 1
"""Blocks of the evaluated text on which activity and signals are measured."""


@checked
@dataclass(frozen=True)
class CodesignSettings:
    """Settings of `gaincell codesign`.

    Attributes:
        model: A RUN (its final weights), or a model with a linear version shipped.
        design: The chip to start from; None: that of the RUN, or `default_design`.
        learn: Some of training.codesign.LEARNED; none: the same training on the fixed chip.
        steps: Of training, of `batch` sequences each.
        learning_rate: Peak, of the weights.
        scale_learning_rate: Peak, of gains and offsets.
        rate: Peak, of circuits.
        weights: Whether weights are trained along, or gains and offsets alone.
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

    def identity(self, chip: Design, loaded: LoadedModel) -> dict[str, str]:
        """What must be the same for a run to go on. (Where it runs may differ.)"""
        may_differ = ("model", "design", "text", "backend", "device")
        own = {key: str(entry) for key, entry in vars(self).items() if key not in may_differ}
        return own | {"design": chip.hash} | summary.inputs(loaded)

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


@dataclass(kw_only=True)
class _Codesign(Engine):
    """A co-design in progress; its stages change the model in place.

    Attributes:
        start: What the model comes from.
        chip: Where it starts.
    """

    settings: CodesignSettings
    start: HardwareVersion
    chip: Design
    calibration: Tensor
    training: Tensor

    def adapted(self) -> Told:
        model, batches = self.loaded.model, [self.calibration]
        target = collect_statistics(model, batches, self.progress("statistics of the model as it was made"))
        set_design(model, self.chip)
        freeze_embeddings(model, weights=False)
        found = adapt(model, batches, target, progress=self.progress("adapt"))
        return Told(training_tokens=self.start.tokens, adaptations={"closed-form": summary.adaptation(found)})

    def trained(self) -> Told:
        settings, model = self.settings, self.loaded.model
        freeze_embeddings(model, weights=settings.weights)
        blocks = cut_blocks(self.training, self.calibration.shape[1] + 1)
        by = partial(codesign, learn=settings.learn, rate=settings.rate)
        done = self.train(model, blocks, settings.training(self.chip), "trained", by=by)
        training = results.JointTraining(
            steps=done.steps,
            tokens=done.tokens,
            learning_rate=settings.learning_rate,
            scale_learning_rate=settings.scale_learning_rate,
            circuit_rate=settings.rate,
            weights=settings.weights,
            seconds=done.seconds,
        )
        return Told(training_tokens=self.start.tokens + done.tokens, training=training)


def codesign_model(
    settings: CodesignSettings,
    default_design: Design,
    out: Path | None = None,
    *,
    command: Sequence[str] = ("gaincell", "codesign"),
    progress: StageProgress = silent_stages,
) -> results.CodesignResult:
    """Adapt a model to a chip and train both; returns what run.json holds, and writes a RUN into `out`.

    Interrupted at any point, the same call goes on where it stopped.

    Args:
        settings: The model, the chip, what is learned and how.
        default_design: For models that bring no design.
        out: The directory RUN; None: nothing is written.
        command: The command line, for the record.
        progress: Opens the progress of every step.

    Raises:
        GaincellError: model, text, design or what is to be learned are not acceptable, or `out` holds another
            run.
    """
    with run_lock(out, "codesign"):
        start = find_start(settings.model, linear=False)
        loaded = start.load(backend=settings.backend)
        size, technology = model_size(settings.model), load_technology(settings.technology)
        size.check_equal()
        model: PreTrainedModel = loaded.model.to(settings.device)  # type: ignore[arg-type]
        chip = settings.design or start.design or default_design
        if "levels" in settings.learn and not chip.levels.storage:
            chip = chip.replace(levels=with_zero_code(chip))
        block, text = default_length(model), open_text(settings.text)
        evaluation = read_evaluation(loaded, text, settings.evaluation_tokens, f"blocks-{block}", progress)
        training, calibration = _training_text(settings, block, loaded, text, progress)
        inputs = {"training text": hash_of(training), "evaluation text": hash_of(evaluation)}
        inputs |= inputs_of_technology(settings.technology)
        engine = _Codesign(
            loaded=loaded,
            evaluation=evaluation,
            protocol=f"blocks-{block}",
            progress=progress,
            folder=None if out is None else RunFolder(out, settings.identity(chip, loaded) | inputs),
            settings=settings,
            start=start,
            chip=chip,
            calibration=calibration,
            training=training[calibration.numel() :],
        )
        if (done := engine.finished(results.CodesignResult)) is not None:
            return done
        before = engine.change("adapted", engine.adapted)
        chip = attached_layers(model)[0].design
        after = engine.change("trained", engine.trained)
        assert after.training is not None
        learned = attached_layers(model)[0].design
        some = cut_blocks(evaluation, block)[:ACTIVITY_BLOCKS].long()
        activity = measure_activity(model, [some], settings.text, progress=progress("activity"))
        run = results.CodesignResult(
            model=summary.model(loaded),
            design=summary.chip_of(learned),
            start=summary.chip_of(chip),
            learn=tuple(settings.learn),
            circuits=results.LearnedCircuits(_circuits(chip), _circuits(learned)),
            training=after.training,
            text=results.UsedText(text.name, len(evaluation), calibration.numel()),
            adaptation=before.adaptations or {},
            stages=tuple(summary.stage(name, name, record) for name, record in engine.records.items()),
            blocks=results.PairedLosses(after.blocks.predictions, before.blocks.nll, after.blocks.nll),
            energy=roll_up.of_model(size, learned, technology, activity).energy_bottom_up,
            signals=signal_use(model, [some]),
            provenance=engine.provenance(command, learned, inputs),
        )
        return engine.finish(run, partial(save_beside_results, model), partial(save_all, FIGURES))


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
