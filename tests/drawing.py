"""What lies on what in a figure of matplotlib, from the extents of its artists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations, pairwise
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from gaincell.reports.style import styled

STEP, TOUCH = 2.0, 1.0
"""Pixels between two points of a curve that are looked at; by which two texts may touch."""


def saved(monkeypatch: pytest.MonkeyPatch, draw: Callable[[], Any]) -> list[Figure]:
    """The figures that a call returns or saves."""
    found: list[Figure] = []

    def keep(figure: Figure, path: Any, **_: Any) -> None:
        found.append(figure)
        FilePath(path).touch()

    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", keep)
        made = draw()
    return [*found, *([made] if isinstance(made, Figure) else [])]


@contextmanager
def blank_figures() -> Iterator[None]:
    """Within the context figures are saved as empty pages, of the same kind of file: laying out and drawing
    take most of the time of a small training. robustness/test_figures.py draws every kind of figure.
    """
    save, print_svg = Figure.savefig, FigureCanvasSVG.print_svg

    def save_blank(_: Figure, *where: Any, **options: Any) -> None:
        save(Figure(figsize=(1, 1)), *where, **options)

    def print_blank(_: FigureCanvasSVG, *where: Any, **options: Any) -> None:
        print_svg(FigureCanvasSVG(Figure(figsize=(1, 1))), *where, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Figure, "savefig", save_blank)
        patched.setattr(FigureCanvasSVG, "print_svg", print_blank)
        yield


def faults(figure: Figure) -> list[str]:
    """Legends over drawn data, texts over each other or cut off by the paper's edge."""
    with styled():
        FigureCanvasAgg(figure)  # measures text as in a picture
        figure.draw_without_rendering()
    return [*_covered(figure), *_colliding(figure)]


def legends(figure: Figure) -> list[Any]:
    """All of them, of the axes and of the figure."""
    return [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()))]


def _covered(figure: Figure) -> Iterator[str]:
    for legend in legends(figure):
        box = legend.get_window_extent()
        names = ", ".join(text.get_text() for text in legend.get_texts())
        for axes in figure.axes:
            inside = sum(_points_inside(points, box, axes) for points in _drawn(axes))
            if inside:
                where = axes.get_title(loc="left") or axes.get_ylabel()
                yield f"the legend ({names}) lies over data of {where!r}"


def _points_inside(points: np.ndarray, box: Bbox, axes: Axes) -> int:
    shown = Bbox.intersection(box, axes.bbox)
    if shown is None or not len(points):
        return 0
    x, y = points[:, 0], points[:, 1]
    return int(((x > shown.x0) & (x < shown.x1) & (y > shown.y0) & (y < shown.y1)).sum())


def _drawn(axes: Axes) -> Iterator[np.ndarray]:
    """Points in pixels along all that is drawn, and within what is filled."""
    for line in axes.lines:
        path = line.get_transform().transform_path(line.get_path())
        yield _along(path) if line.get_linestyle() not in ("None", "none", "") else path.vertices
    for collection in axes.collections:
        yield from _of_collection(collection)
    for patch in axes.patches:
        yield _filled(patch.get_transform().transform_path(patch.get_path()))


def _of_collection(collection: Collection) -> Iterator[np.ndarray]:
    offsets = collection.get_offset_transform().transform(collection.get_offsets())
    if len(offsets) > 1:
        yield np.asarray(offsets)
        return
    for path in collection.get_paths():
        placed = collection.get_transform().transform_path(path)
        fills = len(collection.get_facecolor()) > 0
        yield _filled(placed) if fills else _along(placed)


def _along(path: Path) -> np.ndarray:
    """Points on straight pieces of a path."""
    pieces = [np.asarray(p) for p in path.to_polygons(closed_only=False)]
    found = []
    for piece in pieces:
        for a, b in pairwise(piece):
            count = max(2, int(np.hypot(*(b - a)) / STEP))
            found.append(a + (b - a) * np.linspace(0, 1, min(count, 5000))[:, None])
    return np.concatenate(found) if found else np.empty((0, 2))


def _filled(path: Path) -> np.ndarray:
    box = path.get_extents()
    x, y = (np.linspace(a, b, 60) for a, b in ((box.x0, box.x1), (box.y0, box.y1)))
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    return np.concatenate([_along(path), grid[path.contains_points(grid)]])


def _colliding(figure: Figure) -> Iterator[str]:
    texts = list(_texts(figure))
    paper = figure.bbox
    for text, box in texts:
        if box.x0 < paper.x0 or box.y0 < paper.y0 or box.x1 > paper.x1 or box.y1 > paper.y1:
            yield f"{text.get_text()!r} is cut off"
    for (one, a), (other, b) in combinations(texts, 2):
        if one.get_rotation() % 90 or other.get_rotation() % 90:
            continue
        common = Bbox.intersection(a, b)
        if common is not None and min(common.width, common.height) > TOUCH:
            yield f"{one.get_text()!r} lies over {other.get_text()!r}"


def _texts(figure: Figure) -> Iterator[tuple[Text, Bbox]]:
    hidden: set[Any] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            placed = axis.get_transform().transform
            low, high = sorted(placed(np.array(axis.get_view_interval(), dtype=float)))
            slack = 1e-9 * (high - low)
            shown = {*axis.get_major_ticks(), *axis.get_minor_ticks()} if axes.axison else set()
            every = {*axis.majorTicks, *axis.minorTicks}
            places = {tick: float(placed(np.array([tick.get_loc()], dtype=float))[0]) for tick in shown}
            shown = {tick for tick, place in places.items() if low - slack <= place <= high + slack}
            hidden |= {label for tick in every - shown for label in (tick.label1, tick.label2)}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text().strip() and text.get_visible() and text not in hidden and _is_shown(text):
            yield text, text.get_window_extent()


def _is_shown(text: Text) -> bool:
    return text.axes is None or bool(text.axes.get_visible())
