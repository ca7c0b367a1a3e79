"""Costs as tables, for a terminal and for docs/costs.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gaincell.reports.tables import CITED, SIMULATED, Columns, Kinds, Rows, layered
from gaincell.results import cost as of
from gaincell.results.spice import OperatingPoint
from gaincell.units import with_scale

KINDS = {"cited": "cited", "measured": "measured", "simulated": "computed"}
"""How the kinds of measurements are called."""
DACS = {"string": "resistor string", "charge": "charge redistribution"}
"""Of the write path, by the names of result files."""
MOST = 18
"""Rows of the sensitivity that are shown."""


def basis(result: of.CostResult) -> str:
    """What the activity is, in words."""
    found = result.activity
    if found.source == "assumed":
        return "activity assumed (every code equally likely), not measured"
    return f"activity measured on {found.source}, {found.tokens:,.0f} tokens"


def _by_heading(headings: Sequence[str]) -> Kinds:
    """Columns that are called cited hold cited numbers; the others follow from a model."""
    return lambda _, c: CITED if "cited" in headings[c] and "×" not in headings[c] else SIMULATED


def energy(result: of.CostResult) -> Rows:
    """One head and token: every block and its parts."""
    found, rows = result.head, []
    for line in found.lines:
        stated = None if line.cited is None else line.cited.value
        rows.append([line.name, *_beside(stated, line.bottom_up, line)])
        rows += [
            [f"  {name}{_counted(line, name)}", "", with_scale(part, "J"), "", "", ""]
            for name, part in line.parts.items()
        ]
    total = [column.energy for column in (found.cited, found.bottom_up)]
    rows.append(["all", *(with_scale(x, "J") for x in total), f"{total[1] / total[0]:.3g}", "", ""])
    cited = {line.name: line.cited.value for line in found.lines if line.cited is not None}
    if found.spice is not None:
        where = _corner(found.spice, result)
        for name, product in found.spice.products.items():
            how = f"SPICE ({found.spice.inputs} inputs, mean pulse {product.pulse:.3f}{where})"
            rows.append([f"{name}, {how}", *_beside(cited[name], product.energy, product)])
    if found.rtl is not None:
        title = f"digital, synthesised ({found.rtl.inputs}, {found.rtl.columns:.0f} valid columns)"
        rows.append([title, *_beside(cited["digital"], found.rtl.energy, found.rtl)])
    if found.write is not None:
        where = _corner(found.write, result)
        for name, dac in found.write.dacs.items():
            title = f"write, SPICE ({DACS[name]}{where})"
            rows.append([title, *_beside(cited["write"], dac.energy, dac)])
    caption = f"One query head, one token; {basis(result)}. Technology {result.technology.name}."
    headings = ("energy", "cited", "bottom-up", "factor", "band", "inside")
    return Rows("Energy of a head", headings, rows, caption, kinds=_by_heading(headings))


def _corner(simulated: of.SpiceArrays | of.SpiceWrites, result: of.CostResult) -> str:
    """Where circuits were simulated; no corner for nominal ones at 27 °C and the chip's own supply."""
    if simulated.corner in (None, OperatingPoint("nominal", 27.0, result.design.v_max)):
        return f", {simulated.technology}"
    return f", {simulated.technology} at {simulated.corner}"


