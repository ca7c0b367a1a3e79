"""Converted models against the tokens of their conversion, ours beside the paper's: figure and table.

All ratios are perplexity over that of the pretrained software model on the same text. Texts and kinds of
perplexity, per word or per token, differ between series: each states its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from gaincell.reports.style import BLACK, GREY, MARKERS, PALETTE, legend_below, styled
from gaincell.reports.tables import Rows
from gaincell.results.codec import Kind

WIDTH = 84
"""Letters of a line of the legend."""


@dataclass(frozen=True)
class ConversionPoint:
    """tokens: of the conversion.  ratio: over the software model.  half: of its interval of 95 %, if there is
    one.  note: what made it.  listed: whether the table has it; the figure has all.
    """

    tokens: float
    ratio: float
    half: float | None
    note: str
    listed: bool = True


@dataclass(frozen=True)
class Conversions:
    """Points of one model, mapping and text.  title: model and mapping.  measure: which perplexity, on which
    text.  kind: simulated arrays, measured software, or cited.  curve: points of one training.
    """

    title: str
    measure: str
    points: Sequence[ConversionPoint]
    kind: Kind
    curve: bool = False

    @property
    def label(self) -> str:
        """Title with its kind."""
        return f"{self.title} ({self.kind})"


def counted(tokens: float) -> str:
    """Tokens in millions or thousands of millions."""
    return f"{tokens / 1e6:.3g} M" if tokens < 1e9 else f"{tokens / 1e9:.3g} G"


def times(ratio: float) -> str:
    """A ratio with three digits behind the point, from ten on with one."""
    return f"{ratio:.3f}" if ratio < 10 else f"{ratio:.1f}"


def conversions_markdown(found: Sequence[Conversions]) -> str:
    """A row for every listed point; what all points of a series share stands in its first row."""
    rows = []
    for series in found:
        shared = series.label, series.measure
        for p in series.points:
            if p.listed:
                interval = "–" if p.half is None else f"{p.ratio - p.half:.3f} to {p.ratio + p.half:.3f}"
                label, measure = shared
                rows.append((label, p.note, counted(p.tokens), times(p.ratio), interval, measure))
                shared = "", ""
    heads = ("model and mapping", "made by", "tokens", "× software", "95 %", "perplexity of")
    return Rows("", heads, rows, text=(0, 1, 5)).markdown().rstrip()


def _name_points(axes: Axes, points: Sequence[ConversionPoint]) -> None:
    """What made each of a few points that lie close together, in a list above them, the largest on top."""
    names = [f"{point.note.removeprefix('nonlinear, ')} × {times(point.ratio)}" for point in points]
    by_ratio = [name for _, name in sorted(zip((-point.ratio for point in points), names, strict=True))]
    top = max(points, key=lambda point: point.ratio)
    axes.annotate(
        "\n".join(by_ratio), (top.tokens, top.ratio), (4, 8),
        textcoords="offset points", ha="right", va="bottom", fontsize=7,
    )  # fmt: skip


@styled()
def draw_conversions(found: Sequence[Conversions]) -> Figure:
    """Ratio against tokens, both logarithmic: all of them, and below only ours, closer. The legend has room
    for any number of series, and says of which perplexity they are where it is not that of the first.
    """
    usual = found[0].measure
    labels = [
        textwrap.fill(series.label + (f": {series.measure}" if series.measure != usual else ""), WIDTH)
        for series in found
    ]
    figure = Figure(figsize=(7.2, 7.2 + 0.17 * sum(1 + label.count("\n") for label in labels)))
    both, ours = figure.subplots(2)
    for n, (series, label) in enumerate(zip(found, labels, strict=True)):
        if series.kind != "cited":
            _draw_ours(both, series, n, label)
            _draw_ours(ours, series, n, label)
            continue
        style, size = ("x-", 4) if series.curve else ("*", 6)
        both.plot(
            [p.tokens for p in series.points], [p.ratio for p in series.points], style, color=BLACK,
            linewidth=1.0, markersize=size, label=label,
        )  # fmt: skip
        if not series.curve:
            _name_points(both, series.points)
    for axes in (both, ours):
        axes.axhline(1.0, color=GREY, linewidth=0.9, linestyle="--", label="software model as pretrained")
        axes.set(
            xscale="log", yscale="log", xlabel="tokens of the conversion", ylabel="perplexity, × software"
        )
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: counted(x)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    both.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ours.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 5.0)))
    both.set_title(f"Tokens against quality (ours: {usual})")
    ours.set_title("Only ours")
    legend_below(figure)
    return figure


def _draw_ours(axes: Axes, series: Conversions, n: int, label: str) -> None:
    """A training's points with their intervals."""
    axes.errorbar(
        [p.tokens for p in series.points], [p.ratio for p in series.points],
        [p.half or 0.0 for p in series.points], fmt=f"{MARKERS[n % len(MARKERS)]}-", linewidth=0.8,
        markersize=5, markerfacecolor="none", color=PALETTE[n % len(PALETTE)], capsize=3, label=label,
    )  # fmt: skip
