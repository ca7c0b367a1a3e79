"""`gaincell adapt`: put a hardware model on another cell, by gains and offsets alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from gaincell.adaptation import adapt, collect_statistics
from gaincell.adaptation.adapt import Method, Start, check_neutral, choose_rule, neutral_scales
from gaincell.adaptation.published import measure
from gaincell.adaptation.result import Rule
from gaincell.adaptation.statistics import as_batch
from gaincell.backend_names import BackendName
from gaincell.chips.design import Design
from gaincell.chips.device import inputs_of_cell, with_cell
from gaincell.errors import InputError
from gaincell.evaluation.codes import code_use
from gaincell.evaluation.perplexity import cut_blocks, default_protocol, window_and_stride
from gaincell.files import read_object
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.integrations.hf.checkpoint import save_beside_results
from gaincell.integrations.hf.context import read_tokens
from gaincell.integrations.hf.placement import place_model
from gaincell.mapping import summary
from gaincell.mapping.engine import Engine, read_evaluation
from gaincell.mapping.load_hardware import HardwareVersion, find_start
from gaincell.mapping.run_folder import Told, check_kind, check_settings, run_lock
from gaincell.progress import StageProgress, silent_stages
from gaincell.results import write
from gaincell.results.provenance import hash_of
from gaincell.results.run import FILE, AdaptedResult, UsedText
from gaincell.schema import Instance, Whole, checked
from gaincell.standard_error import exp_or_infinity
from gaincell.text import open_text


@checked
@dataclass(frozen=True)
class AdaptSettings:
    """Settings of `gaincell adapt`.

    model: a RUN (of `gaincell map`: its linear model is adapted; else the model saved in it), or a model
        with a linear version shipped.
    design: the chip; None: that of the RUN, or leroux2025.
    cell: the cell to adapt to, as `with_cell` takes it; None: the chip's own.
    method: "closed-form" or "published".
    start: "trained", or "neutral": every gain 1 and every offset 0 before the adaptation. Both starts are
        then evaluated, the neutral one on the cell the model has, too.
    rule: how residuals are stated and when the published method stops, "relative" or "released"; None: as
        `gaincell.adapt` chooses.
    max_iterations: of the published method.
    dtype: of the weights.
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
    which must not hold an adaptation with other settings.

    to: the chip with the cell to adapt to, in place of `settings.cell`.

    Raises GaincellError: model, text or design are not acceptable.
    """
    settings = replace(settings, rule=choose_rule(settings.method, settings.start, settings.rule))
    with run_lock(out):
        if out is not None:
            check_kind(out, "adapt", staged=False)
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
        engine = Engine(loaded=loaded, evaluation=evaluation, protocol=protocol, progress=progress)
        reading = progress("read the calibration text")
        stream = read_tokens(loaded, text, "training", settings.calibration_tokens, reading, block=block)
        calibration = cut_blocks(stream, block).long()
        held = _settings(engine, settings, source, to, calibration)
        if out is not None and (out / FILE).exists():
            before = read_object(out / FILE).get("settings")  # earlier files have none
            check_settings(out, before if isinstance(before, dict) else {}, held)
        run = replace(_adapt(engine, settings, start, to, calibration, text.name, command), settings=held)
        if out is not None:
            from gaincell.reports.figures import FIGURES  # matplotlib takes half a second to import
            from gaincell.reports.style import save_all

            (out / FILE).unlink(missing_ok=True)  # results of the model before; without any it is unfinished
            save_beside_results(loaded.model, out)
            save_all(FIGURES, run, out / "figures")
            write(run, out / FILE)
        return run


def _settings(
    engine: Engine, settings: AdaptSettings, source: Design, to: Design, calibration: Tensor
) -> dict[str, str]:
    """What must be the same to do an adaptation again in its RUN. (Where it runs may differ.)"""
    names = ("method", "start", "rule", "max_iterations", "evaluation_tokens", "calibration_tokens", "dtype")
    found = {"cell": to.cell.name, **{name: getattr(settings, name) for name in names}}
    found |= {"protocol": engine.protocol, "design": to.hash, "made_for": source.hash}
    found |= {"calibration text": hash_of(calibration), "evaluation text": hash_of(engine.evaluation)}
    return {key: str(entry) for key, entry in (found | summary.inputs(engine.loaded)).items()}


def _adapt(
    engine: Engine,
    settings: AdaptSettings,
    start: HardwareVersion,
    to: Design,
    calibration: Tensor,
    text_name: str,
    command: Sequence[str],
) -> AdaptedResult:
    """Put the model on the chip `to` and adapt it, evaluated before and after."""
    model, progress, neutral = engine.loaded.model, engine.progress, settings.start == "neutral"
    some, titles = [calibration[:4]], dict[str, str]()

    def evaluate(name: str, title: str) -> None:
        titles[name] = title
        engine.stage(name, lambda: (Told(training_tokens=start.tokens), model))

    before_title, title = chip_titles(start.made_for, to)
    evaluate("linear", before_title)
    if neutral:
        with neutral_scales(model):
            evaluate("linear-neutral", f"{before_title}, neutral start")
    reading = progress("statistics of the model as it is")
    target, _, as_it_is = measure(model, as_batch(calibration, model))
    reading(1, 1, {})
    codes = {"linear": code_use(model, some)}
    set_design(model, to)
    before = None
    evaluate("unadapted", f"{title}, unadapted" + (", trained start" if neutral else ""))
    with neutral_scales(model) if neutral else nullcontext():
        if neutral:
            evaluate("unadapted-neutral", f"{title}, unadapted, neutral start")
        if settings.method == "closed-form":  # the published method measures them itself
            before = collect_statistics(model, [calibration], progress("statistics, unadapted"))
    codes["unadapted"] = code_use(model, some)
    result = adapt(
        model, [calibration], target, settings.method, start=settings.start, rule=settings.rule,
        max_iterations=settings.max_iterations, progress=progress("adapt"),
    )  # fmt: skip
    codes["adapted"] = code_use(model, some)
    evaluate("adapted", f"{title}, adapted")
    before = before or result.started
    assert before is not None
    adapted = summary.adaptation(result, target_perplexity=exp_or_infinity(as_it_is))
    design = attached_layers(model)[0].design
    inputs = {"calibration text": hash_of(calibration), "evaluation text": hash_of(engine.evaluation)}
    inputs |= inputs_of_cell(settings.cell)
    return AdaptedResult(
        command="adapt",
        model=summary.model(engine.loaded),
        design=summary.chip_of(design),
        text=UsedText(text_name, len(engine.evaluation), calibration.numel()),
        stages=tuple(summary.stage(name, titles[name], record) for name, record in engine.records.items()),
        adaptation={settings.method: adapted},
        mismatch=summary.mismatch(before, result.statistics, target),
        codes=codes,
        cell=summary.cell(design),
        provenance=engine.provenance(command, design, inputs),
    )


def chip_titles(*chips: Design) -> list[str]:
    """What two chips are called in titles: by their cells, and by name or hash where more differs."""
    source, to = chips
    titles = [f"{chip.cell.name} cell" for chip in chips]
    if source.replace(cell=to.cell).hash == to.hash:
        return titles
    names = [chip.name if source.name != to.name else f"{chip.name} ({chip.hash})" for chip in chips]
    return [f"{title} on {name}" for title, name in zip(titles, names, strict=True)]
