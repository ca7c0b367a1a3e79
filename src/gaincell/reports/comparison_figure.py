"""The table of the paper as a figure: every model's difference to the reference, with its standard error."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from gaincell.reports.comparison import PERPLEXITIES, Column, Comparison, heading
from gaincell.reports.style import BLACK, legend_below, look, plain_ticks, save, styled

WIDE = 10.0
"""Range of ratios beyond which only powers of ten are labelled."""


def draw_comparison(comparison: Comparison, path: str | Path) -> Path:
    """Two panels: accuracies in points from the reference, perplexities as ratios to it (logarithmic)."""
    ratios = [c for c in comparison.columns if c[1] in PERPLEXITIES]
    points = [c for c in comparison.columns if c[1].startswith("acc")]
    with styled():
        figure = Figure(figsize=(1.1 + 1.15 * max(3, len(ratios) + len(points)), 4.0))
        panels = [(c, title) for c, title in ((points, "accuracy"), (ratios, "perplexity")) if c]
        widths = [len(c) for c, _ in panels]
        axes = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
        for panel, (columns, title) in zip(axes, panels, strict=True):
            _panel(panel, comparison, columns)
            panel.set_title(title)
            panel.set_ylabel(
                f"points from {comparison.reference}" if title == "accuracy" else f"× {comparison.reference}"
            )
        legend_below(figure, columns=2)
    return save(figure, path)


def _panel(panel: Axes, comparison: Comparison, columns: list[Column]) -> None:
    ratio = columns[0][1] in PERPLEXITIES
    panel.axhline(1.0 if ratio else 0.0, color=BLACK, linewidth=1)
    others = [
        name for name in comparison.rows if name not in comparison.cited and name != comparison.reference
    ]
    for n, name in enumerate(others):
        shift = 0.6 * ((n + 0.5) / len(others) - 0.5)
        shown = [(k, d) for k, c in enumerate(columns)
                 if c in comparison.rows[name] and (d := comparison.rows[name][c].difference)]  # fmt: skip
        panel.errorbar([k + shift for k, _ in shown], [d.amount for _, d in shown], linestyle="none",
                       yerr=[d.error or 0.0 for _, d in shown], label=name, **look(n))  # fmt: skip
    if ratio:
        panel.set_yscale("log")
        plain_ticks(panel.yaxis)
        low, high = panel.get_ylim()
        if high > WIDE * low:
            panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xticks(range(len(columns)), [heading(c).replace(" ", "\n") for c in columns])
    panel.set_xlim(-0.6, len(columns) - 0.4)
