"""Co-design as lines, a table and a figure, from the JSON of `gaincell codesign` and recipes/codesign.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from scipy import stats

from gaincell.reports.results import number, numbers
from gaincell.reports.style import BLUE, GREY, ORANGE, styled
from gaincell.reports.sweep import quantity
from gaincell.reports.tables import readable
from gaincell.standard_error import ratio_error

Result = Mapping[str, Any]
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
SATURATIONS = {"score_saturation_per_row": "S_sat / D", "output_saturation_per_column": "O_sat / N"}
LEVELS = {"query_levels": ("pulse widths", ""), "storage_levels": ("voltages about V_offset", " V")}
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


def perplexities(point: Result) -> dict[str, float]:
    """By stage."""
    return {stage["name"]: number(stage["perplexity"]) for stage in point["stages"]}


def paired(point: Result, reference: Result, stage: str = "trained") -> tuple[float, float, float]:
    """Ratio of the perplexities of two points and its interval of 95 % (Student), block by block.

    R = exp(sum (nll - nll_ref) / predictions); the error of the exponent is that of a ratio over blocks.
    """
    ours, theirs = (numbers(p["blocks"][stage]) for p in (point, reference))
    return paired_interval(ours, theirs, numbers(reference["blocks"]["predictions"]))


def training_ratio(run: Result) -> tuple[float, float, float]:
    """The same of one result, trained against adapted."""
    ours, theirs, weights = (numbers(run["blocks"][key]) for key in ("trained", "adapted", "predictions"))
    return paired_interval(ours, theirs, weights)


def paired_interval(
    ours: list[float], theirs: list[float], weights: list[float]
) -> tuple[float, float, float]:
    """Ratio of perplexities from the losses of the same blocks, and its interval of 95 % (Student)."""
    change = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle, error = math.fsum(change) / math.fsum(weights), ratio_error(change, weights)
    half = (error or 0.0) * float(stats.t.ppf(0.5 + CONFIDENCE / 2, max(1, len(weights) - 1)))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def learned_lines(run: Result) -> list[str]:
    """What was learned, for a terminal."""
    found = perplexities(run)
    start, learned = run["circuits"]["start"], run["circuits"]["learned"]
    lines = [f"perplexity {readable(found['adapted'])} adapted, {readable(found['trained'])} trained"]
    for key, title in SATURATIONS.items():
        lines.append(f"{title}: {number(start[key]):.4g} -> {number(learned[key]):.4g} charge units")
    for key, (title, unit) in LEVELS.items():
        if key in learned:
            levels = ", ".join(f"{level:.4g}" for level in numbers(learned[key]))
            lines.append(f"{title}: {levels}{unit}")
    return lines


def groups(result: Result) -> list[list[Result]]:
    """Points of one chip each, the fixed one among them."""
    found: dict[str, list[Result]] = {}
    for point in result["points"]:
        found.setdefault(point["chip"], []).append(point)
    return [group for group in found.values() if any(point["name"] == "fixed" for point in group)]


def counts(point: Result) -> str:
    """Levels of queries, storage and the counter."""
    return " / ".join(f"{number(count):.0f}" for count in point["levels"].values())


def fixed(group: list[Result]) -> Result:
    """The point of a group that learned nothing."""
    return next(point for point in group if point["name"] == "fixed")


def codesign_markdown(result: Result) -> str:
    """The comparison as a table."""
    rows = [HEADINGS, ("---", "---", *["---:"] * (len(HEADINGS) - 2))]
    order = list(TITLES)
    for group in groups(result):
        reference = fixed(group)
        for point in sorted(group, key=lambda p: order.index(p["name"])):
            found = perplexities(point)
            ratio, low, high = paired(point, reference)
            own = point is reference
            rows.append(
                (
                    counts(point),
                    TITLES[point["name"]],
                    readable(found["adapted"]),
                    readable(found["trained"]),
                    "1" if own else f"{ratio:.4f} ({low:.4f} to {high:.4f})",
                    *(_change(point, key) for key in SATURATIONS),
                    quantity(number(point["energy"]), "J"),
                )
            )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def answers(result: Result) -> list[str]:
    """What learning buys or costs, a line a chip."""
    lines = []
    for group in groups(result):
        reference, found = fixed(group), {point["name"]: point for point in group}
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


def _change(point: Result, key: str) -> str:
    """What became of a saturation, as a factor."""
    circuits = point["circuits"]
    factor = number(circuits["learned"][key]) / number(circuits["start"][key])
    return "1" if factor == 1 else f"× {factor:.2f}"


@styled()
def levels_figure(result: Result) -> Figure:
    """Learned levels and even ones on the distribution of the signals, a row a chip."""
    rows = [[p for p in group if "levels" in p["learn"]] for group in groups(result)]
    points = [next((p for p in row if p["name"] == "all"), row[0]) for row in rows if row]
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


def _panel(axes: Any, point: Result, stage: str) -> None:
    """Bars for the signals; signals beyond the range, in the outermost bars, reach beyond the panel."""
    edges, share = (numbers(point["signals"][stage][key]) for key in ("edges", "share"))
    axes.stairs(share, edges, fill=True, color=GREY, alpha=0.5, label="signals")
    top = max(share[1:-1])
    axes.set_ylim(0, 1.45 * top)
    key = "query_levels" if stage == "q" else "storage_levels"
    even, learned = even_levels(point, key), numbers(point["circuits"]["learned"][key])
    axes.vlines(even, 1.25 * top, 1.43 * top, color=BLUE, linewidth=1.5, label="even levels (upper row)")
    axes.vlines(
        learned, 1.03 * top, 1.21 * top, color=ORANGE, linewidth=1.5, label="learned levels (lower row)"
    )


def even_levels(point: Result, key: str) -> list[float]:
    """As many evenly spaced levels between the same ends."""
    levels = numbers(point["circuits"]["start"][key])
    return [levels[0] + (levels[-1] - levels[0]) * n / (len(levels) - 1) for n in range(len(levels))]
