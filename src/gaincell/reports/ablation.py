"""The ablation as a table and a figure."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from gaincell.reports.style import BLACK, BLUE, ORANGE, styled
from gaincell.reports.tables import Rows, readable
from gaincell.results.evaluation import AblationResult, AblationRow

TITLES = {"off": "switched off, the others on", "on": "on alone"}
"""Panels of the figure; the ring stands in the table only."""
HEADINGS, WORDS = ("", "constraint", "", "perplexity", "ratio", "±"), (0, 1, 2)
ERROR = "± standard error of the ratio over blocks, each paired with the same block on the first row's chip"


def ablation_table(result: AblationResult, name: str) -> Any:
    """For a terminal."""
    caption = f"{result.provenance.protocol}; nothing trained; {ERROR}{_remark(result)}"
    return Rows(name, HEADINGS, ablation_rows(result), caption, WORDS).terminal()


def ablation_rows(result: AblationResult) -> list[tuple[str, ...]]:
    """Kind where it changes, constraint, meaning, perplexity, ratio and its error; a row a constraint."""
    rows: list[tuple[str, ...]] = []
    before = ""
    for row in result.ablation:
        kind = row.kind if row.kind != before else ""
        rows.append((kind, row.name, row.meaning, *_numbers(row)))
        before = row.kind
    return rows


def ablation_markdown(result: AblationResult) -> str:
    """For a document."""
    caption = f"{result.provenance.protocol}; {result.text.name}; {ERROR}{_remark(result)}."
    return Rows("", HEADINGS, ablation_rows(result), caption, WORDS).markdown()


def _remark(result: AblationResult) -> str:
    """On constraints that no loss depends on."""
    if not any(not row.exercised for row in result.ablation):
        return ""
    return "; not exercised: all losses are equal to the last digit, so nothing follows for the constraint"


@styled()
def ablation_figure(result: AblationResult) -> Figure:
    """Ratios of perplexities, a panel for constraints off and one for constraints on."""
    kinds = {kind: [r for r in result.ablation if r.kind == kind] for kind in ("off", "on")}
    tallest = max(len(rows) for rows in kinds.values())
    figure = Figure(figsize=(10.5, 1.4 + 0.34 * tallest))
    for axes, (kind, rows) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        rest = rows[1:]
        ratios = [row.ratio for row in rest]
        errors = [row.ratio_error or 0.0 for row in rest]
        axes.axvline(1.0, color=BLACK, linewidth=1)
        axes.errorbar(ratios, range(len(rest)), xerr=errors, fmt="o", capsize=3,
                      color=BLUE if kind == "off" else ORANGE)  # fmt: skip
        unseen = [" (not exercised)" if not row.exercised else "" for row in rest]
        axes.set_yticks(range(len(rest)), [row.name + s for row, s in zip(rest, unseen, strict=True)])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}")
        axes.tick_params(axis="x", which="both", labelrotation=45)
        axes.set_title(TITLES[kind])
        axes.set_xlabel(f"perplexity / {readable(rows[0].perplexity)} ({rows[0].name})")
    return figure


def _numbers(row: AblationRow) -> tuple[str, str, str]:
    if not row.exercised:
        return readable(row.perplexity), "not exercised", "–"
    error = f"{row.ratio_error:.4f}" if row.ratio_error is not None else "–"
    return readable(row.perplexity), f"{row.ratio:.4f}", error
