"""Perplexity over virtual chips as a figure and a table of `gaincell evaluate --chips`."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from gaincell.reports.style import BLACK, PALETTE, styled
from gaincell.reports.tables import Rows, readable
from gaincell.results.evaluation import ChipsResult

Results = Mapping[str, ChipsResult]


@styled()
def draw_chips(results: Results, rows: str = "mismatch") -> Figure:
    """Every chip a point, a row a result; a line for the nominal chip, a bar for mean and deviation. rows:
    what their names are.
    """
    figure = Figure(figsize=(7.6, 1.5 + 0.7 * len(results)))
    axes = figure.add_subplot()
    for row, result in enumerate(results.values()):
        chips = result.chips
        found = chips.perplexity
        colour = PALETTE[row % len(PALETTE)]
        spread = [row + 0.22 * (n / max(1, len(found) - 1) - 0.5) for n in range(len(found))]
        axes.plot(found, spread, "o", color=colour, alpha=0.7)
        spread_of = None if chips.std is None else [chips.std]
        axes.errorbar([chips.mean], [row + 0.28], xerr=spread_of, fmt="s", markersize=6,
                      color=colour)  # fmt: skip
        nominal = chips.nominal
        axes.plot([nominal, nominal], [row - 0.35, row + 0.35], color=BLACK, linewidth=1.2)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(-0.6, len(results) - 0.3)
    axes.set_ylabel(rows)
    axes.set_xlabel("perplexity (line: nominal chip; square: mean and standard deviation of the chips)")
    return figure


HEADINGS = ("mismatch", "chips", "nominal", "mean", "std", "× nominal (95 %)", "worst", "yield (95 %)")


def chips_rows(results: Results) -> list[tuple[str, ...]]:
    """One row a result, under `HEADINGS`."""
    rows = []
    for name, result in results.items():
        c = result.chips
        found = c.perplexity
        interval = c.ratio_interval
        least, most = c.yield_interval
        within = 100 * c.yield_within
        row = (
            name,
            str(len(found)),
            *("–" if x is None else readable(x) for x in (c.nominal, c.mean, c.std)),
            f"{c.ratio:.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""),
            readable(max(found)),
            f"{100 * c.yield_:.0f} % within +{within:g} % ({100 * least:.0f} to {100 * most:.0f})",
        )
        rows.append(row)
    return rows


def chips_markdown(results: Results) -> str:
    """One line a result."""
    protocol = next(iter(results.values())).provenance.protocol
    return Rows("", HEADINGS, chips_rows(results), f"{protocol}; every chip on the same text.").markdown()
