"""Every head of a model: tables and figures of `gaincell fidelity` and `activity`, and their sections."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import fmean

from matplotlib.figure import Figure

from gaincell.reports.html import parts
from gaincell.reports.html.markup import head_rows
from gaincell.reports.style import heat_map, styled
from gaincell.reports.tables import SIMULATED, Rows, layer_rows, layered
from gaincell.results.activity import ActivityResult
from gaincell.results.evaluation import FidelityNumber, FidelityResult

COSINE = "cosine"
ERROR = "rel. squared error, ≤ 1"
MAPS: Mapping[str, tuple[FidelityNumber, ...]] = {
    ERROR: ("error", "linear error"),
    COSINE: ("cosine", "linear cosine"),
    "share clipped": ("score ceiling", "tile ceiling", "q clipped", "k clipped", "v clipped"),
    "share (silent: 0 or 1)": ("pulses", "tile zero", "silent"),
    "share of codes in use": ("q codes", "k codes", "v codes", "output codes"),
}
"""What is measured of the fidelity, and the maps of it, which share a scale; errors above 1, worse than no
output, are drawn as 1.
"""
SHOWN: tuple[FidelityNumber, ...] = (
    "error", "cosine", "linear error", "pulses", "score ceiling", "tile ceiling", "tile zero", "output codes"
)  # fmt: skip
"""Columns of its table: more do not fit a terminal."""
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
"""Of the table of the activity."""
DIGITS = {"valid": 1, "φ": 4}
"""Behind the point, where not three."""
PULSES = {
    "score_pulse": "Mean pulse φ(S), in longest pulses",
    "score_active": "Share of columns that give one",
}
MEANS = "Means over the heads of a layer"
MEANINGS: Mapping[FidelityNumber, str] = {
    "error": "error to the pretrained head, Σ(O − Y)² / ΣY²",
    "cosine": "cosine to the pretrained head, mean over tokens",
    "linear error": "error to the linear hardware head, Σ(O − Y)² / ΣY²",
    "linear cosine": "cosine to the linear hardware head, mean over tokens",
    "pulses": "share of columns that give a pulse",
    "score ceiling": "share of pulses φ(S) as long as can be",
    "tile ceiling": "share of sub-tile outputs at full scale",
    "tile zero": "share of sub-tile outputs counted as 0",
    "q codes": "codes of q in use, share (exp of entropy)",
    "k codes": "codes of k in use, share (exp of entropy)",
    "v codes": "codes of v in use, share (exp of entropy)",
    "output codes": "codes of sub-tile outputs in use, share (exp of entropy)",
    "q clipped": "share of q beyond the drivers' range",
    "k clipped": "share of k beyond the voltages' range",
    "v clipped": "share of v beyond the voltages' range",
    "silent": "1: a head whose output never changes",
}
"""Of the numbers of `gaincell fidelity`, all without a unit."""
NAMES = {
    "query_pulse": "Mean query pulse, in longest ones",
    "query_active": "Share of query rows with a pulse",
    "score_pulse": "Mean pulse φ(S), in longest ones",
    "score_active": "Share of columns with a pulse φ(S)",
    "key_level": "Key voltage |u|, V",
    "value_level": "Value voltage |u|, V",
    "output_pulse": "Mean output pulse, in longest ones",
    "valid_columns": "Columns that a query saw",
}


def fidelity_rows(result: FidelityResult, name: str = MEANS) -> Rows:
    """Layer, and the mean over its heads of every number in `SHOWN`; below, the worst head."""
    tables = result.fidelity
    worst = max(
        (error, layer, head) for layer, row in enumerate(tables["error"]) for head, error in enumerate(row)
    )
    silent = sum(x for row in tables["silent"] for x in row)
    heads = sum(map(len, tables["silent"]))
    caption = (
        f"{result.provenance.protocol}; means over the heads of a layer; worst head: layer {worst[1]}, "
        f"head {worst[2]}, error {worst[0]:.3f}; silent heads: {silent:.0f} of {heads}"
    )
    return layer_rows(name, {key: tables[key] for key in SHOWN}, caption)


@styled(grid=False)
def fidelity_figure(result: FidelityResult) -> Figure:
    """A heat map for every number: layers downwards, heads to the right; a row and a scale for every kind."""
    tables = result.fidelity
    layers, columns = len(tables["error"]), max(map(len, MAPS.values()))
    figure = Figure(figsize=(1.0 + 1.9 * columns, len(MAPS) * (1.3 + 0.085 * max(layers, 8))))
    grid = figure.subplots(len(MAPS), columns + 1, width_ratios=[*[1.0] * columns, 0.07])
    for (*row, bar), (kind, keys) in zip(grid, MAPS.items(), strict=True):
        found = [x for key in keys for heads in tables[key] for x in heads if math.isfinite(x)]
        low = min([0.0, *found]) if kind == COSINE else 0.0
        high = 1.0 if kind in (COSINE, ERROR) else max(found, default=0.0) or 1.0
        for axes, key in zip(row, keys, strict=False):
            heads = "head" if key[0] not in "kv" else "key/value head"
            image = heat_map(axes, tables[key], title=key, xlabel=heads, vmin=low, vmax=high)
        row[0].set_ylabel("layer")
        for empty in row[len(keys) :]:
            empty.remove()
        figure.colorbar(image, cax=bar, label=kind)
    return figure


def by_layer(result: ActivityResult, name: str) -> list[list[float]]:
    """One number of the heads as [layers][heads]."""
    return layered((head.layer, getattr(head, name)) for head in result.activity.heads)


def activity_rows(result: ActivityResult, name: str = MEANS) -> Rows:
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
    """How much longer the first array is driven than the second, in words."""
    mean = result.activity.mean()
    ratio = mean.query_pulse / mean.score_pulse if mean.score_pulse else float("inf")
    return (
        f"{mean.score_active:.1%} of the valid columns give a pulse φ(S), its mean over all of them is "
        f"{mean.score_pulse:.2%} of the longest one; {mean.query_active:.1%} of the query rows give "
        f"one, with a mean of {mean.query_pulse:.1%}: word lines of the key array are on {ratio:.3g} times "
        "as long as those of the value array"
    )


@styled(grid=False)
def activity_figure(result: ActivityResult, maps: Mapping[str, str] = PULSES) -> Figure:
    """Heat maps of numbers of the heads, by title, two a row: layers downwards, heads to the right."""
    tables = {key: by_layer(result, key) for key in maps}
    rows, layers = -(-len(maps) // 2), len(tables["score_pulse"])
    figure = Figure(figsize=(8.4, 0.3 + rows * (1.3 + 0.11 * max(layers, 14))))
    for axes, (key, table) in zip(figure.subplots(rows, 2).flat, tables.items(), strict=False):
        top = 1.0 if key == "score_active" else max(map(max, table)) or 1.0
        image = heat_map(axes, table, title=maps[key], xlabel="query head", vmin=0.0, vmax=top)
        axes.set_ylabel("layer")
        figure.colorbar(image, ax=axes)
    about = f"{result.model.name} on {result.design.name} ({result.design.cell} cell), "
    about += f"{result.activity.source}, {result.activity.tokens:,} tokens"
    figure.suptitle(about, x=0.02, ha="left")
    return figure


def fidelity_tables(result: FidelityResult) -> Iterator[Rows]:
    """How close every head is to the pretrained one, a table a number."""
    for key in (key for keys in MAPS.values() for key in keys):
        heads = "key/value head" if key[0] in "kv" else "head"
        yield head_rows(f"{key}: {MEANINGS[key]}", result.fidelity[key], heads)


FIDELITY = parts.section(
    "Fidelity", "Every head against that of the pretrained model.", FidelityResult,
    parts.figure("Every head", fidelity_figure, numbers=fidelity_tables),
    parts.folded(MEANS, parts.tables(fidelity_rows)),
    headline=lambda run: f"mean error of a head {fmean(x for row in run.fidelity['error'] for x in row):.3f}",
)  # fmt: skip
ACTIVITY = parts.section(
    "Activity", "What drives the word lines of every head on real text.", ActivityResult,
    parts.words(lambda run: f"{sparsity_line(run)} ({SIMULATED}).", "lead"),
    parts.figure(
        "Every head", lambda run: activity_figure(run, NAMES),
        numbers=lambda run: [head_rows(n, by_layer(run, key), "query head") for key, n in NAMES.items()],
    ),
    parts.folded(MEANS, parts.tables(activity_rows)),
    headline=lambda run: f"{100 * run.activity.mean().score_active:.1f} % of the columns give a pulse",
)  # fmt: skip
