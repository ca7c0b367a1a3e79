"""The section of docs/sweeps.md on co-design: a table and a figure from docs/results/sweeps/codesign.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gaincell.reports.codesign import SATURATIONS, paired_interval
from gaincell.reports.style import BLUE, GREY, ORANGE, save, styled
from gaincell.reports.sweep import quantity, repriced
from gaincell.reports.tables import Rows, readable
from gaincell.results import read
from gaincell.results.run import Circuits, CodesignComparison, ComparedChip, LearnedChip

TITLES = {
    "fixed": "fixed chip",
    "zero": "zero code, not learned",
    "saturations": "S_sat, O_sat learned",
    "levels": "levels learned",
    "levels-below": "levels learned, one more below 0 than above",
    "all": "all learned",
    "all-below": "all learned, one more below",
}
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
TITLE = "Circuits learned with the model"
BEFORE = """S_sat, O_sat and the levels of query drivers and write DACs are learned by gradients together
with the model (`gaincell codesign`, `src/gaincell/training/codesign.py`) and compared with the fixed
chip: the same model, adapted to its chip and then trained on the same blocks with the same schedule,
{steps} steps of {tokens} tokens. The whole chip has one pair of saturations and one set of levels; a
learned write DAC keeps a code that stores no signal. Of an odd number of evenly spaced levels one is
V_offset already; of an even number, such as the paper's 8, none is. The chip "zero code, not learned"
has one: the levels of either side are evenly spaced, with one more above V_offset than below unless
the table says otherwise. (`recipes/codesign.py`)"""
AFTER = """Where codes are few, the saturations are worth learning. Both come out smaller than the chip's,
O_sat most: with few counter codes, resolution is worth more than headroom. Levels are not worth
learning: with a zero code kept, learned on either side or not learned with one more level above, the
coarse chip is no better than with even levels, and rather a little worse after the same training, even
where it starts better. Learning moved single storage levels by up to {moved} of a step between levels,
and its gradient does not see signals change sides. At the paper's
numbers of levels no difference is significant. A training this short finds a direction, not the
optimum; another order of its text would shift every number a little, which the intervals do not
include; and one in twenty of these intervals misses by chance.

Ratios are of the trained perplexities, on the same blocks of text, with 95 % intervals (Student, over
blocks); they hold this text and this training fixed and say nothing about other texts or longer
trainings. S_sat and O_sat are relative to those of the fixed chip. Energy is bottom-up, for all the
attention of one token, with each chip's own activity and without references and clock of uneven
levels. What the gradients are, and what they do not see:
`src/gaincell/ops/gain_cell_attention/learned.py`, `src/gaincell/circuits/levels.py`. Simulated on
nominal chips, without noise and mismatch."""
FIGURE = "sweep-codesign-levels.png"


def _moved(found: CodesignComparison) -> str:
    """How far the levels of the write DAC were moved at most, in steps between those at the start."""
    shares = []
    for point in (point for point in found.points if "levels" in point.learn):
        start, learned = (one.storage_levels or () for one in (point.circuits.start, point.circuits.learned))
        steps = [b - a for a, b in pairwise(start)]
        moved = (abs(b - a) for a, b in zip(start, learned, strict=True))
        shares += [far / min(steps[max(0, n - 1) : n + 1]) for n, far in enumerate(moved)]
    return f"{100 * max(shares):.0f} %"


def sections(docs: Path) -> list[str]:
    """The section, its figure drawn; none where there is no result."""
    path = docs / "results" / "sweeps" / "codesign.json"
    if not path.is_file():
        return []
    found = read(path, CodesignComparison)
    training = found.points[0].training
    save(levels_figure(found), docs / "figures" / FIGURE)
    parts = [
        f"## {TITLE}",
        BEFORE.format(steps=training.steps, tokens=f"{training.tokens / training.steps:.0f}"),
        "\n".join(f"* {line}" for line in answers(found)),
        codesign_markdown(found).rstrip(),
        f"{found.model.name} on {found.points[0].design.name}, text {found.text.name}; "
        f"{found.provenance.protocol}. Energy is of the activity of the first block, after training; the "
        f"sections above read two blocks, without training.{repriced(found)}",
        "![Levels, even and learned, and how often signals of a value occur]" + f"(figures/{FIGURE})",
        AFTER.format(moved=_moved(found)),
    ]
    return ["\n\n".join(parts)]


def paired(point: LearnedChip, reference: LearnedChip) -> tuple[float, float, float]:
    """Ratio of the trained perplexities of two points and its interval of 95 % (Student), block by block."""
    return paired_interval(point.blocks.trained, reference.blocks.trained, reference.blocks.predictions)


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
    return change if low > 1 or high < 1 else f"{change}, not significant"


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
