"""Fidelity of every head as heat maps and a table of `gaincell fidelity`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from gaincell.reports.style import styled
from gaincell.reports.tables import Rows
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
    "error",
    "cosine",
    "linear error",
    "pulses",
    "score ceiling",
    "tile ceiling",
    "tile zero",
    "output codes",
)
"""Columns of the table: more do not fit a terminal."""


def fidelity_rows(result: FidelityResult, name: str = "Means over the heads of a layer") -> Rows:
    """Layer, and the mean over its heads of every number in `SHOWN`; below, the worst head."""
    tables = result.fidelity
    rows = [
        (str(layer), *(f"{_mean(tables[key][layer]):.3f}" for key in SHOWN))
        for layer in range(len(tables["error"]))
    ]
    worst = max(
        (error, layer, head) for layer, row in enumerate(tables["error"]) for head, error in enumerate(row)
    )
    silent = sum(x for row in tables["silent"] for x in row)
    heads = sum(map(len, tables["silent"]))
    caption = (
        f"{result.provenance.protocol}; means over the heads of a layer; worst head: layer {worst[1]}, "
        f"head {worst[2]}, error {worst[0]:.3f}; silent heads: {silent:.0f} of {heads}"
    )
    return Rows(name, ("layer", *SHOWN), rows, caption, text=())


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
            image = axes.imshow(
                tables[key], aspect="auto", cmap="viridis", vmin=low, vmax=high, interpolation="nearest"
            )
            axes.set_title(key)
            axes.set_xlabel("head" if key[0] not in "kv" else "key/value head")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.yaxis.get_major_locator().set_params(integer=True)
        row[0].set_ylabel("layer")
        for empty in row[len(keys) :]:
            empty.remove()
        figure.colorbar(image, cax=bar, label=kind)
    return figure


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
