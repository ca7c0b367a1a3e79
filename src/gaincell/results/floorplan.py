"""Of `gaincell floorplan`: a sub-tile and a head, to scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from gaincell.results.codec import COLUMNS
from gaincell.results.common import Chip, Part, Result, Whole
from gaincell.results.cost import PAPER_AREA
from gaincell.units import Metre, SquareMetre


class Sizes(Part):
    """Of a floorplan.

    Attributes:
        tile: Columns of a sub-tile.
        rows: Of its key array.
        tiles: Of a head.
        layers: Of cells.
    """

    tile: Whole
    rows: Whole
    tiles: Whole
    layers: Whole


class Rectangle(Part):
    """A box of a floorplan.

    Attributes:
        name: What it is, in words.
        kind: What it is, one of those of reports.floorplan.
        x: Of the lower left corner.
        y: Of the lower left corner.
    """

    name: str
    kind: str
    x: Metre
    y: Metre
    w: Metre
    h: Metre


class Wire(Part):
    """One tapped bit line: from (x, y), on the diagonal, horizontally to `to`."""

    x: Metre
    y: Metre
    to: Metre


class Plan(Part):
    """Rectangles that do not overlap, inside an outline from (0, 0) to (w, h), and the wires over them."""

    w: Metre
    h: Metre
    rectangles: tuple[Rectangle, ...]
    wires: Annotated[tuple[Wire, ...], COLUMNS] = ()


class Plans(Part):
    tile: Plan
    head: Plan


class Stack(Part):
    """Cells in layers: their area and that of the head.

    Attributes:
        cited_cells: Of as many of the paper's.
    """

    layers: Whole
    cells: SquareMetre
    head: SquareMetre
    cited_cells: Annotated[SquareMetre, PAPER_AREA]


class FloorplanResult(Result, kw_only=True, command="floorplan"):
    """Of `gaincell floorplan`.

    Attributes:
        areas: Of a head, by block.
        shared: Those that no sub-tile has of its own.
        note: What a user has to know.
    """

    design: Chip
    technology: str
    sizes: Sizes
    areas: Mapping[str, SquareMetre]
    shared: tuple[str, ...]
    floorplan: Plans
    cited: Mapping[str, Annotated[SquareMetre, PAPER_AREA]]
    stack: tuple[Stack, ...]
    note: str = ""
