"""Perplexity over virtual chips as a figure and a table, from JSON of `gaincell evaluate --chips` alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from gaincell.reports.results import number, numbers
from gaincell.reports.style import BLACK, PALETTE, styled
from gaincell.reports.tables import readable

Results = Mapping[str, Mapping[str, Any]]


@styled()
def draw_chips(results: Results, rows: str = "mismatch") -> Figure:
    """Every chip a point, a row a result; a line for the nominal chip, a bar for mean and deviation. rows:
    what their names are.
    """
    figure = Figure(figsize=(7.6, 1.5 + 0.7 * len(results)))
    axes = figure.add_subplot()
    for row, result in enumerate(results.values()):
        chips = result["chips"]
        found = numbers(chips["perplexity"])
        colour = PALETTE[row % len(PALETTE)]
        spread = [row + 0.22 * (n / max(1, len(found) - 1) - 0.5) for n in range(len(found))]
        axes.plot(found, spread, "o", color=colour, alpha=0.7)
        spread_of = [number(chips["std"])] if "std" in chips else None
        axes.errorbar([number(chips["mean"])], [row + 0.28], xerr=spread_of, fmt="s", markersize=6,
                      color=colour)  # fmt: skip
        nominal = number(chips["nominal"])
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
        c = result["chips"]
        found = numbers(c["perplexity"])
        interval = numbers(c["ratio_interval"]) if "ratio_interval" in c else None
        least, most = numbers(c["yield_interval"])
        within = 100 * number(c["yield_within"])
        row = (
            name,
            str(len(found)),
            *(readable(number(c[key])) if key in c else "–" for key in ("nominal", "mean", "std")),
            f"{number(c['ratio']):.4f}" + (f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""),
            readable(max(found)),
            f"{100 * number(c['yield']):.0f} % within +{within:g} % ({100 * least:.0f} to {100 * most:.0f})",
        )
        rows.append(row)
    return rows


def chips_markdown(results: Results) -> str:
    """One line a result."""
    rows = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1)), *chips_rows(results)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    protocol = next(iter(results.values()))["provenance"]["protocol"]
    return "\n".join([*lines, "", f"{protocol}; every chip on the same text."]) + "\n"
