"""The ablation as a table and a figure."""

from __future__ import annotations

from matplotlib.figure import Figure

from gaincell.reports.style import BLACK, BLUE, ORANGE, name_rows, plain_ticks, styled
from gaincell.reports.tables import SIMULATED, Rows, readable
from gaincell.results.evaluation import AblationResult

TITLES = {"off": "switched off, the others on", "on": "on alone"}
"""Panels of the figure; the ring stands in the table only."""


def ablation_rows(result: AblationResult, title: str = "") -> Rows:
    """A row a constraint; its kind where it changes."""
    rows: list[tuple[str, ...]] = []
    before = ""
    for row in result.ablation:
        error = "–" if row.ratio_error is None else f"{row.ratio_error:.4f}"
        ratio = (f"{row.ratio:.4f}", error) if row.exercised else ("not exercised", "–")
        rows.append(
            (row.kind * (row.kind != before), row.name, row.meaning, readable(row.perplexity), *ratio)
        )
        before = row.kind
    caption = (
        f"{result.provenance.protocol}; {result.text.name}; nothing trained; ± standard error of the ratio "
        "over blocks, each paired with the same block on the first row's chip"
    )
    if not all(row.exercised for row in result.ablation):
        caption += (
            "; not exercised: all losses are equal to the last digit, so nothing follows for the constraint"
        )
    headings = ("", "constraint", "", "perplexity", "ratio", "±")
    return Rows(title, headings, rows, f"{caption}.", (0, 1, 2), SIMULATED)


@styled()
def ablation_figure(result: AblationResult) -> Figure:
    """Ratios of perplexities, a panel for constraints off and one for constraints on."""
    kinds = {kind: [r for r in result.ablation if r.kind == kind] for kind in ("off", "on")}
    tallest = max(len(rows) for rows in kinds.values())
    figure = Figure(figsize=(10.5, 1.4 + 0.34 * tallest))
    for axes, (kind, (first, *rest)) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        ratios = [row.ratio for row in rest]
        errors = [row.ratio_error or 0.0 for row in rest]
        axes.axvline(1.0, color=BLACK, linewidth=1)
        axes.errorbar(ratios, range(len(rest)), xerr=errors, fmt="o", capsize=3,
                      color=BLUE if kind == "off" else ORANGE)  # fmt: skip
        name_rows(axes, (row.name + " (not exercised)" * (not row.exercised) for row in rest), grid=True)
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
        axes.tick_params(axis="x", which="both", labelrotation=45)
        axes.set(title=TITLES[kind], xlabel=f"perplexity / {readable(first.perplexity)} ({first.name})")
    return figure
