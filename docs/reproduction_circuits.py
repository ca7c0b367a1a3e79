"""Circuits and costs on docs/reproduction.md: tables of Fig. 1, 2, 3 and 5, from docs/results."""
# ruff: noqa: E501 (rows of tables)

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from gaincell.arrays.schedule import Schedule
from gaincell.chips.design_file import load_design
from gaincell.reports.system_costs import by_movement, energy_verdict
from gaincell.reports.tables import Rows
from gaincell.results import read
from gaincell.results.common import Result, Value
from gaincell.results.cost import CostResult
from gaincell.results.spice import VerifyResult
from gaincell.results.spice_cell import CharacterisationResult
from gaincell.spice.verify import CUBIC, TOLERANCES
from gaincell.units import with_scale

RESULTS = Path(__file__).parents[1] / "docs" / "results"
OWN, CODES = "first: rms against the cell's own curve", "codes that differ"
"""Checks of `gaincell spice verify`."""


@dataclass(frozen=True)
class Row:
    """One number of the paper beside ours, both with unit and letter; ratio: ours over the paper's."""

    what: str
    paper: str
    ours: str
    ratio: float | None
    why: str


def cell() -> str:
    """Fig. 1: the cell."""
    chip, found = load_design("leroux2025"), simulated_cell()
    micro = 1e6 / chip.t_pulse_max
    rows = []
    curve, published = found.curve.charge, found.curve.of_the_design.value
    for place, volts in ((0, chip.v_min), (-1, chip.v_max)):
        ours, theirs = curve[place] * micro, published[place] * micro
        rows.append(
            Row(
                f"mean current of a full pulse at {volts:g} V",
                f"{theirs:.1f} µA (curve c, its unit assumed)",
                f"{ours:.1f} µA (s)",
                ours / theirs,
                "we use open transistor models and our own sizes; the paper gives the curve without its unit of charge, assumed here: 1 µA × 15 ns",
            )
        )
    spread = [100 * x for x in found.mismatch.std_of_full_scale]
    middle = len(spread) // 2
    rows.append(
        Row(
            "spread between cells, % of full scale, at 0, 0.45, 0.9 V",
            "drawn, no number",
            f"{spread[0]:.1f}, {spread[middle]:.1f}, {spread[-1]:.1f} (s)",
            None,
            "Pelgrom's law with an assumed constant",
        )
    )
    half, retention = chip.v_max - chip.v_offset, found.retention
    for voltages, times, what, why in (
        (
            retention.held,
            retention.time,
            "own leakage, no gate tunnelling",
            "the leakage of the foundry's transistors is not known here; the ratio is that of the remaining signals",
        ),
        (
            retention.with_tunnelling,
            retention.tunnelling_time,
            "with the card's gate tunnelling",
            "thin gates drain the storage capacitor; a cell built for retention would have thicker ones, so all other rows switch it off",
        ),
        (
            retention.with_default_gmin,
            retention.time,
            "with ngspice's default gmin, an artefact",
            "the simulator's conductance to ground, not the transistors, drains the capacitor",
        ),
    ):
        after = times[-1]
        left = chip.v_offset + half * math.exp(-after / chip.retention_time)
        held = max((curve[-1] for curve in voltages if curve[0] > chip.v_offset), default=math.nan)
        rows.append(
            Row(
                f"{chip.v_max:g} V after {with_scale(after, 's')}, {what}",
                f"{left:.3f} V (c, τ = {chip.retention_time * 1e3:g} ms)",
                f"{held:.3f} V (s)",
                (held - chip.v_offset) / (left - chip.v_offset),
                why,
            )
        )
    return compared(rows)


def timing() -> str:
    """Fig. 2: latency of a step."""
    chip, head = load_design("leroux2025"), costs("gpt2").head
    paper = head.cited.latency
    schedule = Schedule(chip).latency
    free = head.bottom_up.latency
    rows = [
        Row("a step of one head, as the design has it", f"{1e9 * paper:.0f} ns (c)", f"{1e9 * schedule:.0f} ns (made to agree)", None,
            "circular, no reproduction: the published figure is an input; reads, conversion, counter and adders are computed, and the write takes the rest"),
        Row("a step of one head, everything bottom-up", f"{1e9 * paper:.0f} ns (c)", f"{1e9 * free:.0f} ns (s)", free / paper,
            "the write of one ideally driven cell settles within a nanosecond (s), the discharge before it is assumed, and the time of a real DAC ([spice.md](spice.md)) is not in it; Fig. 5c uses this value"),
    ]  # fmt: skip
    return compared(rows)


