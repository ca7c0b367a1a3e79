"""Which sections a page can have, what of a result each needs, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gaincell.reports.html import circuits, codesign, costs, heads, mapping, quality, sweeps
from gaincell.reports.html.result import Result
from gaincell.results.activity import ActivityResult
from gaincell.results.baseline import BaselineResult
from gaincell.results.cost import CostResult
from gaincell.results.device import DeviceResult
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
from gaincell.results.floorplan import FloorplanResult
from gaincell.results.rtl import RtlResult
from gaincell.results.simulation import HeadResult, TileResult
from gaincell.results.spice import CellResult, EnergyResult, VerifyResult, WiresResult
from gaincell.results.spice_circuits import MixedResult, WriteResult


@dataclass(frozen=True)
class Section:
    """id: its anchor.  wanted: whether it shows something of a result.  build: its content."""

    id: str
    title: str
    lead: str
    wanted: Callable[[Result], bool]
    build: Callable[[Sequence[Result]], Markup]


def _has(*parts: str) -> Callable[[Result], bool]:
    return lambda result: all(part in result.run for part in parts)


def _is(*kinds: type) -> Callable[[Result], bool]:
    return lambda result: isinstance(result.found, kinds)


def _listed(result: Result) -> bool:
    return isinstance(result.run.get("stages"), list)


def _named(result: Result) -> bool:
    return isinstance(result.run.get("stages"), dict)


def _coded(result: Result) -> bool:
    codes = result.run.get("codes")
    return isinstance(codes, dict) and all(isinstance(of, dict) and "out" in of for of in codes.values())


SECTIONS = (
    Section(
        "perplexity",
        "Perplexity",
        "How well the model predicts text, stage by stage.",
        _listed,
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
    Section(
        "sweep", "Sweep", "One model on many designs.", _has("sweep", "points", "objectives"), sweeps.sweeps
    ),
    Section(
        "codesign",
        "Learned circuits",
        "Circuits of the chip, learned together with the model.",
        lambda result: isinstance(result.run.get("circuits"), dict),
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
    Section("cells", "Cells", "Cells and chips compared with the same model.", _named, mapping.cells),
    Section(
        "adaptation",
        "Adaptation",
        "Gains and offsets that bring the statistics back.",
        _has("adaptation"),
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
    Section("cell", "Cell", "Current of a cell over its stored voltage.", _has("cell"), mapping.cell),
    Section(
        "activity",
        "Activity",
        "What drives the word lines of every head on real text.",
        _is(ActivityResult),
        heads.activity,
    ),
    Section("costs", "Costs", "Energy, latency and area of a token.", _is(CostResult), costs.costs),
    Section(
        "floorplan", "Floorplan", "Where the area goes, to scale.", _is(FloorplanResult), costs.floorplans
    ),
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
        _is(HeadResult),
        circuits.steps,
    ),
    Section("waveforms", "Waveforms", "Charges and counts in one step.", _is(TileResult), circuits.waveforms),
    Section("trace", "Trace", "A head over many tokens.", _is(HeadResult), circuits.traces),
    Section(
        "spice-cell",
        "Cells in SPICE",
        "From transistor models.",
        _is(CellResult),
        circuits.spice_cells,
    ),
    Section(
        "spice-verify",
        "SPICE and model",
        "Pulses of both dot products: circuit against model.",
        _is(VerifyResult),
        circuits.verifications,
    ),
    Section(
        "spice-energy", "Energy in SPICE", "Energies of the arrays.", _is(EnergyResult), circuits.energies
    ),
    Section("spice-wires", "Wires", "What the resistance of wires costs.", _is(WiresResult), circuits.wires),
    Section(
        "spice-write", "Write path", "From a code to a stored voltage.", _is(WriteResult), circuits.writes
    ),
    Section(
        "spice-mixed",
        "Mixed-signal run",
        "A sub-tile of transistors with its digital block in one simulation.",
        _is(MixedResult),
        circuits.mixed_runs,
    ),
    Section(
        "rtl",
        "Digital half",
        "Generated, compared with HeadArray and the schedule, synthesised.",
        _is(RtlResult),
        circuits.digital,
    ),
    Section("device", "Device", "A fit to measured cells.", _is(DeviceResult), circuits.devices),
)
