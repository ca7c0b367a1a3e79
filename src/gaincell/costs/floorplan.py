"""Where the circuits of a head lie: rectangles, from the areas of area.py.

A sub-tile, x to the right, y upwards; N columns of tokens, R rows (D, in blocks of N):

    +-------+----------------+-----------------------------------------+
    |       | column decoder | write DACs, shared by both arrays       |
    +-------+----------------+-----------------+-------+-------+-------+
    | query | key array      | charge-to-pulse | word  | value | row   |
    | driv- | N x R cells,   | N circuits      | line  | array | deco- |
    | ers   | taps over it   |                 | driv. | R x N | der   |
    +-------+----------------+-----------------+-------+-------+-------+
    | signed readout, and below it the counters, of R value bit lines  |
    +------------------------------------------------------------------+

Query pulses run horizontally over the key array. Its bit lines are vertical, one a token; the word lines of
the value array are horizontal, one a token. Each bit line is tapped on the diagonal of the key array by a
horizontal wire in a higher metal layer, which leads to the charge-to-pulse circuit of that token in its row
of the value array; so the arrays stand side by side and the taps take no area. The paper shows the taps
and the blocks in a floorplan of its own [M]; the arrangement here is derived, not copied [D]. Where D > N,
the taps lie in the lowest block of rows, and the value arrays of the D outputs stand side by side.
Charge-to-pulse circuits that would be too long are folded: their block then is higher than the arrays. The
circuits of the signed readout are much wider than the value bit lines that they read: they fill a strip below
the whole sub-tile, over which the bit lines fan out in a higher metal layer.

A head: its sub-tiles in a grid as nearly square as may be, the block that scales and gives them their inputs
below, and the adders, with the scaling of the output, above, as in the paper's floorplan [M].

All lengths in metres. Blocks are rectangles of the area they need, without spacing: their sum is that of
`area.head_area`, the rest of the outline is unused. Not modelled: power rails, routing channels, design
rules, the least height of a circuit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gaincell.chips.design_file import chip_of
from gaincell.costs.area import STACKS, head_area
from gaincell.costs.cited import cells_ratio, paper
from gaincell.costs.head import Head
from gaincell.costs.notes import unquantised
from gaincell.results import provenance
from gaincell.results.floorplan import FloorplanResult, Plan, Plans, Rectangle, Sizes, Stack, Wire
from gaincell.units import Metre, SquareMetre

CELLS, ANALOG, DRIVE, WRITE, DIGITAL, TAP = "cells", "analog", "drivers", "write", "digital", "tap"
"""Kinds of rectangles; taps lie over cells."""
LONGEST = 5.0
"""Width of the charge-to-pulse block over its height, at most [assumed]."""

SHARED = ("adder tree", "input scaling", "output scaling", "digital control")
"""Blocks that no sub-tile has of its own."""


@dataclass(frozen=True)
class Blocks:
    """What a floorplan is made of.

    Attributes:
        areas: By name. Of one sub-tile: query drivers (all rows), word-line drivers (all value word lines),
            decoder (select lines of one array; there are two), write DACs, charge-to-pulse (all columns),
            signed readout and counters (all value bit lines). Of a head: those of SHARED (adder tree of one
            sub-tile: 0).
        cell: Area of one cell.
        tile: N.
        rows: R.
    """

    areas: Mapping[str, SquareMetre]
    cell: SquareMetre
    tile: int
    rows: int
    tiles: int

    @property
    def pitch(self) -> Metre:
        """Edge of a cell, taken to be square."""
        return math.sqrt(self.cell)


def blocks_of(head: Head) -> Blocks:
    """The areas of `area.head_area`, split into what lies in one place; cells stacked in 3D take the area of
    one over the number of layers.
    """
    t, d, n = head.technology, head.design, head.design.tile
    parts = {name: part.area for name, part in head_area(head).parts.items()}
    areas = {name: area if name in SHARED else area / d.tiles for name, area in parts.items()}
    gates = n * t.gate_area / t.utilisation
    areas["digital control"] -= 2 * d.tiles * gates
    areas["query drivers"] = head.rows * t.driver_area
    areas["word-line drivers"] = n * t.driver_area
    areas["decoder"] = n * t.driver_area + gates
    return Blocks(areas, t.cell_area / head.layers, n, head.rows, d.tiles)


def tile_plan(blocks: Blocks) -> Plan:
    """The floorplan of one sub-tile (see the head of this file)."""
    p, n, r = blocks.pitch, blocks.tile, blocks.rows
    key_w, key_h, value_w, value_h = n * p, r * p, r * p, n * p
    areas = blocks.areas
    drivers = areas["query drivers"] / key_h
    middle = max(key_h, value_h, math.sqrt(areas["charge-to-pulse"] / LONGEST))
    pulses = areas["charge-to-pulse"] / middle
    words, rows = (areas[name] / value_h for name in ("word-line drivers", "decoder"))
    w = drivers + key_w + pulses + words + value_w + rows
    counters, readout = (areas[name] / w for name in ("counters", "signed readout"))
    y = counters + readout
    columns = areas["decoder"] / key_w
    right = drivers + key_w
    dacs = areas["write DACs"] / (w - right)
    x_value = right + pulses + words
    made = (
        Rectangle("counters", DIGITAL, 0.0, 0.0, w, counters),
        Rectangle("signed readout", ANALOG, 0.0, counters, w, readout),
        Rectangle("query drivers", DRIVE, 0.0, y, drivers, key_h),
        Rectangle("key array", CELLS, drivers, y, key_w, key_h),
        Rectangle("charge-to-pulse", ANALOG, right, y, pulses, middle),
        Rectangle("word-line drivers", DRIVE, right + pulses, y, words, value_h),
        Rectangle("value array", CELLS, x_value, y, value_w, value_h),
        Rectangle("row decoder", WRITE, x_value + value_w, y, rows, value_h),
        Rectangle("column decoder", WRITE, drivers, y + middle, key_w, columns),
        Rectangle("write DACs", WRITE, right, y + middle, w - right, dacs),
    )
    wires = tuple(Wire(drivers + (j + 0.5) * p, y + (j + 0.5) * p, right) for j in range(n))
    return Plan(w, y + middle + max(columns, dacs), made, wires)


def head_plan(blocks: Blocks) -> Plan:
    """The floorplan of a head: sub-tiles as whole rectangles named after their numbers, adders, control."""
    tile = tile_plan(blocks)
    columns = best_columns(blocks.tiles, tile.w, tile.h)
    lines = math.ceil(blocks.tiles / columns)
    w = columns * tile.w
    below = _strip(blocks, ("digital control", "input scaling"), w, 0.0)
    y = below[0].h
    top = _strip(blocks, ("adder tree", "output scaling"), w, y + lines * tile.h)
    grid = []
    for t in range(blocks.tiles):
        line, column = divmod(t, columns)
        at = (column * tile.w, y + (lines - 1 - line) * tile.h)
        grid.append(Rectangle(f"sub-tile {t}", CELLS, *at, tile.w, tile.h))
    return Plan(w, top[0].y + top[0].h, (*below, *grid, *top))


def _strip(blocks: Blocks, names: Sequence[str], w: Metre, y: Metre) -> list[Rectangle]:
    """Digital blocks side by side over the whole width; those without an area are left out."""
    areas = {name: area for name in names if (area := blocks.areas[name])}
    h, x, made = sum(areas.values()) / w, 0.0, []
    for name, area in areas.items():
        made.append(Rectangle(name, DIGITAL, x, y, area / h, h))
        x += area / h
    return made


def best_columns(tiles: int, w: Metre, h: Metre) -> int:
    """Columns of a grid of tiles without gaps whose outline is most nearly square."""
    divisors = [c for c in range(1, tiles + 1) if tiles % c == 0]
    return min(divisors, key=lambda c: abs(math.log(c * w / (tiles // c * h))))


def floorplan_result(
    head: Head, command: Sequence[str], inputs: Mapping[str, str] | None = None
) -> FloorplanResult:
    """Blocks of a head, their places and areas; command and hashes of files are for the provenance."""
    blocks, stated, t = blocks_of(head), paper(), head.technology
    layers = f" in {head.layers} layers" if head.layers > 1 else ""
    areas = {n: head_area(replace(head, layers=n)) for n in (head.layers, *STACKS)}
    cited = stated.stack_area * cells_ratio(head)
    return FloorplanResult(
        design=chip_of(head.design),
        technology=f"{t.description}, cells of {t.cell_area * 1e12:g} µm²{layers}",
        sizes=Sizes(blocks.tile, blocks.rows, blocks.tiles, head.layers),
        areas={name: part.area for name, part in areas[head.layers].parts.items()},
        shared=SHARED,
        floorplan=Plans(tile_plan(blocks), head_plan(blocks)),
        cited={
            "head with digital control": stated.head_area,
            "cells of a denser oxide crossbar": stated.crossbar_area,
            "cells in n layers (3D), area times n": stated.stack_area,
        },
        stack=tuple(Stack(n, areas[n].parts["cells"].area, areas[n].area, cited / n) for n in STACKS),
        note=unquantised(head.design),
        provenance=provenance.made(
            command=command,
            seed=0,
            protocol="bottom-up areas of one head, blocks without spacing",
            design_hash=head.design.hash,
            inputs=inputs,
        ),
    )