def area() -> str:
    """Fig. 3: area of a head."""
    areas = costs("gpt2").areas
    rows = [
        Row("cells of a head", millimetres(areas.cells_cited, "c"), millimetres(areas.cells, "made to agree"), None,
            "circular, no reproduction: the area of a cell is an input, taken from the paper (worst case); only the number of cells is ours"),
        Row("a head with its circuits", millimetres(areas.head_cited, "c"), millimetres(areas.head, "s"),
            areas.head_factor, "most of our area is capacitors for S_sat and O_sat, at an assumed density"),
    ]  # fmt: skip
    return compared(rows)


def accuracy() -> str:
    """Fig. 5a, b: circuits against the behavioural model."""
    rows = [
        [
            "circuit (s)",
            "cell known by its own curve",
            "by its cubic",
            "by the linear cell",
            "own curve, calibrated",
            "codes off, own curve",
            "codes off, cubic",
        ]
    ]
    missed, beyond, blind = [], [], []
    for name, title in (
        ("verify-freepdk45-random", "FreePDK45, behavioural readout, random inputs"),
        ("verify-freepdk45-real", "the same, inputs of a model"),
        ("verify-freepdk45-transistors", "FreePDK45, readout of transistors"),
        ("verify-generic28-random", "generic 28 nm card, random inputs"),
    ):
        found = read(RESULTS / "spice" / f"{name}.json", VerifyResult)
        parts = found.first, found.second
        cells = []
        for model in ("own", "cubic", "linear"):
            cells.append(" / ".join(f"{1e9 * part.rms[model]:.3f}" for part in parts))
        left = (part.affine_calibration.rms_in_range for part in parts)
        off, columns = found.codes.differ, found.columns
        apart = [abs(a - b) for a, b in zip(found.codes.spice, found.codes.cubic, strict=True) if a != b]
        rows.append(
            [
                title,
                *cells,
                " / ".join("–" if one is None else f"{1e9 * one:.3f}" for one in left),
                f"{off} of {columns}",
                f"{len(apart)} of {columns}, by up to {max(apart, default=0):.0f}",
            ]
        )
        if name.endswith("real"):
            blind.append(found.first.rms["linear"])
        missed += [f"{title}: {check.name}" for check in found.checks if not check.passed]
        checked = {check.name for check in found.checks}
        for part, product in zip(parts, ("first", "second"), strict=True):
            for model, curve, check in (("own", "own curve", OWN), ("cubic", "cubic", CUBIC)):
                off_by, allowed = part.rms[model], TOLERANCES[check][0]
                if off_by > allowed and not (product == "first" and check in checked):
                    beyond.append(
                        f"{title}: {product} product against the {curve}, {1e9 * off_by:.2f} ns (more than {1e9 * allowed:g} ns)"
                    )
        if off / columns > TOLERANCES[CODES][0] and CODES not in checked:
            beyond.append(f"{title}: {off} of {columns} codes (more than {100 * TOLERANCES[CODES][0]:g} %)")
        if len(apart) / columns > TOLERANCES[CODES][0]:
            beyond.append(
                f"{title}: {len(apart)} of {columns} codes against the cubic (more than {100 * TOLERANCES[CODES][0]:g} %)"
            )
    said = "Tolerances were stated beforehand for the first dot product and for the codes of the behavioural readout. "
    said += f"These **miss** them: {'; '.join(missed)}." if missed else "All are met."
    if any(rms <= TOLERANCES[CUBIC][0] for rms in blind):
        said += " With inputs of a model the linear cell is within the tolerance for the cubic, too: only random inputs tell the cells apart."
    if beyond:
        said += f" None was stated for the second dot product or for codes against the cubic, and for the transistor readout only one after calibration. By the same tolerances, these **miss**: {'; '.join(beyond)}."
    return (
        markdown(rows)
        + "\n\nEntries are rms errors of pulse widths in ns, first / second dot product; a full pulse is 15 ns. *Calibrated*: what remains, for columns in range, "
        f"after a gain and an offset are fitted. The transistor readout needs this, because its comparators delay every pulse.\n\n{said}"
    )


