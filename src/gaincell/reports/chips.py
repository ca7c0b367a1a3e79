"""Perplexity over virtual chips as a figure and a table of `gaincell evaluate --chips`."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from gaincell.reports.style import BLACK, PALETTE, styled
from gaincell.reports.tables import SIMULATED, Rows, readable
from gaincell.results.evaluation import ChipSpread, ChipsResult

Results = Mapping[str, ChipsResult]


@styled()
def draw_chips(results: Results, rows: str = "mismatch") -> Figure:
    """Every chip a point, a row a result; a line for the nominal chip, a bar for mean and deviation. rows:
    what their names are.
    """
    figure = Figure(figsize=(7.6, 1.5 + 0.7 * len(results)))
    axes = figure.add_subplot()
    for row, result in enumerate(results.values()):
        chips, found, colour = result.chips, result.chips.perplexity, PALETTE[row % len(PALETTE)]
        spread = [row + 0.22 * (n / max(1, len(found) - 1) - 0.5) for n in range(len(found))]
        axes.plot(found, spread, "o", color=colour, alpha=0.7)
        spread_of = None if chips.std is None else [chips.std]
        axes.errorbar([chips.mean], [row + 0.28], xerr=spread_of, fmt="s", markersize=6,
                      color=colour)  # fmt: skip
        axes.plot([chips.nominal] * 2, [row - 0.35, row + 0.35], color=BLACK, linewidth=1.2)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(-0.6, len(results) - 0.3)
    axes.set_ylabel(rows)
    axes.set_xlabel("perplexity (line: nominal chip; square: mean and standard deviation of the chips)")
    return figure


def chips_rows(results: Results, rows: str = "mismatch", title: str = "") -> Rows:
    """One row a result. rows: what their names are."""

    def ratio(found: ChipSpread) -> str:
        ends = found.ratio_interval
        return f"{found.ratio:.4f}" + (f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else "")

    def within(found: ChipSpread) -> str:
        least, most = (100 * end for end in found.yield_interval)
        limit = 100 * found.yield_within
        return f"{100 * found.yield_:.0f} % within +{limit:g} % ({least:.0f} to {most:.0f})"

    return Rows.of(
        title,
        [(name, result.chips) for name, result in results.items()],
        {
            rows: lambda of: of[0],
            "chips": lambda of: str(len(of[1].perplexity)),
            "nominal": lambda of: readable(of[1].nominal),
            "mean": lambda of: readable(of[1].mean),
            "std": lambda of: readable(of[1].std),
            "× nominal (95 %)": lambda of: ratio(of[1]),
            "worst": lambda of: readable(max(of[1].perplexity)),
            "yield (95 %)": lambda of: within(of[1]),
        },
        caption=f"{next(iter(results.values())).provenance.protocol}; every chip on the same text.",
        kinds=SIMULATED,
    )
