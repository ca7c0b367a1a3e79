"""Energy of the analog part of a read: cells, word lines, charge-to-pulse and signed readout, per query.

Cells. A push-pull cell joins the bit line, held at VDD/2, to VDD or to ground for x T_max. Current from VDD
is drawn from the supply; current into ground comes from the bit line, hence from other cells or from the
integrator. So

    E = VDD qu sum_cells x max(F(u), 0)         qu: charge unit, C; F: current of the cell, charge units

Activity gives mean and mean square of |u| only: |u| is represented by two values, m - s and m + s, of equal
weight (m mean, s standard deviation), or 0 and E[u^2]/m where s > m; both signs are equally likely.

Word lines. A pulse charges a word line once: C VDD^2, C = two polarities of wire over the line's cells and
the gates of their switches, plus the overhead of tapered buffers.

Converters. Over every line that is read, an amplifier holds the bit line: its transconductance settles the
line's capacitance to half a level within half a clock period, gm = C ln(2 L) 2 f, and I = gm / (gm/I) flows
while the array is read. A net charge that cells source ends on the integrator without more from the supply,
and its output stage delivers it once, VDD Q, when the reference current that sets the pulse takes it back. A
net charge that cells sink is delivered by the output stage, once, VDD Q; where a pulse of the other sign
follows (value arrays), a reference from VDD takes it back: 2 VDD Q. So

    key arrays      VDD Q,      Q = (phi + negative) S_sat    negative: mean max(-S, 0) / S_sat, without pulse
    value arrays    3/2 VDD Q,  Q = |output| O_sat            both signs alike

The sum over cells counts what sources. Where more sinks than sources, as for most scores of converted models,
the difference comes from the converter that holds the line. It is held whatever flows: an integrator that
saturates at negative scores would deliver less, and let the line fall. A comparator, C VDD/2 per half clock
period, runs for T_max and, at the output, while pulses are counted.

Not modelled: laws of the converter other than the linear one, normalising and first-token columns; outputs
beyond their ceiling; rows that are not driven, short circuits in drivers, references and their distribution,
offset calibration.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch

from gaincell.costs.cost import Cost, total
from gaincell.costs.head import Head
from gaincell.devices.cell import Cell
from gaincell.units import Ampere, ChargeUnit, Farad, Joule, Second, Volt

SIGNED = (1.0 + 2.0) / 2
"""How often VDD delivers the net charge of a value line, which cells source and sink alike."""


def first_product(head: Head) -> Cost:
    """Key arrays of a head for one query: cells, word lines, charge-to-pulse converters."""
    a, d = head.activity, head.design
    sourced = positive_current(d.cell, a.key_level * head.remaining, a.key_square * head.remaining_square)
    time = d.drivers.phases * d.t_pulse_max
    charge = (a.score_pulse + a.score_negative) * d.score_saturation(head.head_dim) * d.charge_unit
    converter = (
        _amplifier(head, head.rows, time) + charge * head.technology.supply + _comparator(head, d.t_pulse_max)
    )
    lines = head.active_tiles * head.head_dim
    return total(
        {
            "cells": Cost(energy=_cells(head, a.query_pulse, sourced)),
            "word lines": Cost(energy=lines * a.query_active * _line(head, head.design.tile)),
            "charge-to-pulse": Cost(energy=head.columns * converter),
        }
    )


def second_product(head: Head) -> Cost:
    """Value arrays of a head for one query: cells, word lines, signed charge-to-pulse converters."""
    a, d = head.activity, head.design
    sourced = positive_current(d.cell, a.value_level * head.remaining, a.value_square * head.remaining_square)
    count = (d.counter_levels - 1) / d.counter_clock
    charge = a.output_pulse * d.output_saturation * d.charge_unit
    converter = (
        _amplifier(head, head.design.tile, d.t_pulse_max)
        + SIGNED * charge * head.technology.supply
        + _comparator(head, count)
    )
    return total(
        {
            "cells": Cost(energy=_cells(head, a.score_pulse, sourced)),
            "word lines": Cost(energy=head.columns * a.score_active * _line(head, head.rows)),
            "signed readout": Cost(energy=head.output_lines * converter),
        }
    )


@lru_cache(maxsize=1024)
def positive_current(cell: Cell, level: Volt, square: float) -> ChargeUnit:
    """E[max(F(u), 0)] for a full pulse: what a cell draws from the supply on average.

    `level` is E|u|, `square` E[u^2].
    """
    spread = math.sqrt(max(square - level * level, 0.0))
    if level == 0:
        points = [(0.0, 1.0)]
    elif spread <= level:
        points = [(level - spread, 0.5), (level + spread, 0.5)]
    else:
        share = level * level / square
        points = [(square / level, share), (0.0, 1 - share)]
    u = torch.tensor([sign * point for point, _ in points for sign in (1, -1)], dtype=torch.float64)
    current: list[float] = [max(f, 0.0) for f in cell.current(u).tolist()]
    weights = [weight / 2 for _, weight in points for _ in (0, 1)]
    return math.fsum(w * f for w, f in zip(weights, current, strict=True))


def integrator_capacitance(head: Head, saturation: ChargeUnit) -> Farad:
    """Of an integrator that holds the charge of a full pulse within VDD/2."""
    return saturation * head.design.charge_unit / (head.technology.supply / 2)


def _cells(head: Head, pulse: float, sourced: ChargeUnit) -> Joule:
    cells = head.columns * head.head_dim
    return cells * pulse * sourced * head.design.charge_unit * head.technology.supply


def _line(head: Head, cells: int) -> Joule:
    """One pulse on a word line over some cells."""
    t = head.technology
    wires = 2 * cells * t.pitch * t.wire_capacitance
    gates = cells * t.cell_switches * t.gate_capacitance
    return t.switched((wires + gates) * (1 + t.driver_overhead))


def _amplifier(head: Head, cells: int, time: Second) -> Joule:
    """That holds a bit line over some cells, of a wire and a drain of each cell's switches: rows of them in a
    key array, N in a value array.
    """
    d, t = head.design, head.technology
    line = cells * (t.pitch * t.wire_capacitance + t.cell_switches * t.diffusion_capacitance)
    speed = 2 * d.counter_clock * math.log(2 * d.counter_levels)
    current: Ampere = line * speed / t.transconductance_efficiency
    return current * t.supply * time


def _comparator(head: Head, time: Second) -> Joule:
    t = head.technology
    current: Ampere = t.comparator_capacitance * (t.supply / 2) * 2 * head.design.counter_clock
    return current * t.supply * time