def summary(result: of.CostResult) -> Rows:
    """A token: of a head, of a layer, of the model."""
    head, model, sizes = result.head, result.model_cost, result.model
    rows, names = [], ("a head", f"a layer of {sizes.heads} heads", f"all {sizes.layers} layers")
    leaked = next((line.bottom_up for line in head.lines if line.name == "leakage"), 0.0)
    own = head.bottom_up.power or 0.0
    columns = (
        ("cited", head.cited, model.cited, 0.0, 0.0),
        ("bottom-up", head.bottom_up, model.bottom_up, leaked, own),
    )
    for title, one, whole, idle, leakage in columns:
        layer = of.CitedCost(whole.energy / sizes.layers, one.latency, whole.area / sizes.layers)
        heads = 1, sizes.heads * model.batch, sizes.heads * sizes.layers * model.batch
        for name, cost, count in zip(names, (one, layer, whole), heads, strict=True):
            sequences = 1 if cost is one else model.batch
            used = sequences * cost.energy - count * idle
            power = with_scale(used / cost.latency + count * leakage, "W")
            rows.append([f"{name}, {title}", *three(cost), power])
    shared = f", shared by {head.group} query heads" if head.group > 1 else ""
    caption = (
        f"{sizes.name} on {result.design.name}, batch {model.batch}. Area of a head: "
        f"of its key/value head{shared}. Attention alone: {model.throughput:,.0f} tokens/s. "
        "Power: while one token follows the other, and the leakage of all layers; one works at a time."
    )
    if model.batch > 1:
        caption += " Area and power of a layer and of all layers: of all sequences of the batch."
    headings = ("", "energy", "latency", "area", "power")
    cited = [", cited" in name for name, *_ in rows]
    return Rows(
        "Attention, per token", headings, rows, caption, kinds=lambda r, _: CITED if cited[r] else SIMULATED
    )


def left_out(result: of.CostResult) -> Rows:
    """What the bottom-up column lacks."""
    rows = [[f"{one.where}: {one.what}"] for one in result.left_out]
    caption = "Nobody stated what these take; all but power gating would raise the bottom-up estimate."
    return Rows("Left out of the bottom-up estimate", ("left out",), rows, caption)


def area(result: of.CostResult) -> Rows:
    found, areas = result.head, result.areas
    headings = ("", "cited", "bottom-up", "factor")
    rows = [[name, "", with_scale(part, "m^2"), ""] for name, part in found.area.items()]
    rows[0][1] = with_scale(areas.cells_cited, "m^2")
    factor, independent = areas.cells / areas.cells_cited, ""
    if math.isclose(factor, 1):
        independent = " The cell's area is the paper's own, so it is no independent number."
    else:
        rows[0][3] = f"{factor:.3g}"
    whole = (with_scale(x, "m^2") for x in (areas.head_cited, areas.head))
    rows.append(["all", *whole, f"{areas.head_factor:.3g}"])
    caption = (
        f"{found.cells:,.0f} cells.{independent} "
        f"The paper's head in a crossbar: {with_scale(areas.crossbar_cited, 'm^2')} of cells; "
        f"stacked in {areas.layers:.0f} layer(s): {with_scale(areas.stack_cited, 'm^2')}."
    )
    return Rows("Area of a key/value head", headings, rows, caption, kinds=_by_heading(headings))


def variants(result: of.CostResult) -> Rows:
    columns: Columns[of.Variant] = {
        "cells": lambda row: row.title,
        "one cell": lambda row: f"{row.cell * 1e12:.3g} µm²",
        "cells of a head, cited": lambda row: with_scale(row.cited, "m^2"),
        "bottom-up": lambda row: with_scale(row.cells, "m^2"),
        "head, bottom-up": lambda row: with_scale(row.head, "m^2"),
    }
    caption = "Layers of a stack share the periphery: the more layers, the larger its share of the area."
    kinds, title = _by_heading([*columns]), "Other cells and 3D stacking"
    return Rows.of(title, result.areas.variants, columns, caption=caption, kinds=kinds)


