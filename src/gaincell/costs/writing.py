"""Energy of a write: DACs with the bit lines they drive, and the discharge before it, per token.

A write bit line runs over the N cells of a sub-tile's row: wire, a drain of each write gate, and the store of
the cell that is written. Discharged to 0 and charged to V, it draws C V VDD, with V about V_offset on
average. The DAC's output stage settles the line to half a level within the write, gm = C ln(2 L) / t, and its
current I = gm / (gm/I) flows as long. A discharge switches the gates of one column to ground and back, and a
write those of its write line. 2 D lines are written a token: a key and a value.

Only the sub-tile that is written is powered. If the DACs of all sub-tiles stay biased through the step, each
of them draws I VDD for its whole duration (`always_on`).
Not modelled: the reference ladder, settling beyond one pole, coupling.
"""

from __future__ import annotations

import math

from gaincell.costs.cost import Cost, total
from gaincell.costs.head import UNQUANTISED, Head
from gaincell.units import Ampere, Farad, Joule, Second


def write(head: Head) -> Cost:
    """Discharge and write of one token's key and value; shared by the g query heads of a group."""
    t, d = head.technology, head.design
    lines = 2 * head.head_dim
    time = t.write_time
    charging = _write_line(head) * t.supply * d.v_offset
    column = column_gates(head)
    return total(
        {
            "write DACs and bit lines": Cost(
                energy=lines * (charging + bias(head, time) * t.supply * time) + column
            ),
            "discharge": Cost(energy=column),
        }
    )


def column_gates(head: Head) -> Joule:
    """Of the gates of one column with their drivers, switched once in the key and once in the value array."""
    t = head.technology
    gates = head.head_dim * (t.cell_write * t.gate_capacitance + t.pitch * t.wire_capacitance)
    return 2 * t.switched(gates * (1 + t.driver_overhead))


def bias(head: Head, time: Second) -> Ampere:
    """Of the output stage of a DAC that settles its line within `time`."""
    levels = head.design.storage_levels or UNQUANTISED
    return _write_line(head) * math.log(2 * levels) / time / head.technology.transconductance_efficiency


def always_on(head: Head) -> Joule:
    """Of all DACs of a head, one a row of every sub-tile, biased through a whole step."""
    dacs = head.design.tiles * head.head_dim
    return dacs * bias(head, head.technology.write_time) * head.technology.supply * head.latency


def _write_line(head: Head) -> Farad:
    t = head.technology
    return (
        head.design.tile * (t.pitch * t.wire_capacitance + t.cell_write * t.diffusion_capacitance) + t.storage
    )
