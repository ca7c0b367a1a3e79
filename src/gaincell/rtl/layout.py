"""What place-and-route is told besides the Verilog: clock and ports, and where the blocks of a head lie.

The floorplan is that of costs/floorplan.py, drawn by `gaincell floorplan`, in DEF: an outline, and a region
for every block that is digital, counters of each sub-tile included, of the area that the formulas of the
costs give it; the other blocks are placement blockages.
Not modelled: pins, power, delays outside the head: the input and output delays are 0.
"""

from __future__ import annotations

from dataclasses import replace

from gaincell.costs.floorplan import DIGITAL, blocks_of, head_plan, tile_plan
from gaincell.costs.head import assumed_head
from gaincell.costs.technology import Technology
from gaincell.rtl.head import Head
from gaincell.rtl.parameters import Parameters

GRID = 1e-9
"""A database unit of the DEF, m."""


def constraints(parameters: Parameters) -> str:
    """Timing constraints, SDC."""
    period = 1e9 / parameters.design.counter_clock
    return f"""# The pulse clock of design {parameters.design.name}. Delays outside of the head: not known, 0.
set_units -time ns
create_clock -name clk -period {period:g} [get_ports clk]
set_input_delay 0 -clock clk [get_ports {{rst start clear word* load address* number*}}]
set_output_delay 0 -clock clk [all_outputs]
# Pulses and signs come from the analog converters at any time: give every line a synchroniser, or see to it
# that the converters' edges keep away from those of the clock.
set_false_path -from [get_ports {{pulse* negative*}}]
"""


def floorplan(parameters: Parameters, technology: Technology) -> str:
    """Outline, regions of the digital blocks, blockages of the others: DEF."""
    process = replace(technology, guard_bits=parameters.guard_bits)
    head = assumed_head(parameters.design, process, parameters.rows, parameters.group)
    blocks = blocks_of(head)
    plan, tile = head_plan(blocks), tile_plan(blocks)

    def corners(x: float, y: float, w: float, h: float) -> str:
        ends = ((x, y), (x + w, y + h))
        return " ".join(f"( {round(a / GRID)} {round(b / GRID)} )" for a, b in ends)

    digital = [r for r in plan.rectangles if r.kind == DIGITAL]
    others = []
    for n, at in enumerate(r for r in plan.rectangles if r.kind != DIGITAL):  # the sub-tiles
        placed = [replace(r, x=at.x + r.x, y=at.y + r.y) for r in tile.rectangles]
        digital += [replace(r, name=f"{r.name} {n}") for r in placed if r.kind == DIGITAL]
        others += [r for r in placed if r.kind != DIGITAL]
    lines = [
        "VERSION 5.8 ;",
        'DIVIDERCHAR "/" ;',
        'BUSBITCHARS "[]" ;',
        f"DESIGN {Head.module} ;",
        f"UNITS DISTANCE MICRONS {round(1e-6 / GRID)} ;",
        f"DIEAREA {corners(0.0, 0.0, plan.w, plan.h)} ;",
        f"REGIONS {len(digital)} ;",
        *(f"- {r.name.replace(' ', '_')} {corners(r.x, r.y, r.w, r.h)} ;" for r in digital),
        "END REGIONS",
        f"BLOCKAGES {len(others)} ;",
        *(f"- PLACEMENT RECT {corners(r.x, r.y, r.w, r.h)} ;" for r in others),
        "END BLOCKAGES",
        "END DESIGN",
    ]
    return "\n".join(lines) + "\n"
