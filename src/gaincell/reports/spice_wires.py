"""Results of `gaincell spice wires` as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.spice import FEMTO, NANO
from gaincell.reports.style import BLACK, GREY, MARKERS, PALETTE, legend_beside, styled
from gaincell.results.spice import BitLine, WiresResult, WordLine

SHOWN_CELLS = 64
"""Of a line in the design, and in operation."""
SMALLEST = 1e-6
"""Error below which none is drawn."""


@styled()
def wires_figure(result: WiresResult) -> Figure:
    """Error against the cells on a line, bit line and word line apart; change of charges in operation."""
    figure = Figure(figsize=(9.0, 10.2))
    bit, word, use = figure.subplots(3, 1)
    tolerance, full = result.tolerance, result.full_scale * NANO
    _draw_sizes(bit, result.bit_line)
    _draw_sizes(word, result.word_line)
    for axes, title in (
        (bit, "Bit line, all cells conduct"),
        (word, "Word line, farthest cell, shortest pulse"),
    ):
        axes.axvline(SHOWN_CELLS, color=GREY, lw=1, ls=":", label=f"{SHOWN_CELLS} cells")
        axes.axhline(100 * tolerance, color=BLACK, lw=1, ls="--", label=f"tolerance, {tolerance:.2%}")
        axes.set_title(title)
        axes.set_xlabel("cells on the line")
    bit.set_ylabel("lost current (% of the line's)")
    word.set_ylabel("error (% of the pulse's charge)")
    _draw_operation(use, result)
    limit = f"tolerance, {tolerance * full:.2g} ns"
    use.axhline(tolerance * full, color=BLACK, lw=1, ls="--", label=limit)
    for axes in (bit, word, use):
        legend_beside(axes)
    figure.suptitle(f"{result.technology}, {result.corner}")
    return figure


def _draw_sizes(axes: Axes, points: Sequence[BitLine] | Sequence[WordLine]) -> None:
    """A line for every resistance, in broken strokes for more capacitance."""
    lines: dict[tuple[float, float], list[tuple[float, float]]] = {}
    for p in points:
        of = p.resistance, p.capacitance if isinstance(p, WordLine) else 0.0
        lines.setdefault(of, []).append((p.cells, 100 * max(abs(p.error), SMALLEST)))
    ohms, farads = (sorted(set(values)) for values in zip(*lines, strict=True))
    for r, c in sorted(lines):
        n, k = ohms.index(r), farads.index(c)
        look: dict[str, Any] = {"color": PALETTE[n % len(PALETTE)], "marker": MARKERS[n % len(MARKERS)]}
        label = f"{r:g} Ω" + (f", {c * FEMTO:g} fF" if c else "") + " per cell"
        axes.plot(*zip(*lines[r, c], strict=True), ("-", "--", ":")[k % 3], label=label, **look)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_yscale("log")


def _draw_operation(axes: Axes, result: WiresResult) -> None:
    """Change of the charges with random inputs over the resistance of the wires."""
    kinds = dict.fromkeys((p.array, p.capacitance) for p in result.in_operation)
    for n, (array, c) in enumerate(kinds):
        line = [p for p in result.in_operation if (p.array, p.capacitance) == (array, c)]
        ohms = [p.resistance for p in line]
        look: dict[str, Any] = {"color": PALETTE[n % len(PALETTE)], "marker": MARKERS[n % len(MARKERS)]}
        label = f"{array} dot product, {c * FEMTO:g} fF per cell"
        axes.plot(ohms, [p.rms * NANO for p in line], "-", label=f"{label}: rms", **look)
        axes.plot(ohms, [p.largest * NANO for p in line], ":", mfc="white", label=f"{label}: largest", **look)
    axes.set_xscale("log")
    axes.set_yscale("log")
    columns = sorted({p.columns for p in result.in_operation})
    axes.set_title(f"{SHOWN_CELLS} cells in operation, {' or '.join(map(str, columns))} columns")
    axes.set_xlabel("resistance per cell (Ω)")
    axes.set_ylabel("change of the charges (ns)")
