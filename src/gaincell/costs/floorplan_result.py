"""What `gaincell floorplan` says of a head."""

from __future__ import annotations

from collections.abc import Sequence

from gaincell.config import chip_of
from gaincell.costs.area import head_area
from gaincell.costs.cited import paper
from gaincell.costs.floorplan import Plan, blocks_of, head_plan, tile_plan
from gaincell.costs.head import Head
from gaincell.results import provenance
from gaincell.results.floorplan import FloorplanResult, Outline, PlannedBlock, Plans, Sizes, Stack, Tap

STACKS = (1, 2, 4, 8)
SHARED = ("adder tree", "input scaling", "output scaling", "digital control")
"""Blocks that no sub-tile has of its own."""


def floorplan_result(head: Head, stack: int, command: Sequence[str]) -> FloorplanResult:
    """stack: layers of cells in 3D.  command: the command line, for the provenance."""
    blocks, stated, t = blocks_of(head, stack), paper(), head.technology
    layers = f" in {stack} layers" if stack > 1 else ""
    areas = {n: head_area(head, n) for n in (stack, *STACKS)}
    return FloorplanResult(
        command="floorplan",
        design=chip_of(head.design),
        technology=f"{t.description}, cells of {t.cell_area * 1e12:g} µm²{layers}",
        sizes=Sizes(blocks.tile, blocks.rows, blocks.tiles, stack),
        areas={name: part.area for name, part in areas[stack].parts.items()},
        shared=SHARED,
        floorplan=Plans(_outline(tile_plan(blocks)), _outline(head_plan(blocks))),
        cited={
            "head with digital control": stated.head_area,
            "cells of a denser oxide crossbar": stated.crossbar_area,
            "cells in 3D, over the layers": stated.stack_area,
        },
        stack=tuple(
            Stack(n, areas[n].parts["cells"].area, areas[n].area, stated.stack_area / n) for n in STACKS
        ),
        provenance=provenance.made(
            command=command,
            seed=0,
            protocol="bottom-up areas of one head, blocks without spacing",
            design_hash=head.design.hash,
        ),
    )


def _outline(plan: Plan) -> Outline:
    wires = tuple(Tap(wire.x, wire.y, wire.to) for wire in plan.wires)
    blocks = tuple(PlannedBlock(r.name, r.kind, r.x, r.y, r.w, r.h) for r in plan.rectangles)
    return Outline(plan.w, plan.h, blocks, *([wires] if wires else []))
