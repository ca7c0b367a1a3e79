"""Area of a head: cells, converters, drivers, digital part; and stacked in 3D.

    cells               2 M rows x area of a cell
    charge-to-pulse     per column: amplifier, comparator, and a capacitor that holds S_sat within VDD/2
    signed readout      per value bit line: the same for O_sat, and a second comparator for the other sign
    write DACs          N a sub-tile, shared by its two arrays
    drivers             word lines of both arrays (pulses in), write lines of the columns
    counters            flip-flops of every output line
    adder tree          five gates a bit, registers after every level
    input scaling       D multiply-adders, registers of the values, of gains and of offsets; for balanced rows
                        D more and the adders of the transform, registers of P and R, tables of charges with
                        their adders and comparators (costs/digital.py)
    output scaling      D multiply-adders, gains and offsets; a divider, where outputs are divided; what
                        computes gains that follow the columns read, with two tables and their exponents
    digital control     gates of the sequencers, decoders (a gate a column), valid bits, code registers

Gates and flip-flops fill a share (utilisation) of the digital area. Layers of a 3D stack share everything
but the cells, so that the cells of a head take 1/n of their area.
Not modelled: power rails, pads, spacing between blocks, the wire taps between the arrays (see floorplan.py).
"""

from __future__ import annotations

from dataclasses import replace

from gaincell.costs.arrays import integrator_capacitance
from gaincell.costs.cited import cells_ratio, paper
from gaincell.costs.cost import Cost, total
from gaincell.costs.digital import circuits
from gaincell.costs.head import Head
from gaincell.results.cost import Variant

STACKS = (1, 2, 4, 8)
"""Layers of cells in the comparison of areas."""


def variants(head: Head) -> list[Variant]:
    """Cells of the paper, one all of silicon, and stacks."""
    t, p, scale = head.technology, paper(), cells_ratio(head)
    crossbar, stacked = (area / (2 * p.window * p.head_dim) for area in (p.crossbar_area, p.stack_area))
    kinds = [
        ("oxide write transistors, worst case", p.cell_area, 1, head.cells * p.cell_area),
        ("all silicon (bottom-up)", t.silicon_cell_area, 1, None),
        ("dense oxide crossbar", crossbar, 1, p.crossbar_area * scale),
        *((f"3D, {n} layer{'s' if n > 1 else ''}", stacked, n, p.stack_area * scale / n) for n in STACKS),
    ]
    found = []
    for title, cell, layers, cited in kinds:
        area = head_area(replace(head, technology=replace(t, cell_area=cell), layers=layers))
        found.append(Variant(title, cell, layers, area.parts["cells"].area, area.area, cited))
    return found


def head_area(head: Head) -> Cost:
    """Of the arrays of one key/value head with its periphery, whether or not all of it is in use."""
    t, d = head.technology, head.design
    lines = d.tiles * head.rows
    score = integrator_capacitance(head, d.score_saturation(head.head_dim)) / t.capacitor_density
    output = integrator_capacitance(head, d.output_saturation) / t.capacitor_density
    areas = {
        "cells": head.cells * t.cell_area / head.layers,
        "charge-to-pulse": d.window * (t.amplifier_area + t.comparator_area + score),
        "signed readout": lines * (t.amplifier_area + 2 * t.comparator_area + output),
        "write DACs": lines * t.dac_area,
        "drivers": (lines + 3 * d.window) * t.driver_area,
    }
    for name, found in circuits(head).items():
        filled = found.gates * t.gate_area + found.flip_flops * t.flip_flop_area
        areas[name] = filled / t.utilisation
    return total({name: Cost(area=area) for name, area in areas.items()})
