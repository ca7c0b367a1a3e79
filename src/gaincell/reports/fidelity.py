"""Fidelity of every head as heat maps and a table of `gaincell fidelity`."""

from __future__ import annotations

import math

from matplotlib.figure import Figure

from gaincell.reports.style import heat_map, styled, whole_ticks
from gaincell.reports.tables import Rows, layer_rows
from gaincell.results.evaluation import FidelityResult

COSINE = "cosine"
MAPS = {
    "relative squared error": ("error", "linear error"),
    COSINE: ("cosine", "linear cosine"),
    "share clipped": ("score ceiling", "tile ceiling", "q clipped", "k clipped", "v clipped"),
    "share (silent: 0 or 1)": ("pulses", "tile zero", "silent"),
    "share of codes in use": ("q codes", "k codes", "v codes", "output codes"),
}
"""What is measured, and the maps of it, which share a scale."""
SHOWN = (
    "error", "cosine", "linear error", "pulses", "score ceiling", "tile ceiling", "tile zero", "output codes"
)  # fmt: skip
"""Columns of the table: more do not fit a terminal."""


def fidelity_rows(result: FidelityResult, name: str = "Means over the heads of a layer") -> Rows:
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
        low, high = (min([0.0, *found]), 1.0) if kind == COSINE else (0.0, max(found, default=0.0) or 1.0)
        for axes, key in zip(row, keys, strict=False):
            image = heat_map(axes, tables[key], vmin=low, vmax=high)
            axes.set(title=key, xlabel="head" if key[0] not in "kv" else "key/value head")
            whole_ticks(axes.xaxis, axes.yaxis)
        row[0].set_ylabel("layer")
        for empty in row[len(keys) :]:
            empty.remove()
        figure.colorbar(image, cax=bar, label=kind)
    return figure
