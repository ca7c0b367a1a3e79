"""Which sections a page can have, what of a result each needs, and what it says."""

from __future__ import annotations

from gaincell.reports.html import circuits, codesign, costs, heads, mapping, quality, sweeps
from gaincell.reports.html.result import Section, section
from gaincell.results import evaluation, spice
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
from gaincell.results.spice_circuits import MixedResult, WriteResult
from gaincell.results.sweep import SweepResult

SECTIONS = (
    section(
        "Perplexity", "How well the model predicts text, stage by stage.", StagedResult,
        quality.stages, together=quality.side_by_side, numbers="stages",
    ),
    Section(
        "training", "Training", "Every loss on an axis of its own, and perplexity.",
        quality.has_training, quality.training,
    ),
    section(
        "Evaluation", "How well a model predicts a text.",
        (evaluation.PerplexityResult, evaluation.RollingResult), together=quality.evaluation,
    ),
    section(
        "Tasks", "Differences are paired: on the same items.", evaluation.TasksResult, together=quality.tasks
    ),
    section(
        "Chips", "The same network on chips whose cells differ.", evaluation.ChipsResult,
        together=quality.chips,
    ),
    section(
        "Ablation", "Which constraint of the hardware costs how much.", evaluation.AblationResult,
        quality.ablation,
    ),
    section("Sweep", "One model on many designs.", SweepResult, sweeps.sweep, numbers="points"),
    section(
        "Learned circuits", "Circuits of the chip, learned together with the model.", CodesignResult,
        codesign.codesign, numbers="circuits", id="codesign",
    ),
    section(
        "Pauses", "What a pause in the middle of a text costs.", evaluation.PausesResult,
        together=quality.pauses,
    ),
    section(
        "Context", "How far back a model looks.", (evaluation.DepthResult, evaluation.ContextResult),
        quality.context,
    ),
    section(
        "Repetition", "Tokens that stood in the context before, and others.", evaluation.RepetitionResult,
        together=quality.repetition,
    ),
    section("Cells", "Cells and chips compared with the same model.", CellResult, together=mapping.cells),
    section(
        "Adaptation", "Gains and offsets that bring the statistics back.", Adaptations,
        mapping.adaptation, numbers="adaptation",
    ),
    section(
        "Fidelity", "Every head against that of the pretrained model.", evaluation.FidelityResult,
        heads.fidelity,
    ),
    section(
        "Codes", "How often every code of the converters is used.", AdaptedResult,
        mapping.codes, numbers="codes", has="codes",
    ),
    section(
        "Cell", "Current of a cell over its stored voltage.", (AdaptedResult, CellAdaptationResult),
        together=mapping.cell, has="cell",
    ),
    section(
        "Activity", "What drives the word lines of every head on real text.", ActivityResult, heads.activity
    ),
    section(
        "Costs", "Energy, latency and area of a token.", CostResult,
        costs.cost, together=costs.side_by_side, numbers="head",
    ),
    section(
        "Floorplan", "Where the area goes, to scale.", FloorplanResult, costs.floorplan, numbers="floorplan"
    ),
    section(
        "Baseline", "Softmax attention on a machine of today.", BaselineResult,
        costs.baseline, numbers="measurements",
    ),
    section("Timeline", "Which circuit is busy when.", HeadResult, circuits.timeline, numbers="timeline"),
    section(
        "Waveforms", "Charges and counts in one step.", TileResult, circuits.waveforms, numbers="waveforms"
    ),
    section("Trace", "A head over many tokens.", HeadResult, circuits.trace, numbers="schedule"),
    section(
        "Cells in SPICE", "From transistor models.", spice.CharacterisationResult,
        circuits.cell, together=circuits.cells, numbers="curve", id="spice-cell",
    ),
    section(
        "SPICE and model", "Pulses of both dot products: circuit against model.", spice.VerifyResult,
        circuits.verification, together=circuits.verifications, numbers="first", id="spice-verify",
    ),
    section(
        "Energy in SPICE", "Energies of the arrays.", spice.EnergyResult,
        together=circuits.energies, id="spice-energy",
    ),
    section(
        "Wires", "What the resistance of wires costs.", spice.WiresResult,
        circuits.wires, numbers="bit_line", id="spice-wires",
    ),
    section(
        "Write path", "From a code to a stored voltage.", WriteResult,
        circuits.write, numbers="dacs", id="spice-write",
    ),
    section(
        "Mixed-signal run", "A sub-tile of transistors with its digital block in one simulation.",
        MixedResult, circuits.mixed, numbers="waves", id="spice-mixed",
    ),
    section(
        "Digital half", "Generated, compared with HeadArray and the schedule, synthesised.", RtlResult,
        circuits.digital, numbers="sizes", id="rtl",
    ),
    section("Device", "A fit to measured cells.", DeviceResult, circuits.device, numbers="fit"),
)  # fmt: skip
