"""`gaincell floorplan`: where the circuits of a head lie, and what area they take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from gaincell.cli import _options as options
from gaincell.cli._json import FigureFile, JsonFile, command_line, output, show_result
from gaincell.cli._options import command, option


@command
def floorplan(
    design: options.ChipArgument = "leroux2025",
    figure: FigureFile = None,
    gds: Annotated[Path | None, output("Write the rectangles as GDSII (extra: layout).")] = None,
    window: options.Window = None,
    tile: Annotated[int | None, option("Columns per sub-tile.", "N", min=1)] = None,
    head_dim: options.HeadDim = 64,
    cell_area: Annotated[
        float | None, option("Area of a gain cell; by default the technology's, 1e-12.", "M^2")
    ] = None,
    stack: options.Stack = 1,
    technology: options.ProcessName = "28nm",
    json: JsonFile = None,
) -> None:
    """Floorplan of a sub-tile, with the wire taps between its arrays, and of a head, with a table of areas.

    Areas are those of gaincell cost, bottom-up; most of them are assumptions of the technology file. What the
    paper states is shown below the table.

    Example: gaincell floorplan leroux2025 --figure plan.svg --gds plan.gds

    Example: gaincell floorplan leroux2025-oxide --cell-area 0.12e-12 --stack 4 --figure dense.png
    """
    from gaincell.chips.design_file import inputs_of_design, name_after
    from gaincell.costs.floorplan import blocks_of, floorplan_result
    from gaincell.costs.gds import require_gdstk, write_gds
    from gaincell.costs.head import assumed_head
    from gaincell.costs.technology import inputs_of_technology, load_technology
    from gaincell.reports.floorplan import area_rows, floorplan_figure, stack_rows

    if gds is not None:
        require_gdstk(gds)
    chip = options.chip_of(design)
    given = {"window": window, "tile": tile}
    changes = {key: new for key, new in given.items() if new not in (None, getattr(chip, key))}
    chip = chip.replace(**changes, name=name_after(chip, changes)) if changes else chip
    process = load_technology(technology)
    if cell_area is not None:
        process = process.replace(cell_area=cell_area)
    head = replace(assumed_head(chip, process, head_dim), layers=stack)
    inputs = inputs_of_design(design) | inputs_of_technology(technology)
    result = floorplan_result(head, command_line(), inputs)
    show_result(result, json, area_rows(result), stack_rows(result), figure=figure, draw=floorplan_figure)
    if gds is not None:
        write_gds(blocks_of(head), gds)
