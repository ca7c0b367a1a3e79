"""Fidelity of every head as heat maps and a table of `gaincell fidelity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gaincell.reports.rows import Rows, for_terminal
from gaincell.reports.style import save, styled
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


def fidelity_table(result: FidelityResult, name: str) -> Any:
    """Means over the heads of every layer."""
    rows = Rows(name, ("layer", *SHOWN), fidelity_rows(result), fidelity_caption(result))
    return for_terminal(rows, texts=0)


def fidelity_rows(result: FidelityResult) -> list[tuple[str, ...]]:
    """Layer, and the mean over its heads of every number in `SHOWN`."""
    tables = result.fidelity
    return [
        (str(layer), *(f"{_mean(tables[key][layer]):.3f}" for key in SHOWN))
        for layer in range(len(tables["error"]))
    ]


def fidelity_caption(result: FidelityResult) -> str:
    """The protocol, the worst head, and how many are silent."""
    tables = result.fidelity
    worst = max(
        (error, layer, head) for layer, row in enumerate(tables["error"]) for head, error in enumerate(row)
    )
    silent = sum(x for row in tables["silent"] for x in row)
    heads = sum(map(len, tables["silent"]))
    return (
        f"{result.provenance.protocol}; means over the heads of a layer; worst head: layer {worst[1]}, "
        f"head {worst[2]}, error {worst[0]:.3f}; silent heads: {silent:.0f} of {heads}"
    )


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


def draw_fidelity(result: FidelityResult, path: str | Path) -> Path:
    """`fidelity_figure` in a file."""
    return save(fidelity_figure(result), path)


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
