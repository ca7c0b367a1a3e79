"""A floorplan as GDSII rectangles, for a layout viewer. Needs gdstk, the extra `layout`: rectangles, labels
and references are all it takes, and gdsfactory would draw in klayout, whose licence is the GPL.

A cell SUBTILE with its blocks and the tap wires, and a cell HEAD that places it as often as there are
sub-tiles. Layers: 1 cells, 2 analog, 3 drivers, 4 writing, 5 digital, 10 tap wires; names as texts on layer
20. Coordinates in micrometres with a grid of 1 nm.
Not modelled: transistors, wires other than the taps, design rules.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from gaincell import files
from gaincell.costs.floorplan import ANALOG, CELLS, DIGITAL, DRIVE, TAP, WRITE, Blocks, head_plan, tile_plan
from gaincell.errors import InputError
from gaincell.results.floorplan import Plan

LAYERS = {CELLS: 1, ANALOG: 2, DRIVE: 3, WRITE: 4, DIGITAL: 5, TAP: 10}
TEXT_LAYER = 20
UNIT, GRID = 1e-6, 1e-9
WIRE_SHARE = 0.2
"""Width of a tap wire in pitches, for the eye."""


def write_gds(blocks: Blocks, path: str | os.PathLike[str]) -> Path:
    """Write the floorplan of a head, completely or not at all.

    Raises:
        InputError: gdstk is not installed, or the name does not end with .gds.
    """
    path = Path(path)
    gdstk = require_gdstk(path)
    library = gdstk.Library("gaincell", UNIT, GRID)
    tile, head = tile_plan(blocks), head_plan(blocks)
    inner, outer = library.new_cell("SUBTILE"), library.new_cell("HEAD")
    _add(gdstk, inner, tile)
    half = WIRE_SHARE * blocks.pitch / 2 / UNIT
    for wire in tile.wires:  # from the taps on the diagonal to the charge-to-pulse circuits
        x, y, to = (side / UNIT for side in (wire.x, wire.y, wire.to))
        inner.add(gdstk.rectangle((x - half, y - half), (to, y + half), layer=LAYERS[TAP]))
    for r in head.rectangles:
        if r.kind == CELLS:
            outer.add(gdstk.Reference(inner, (r.x / UNIT, r.y / UNIT)))
    _add(gdstk, outer, head, without=CELLS)
    return files.write_atomic(path, lambda temporary: library.write_gds(str(temporary)))


def require_gdstk(path: Path) -> Any:
    """The module gdstk, if `path` can be written with it.

    Raises:
        InputError: gdstk is not installed, or the name does not end with .gds.
    """
    if path.suffix.lower() != ".gds":
        raise InputError(f"--gds {path.name}: give a name that ends with .gds")
    try:
        return import_module("gdstk")
    except ImportError as error:
        raise InputError("GDSII needs gdstk: pip install 'gaincell[layout]'") from error


def _add(gdstk: Any, cell: Any, plan: Plan, without: str = "") -> None:
    for r in plan.rectangles:
        if r.kind == without:
            continue
        x, y, w, h = (side / UNIT for side in (r.x, r.y, r.w, r.h))
        cell.add(gdstk.rectangle((x, y), (x + w, y + h), layer=LAYERS[r.kind]))
        cell.add(gdstk.Label(r.name, (x + w / 2, y + h / 2), layer=TEXT_LAYER))
