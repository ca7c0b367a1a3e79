"""Circuits and costs on docs/reproduction.md: tables of Fig. 1, 2, 3 and 5, from docs/results."""
# ruff: noqa: E501 (rows of tables)

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gaincell.arrays.schedule import Schedule
from gaincell.config import load_design
from gaincell.reports import results
from gaincell.reports.costs import with_scale
from gaincell.reports.results import number, numbers

RESULTS = Path(__file__).parents[1] / "docs" / "results"
Json = Mapping[str, Any]


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
    chip, found = load_design("leroux2025"), result("spice/cell-freepdk45")
    micro = 1e6 / chip.t_pulse_max
    rows = []
    curve, published = numbers(found["curve"]["charge"]), numbers(found["curve"]["of_the_design"])
    for place, volts in ((0, chip.v_min), (-1, chip.v_max)):
        ours, theirs = curve[place] * micro, published[place] * micro
        rows.append(
            Row(
                f"current at {volts:g} V",
                f"{theirs:.1f} µA (c)",
                f"{ours:.1f} µA (s)",
                ours / theirs,
                "open transistor cards and sizes of our own; the paper's unit of charge is taken as 1 µA × 15 ns",
            )
        )
    spread = [100 * x for x in numbers(found["mismatch"]["std_of_full_scale"])]
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
    half = chip.v_max - chip.v_offset
    left = chip.v_offset + half * math.exp(-10e-3 / chip.retention_time)
    for key, what in (
        ("held", "own leakage"),
        ("with_default_gmin", "with ngspice's default gmin, an artefact"),
    ):
        held = numbers({**found["retention"][key], "value": found["retention"][key]["value"][-1]})
        held = (
            held
            if held[0] > chip.v_offset
            else numbers({**found["retention"][key], "value": found["retention"][key]["value"][0]})
        )
        rows.append(
            Row(
                f"0.9 V after 10 ms, {what}",
                f"{left:.3f} V (c, τ = {chip.retention_time * 1e3:g} ms)",
                f"{held[-1]:.3f} V (s)",
                (held[-1] - chip.v_offset) / (left - chip.v_offset),
                "leakage of the foundry's transistors is unknown here; ratio of what is left of the signal",
            )
        )
    return compared(rows)


def timing() -> str:
    """Fig. 2: latency of a step."""
    chip, costs = load_design("leroux2025"), result("costs/cost-gpt2")["head"]
    paper = number(costs["cited"]["latency"])
    schedule = Schedule(chip).latency
    free = number(costs["bottom_up"]["latency"])
    rows = [
        Row("a step of one head", f"{1e9 * paper:.0f} ns (c)", f"{1e9 * schedule:.0f} ns (s)", schedule / paper,
            "reads, conversion, counter and adders are computed; the write takes what the published figure leaves"),
        Row("the same, write and discharge bottom-up", f"{1e9 * paper:.0f} ns (c)", f"{1e9 * free:.0f} ns (s)", free / paper,
            "simulated writes settle within a nanosecond"),
    ]  # fmt: skip
    return compared(rows)


def area() -> str:
    """Fig. 3: area of a head."""
    areas = result("costs/cost-gpt2")["areas"]
    rows = [
        Row("cells of a head", millimetres(areas["cells_cited"], "c"), millimetres(areas["cells"], "s"),
            number(areas["cells"]) / number(areas["cells_cited"]), "the same cell area, taken from the paper (worst case)"),
        Row("a head with its circuits", millimetres(areas["head_cited"], "c"), millimetres(areas["head"], "s"),
            number(areas["head_factor"]), "capacitors for S_sat and O_sat at an assumed density take most of ours"),
    ]  # fmt: skip
    return compared(rows)


