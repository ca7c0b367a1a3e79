"""Which sections a page can have, what of a result each needs, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gaincell.reports.html import circuits, codesign, costs, heads, mapping, quality, sweeps
from gaincell.reports.html.result import Result
from gaincell.results import evaluation
from gaincell.results.activity import ActivityResult
from gaincell.results.baseline import BaselineResult
from gaincell.results.cells import CellAdaptationResult, CellResult
from gaincell.results.codesign import CodesignResult
from gaincell.results.cost import CostResult
from gaincell.results.device import DeviceResult
from gaincell.results.floorplan import FloorplanResult
from gaincell.results.rtl import RtlResult
from gaincell.results.run import Adaptations, AdaptedResult, StagedResult
from gaincell.results.simulation import HeadResult, TileResult
from gaincell.results.spice import CharacterisationResult, EnergyResult, VerifyResult, WiresResult
from gaincell.results.spice_circuits import MixedResult, WriteResult
from gaincell.results.sweep import SweepResult


@dataclass(frozen=True)
class Section:
    """id: its anchor.  wanted: whether it shows something of a result.  build: its content."""

    id: str
    title: str
    lead: str
    wanted: Callable[[Result], bool]
    build: Callable[[Sequence[Result]], Markup]


def _is(kind: type) -> Callable[[Result], bool]:
    return lambda result: isinstance(result.found, kind)


def _of(
    build: Callable[[Sequence[Result]], Markup], lead: str, *kinds: type, title: str | None = None
) -> Section:
    """What the function of a section's name shows of results of some kinds."""
    name = build.__name__
    return Section(name, title or name.capitalize(), lead, lambda one: isinstance(one.found, kinds), build)


def _coded(result: Result) -> bool:
    return isinstance(result.found, AdaptedResult) and result.found.codes is not None


def _curved(result: Result) -> bool:
    return isinstance(result.found, AdaptedResult | CellAdaptationResult) and result.found.cell is not None


SECTIONS = (
    _of(quality.perplexity, "How well the model predicts text, stage by stage.", StagedResult),
    Section(
        "training",
        "Training",
        "Every loss on an axis of its own, and perplexity.",
        quality.has_training,
        quality.training,
    ),
    _of(
        quality.evaluation,
        "How well a model predicts a text.",
        evaluation.PerplexityResult,
        evaluation.RollingResult,
    ),
    _of(quality.tasks, "Differences are paired: on the same items.", evaluation.TasksResult),
    _of(quality.chips, "The same network on chips whose cells differ.", evaluation.ChipsResult),
    _of(quality.ablation, "Which constraint of the hardware costs how much.", evaluation.AblationResult),
    _of(sweeps.sweep, "One model on many designs.", SweepResult),
    _of(
        codesign.codesign,
        "Circuits of the chip, learned together with the model.",
        CodesignResult,
        title="Learned circuits",
    ),
    _of(quality.pauses, "What a pause in the middle of a text costs.", evaluation.PausesResult),
    _of(quality.context, "How far back a model looks.", evaluation.DepthResult, evaluation.ContextResult),
    _of(
        quality.repetition,
        "Tokens that stood in the context before, and others.",
        evaluation.RepetitionResult,
    ),
    _of(mapping.cells, "Cells and chips compared with the same model.", CellResult),
    _of(mapping.adaptation, "Gains and offsets that bring the statistics back.", Adaptations),
    _of(heads.fidelity, "Every head against that of the pretrained model.", evaluation.FidelityResult),
    Section("codes", "Codes", "How often every code of the converters is used.", _coded, mapping.codes),
    Section("cell", "Cell", "Current of a cell over its stored voltage.", _curved, mapping.cell),
    _of(heads.activity, "What drives the word lines of every head on real text.", ActivityResult),
    _of(costs.costs, "Energy, latency and area of a token.", CostResult),
    Section(
        "floorplan", "Floorplan", "Where the area goes, to scale.", _is(FloorplanResult), costs.floorplans
    ),
    _of(costs.baseline, "Softmax attention on a machine of today.", BaselineResult),
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
        _is(CharacterisationResult),
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
