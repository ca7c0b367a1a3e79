"""`gaincell floorplan`: where the circuits of a head lie, and what area they take."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincell.cli._json import FigureFile, JsonFile, output_file, write_json
from gaincell.cli._options import Window

if TYPE_CHECKING:
    from gaincell.costs.floorplan import Blocks, Plan
    from gaincell.costs.head import Head

app = typer.Typer()

STACKS = (1, 2, 4, 8)


@app.command()
def floorplan(
    design: Annotated[
        str, typer.Argument(metavar="DESIGN", help="Shipped chip (gaincell design list) or a .toml file.")
    ] = "leroux2025",
    figure: FigureFile = None,
    gds: Annotated[
        Path | None,
        typer.Option(
            "--gds",
            callback=output_file,
            metavar="FILE",
            dir_okay=False,
            help="Rectangles as GDSII (extra: layout).",
        ),
    ] = None,
    window: Window = None,
    tile: Annotated[
        int | None, typer.Option("--tile", metavar="N", min=1, help="Columns of a sub-tile.")
    ] = None,
    head_dim: Annotated[
        int, typer.Option("--head-dim", metavar="N", min=1, help="D, the dimension of a head.")
    ] = 64,
    cell_area: Annotated[
        float | None,
        typer.Option(
            "--cell-area", metavar="M^2", help="Area of a gain cell; by default the technology's, 1e-12."
        ),
    ] = None,
    stack: Annotated[int, typer.Option("--stack", metavar="N", min=1, help="Layers of cells in 3D.")] = 1,
    technology: Annotated[
        str, typer.Option("--technology", metavar="NAME", help="28nm, 14nm (a projection) or a .toml file.")
    ] = "28nm",
    json: JsonFile = None,
) -> None:
    """Floorplan of a sub-tile, with the wire taps between its arrays, and of a head; table of areas.

    Areas are those of gaincell cost, bottom-up; most of them are assumptions of the technology file. What the
    paper states stands below the table.

    Example: gaincell floorplan leroux2025 --figure plan.svg --gds plan.gds

    Example: gaincell floorplan leroux2025-oxide --cell-area 0.12e-12 --stack 4 --figure dense.png
    """
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.costs.activity import Activity
    from gaincell.costs.floorplan import blocks_of, head_plan, tile_plan, tiles_of
    from gaincell.costs.gds import require_gdstk, write_gds
    from gaincell.costs.head import Head
    from gaincell.costs.technology import load_technology
    from gaincell.reports.floorplan import area_rows, floorplan_figure, stack_rows
    from gaincell.reports.style import save

    if gds is not None:
        require_gdstk(gds)
    chip = load_design(design)
    tiles_of(window or chip.window, tile or chip.tile)
    changes = {key: given for key, given in (("window", window), ("tile", tile)) if given is not None}
    chip = chip.replace(**changes) if changes else chip
    process = load_technology(technology)
    if cell_area is not None:
        process = process.replace(cell_area=cell_area)
    head = Head(chip, process, Activity.assumed(chip).mean(), head_dim=head_dim)
    blocks = blocks_of(head, stack)
    entry = _result(head, blocks, tile_plan(blocks), head_plan(blocks), stack)
    console = Console()
    console.print(area_rows(entry).terminal())
    console.print(stack_rows(entry).terminal())
    write_json(json, entry)
    if figure is not None:
        save(floorplan_figure(entry), figure)
    if gds is not None:
        write_gds(blocks, gds)


def _result(head: Head, blocks: Blocks, tile: Plan, whole: Plan, stack: int) -> dict[str, Any]:
    from gaincell.costs.area import head_area
    from gaincell.costs.cited import paper
    from gaincell.mapping.summary import design as describe_design
    from gaincell.reports import results
    from gaincell.reports.results import value

    stated, parts = paper(), head_area(head, stack).parts
    sizes = {"tile": blocks.tile, "rows": blocks.rows, "tiles": blocks.tiles, "layers": stack}
    layers = f" in {stack} layers" if stack > 1 else ""
    cells = f"cells of {head.technology.cell_area * 1e12:g} µm²{layers}"
    cited = {
        "head with digital control": "head_area",
        "cells of a denser oxide crossbar": "crossbar_area",
        "cells in 3D, over the layers": "stack_area",
    }
    result: dict[str, Any] = {
        "schema": results.SCHEMA,
        "command": "floorplan",
        "design": describe_design(head.design),
        "technology": f"{head.technology.description}, {cells}",
        "sizes": {key: value(number, "1", "simulated") for key, number in sizes.items()},
        "provenance": results.provenance(
            command=["gaincell", *sys.argv[1:]],
            seed=0,
            protocol="bottom-up areas of one head, blocks without spacing",
            design_hash=head.design.hash,
            inputs={},
        ),
        "areas": {name: value(part.area, "m^2", "simulated") for name, part in parts.items()},
        "shared": ["adder tree", "input scaling", "output scaling", "digital control"],
        "floorplan": {"tile": _plan(tile), "head": _plan(whole)},
        "cited": {
            title: value(getattr(stated, key), "m^2", "cited", "Leroux et al. 2025 [S]")
            for title, key in cited.items()
        },
        "stack": [
            {
                "layers": value(n, "1", "simulated"),
                "cells": value(head_area(head, n).parts["cells"].area, "m^2", "simulated"),
                "head": value(head_area(head, n).area, "m^2", "simulated"),
                "cited_cells": value(stated.stack_area / n, "m^2", "cited", "Leroux et al. 2025 [S]"),
            }
            for n in STACKS
        ],
    }
    results.check(result)
    return result


def _plan(plan: Plan) -> dict[str, Any]:
    from gaincell.reports.results import value

    entry: dict[str, Any] = {
        "w": value(plan.w, "m", "simulated"),
        "h": value(plan.h, "m", "simulated"),
        "rectangles": [
            {"name": r.name, "kind": r.kind}
            | {side: value(getattr(r, side), "m", "simulated") for side in ("x", "y", "w", "h")}
            for r in plan.rectangles
        ],
    }
    if plan.wires:
        entry["wires"] = {
            side: value([getattr(wire, side) for wire in plan.wires], "m", "simulated")
            for side in ("x", "y", "to")
        }
    return entry