def sensitivity(result: of.CostResult) -> Rows:
    """A row a parameter: up and down; the first `MOST`."""
    changes: dict[str, dict[bool, tuple[float, float, float]]] = {}
    for row in result.sensitivity:
        name, up = f"{row.where}: {row.parameter}", row.factor > 1
        changes.setdefault(name, {})[up] = row.energy, row.latency, row.area

    def both(n: int, found: Mapping[bool, Sequence[float]]) -> str:
        ends = (f"{100 * found[up][n]:+.1f} %" if up in found else "–" for up in (True, False))
        return " / ".join(ends)

    numbers = ("energy", "latency", "area")
    rows = [[name, *(both(n, found) for n in range(3))] for name, found in list(changes.items())[:MOST]]
    caption = (
        "Change with a parameter at +20 % / at -20 % (sizes: the nearest that exists), one at a time; "
        "bottom-up, one head."
    )
    if left := len(changes) - len(rows):
        caption += f" {left} more change less; --json has them."
    top, supply = result.design.v_max, result.technology.numbers["supply"].value
    lower = min((row.factor for row in result.sensitivity if row.parameter == "supply"), default=1.0)
    if top > lower * supply:
        caption += (
            f" Supply: at {lower * supply:.3g} V the chip could not store its {top:g} V; the row says what "
            "depends on it, not that the chip would work."
        )
    return Rows("Sensitivity", ("parameter", *numbers), rows, caption, kinds=SIMULATED)


def head_energies(result: of.CostResult) -> list[list[float]]:
    """Of all layers and heads, J."""
    return layered((head.layer, head.energy) for head in result.model_cost.heads)


def layers(result: of.CostResult) -> Rows:
    """Energy of the heads of every layer: mean, lowest, highest."""
    rows = [
        [str(layer), *(with_scale(x, "J") for x in (sum(each) / len(each), min(each), max(each)))]
        for layer, each in enumerate(head_energies(result))
    ]
    caption = f"One token, bottom-up; {basis(result)}. Every head: --json, --figures."
    return Rows("Energy of a head by layer", ("layer", "mean", "lowest", "highest"), rows, caption)


def _counted(line: of.Block, part: str) -> str:
    """How often a part happens, and what one takes; nothing where that is not counted."""
    found = None if line.operations is None else line.operations.get(part)
    if found is None:
        return ""
    count = float(found.count.value)
    often = f"{count:,.0f}" if count.is_integer() else f"{count:.3g}"
    return f", {often} × {with_scale(found.each, 'J')} a {found.count.unit}"


def _beside(cited: float | None, found: float, compared: of.Block | of.OtherEnergy) -> list[str]:
    """Both energies; where they are compared their ratio, its band, and whether it lies inside."""
    shown = [with_scale(cited, "J"), with_scale(found, "J")]
    if compared.factor is None:
        return [*shown, "", "", ""]
    inside = "yes" if compared.inside else "NO"
    return [*shown, f"{compared.factor:.3g}", f"{compared.band or math.nan:g}×", inside]


def three(entry: of.CitedCost | of.BottomUp) -> tuple[str, str, str]:
    """Energy, latency and area."""
    return with_scale(entry.energy, "J"), with_scale(entry.latency, "s"), with_scale(entry.area, "m^2")


def technology(result: of.CostResult) -> Rows:
    """Every number of the process and where it comes from."""
    numbers = result.technology.numbers
    rows = [
        [name, f"{one.value:.6g}" + (f" {one.unit}" if one.unit != "1" else ""), str(one.source)]
        for name, one in numbers.items()
    ]
    title, kinds = f"Technology {result.technology.name}", [one.kind for one in numbers.values()]
    return Rows(
        title, ("number", "value", "source"), rows,
        text=(0, 2), kinds=lambda r, c: kinds[r] if c == 1 else None,
    )  # fmt: skip


def models(results: Mapping[str, of.CostResult]) -> Rows:
    """All attention of several models, per token."""
    rows = []
    for name, result in results.items():
        found, sizes = result.model_cost, result.model
        pairs = zip(three(found.cited), three(found.bottom_up), strict=True)
        shape = f"{sizes.layers} × {sizes.heads}, {sizes.head_dim}"
        cells = [cell for pair in pairs for cell in pair]
        rows.append([f"{name} ({result.activity.source})", shape, f"{result.head.window:,}", *cells])
    headings = ["model (activity)", "layers × heads, D", "window", "energy, cited", "bottom-up"]
    headings += ("latency, cited", "bottom-up", "area, cited", "bottom-up")
    kinds = [None] * 3 + [CITED, SIMULATED] * 3
    return Rows("Models", headings, rows, kinds=lambda _, c: kinds[c])