def accuracy() -> str:
    """Fig. 5a, b: circuits against the behavioural model."""
    rows = [
        ["circuit (s)", "cell known by its own curve", "by its cubic", "by the linear cell", "codes off"],
        ["---", *["---:"] * 4],
    ]
    for name, title in (
        ("verify-freepdk45-random", "FreePDK45, behavioural readout, random inputs"),
        ("verify-freepdk45-real", "the same, inputs of a model"),
        ("verify-freepdk45-transistors", "FreePDK45, readout of transistors"),
        ("verify-generic28-random", "generic 28 nm card, random inputs"),
    ):
        found = result(f"spice/{name}")
        cells = []
        for model in ("own", "cubic", "linear"):
            cells.append(
                " / ".join(f"{1e9 * number(found[part]['rms'][model]):.3f}" for part in ("first", "second"))
            )
        off = f"{number(found['codes']['differ']):.0f} of {number(found['columns']):.0f}"
        rows.append([title, *cells, off])
    return (
        markdown(rows)
        + "\n\nrms error of pulse widths, ns, first / second dot product; a full pulse is 15 ns."
    )


def energy() -> str:
    """Fig. 5e: energy of a token and head."""
    assumed, real = (result(f"costs/cost-{name}")["head"] for name in ("gpt2", "smollm2-135m"))
    rows = [
        ["energy", "paper (c)", "ours, assumed activity (s)", "ours / paper", "ours, SmolLM2 (s)"],
        ["---", *["---:"] * 4],
    ]
    by_name = {line["name"]: line for line in real["lines"]}
    for line in assumed["lines"]:
        paper = line.get("cited")
        ratio = f"{number(line['factor']):.2g}" if paper else "–"
        rows.append(
            [
                line["name"],
                joule(paper),
                joule(line["bottom_up"]),
                ratio,
                joule(by_name[line["name"]]["bottom_up"]),
            ]
        )
    totals = [assumed["cited"]["energy"], assumed["bottom_up"]["energy"], real["bottom_up"]["energy"]]
    share = number(totals[1]) / number(totals[0])
    rows.append(["**all**", joule(totals[0]), joule(totals[1]), f"{share:.2g}", joule(totals[2])])
    return markdown(rows)


def machines() -> str:
    """Fig. 5c, d: ratios to GPUs."""
    found = result("costs/cost-gpt2")
    printed = {key: number(entry) for key, entry in found["printed"].items()}
    keys = {"RTX 4090": "rtx_4090", "Jetson Nano": "jetson_nano"}
    head = ["against", "latency: printed (c)", "from released data (c)", "ours (s)"]
    head += ["energy: printed (c)", "from released data (c)", "ours (s)"]
    rows = [head, ["---", *["---:"] * 6]]
    for machine in found["machines"]:
        key = keys.get(machine["title"])
        row = [machine["title"]]
        for what in ("latency", "energy"):
            row.append(f"{printed[f'{what}_{key}']:,.0f}" if key else "–")
            released = f"{number(machine[f'{what}_over_cited']):,.0f}"
            row.append(released)
            row.append(f"{number(machine[f'{what}_over_bottom_up']):,.0f}")
        rows.append(row)
    unreleased = [f"{printed[f'{what}_h100']:,.0f}" for what in ("latency", "energy")]
    rows.insert(4, ["H100 (no data released)", unreleased[0], "–", "–", unreleased[1], "–", "–"])
    return markdown(rows)


def result(name: str) -> Json:
    return results.read(RESULTS / f"{name}.json")


def millimetres(entry: Json, letter: str) -> str:
    return f"{1e6 * number(entry):.3f} mm² ({letter})"


def joule(entry: Json | None) -> str:
    return "–" if entry is None else with_scale(number(entry), "J")


def compared(rows: list[Row]) -> str:
    lines = [["", "paper", "ours", "ours / paper", "why it differs"], ["---", "---:", "---:", "---:", "---"]]
    for row in rows:
        lines.append(
            [row.what, row.paper, row.ours, "–" if row.ratio is None else f"{row.ratio:.2f}", row.why]
        )
    return markdown(lines)


def markdown(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
