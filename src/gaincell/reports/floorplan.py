"""Floorplans of a sub-tile and a head: drawing, tables and section of the page, of `gaincell floorplan`."""

from __future__ import annotations

import math
from dataclasses import replace

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patches import Rectangle as Drawn

from gaincell.reports.html import parts
from gaincell.reports.style import BLACK, PLAN_COLOURS, TAP, WIRE, styled
from gaincell.reports.tables import CITED, SIMULATED, Rows
from gaincell.results.floorplan import FloorplanResult, Plan, Rectangle

KINDS = {
    "cells": "gain cells",
    "analog": "charge-to-pulse, readout",
    "drivers": "pulse drivers",
    "write": "writing",
    "digital": "digital",
}
SHOWN_WIRES = 8
FONT = 7.5
CHARACTER, LINE = 0.6, 1.3
"""Width of a character and height of a line, in font sizes."""
MICRO = 1e6


def micrometres(plan: Plan) -> tuple[list[Rectangle], float, float]:
    """Rectangles, width and height of a plan, in micrometres."""
    boxes = [replace(r, x=r.x * MICRO, y=r.y * MICRO, w=r.w * MICRO, h=r.h * MICRO) for r in plan.rectangles]
    return boxes, plan.w * MICRO, plan.h * MICRO


@styled(grid=False)
def floorplan_figure(result: FloorplanResult) -> Figure:
    """A sub-tile with its wire taps above, a head of sub-tiles below, each to its own scale."""
    tile, head = result.floorplan.tile, result.floorplan.head
    width = 9.6
    tile_scale, head_scale = (width * 0.82 / (plan.w * MICRO) for plan in (tile, head))
    head_scale = min(head_scale, 6.0 / (head.h * MICRO))
    heights = [tile.h * MICRO * tile_scale + 1.5, head.h * MICRO * head_scale + 1.3]
    figure = Figure(figsize=(width, sum(heights) + 0.5))
    above, below = figure.subplots(2, 1, height_ratios=heights)
    _draw_tile(above, tile, tile_scale)
    _draw_head(below, head, tile, head_scale)
    handles: list[Artist] = [
        Patch(facecolor=PLAN_COLOURS[kind], edgecolor=BLACK, lw=0.5, label=label)
        for kind, label in KINDS.items()
    ]
    label = f"key bit lines tapped to value word lines ({SHOWN_WIRES} of {len(tile.wires)})"
    handles.append(Line2D([], [], color=TAP, marker="o", ms=3, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
    return figure


def area_rows(result: FloorplanResult) -> Rows:
    """A row a block of the head, the largest first."""
    total, head = sum(result.areas.values()), result.floorplan.head
    rows = []
    for name, area in sorted(result.areas.items(), key=lambda item: -item[1]):
        per_tile = "–" if name in result.shared else f"{area / result.sizes.tiles * 1e12:,.0f}"
        rows.append([name, per_tile, f"{area * 1e6:.4f}", f"{area / total:.1%}"])
    rows.append(["all", "", f"{total * 1e6:.4f}", "100.0%"])
    outline = head.w * head.h
    cited = "; ".join(f"{name} {area * 1e6:.3g} mm²" for name, area in result.cited.items())
    caption = (
        f"Outline {outline * 1e6:.3f} mm², of which {1 - total / outline:.1%} are unused. The paper: "
        f"{cited}. The area of a cell is an input, taken from the paper unless the technology states another"
        f"{result.note and f'; {result.note}'}."
    )
    title = f"Area of a head of {result.design.name}, {result.technology}"
    return Rows(title, ("block", "sub-tile, µm²", "head, mm²", "share"), rows, caption, kinds=SIMULATED)


def stack_rows(result: FloorplanResult) -> Rows:
    """A head with its cells stacked in 3D."""
    headings = ("layers", "cells, mm²", "head, mm²", "as many cells, cited, mm²")
    rows = [
        [str(row.layers), *(f"{area * 1e6:.4f}" for area in (row.cells, row.head, row.cited_cells))]
        for row in result.stack
    ]
    return Rows(
        "Cells stacked in 3D over one periphery", headings, rows,
        text=(), kinds=lambda _, c: CITED if c == 3 else SIMULATED,
    )  # fmt: skip


def _draw_tile(axes: Axes, plan: Plan, scale: float) -> None:
    found, w, h = micrometres(plan)
    for box in found:
        _fill(axes, box)
    named = {box.name: box for box in found}
    key, value = named["key array"], named["value array"]
    # key bit lines upright, a tap on the diagonal, and on to word lines of values
    for n in range(SHOWN_WIRES):
        wire = plan.wires[round((n + 0.5) * len(plan.wires) / SHOWN_WIRES - 0.5)]
        x, y, to = wire.x * MICRO, wire.y * MICRO, wire.to * MICRO
        axes.plot([x, x], [key.y, key.y + key.h], color=WIRE, lw=0.5, alpha=0.55)
        axes.plot([x, to], [y, y], color=TAP, lw=0.9)
        axes.plot([value.x, value.x + value.w], [y, y], color=TAP, lw=0.9)
        axes.plot([x], [y], "o", color=TAP, ms=2.6)
    for box in found:
        _label(axes, box, scale)
    _leaders(axes, [box for box in found if _fitting(box, scale) is None], w, h, scale, above=h / 3)
    _frame(axes, f"Sub-tile, {w:.0f} × {h:.0f} µm", w, h, scale, 0.62)


def _draw_head(axes: Axes, plan: Plan, tile: Plan, scale: float) -> None:
    inside, _, _ = micrometres(tile)
    found, w, h = micrometres(plan)
    for box in found:
        if box.kind == "cells":
            for part in inside:
                _fill(axes, replace(part, x=part.x + box.x, y=part.y + box.y), 0.25)
            axes.add_patch(Drawn((box.x, box.y), box.w, box.h, facecolor="none", edgecolor=BLACK, lw=1.0))
        else:
            _fill(axes, box)
        _label(axes, box, scale)
    outer = [box for box in found if box.kind != "cells" and _fitting(box, scale) is None]
    _leaders(axes, outer, w, h, scale, above=h / 2)
    _frame(axes, f"Head, {w:.0f} × {h:.0f} µm", w, h, scale, 0.55)


def _fill(axes: Axes, box: Rectangle, line: float = 0.6) -> None:
    axes.add_patch(
        Drawn((box.x, box.y), box.w, box.h, facecolor=PLAN_COLOURS[box.kind], edgecolor=BLACK, lw=line)
    )


def _label(axes: Axes, box: Rectangle, scale: float) -> None:
    """The name in the middle, if it fits; over lines on a pale ground, beside the diagonal of taps."""
    if (text := _fitting(box, scale)) is None:
        return
    right, up = (0.3, 0.84) if box.name == "key array" else (0.5, 0.5)
    x, y = box.x + right * box.w, box.y + up * box.h
    label = axes.text(x, y, text, ha="center", va="center", fontsize=FONT)
    if box.kind == "cells":
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.75})


