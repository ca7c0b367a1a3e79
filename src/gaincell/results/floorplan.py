"""Where the circuits of a head lie, and what area they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from gaincell.results.codec import COLUMNS, Cited
from gaincell.results.common import Chip, Result, Whole
from gaincell.units import Metre, SquareMetre

PAPER = Cited("Leroux et al. 2025 [S]")


@dataclass(frozen=True)
class Sizes:
    """tile: columns of a sub-tile.  rows: of its key array.  tiles: of a head.  layers: of cells."""

    tile: Whole
    rows: Whole
    tiles: Whole
    layers: Whole


@dataclass(frozen=True)
class Rectangle:
    """name, kind: what it is.  x, y: lower left corner."""

    name: str
    kind: str
    x: Metre
    y: Metre
    w: Metre
    h: Metre


@dataclass(frozen=True)
class Wire:
    """One tapped bit line: from (x, y), on the diagonal, horizontally to `to`."""

    x: Metre
    y: Metre
    to: Metre


@dataclass(frozen=True)
class Plan:
    """Rectangles that do not overlap, inside an outline from (0, 0) to (w, h), and the wires over them."""

    w: Metre
    h: Metre
    rectangles: tuple[Rectangle, ...]
    wires: Annotated[tuple[Wire, ...], COLUMNS] = ()


@dataclass(frozen=True)
class Plans:
    """A sub-tile, and a head of such."""

    tile: Plan
    head: Plan


@dataclass(frozen=True)
class Stack:
    """Cells in layers: their area and that of the head. cited_cells: of the paper."""

    layers: Whole
    cells: SquareMetre
    head: SquareMetre
    cited_cells: Annotated[SquareMetre, PAPER]


@dataclass(frozen=True, kw_only=True)
class FloorplanResult(Result):
    """Of `gaincell floorplan`. areas: of a head, by block.  shared: those that no sub-tile has of its own."""

    design: Chip
    technology: str
    sizes: Sizes
    areas: Mapping[str, SquareMetre]
    shared: tuple[str, ...]
    floorplan: Plans
    cited: Mapping[str, Annotated[SquareMetre, PAPER]]
    stack: tuple[Stack, ...]
