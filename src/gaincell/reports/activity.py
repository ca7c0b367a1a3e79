"""Pulses and voltages of every head as heat maps and a table of `gaincell activity`."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from matplotlib.figure import Figure

from gaincell.reports.style import heat_map, styled, whole_ticks
from gaincell.reports.tables import Rows, layer_rows, layered
from gaincell.results.evaluation import ActivityResult

COLUMNS = {
    "x": "query_pulse",
    "x > 0": "query_active",
    "φ": "score_pulse",
    "φ > 0": "score_active",
    "-S": "score_negative",
    "|u| key": "key_level",
    "|u| value": "value_level",
    "output": "output_pulse",
    "valid": "valid_columns",
}
DIGITS = {"valid": 1, "φ": 4}
"""Behind the point, where not three."""
MAPS = {
    "score_pulse": "Mean pulse φ(S), in longest pulses",
    "score_active": "Share of columns that give one",
}


def by_layer(result: ActivityResult, name: str) -> list[list[float]]:
    """One number of the heads as [layers][heads]."""
    return layered(result.activity.heads, attrgetter(name))


def activity_rows(result: ActivityResult, name: str = "Means over the heads of a layer") -> Rows:
    """Layer, and the mean over its heads of every number in `COLUMNS`; last a row of all heads."""
    tables = {title: by_layer(result, key) for title, key in COLUMNS.items()}
    tables = {title: [*found, [x for heads in found for x in heads]] for title, found in tables.items()}
    caption = (
        f"{result.provenance.protocol}; {result.gains}; means over the heads of a layer. "
        "x, φ, output: pulses of queries, between the arrays, and of the sub-tiles, over the longest one "
        "(> 0: share that is); -S: net charge of negative scores, over S_sat; |u|: stored, V; valid: columns "
        "that a query saw."
    )
    return layer_rows(name, tables, caption, DIGITS, last="all")


def sparsity_line(result: ActivityResult) -> str:
    """How much less the second array is driven than the first, in words."""
    mean = result.activity.mean()
    ratio = mean.query_pulse / mean.score_pulse if mean.score_pulse else float("inf")
    return (
        f"{mean.score_active:.1%} of the valid columns give a pulse φ(S), its mean over all of them is "
        f"{mean.score_pulse:.2%} of the longest one; {mean.query_active:.1%} of the query rows give "
        f"one, with a mean of {mean.query_pulse:.1%}: word lines of the value array are on for "
        f"{ratio:.0f} times less than those of the key array"
    )


@styled(grid=False)
def activity_figure(result: ActivityResult, maps: Mapping[str, str] = MAPS) -> Figure:
    """Heat maps of numbers of the heads, two a row: layers downwards, heads to the right. maps: their titles,
    by default of the pulses between the arrays.
    """
    tables = {key: by_layer(result, key) for key in maps}
    rows, layers = -(-len(maps) // 2), len(tables["score_pulse"])
    figure = Figure(figsize=(8.4, 0.3 + rows * (1.3 + 0.11 * max(layers, 14))))
    for axes, (key, table) in zip(figure.subplots(rows, 2).flat, tables.items(), strict=False):
        top = 1.0 if key == "score_active" else max(map(max, table)) or 1.0
        image = heat_map(axes, table, vmin=0.0, vmax=top)
        axes.set(title=maps[key], xlabel="query head", ylabel="layer")
        whole_ticks(axes.xaxis, axes.yaxis)
        figure.colorbar(image, ax=axes)
    figure.suptitle(
        f"{result.model.name} on {result.design.name} ({result.design.cell} cell), "
        f"{result.activity.source}, {result.activity.tokens:,} tokens",
        x=0.02,
        ha="left",
    )
    return figure