def energy() -> str:
    """Fig. 5e: energy of a token and head."""
    assumed, real = (costs(name).head for name in ("gpt2", "smollm2-135m"))
    rows = [["energy", "paper (c)", "ours, assumed activity (s)", "ours / paper", "ours, SmolLM2 (s)"]]
    by_name = {line.name: line for line in real.lines}
    for line in assumed.lines:
        ratio = "–" if line.factor is None else f"{line.factor:.2g}"
        rows.append(
            [line.name, joule(line.cited), joule(line.bottom_up), ratio, joule(by_name[line.name].bottom_up)]
        )
    totals = [assumed.cited.energy, assumed.bottom_up.energy, real.bottom_up.energy]
    share = totals[1] / totals[0]
    rows.append(["**all**", joule(totals[0]), joule(totals[1]), f"{share:.2g}", joule(totals[2])])
    return markdown(rows)


def machines() -> str:
    """Fig. 5c, d: ratios to GPUs."""
    found = costs("gpt2")
    printed = found.printed
    keys = {"RTX 4090": "rtx_4090", "Jetson Nano": "jetson_nano"}
    over = ["over the paper's (c; computed: c, s)", "over ours (s)"]
    head = ["against", "latency: printed (c)", *over, "energy: printed (c)", *over]
    rows = [head]
    for machine in found.machines:
        key = keys.get(machine.title)
        row = [f"{machine.title} ({'released data, c' if key else 'computed, s'})"]
        for what in ("latency", "energy"):
            row.append(f"{printed[f'{what}_{key}']:,.0f}" if key else "–")
            row += [f"{getattr(machine, f'{what}_over_{ours}'):,.0f}" for ours in ("cited", "bottom_up")]
        rows.append(row)
    unreleased = [f"{printed[f'{what}_h100']:,.0f}" for what in ("latency", "energy")]
    rows.insert(3, ["H100 (no data released)", unreleased[0], "–", "–", unreleased[1], "–", "–"])
    return f"{markdown(rows)}\n\n{energy_verdict(found)} {by_movement(found)}{uncommitted(found)}"


def uncommitted(*found: Result) -> str:
    """A sentence if results were made between two commits; one that is there twice counts once."""
    found = tuple(one for n, one in enumerate(found) if one not in found[:n])
    changed = sum((one.provenance.commit or "").endswith("+") for one in found)
    if not changed:
        return ""
    which = (
        "The result file was"
        if len(found) == 1
        else f"Of {len(found)} result files, {changed} {'was' if changed == 1 else 'were'}"
    )
    return f" {which} made with code that had uncommitted changes."


def simulated_cell() -> CharacterisationResult:
    return read(RESULTS / "spice" / "cell-freepdk45.json", CharacterisationResult)


def costs(model: str) -> CostResult:
    return read(RESULTS / "costs" / f"cost-{model}.json", CostResult)


def millimetres(area: float, letter: str) -> str:
    return f"{1e6 * area:.3f} mm² ({letter})"


def joule(energy: Value | float | None) -> str:
    number = energy.value if isinstance(energy, Value) else energy
    return "–" if number is None else with_scale(number, "J")


def compared(rows: list[Row]) -> str:
    lines = [["", "paper", "ours", "ours / paper", "why it differs"]]
    for row in rows:
        lines.append(
            [row.what, row.paper, row.ours, "–" if row.ratio is None else f"{row.ratio:.2f}", row.why]
        )
    return markdown(lines, text=(0, 4))


def markdown(lines: list[list[str]], text: Collection[int] = (0,)) -> str:
    """Headings and rows as a table.  text: columns of words."""
    return Rows("", lines[0], lines[1:], text=text).markdown().rstrip()
