"""Which sections a page can have, what of a result each needs, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gaincell.reports.html import circuits, codesign, costs, heads, mapping, quality, sweeps
from gaincell.reports.html.result import Result
from gaincell.results.activity import ActivityResult
from gaincell.results.baseline import BaselineResult
from gaincell.results.cells import CellAdaptationResult, CellResult
from gaincell.results.codesign import CodesignResult
from gaincell.results.cost import CostResult
from gaincell.results.evaluation import (
    AblationResult,
    ChipsResult,
    ContextResult,
    DepthResult,
    FidelityResult,
    PausesResult,
    PerplexityResult,
    RepetitionResult,
    RollingResult,
    TasksResult,
)
from gaincell.results.run import Adaptations, AdaptedResult, StagedResult
from gaincell.results.sweep import SweepResult


@dataclass(frozen=True)
class Section:
    """id: its anchor.  wanted: whether it shows something of a result.  build: its content."""

    id: str
    title: str
    lead: str
    wanted: Callable[[Result], bool]
    build: Callable[[Sequence[Result]], Markup]


def _has(part: str) -> Callable[[Result], bool]:
    return lambda result: part in result.run


def _is(*kinds: type) -> Callable[[Result], bool]:
    return lambda result: isinstance(result.found, kinds)


def _coded(result: Result) -> bool:
    return isinstance(result.found, AdaptedResult) and result.found.codes is not None


def _curved(result: Result) -> bool:
    return isinstance(result.found, AdaptedResult | CellAdaptationResult) and result.found.cell is not None


def _of_spice(command: str) -> Callable[[Result], bool]:
    return lambda result: result.run.get("command") == f"spice {command}"


SECTIONS = (
    Section(
        "perplexity",
        "Perplexity",
        "How well the model predicts text, stage by stage.",
        _is(StagedResult),
        quality.perplexity,
    ),
    Section(
        "training",
        "Training",
        "Every loss on an axis of its own, and perplexity.",
        quality.has_training,
        quality.training,
    ),
    Section(
        "evaluation",
        "Evaluation",
        "How well a model predicts a text.",
        _is(PerplexityResult, RollingResult),
        quality.evaluation,
    ),
    Section("tasks", "Tasks", "Differences are paired: on the same items.", _is(TasksResult), quality.tasks),
    Section(
        "chips", "Chips", "The same network on chips whose cells differ.", _is(ChipsResult), quality.chips
    ),
    Section(
        "ablation",
        "Ablation",
        "Which constraint of the hardware costs how much.",
        _is(AblationResult),
        quality.ablation,
    ),
    Section("sweep", "Sweep", "One model on many designs.", _is(SweepResult), sweeps.sweeps),
    Section(
        "codesign",
        "Learned circuits",
        "Circuits of the chip, learned together with the model.",
        _is(CodesignResult),
        codesign.learned,
    ),
    Section(
        "pauses", "Pauses", "What a pause in the middle of a text costs.", _is(PausesResult), quality.pauses
    ),
    Section(
        "context",
        "Context",
        "How far back a model looks.",
        _is(DepthResult, ContextResult),
        quality.context,
    ),
    Section(
        "repetition",
        "Repetition",
        "Tokens that stood in the context before, and others.",
        _is(RepetitionResult),
        quality.repetition,
    ),
    Section(
        "cells", "Cells", "Cells and chips compared with the same model.", _is(CellResult), mapping.cells
    ),
    Section(
        "adaptation",
        "Adaptation",
        "Gains and offsets that bring the statistics back.",
        _is(Adaptations),
        mapping.adaptation,
    ),
    Section(
        "fidelity",
        "Fidelity",
        "Every head against that of the pretrained model.",
        _is(FidelityResult),
        heads.fidelity,
    ),
    Section("codes", "Codes", "How often every code of the converters is used.", _coded, mapping.codes),
    Section("cell", "Cell", "Current of a cell over its stored voltage.", _curved, mapping.cell),
    Section(
        "activity",
        "Activity",
        "What drives the word lines of every head on real text.",
        _is(ActivityResult),
        heads.activity,
    ),
    Section("costs", "Costs", "Energy, latency and area of a token.", _is(CostResult), costs.costs),
    Section("floorplan", "Floorplan", "Where the area goes, to scale.", _has("floorplan"), costs.floorplans),
    Section(
        "baseline",
        "Baseline",
        "Softmax attention on a machine of today.",
        _is(BaselineResult),
        costs.baselines,
    ),
    Section(
        "timeline",
        "Timeline",
        "Which circuit is busy when.",
        lambda result: isinstance(result.run.get("timeline"), dict),
        circuits.steps,
    ),
    Section(
        "waveforms", "Waveforms", "Charges and counts in one step.", _has("waveforms"), circuits.waveforms
    ),
    Section("trace", "Trace", "A head over many tokens.", _has("trace"), circuits.traces),
    Section(
        "spice-cell",
        "Cells in SPICE",
        "From transistor models.",
        _of_spice("characterise"),
        circuits.spice_cells,
    ),
    Section(
        "spice-verify",
        "SPICE and model",
        "Pulses of both dot products: circuit against model.",
        _of_spice("verify"),
        circuits.verifications,
    ),
    Section(
        "spice-energy", "Energy in SPICE", "Energies of the arrays.", _of_spice("energy"), circuits.energies
    ),
    Section(
        "spice-wires", "Wires", "What the resistance of wires costs.", _of_spice("wires"), circuits.wires
    ),
    Section(
        "spice-write", "Write path", "From a code to a stored voltage.", _of_spice("write"), circuits.writes
    ),
    Section(
        "spice-mixed",
        "Mixed-signal run",
        "A sub-tile of transistors with its digital block in one simulation.",
        _of_spice("mixed"),
        circuits.mixed_runs,
    ),
    Section(
        "rtl",
        "Digital half",
        "Generated, compared with HeadArray and the schedule, synthesised.",
        lambda result: result.run.get("command") == "rtl",
        circuits.digital,
    ),
    Section("device", "Device", "A fit to measured cells.", _has("fit"), circuits.devices),
)