def _fitting(box: Rectangle, scale: float) -> str | None:
    """The name in one line or in two, where it fits; a micrometre has `scale` inches."""
    w, h = box.w * scale * 72, box.h * scale * 72
    for text in (box.name, box.name.replace(" ", "\n", 1)):
        lines = text.split("\n")
        if max(map(len, lines)) * CHARACTER * FONT <= w and len(lines) * LINE * FONT <= h:
            return text
    return None


def _leaders(axes: Axes, found: list[Rectangle], w: float, h: float, scale: float, above: float) -> None:
    """Names of small boxes in rows outside the outline, from left to right, with lines to their boxes;
    boxes higher than `above` have theirs at the top.
    """
    gap = 0.1 / scale
    for edge, side in ((h, 1), (0.0, -1)):
        row = sorted(
            (box for box in found if (box.y + box.h / 2 > above) == (side > 0)), key=lambda b: b.x + b.w / 2
        )
        halves = [len(box.name) * CHARACTER * FONT / 72 / scale / 2 for box in row]
        places: list[float] = []
        for box, half in zip(row, halves, strict=True):
            free = places[-1] + halves[len(places) - 1] + gap if places else 0.0
            places.append(max(box.x + box.w / 2, free + half))
        limit = w if side > 0 else w - w / 6 - gap  # the scale bar is below at the right
        for n in reversed(range(len(places))):
            places[n] = min(places[n], limit - halves[n])
            limit = places[n] - halves[n] - gap
        level = edge + side * 0.22 / scale
        for box, at in zip(row, places, strict=True):
            axes.plot([box.x + box.w / 2, at], [box.y + box.h / 2, level], color=BLACK, lw=0.5)
            axes.plot([box.x + box.w / 2], [box.y + box.h / 2], ".", color=BLACK, ms=2)
            axes.text(at, level, box.name, ha="center", va="bottom" if side > 0 else "top", fontsize=FONT)


def _frame(axes: Axes, title: str, w: float, h: float, scale: float, room: float) -> None:
    """Title, room (inches) around the outline, and below it a round length, about a sixth of the width."""
    axes.set_title(title)
    power = 10 ** math.floor(math.log10(w / 6))
    length = max(m * power for m in (1, 2, 5) if m * power <= w / 6)
    y = -0.2 / scale
    axes.plot([w - length, w], [y, y], color=BLACK, lw=2.5, solid_capstyle="butt")
    axes.text(w - length / 2, 1.3 * y, f"{length:g} µm", ha="center", va="top", fontsize=FONT)
    axes.set_aspect("equal", anchor="W")
    axes.set_xlim(-0.02 * w, 1.02 * w)
    axes.set_ylim(-room / scale, h + room / scale)
    axes.set_axis_off()


FLOORPLAN = parts.section(
    "Floorplan", "Where the area goes, to scale.", FloorplanResult,
    parts.figure("Sub-tile and head", floorplan_figure, numbers=parts.no_numbers),
    parts.tables(area_rows, title="Area of a head"), parts.tables(stack_rows),
    numbers=lambda run: run.floorplan, headline=lambda run: f"{sum(run.areas.values()) * 1e6:.3f} mm² a head",
)  # fmt: skip
