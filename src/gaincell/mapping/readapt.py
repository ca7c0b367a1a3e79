"""`gaincell adapt`: put a hardware model on another cell, by gains and offsets alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.adaptation import adapt, collect_statistics
from gaincell.adaptation.adapt import Method, Start, check_neutral, choose_rule, neutral_scales
from gaincell.adaptation.published import measure
from gaincell.adaptation.result import Rule
from gaincell.adaptation.statistics import as_batch
from gaincell.backend_names import BackendName
from gaincell.chips.design import Design
from gaincell.chips.device import with_cell
from gaincell.chips.device_file import inputs_of_cell
from gaincell.errors import InputError
from gaincell.evaluation.codes import code_use
from gaincell.evaluation.perplexity import cut_blocks, default_protocol, window_and_stride
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.integrations.hf.checkpoint import save_beside_results
from gaincell.integrations.hf.context import read_tokens
from gaincell.integrations.hf.placement import place_model
from gaincell.mapping import summary
from gaincell.mapping.engine import Engine, freeze_embeddings, read_evaluation
from gaincell.mapping.load_hardware import HardwareVersion, find_start
from gaincell.mapping.run_folder import RunFolder, Told, run_lock
from gaincell.progress import StageProgress, silent_stages
from gaincell.reports.figures import FIGURES
from gaincell.reports.style import save_all
from gaincell.results.provenance import hash_of
from gaincell.results.run import AdaptedResult, UsedText
from gaincell.schema import Instance, Whole, checked
from gaincell.standard_error import exp_or_infinity
from gaincell.text import open_text


@checked
@dataclass(frozen=True)
class AdaptSettings:
    """Settings of `gaincell adapt`.

    Attributes:
        model: A RUN (the linear model of its stage `linear` is adapted; where it has none, the model saved in
            it), or a model with a linear version shipped.
        design: The chip; None: that of the RUN, or leroux2025.
        cell: The cell to adapt to, as `with_cell` takes it; None: the chip's own.
        method: "closed-form" or "published".
        start: "trained", or "neutral": every gain 1 and every offset 0 before the adaptation. Both starts are
            then evaluated, the neutral one on the cell the model has, too.
        rule: How residuals are stated and when the published method stops, "relative" or "released"; None: as
            `gaincell.adapt` chooses.
        max_iterations: Of the published method.
        dtype: Of the weights.
        protocol: `blocks-T` or `strided-T-S` of all evaluations; the adaptation reads blocks of T. None for
            `default_protocol`, which does not depend on the design.
    """

    model: str
    design: Annotated[Design, Instance] | None
    cell: str | None
    method: Method = "closed-form"
    start: Start = "trained"
    rule: Rule | None = None
    max_iterations: Whole = 100
    text: str = "sample"
    protocol: str | None = None
    evaluation_tokens: Whole = 16_384
    calibration_tokens: Whole = 16_384
    backend: BackendName = "auto"
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"

    def identity(self, protocol: str, source: Design, to: Design) -> dict[str, str]:
        """What must be the same for an adaptation to go on in its RUN. (Where it runs may differ.)"""
        names = ("method", "start", "rule", "max_iterations", "evaluation_tokens", "calibration_tokens")
        own = {name: str(getattr(self, name)) for name in (*names, "dtype")}
        known = {"protocol": protocol, "design": to.hash, "made_for": source.hash}
        return {"cell": to.cell.name} | own | known


@dataclass(kw_only=True)
class _Adapting(Engine):
    """An adaptation in progress, which changes the model in place.

    Attributes:
        start: What the model comes from.
        to: The chip.
    """

    settings: AdaptSettings
    start: HardwareVersion
    to: Design
    calibration: Tensor

    def carry_out(self) -> dict[str, str]:
        """All stages; their titles by name."""
        model, both, titles = self.loaded.model, self.settings.start == "neutral", dict[str, str]()
        made_for, (before, after) = self.start.made_for, chip_titles(self.start.made_for, self.to)

        def unchanged() -> tuple[Told, PreTrainedModel]:
            return Told(training_tokens=self.start.tokens), model

        for name, title, chip in (
            ("linear", before, made_for),
            ("unadapted", f"{after}, unadapted", self.to),
        ):
            set_design(model, chip)
            titles[name] = title + (", trained start" if both and name == "unadapted" else "")
            self.stage(name, unchanged)
            if both:
                titles[f"{name}-neutral"] = f"{title}, neutral start"
                with neutral_scales(model):
                    self.stage(f"{name}-neutral", unchanged)
        titles["adapted"] = f"{after}, adapted" + (" from the neutral start" if both else "")
        self.change("adapted", self.adapted)
        return titles

    def adapted(self) -> Told:
        settings, model, batches = self.settings, self.loaded.model, [self.calibration]
        freeze_embeddings(model, weights=False)
        some, reading = [self.calibration[:4]], self.progress("statistics of the model as it is")
        set_design(model, self.start.made_for)
        target, _, as_it_is = measure(model, as_batch(self.calibration, model))
        reading(1, 1, {})
        codes = {"linear": code_use(model, some)}
        set_design(model, self.to)
        before = None
        with neutral_scales(model) if settings.start == "neutral" else nullcontext():
            if settings.method == "closed-form":  # the published method measures them itself
                before = collect_statistics(model, batches, self.progress("statistics, unadapted"))
            codes["unadapted"] = code_use(model, some)
        found = adapt(
            model, batches, target, settings.method, start=settings.start, rule=settings.rule,
            max_iterations=settings.max_iterations, progress=self.progress("adapt"),
        )  # fmt: skip
        codes["adapted"] = code_use(model, some)
        before = before or found.started
        assert before is not None
        adapted = summary.adaptation(found, target_perplexity=exp_or_infinity(as_it_is))
        return Told(
            training_tokens=self.start.tokens,
            adaptations={settings.method: adapted},
            mismatch=summary.mismatch(before, found.statistics, target),
            codes=codes,
        )


def adapt_model(
    settings: AdaptSettings,
    default_design: Design,
    out: Path | None = None,
    *,
    to: Design | None = None,
    command: Sequence[str] = ("gaincell", "adapt"),
    progress: StageProgress = silent_stages,
) -> AdaptedResult:
    """Adapt a model and evaluate it before and after; returns what run.json holds, and writes it into `out`,
    which must not hold an adaptation with other settings. Interrupted, the same call goes on.

    Args:
        settings: The model, the chip, the text and the method.
        default_design: For models that bring no design.
        out: The directory RUN; None: nothing is written.
        to: The chip with the cell to adapt to, in place of `settings.cell`.
        command: The command line, for the record.
        progress: Opens the progress of every step.

    Raises:
        GaincellError: model, text or design are not acceptable.
    """
    settings = replace(settings, rule=choose_rule(settings.method, settings.start, settings.rule))
    with run_lock(out, "adapt"):
        start = find_start(settings.model)
        chip, source = settings.design or start.design or default_design, start.made_for
        to = to or (with_cell(chip, settings.cell) if settings.cell else chip)
        loaded = start.load(backend=settings.backend, dtype=getattr(torch, settings.dtype))
        place_model(loaded.model, settings.device)
        if settings.start == "neutral":
            check_neutral(loaded.model)
        if to.hash == source.hash and settings.start == "trained":
            raise InputError(
                f"{settings.model} is on this chip with {source.cell.name} cells already: nothing to adapt; "
                "give another --cell, or --start neutral to let it recover from discarded gains"
            )
        protocol, text = settings.protocol or default_protocol(loaded.model), open_text(settings.text)
        block, _ = window_and_stride(protocol)
        evaluation = read_evaluation(loaded, text, settings.evaluation_tokens, protocol, progress)
        reading = progress("read the calibration text")
        stream = read_tokens(loaded, text, "training", settings.calibration_tokens, reading, block=block)
        calibration = cut_blocks(stream, block).long()
        inputs = {"calibration text": hash_of(calibration), "evaluation text": hash_of(evaluation)}
        held = settings.identity(protocol, source, to) | inputs | summary.inputs(loaded)
        engine = _Adapting(
            loaded=loaded,
            evaluation=evaluation,
            protocol=protocol,
            progress=progress,
            folder=None if out is None else RunFolder(out, held),
            settings=settings,
            start=start,
            to=to,
            calibration=calibration,
        )
        if (done := engine.finished(AdaptedResult)) is not None:
            return done
        titles, records = engine.carry_out(), engine.records
        adapted, design = records["adapted"], attached_layers(loaded.model)[0].design
        run = AdaptedResult(
            model=summary.model(loaded),
            design=summary.chip_of(design),
            text=UsedText(text.name, len(evaluation), calibration.numel()),
            settings=held,
            stages=tuple(summary.stage(name, titles[name], record) for name, record in records.items()),
            adaptation=adapted.adaptations or {},
            mismatch=adapted.mismatch,
            codes=adapted.codes,
            cell=summary.cell(design),
            provenance=engine.provenance(command, design, inputs | inputs_of_cell(settings.cell)),
        )
        return engine.finish(run, partial(save_beside_results, loaded.model), partial(save_all, FIGURES))


def chip_titles(*chips: Design) -> list[str]:
    """What two chips are called in titles: by their cells, and by name or hash where more differs."""
    source, to = chips
    titles = [f"{chip.cell.name} cell" for chip in chips]
    if source.replace(cell=to.cell).hash == to.hash:
        return titles
    names = [chip.name if source.name != to.name else f"{chip.name} ({chip.hash})" for chip in chips]
    return [f"{title} on {name}" for title, name in zip(titles, names, strict=True)]
