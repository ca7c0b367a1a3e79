"""The one style sheet of all figures, and their colours: those of Okabe and Ito, which colour-blind readers
can tell apart. Curves of one panel differ in their markers too, so that no reader needs the colours.

Figures lie on opaque white paper, whatever the ground of the page: heat maps and pale bands then keep their
colours. A dark page shows them as cards (docs/_static/site.css).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict, TypeVar

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.rcsetup import cycler

from gaincell import files

T = TypeVar("T")
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, RED, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"
PALETTE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK)
"""For lines that have no meaning of their own."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
"""More than `PALETTE` has colours, so that lines of one colour differ in them."""
PLAN_COLOURS = {
    "cells": "#9CC9E8", "analog": "#F2C879", "drivers": "#A9D6B8", "write": "#D9B5CF", "digital": "#C9C9C9"
}  # fmt: skip
TAP, WIRE = "#B03A2E", "#7B241C"
"""Of floorplans, where every colour has a meaning."""
STYLE: dict[str, object] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "figure.titlesize": 9,
    "savefig.dpi": 160,
    "svg.hashsalt": "gaincell",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "lines.markersize": 5,
    "errorbar.capsize": 2,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
}


@contextmanager
def styled(*, grid: bool = True, text: bool = False) -> Iterator[None]:
    """Within the context, and in a function that it decorates, figures are drawn and saved by the style
    sheet, whatever the user's own settings of matplotlib are. Heat maps have no grid. With `text` SVG
    keeps text as text instead of outlines.
    """
    with style.context(["default", STYLE | {"axes.grid": grid, "svg.fonttype": "none" if text else "path"}]):
        yield


@styled()
def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure in the format that the file's ending names, whole or not at all."""
    return files.write_atomic(Path(path), figure.savefig)


def save_all(
    figures: Mapping[str, Callable[[T], Figure | None]], result: T, folder: Path, prefix: str = ""
) -> list[Path]:
    """Save every figure that a result has data for, as PNG, and remove an earlier result's other ones."""
    drawn: list[Path] = []
    for name, draw in figures.items():
        figure, path = draw(result), folder / f"{prefix}{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            drawn.append(save(figure, path))
    return drawn


@styled()
def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one panel; inches."""
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


class Look(TypedDict):
    """Of a line."""

    color: str
    marker: str


def look(n: int, colours: Sequence[str] = PALETTE) -> Look:
    """Colour and marker of the n-th line of a panel."""
    return {"color": colours[n % len(colours)], "marker": MARKERS[n % len(MARKERS)]}


def name_rows(axes: Axes, names: Iterable[str], *, grid: bool = False) -> None:
    """Names on the vertical axis, the first on top; with lines to them if there is a grid."""
    words = list(names)
    axes.set_yticks(range(len(words)), words)
    axes.invert_yaxis()
    if not grid:
        axes.grid(visible=False, axis="y")


def plain_ticks(axis: Axis) -> None:
    """Numbers of a logarithmic axis as they are, between powers of ten too."""
    axis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.set_minor_formatter(lambda x, _: f"{x:g}")


def whole_ticks(*axes: Axis) -> None:
    """Ticks at whole numbers alone."""
    for axis in axes:
        axis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]


def heat_map(
    axes: Axes,
    table: Sequence[Sequence[float]],
    title: str,
    xlabel: str,
    vmin: float | None = None,
    vmax: float | None = None,
) -> AxesImage:
    """Numbers of the heads, layers downwards and heads to the right."""
    axes.set(title=title, xlabel=xlabel)
    whole_ticks(axes.xaxis, axes.yaxis)
    return axes.imshow(table, "viridis", aspect="auto", interpolation="nearest", vmin=vmin, vmax=vmax)


def beside(axes: Axes, text: str, at: tuple[float, float], room: float = 8) -> None:
    """Words on the right of a point."""
    axes.annotate(text, at, xytext=(room, 0), textcoords="offset points", va="center")


def above(axes: Axes, text: str, at: tuple[float, float], room: float = 3, size: float | None = None) -> None:
    """Words over a point."""
    axes.annotate(text, at, xytext=(0, room), textcoords="offset points", ha="center", fontsize=size)


def legend_beside(axes: Axes, title: str | None = None) -> None:
    """A legend on the right of a panel, where no data can lie under it."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, title=title)


def legend_below(figure: Figure, columns: int = 1, only: str | None = None) -> None:
    """One legend of all panels, below them; entries of one name stand in it once; `only` names one."""
    found = [axes.get_legend_handles_labels() for axes in figure.axes]
    named = {
        label: handle for pair in found for handle, label in zip(*pair, strict=True) if only in (None, label)
    }
    if named:
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)
