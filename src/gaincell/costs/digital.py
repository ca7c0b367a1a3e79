"""Energy of the digital part, per query: query pulses, counters, adder tree, control, clock and routing.

    query pulses    D generators of b-bit codes against a counter: b flip-flops clocked (L - 1) times
    counters        D a sub-tile, of b + 1 flip-flops, clocked while the pulse lasts; a count changes 2 bits
    adder tree      D adders of as many inputs as there are sub-tiles, by pairs: at level l, bits + l each
    control         gates of a sequencer per sub-tile, at an activity, through the step; a valid bit
    clock           one wire over the head's edge and one along each sub-tile, in every period of the step
    routing         wires over half the head: codes in and out, and pulses to all sub-tiles

Random data: C VDD^2 / 4 a bit. The head's edge is that of a square of its area.
Not modelled: clock jitter and skew, test logic, margins, buses beyond the head (see whole_model.py).
"""

from __future__ import annotations

import math

from gaincell.costs.cost import Cost, total
from gaincell.costs.head import Head
from gaincell.units import Joule, Metre, SquareMetre


def digital(head: Head, area: SquareMetre) -> Cost:
    """One query's digital part.

    area: of the head, m^2, for the length of its wires.
    """
    edge = math.sqrt(area)
    return total(
        {
            "counters": Cost(energy=_counters(head)),
            "adder tree": Cost(energy=adder_bits(head, head.active_tiles) * head.technology.adder_bit),
            "query pulses": Cost(energy=_query_pulses(head)),
            "control": Cost(energy=_control(head)),
            "clock": Cost(energy=_clock(head, edge)),
            "routing": Cost(energy=_routing(head, edge)),
        }
    )


def adder_bits(head: Head, inputs: int) -> int:
    """Bits of all adders of D trees: floor(n / 2) adders of bits + level at every level."""
    bits, level, found = head.output_bits, 0, 0
    while inputs > 1:
        found += (inputs // 2) * (bits + level)
        inputs, level = (inputs + 1) // 2, level + 1
    return head.head_dim * found


def _counters(head: Head) -> Joule:
    t, d = head.technology, head.design
    if d.readout == "none":
        return 0.0
    counts = head.activity.output_pulse * (d.counter_levels - 1)
    a_count = head.output_bits * t.switched(t.flip_flop_clock) + 2 * t.switched(t.flip_flop_data) / 2
    return head.output_lines * counts * a_count


def _query_pulses(head: Head) -> Joule:
    t, d = head.technology, head.design
    steps = ((d.query_levels or 2**8) - 1) * d.drivers.phases
    a_step = head.query_bits * t.switched(t.flip_flop_clock + t.gate_switching)
    return head.head_dim * steps * a_step


def _control(head: Head) -> Joule:
    t = head.technology
    gates = head.active_tiles * t.control_gates
    switching = gates * t.control_activity * t.switched(t.gate_switching) / 2
    return head.cycles * switching + t.switched(t.flip_flop_clock + t.flip_flop_data)


def _clock(head: Head, edge: Metre) -> Joule:
    t = head.technology
    length = edge + head.active_tiles * head.rows * t.pitch
    return head.cycles * t.switched(length * t.wire_capacitance * (1 + t.driver_overhead))


def _routing(head: Head, edge: Metre) -> Joule:
    t, a = head.technology, head.activity
    wire = edge * t.wire_capacitance * (1 + t.driver_overhead)
    codes_in = head.head_dim * (head.query_bits + 2 * head.storage_bits / head.group)
    codes_out = head.output_lines * head.output_bits
    result = head.head_dim * (head.output_bits + math.ceil(math.log2(max(head.active_tiles, 2))))
    pulses = head.head_dim * a.query_active * t.switched(wire)
    return pulses + (codes_in + codes_out + result) * t.data(wire / 2)
