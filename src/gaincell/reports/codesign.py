"""Co-design as lines, a table and a figure, from the JSON of `gaincell codesign` and recipes/codesign.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from gaincell.reports.style import BLUE, GREY, ORANGE, styled
from gaincell.reports.sweep import quantity
from gaincell.reports.tables import Rows, readable
from gaincell.results.codesign import Circuits, CodesignComparison, CodesignResult, ComparedChip, LearnedChip
from gaincell.standard_error import ratio_error

CONFIDENCE = 0.95
TITLES = {
    "fixed": "fixed chip",
    "zero": "zero code, not learned",
    "saturations": "S_sat, O_sat learned",
    "levels": "levels learned",
    "levels-below": "levels learned, one more below 0 than above",
    "all": "all learned",
    "all-below": "all learned, one more below",
}
SATURATIONS: Mapping[str, Callable[[Circuits], float]] = {
    "S_sat / D": lambda circuits: circuits.score_saturation_per_row,
    "O_sat / N": lambda circuits: circuits.output_saturation_per_column,
}
LEVELS: Mapping[tuple[str, str], Callable[[Circuits], tuple[float, ...] | None]] = {
    ("pulse widths", ""): lambda circuits: circuits.query_levels,
    ("voltages about V_offset", " V"): lambda circuits: circuits.storage_levels,
}
"""Title and unit -> where they stand."""
HEADINGS = (
    "codes q / k, v / out",
    "chip",
    "adapted",
    "trained",
    "ratio to fixed",
    "S_sat",
    "O_sat",
    "energy",
)


def paired(point: LearnedChip, reference: LearnedChip) -> tuple[float, float, float]:
    """Ratio of the trained perplexities of two points and its interval of 95 % (Student), block by block.

    R = exp(sum (nll - nll_ref) / predictions); the error of the exponent is that of a ratio over blocks.
    """
    return paired_interval(point.blocks.trained, reference.blocks.trained, reference.blocks.predictions)


def training_ratio(run: LearnedChip) -> tuple[float, float, float]:
    """The same of one result, trained against adapted."""
    return paired_interval(run.blocks.trained, run.blocks.adapted, run.blocks.predictions)


def paired_interval(
    ours: Sequence[float], theirs: Sequence[float], weights: Sequence[float]
) -> tuple[float, float, float]:
    """Ratio of perplexities from the losses of the same blocks, and its interval of 95 % (Student)."""
    change = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle, error = math.fsum(change) / math.fsum(weights), ratio_error(change, weights)
    half = (error or 0.0) * float(stats.t.ppf(0.5 + CONFIDENCE / 2, max(1, len(weights) - 1)))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def learned_lines(run: CodesignResult) -> list[str]:
    """What was learned, for a terminal."""
    found = run.perplexities
    start, learned = run.circuits.start, run.circuits.learned
    lines = [f"perplexity {readable(found['adapted'])} adapted, {readable(found['trained'])} trained"]
    for title, saturation in SATURATIONS.items():
        lines.append(f"{title}: {saturation(start):.4g} -> {saturation(learned):.4g} charge units")
    for (title, unit), levels in LEVELS.items():
        if (levels_found := levels(learned)) is not None:
            lines.append(f"{title}: {', '.join(f'{level:.4g}' for level in levels_found)}{unit}")
    return lines


def groups(result: CodesignComparison) -> list[list[ComparedChip]]:
    """Points of one chip each, the fixed one among them."""
    found: dict[str, list[ComparedChip]] = {}
    for point in result.points:
        found.setdefault(point.chip, []).append(point)
    return [group for group in found.values() if any(point.name == "fixed" for point in group)]


def counts(point: ComparedChip) -> str:
    """Levels of queries, storage and the counter."""
    return " / ".join(map(str, point.levels.values()))


def fixed(group: Sequence[ComparedChip]) -> ComparedChip:
    """The point of a group that learned nothing."""
    return next(point for point in group if point.name == "fixed")


def codesign_markdown(result: CodesignComparison) -> str:
    """The comparison as a table."""
    rows: list[Sequence[str]] = []
    order = list(TITLES)
    for group in groups(result):
        reference = fixed(group)
        for point in sorted(group, key=lambda p: order.index(p.name)):
            found = point.perplexities
            ratio, low, high = paired(point, reference)
            own = point is reference
            rows.append(
                (
                    counts(point),
                    TITLES[point.name],
                    readable(found["adapted"]),
                    readable(found["trained"]),
                    "1" if own else f"{ratio:.4f} ({low:.4f} to {high:.4f})",
                    *(_change(point, saturation) for saturation in SATURATIONS.values()),
                    quantity(point.energy, "J"),
                )
            )
    return Rows("", HEADINGS, rows, text=(0, 1)).markdown()


def answers(result: CodesignComparison) -> list[str]:
    """What learning buys or costs, a line a chip."""
    lines = []
    for group in groups(result):
        reference, found = fixed(group), {point.name: point for point in group}
        said = [
            f"{TITLES[name]}: {_percent(*paired(found[name], reference))}"
            for name in TITLES
            if name != "fixed" and name in found
        ]
        about = "; ".join(said) or "not measured"
        lines.append(f"{counts(reference)} codes, perplexity against the fixed chip: {about}.")
    return lines


def _percent(ratio: float, low: float, high: float) -> str:
    """A ratio as a change, and whether its interval leaves out none at all."""
    change = f"{100 * (ratio - 1):+.1f} % ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})"
    return change if low > 1 or high < 1 else f"{change}, no difference that shows"


def _change(point: LearnedChip, saturation: Callable[[Circuits], float]) -> str:
    """What became of a saturation, as a factor."""
    factor = saturation(point.circuits.learned) / saturation(point.circuits.start)
    return "1" if factor == 1 else f"× {factor:.2f}"


@styled()
def levels_figure(result: CodesignComparison) -> Figure:
    """Learned levels and even ones on the distribution of the signals, a row a chip."""
    rows = [[p for p in group if "levels" in p.learn] for group in groups(result)]
    points = [next((p for p in row if p.name == "all"), row[0]) for row in rows if row]
    figure = Figure(figsize=(9.5, 0.9 + 2.2 * len(points)))
    grid = figure.subplots(len(points), 3, squeeze=False)
    for panels, point in zip(grid, points, strict=True):
        for axes, stage in zip(panels, ("q", "k", "v"), strict=True):
            _panel(axes, point, stage)
        panels[0].set_ylabel(f"{counts(point)} codes\nshare of signals")
    titles = ("q: pulse width", "k: voltage about V_offset (V)", "v: voltage about V_offset (V)")
    for axes, title in zip(grid[-1], titles, strict=True):
        axes.set_xlabel(title)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _panel(axes: Axes, point: LearnedChip, stage: str) -> None:
    """Bars for the signals; signals beyond the range, in the outermost bars, reach beyond the panel."""
    share = point.signals[stage].share
    axes.stairs(share, point.signals[stage].edges.value, fill=True, color=GREY, alpha=0.5, label="signals")
    top = max(share[1:-1])
    axes.set_ylim(0, 1.45 * top)
    start, learned = (
        (circuits.query_levels if stage == "q" else circuits.storage_levels) or ()
        for circuits in (point.circuits.start, point.circuits.learned)
    )
    even = even_levels(start)
    axes.vlines(even, 1.25 * top, 1.43 * top, color=BLUE, linewidth=1.5, label="even levels (upper row)")
    axes.vlines(
        learned, 1.03 * top, 1.21 * top, color=ORANGE, linewidth=1.5, label="learned levels (lower row)"
    )


def even_levels(levels: Sequence[float]) -> list[float]:
    """As many evenly spaced levels between the same ends."""
    return [levels[0] + (levels[-1] - levels[0]) * n / (len(levels) - 1) for n in range(len(levels))]
