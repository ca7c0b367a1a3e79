"""Which sections a page can have, what of a result each needs, and what it says."""

from __future__ import annotations

from gaincell.reports.html import circuits, codesign, costs, heads, mapping, quality, sweeps
from gaincell.reports.html.result import Section, section

SECTIONS = (
    section(
        "Perplexity", "How well the model predicts text, stage by stage.",
        quality.stages, together=quality.side_by_side, numbers="stages",
    ),
    Section(
        "training", "Training", "Every loss on an axis of its own, and perplexity.",
        quality.has_training, quality.training,
    ),
    section("Evaluation", "How well a model predicts a text.", together=quality.evaluation),
    section("Tasks", "Differences are paired: on the same items.", together=quality.tasks),
    section("Chips", "The same network on chips whose cells differ.", together=quality.chips),
    section("Ablation", "Which constraint of the hardware costs how much.", quality.ablation),
    section("Sweep", "One model on many designs.", sweeps.sweep, numbers="points"),
    section(
        "Learned circuits", "Circuits of the chip, learned together with the model.", codesign.codesign,
        numbers="circuits", id="codesign",
    ),
    section("Pauses", "What a pause in the middle of a text costs.", together=quality.pauses),
    section("Context", "How far back a model looks.", quality.context),
    section(
        "Repetition", "Tokens that stood in the context before, and others.", together=quality.repetition
    ),
    section("Cells", "Cells and chips compared with the same model.", together=mapping.cells),
    section(
        "Adaptation", "Gains and offsets that bring the statistics back.", mapping.adaptation,
        numbers="adaptation",
    ),
    section("Fidelity", "Every head against that of the pretrained model.", heads.fidelity),
    section(
        "Codes", "How often every code of the converters is used.", mapping.codes,
        numbers="codes", has="codes",
    ),
    section("Cell", "Current of a cell over its stored voltage.", together=mapping.cell, has="cell"),
    section("Activity", "What drives the word lines of every head on real text.", heads.activity),
    section(
        "Costs", "Energy, latency and area of a token.",
        costs.cost, together=costs.side_by_side, numbers="head",
    ),
    section("Floorplan", "Where the area goes, to scale.", costs.floorplan, numbers="floorplan"),
    section("Baseline", "Softmax attention on a machine of today.", costs.baseline, numbers="measurements"),
    section("Timeline", "Which circuit is busy when.", circuits.timeline, numbers="timeline"),
    section("Waveforms", "Charges and counts in one step.", circuits.waveforms, numbers="waveforms"),
    section("Trace", "A head over many tokens.", circuits.trace, numbers="schedule"),
    section(
        "Cells in SPICE", "From transistor models.", circuits.cell, together=circuits.cells,
        numbers="curve", id="spice-cell",
    ),
    section(
        "SPICE and model", "Pulses of both dot products: circuit against model.",
        circuits.verification, together=circuits.verifications, numbers="first", id="spice-verify",
    ),
    section("Energy in SPICE", "Energies of the arrays.", together=circuits.energies, id="spice-energy"),
    section(
        "Wires", "What the resistance of wires costs.", circuits.wires, numbers="bit_line", id="spice-wires"
    ),
    section(
        "Write path", "From a code to a stored voltage.", circuits.write, numbers="dacs", id="spice-write"
    ),
    section(
        "Mixed-signal run", "A sub-tile of transistors with its digital block in one simulation.",
        circuits.mixed, numbers="waves", id="spice-mixed",
    ),
    section(
        "Digital half", "Generated, compared with HeadArray and the schedule, synthesised.",
        circuits.digital, numbers="sizes", id="rtl",
    ),
    section("Device", "A fit to measured cells.", circuits.device, numbers="fit"),
)  # fmt: skip
