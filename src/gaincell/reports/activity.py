"""Pulses and voltages of every head as heat maps and a table of `gaincell activity`."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from matplotlib.figure import Figure

from gaincell.reports.style import styled
from gaincell.reports.tables import Rows, layered
from gaincell.results.activity import ActivityResult

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
MAPS = {
    "score_pulse": "Mean pulse φ(S), in longest pulses",
    "score_active": "Share of columns that give one",
}


def by_layer(result: ActivityResult, name: str) -> list[list[float]]:
    """One number of the heads as [layers][heads]."""
    return layered(result.activity.heads, attrgetter(name))


def activity_rows(result: ActivityResult, name: str = "Means over the heads of a layer") -> Rows:
    """Layer, and the mean over its heads of every number in `COLUMNS`; last a row of all heads."""
    tables = {key: by_layer(result, key) for key in COLUMNS.values()}
    rows = [
        (str(layer), *(_shown(key, table[layer]) for key, table in tables.items()))
        for layer in range(len(tables["query_pulse"]))
    ]
    everything = {key: [x for row in table for x in row] for key, table in tables.items()}
    rows.append(("all", *(_shown(key, found) for key, found in everything.items())))
    caption = (
        f"{result.provenance.protocol}; {result.gains}; means over the heads of a layer. "
        "x, φ, output: pulses of queries, between the arrays, and of the sub-tiles, over the longest one "
        "(> 0: share that is); -S: net charge of negative scores, over S_sat; |u|: stored, V; valid: columns "
        "that a query saw."
    )
    return Rows(name, ("layer", *COLUMNS), rows, caption, text=())


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
        image = axes.imshow(table, aspect="auto", cmap="viridis", vmin=0.0, vmax=top, interpolation="nearest")
        axes.set_title(maps[key])
        axes.set_xlabel("query head")
        axes.set_ylabel("layer")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=axes)
    figure.suptitle(
        f"{result.model.name} on {result.design.name} ({result.design.cell} cell), "
        f"{result.activity.source}, {result.activity.tokens:,} tokens",
        x=0.02,
        ha="left",
    )
    return figure


def _shown(name: str, values: list[float]) -> str:
    digits = {"valid_columns": 1, "score_pulse": 4}.get(name, 3)
    return f"{sum(values) / len(values):.{digits}f}"
