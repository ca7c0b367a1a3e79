"""What storing the tokens costs, per token: writes, leakage and refreshes.

A write is that of the DACs with the bit lines they drive, after a discharge. A bit line runs over the N cells
of a sub-tile's row: wire, a drain of each write gate, and the store of the cell that is written. Discharged
to 0 and charged to V, it draws C V VDD, with V about V_offset on average. The DAC's output stage settles the
line to half a level within the write, gm = C ln(2 L) / t, and its current I = gm / (gm/I) flows as long. A
discharge switches the gates of one column to ground and back, and a write those of its write line. 2 D lines
are written a token: a key and a value. Only the sub-tile that is written is powered. If the DACs of all
sub-tiles stay biased through the step, each of them draws I VDD for its whole duration (`always_on`).

Leakage flows between reads too: over a token period dt, which is layers x the step of a group where attention
is all there is, and as long as everything else makes it in a whole model (whole_model.py). Per cell the
off-current of its switches and write gate, per gate a stated power:

    P = cells VDD I_off (W_switches + W_write) + gates P_gate

A refresh rewrites every valid column; the voltages that drift most drift by half a storage level within

    t = -tau ln(1 - half level / largest |u - u_inf|),     half the smallest step where levels are uneven

u_inf: where voltages decay to (devices/leakage.py). A token is needed until its column is overwritten after M
tokens, or until the model's own sliding window gates it: a chip where that is within t needs no refresh.
Sequences that take turns have cells of their own, so that cells leak for all of them while one digital part
leaks for all; their tokens share the time.
Not modelled: the reference ladder, settling beyond one pole, coupling; reading the columns back, so that a
refresh of kind reread costs more than the lower bound given here, which is that of kind copy (see
gaincell.arrays.refresh); the digital copy's own energy; power gating.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from gaincell.arrays.refresh import Refresh
from gaincell.costs.cost import Cost, total
from gaincell.costs.digital import circuits
from gaincell.costs.head import UNQUANTISED, Head
from gaincell.errors import InputError
from gaincell.units import Ampere, Farad, Joule, Second, with_scale

GATES_PER_FLIP_FLOP = 5
"""Two-input gates that leak as a flip-flop does."""


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


def leakage(head: Head) -> Cost:
    """During a token period, of one query head: its share of the arrays and digital part of the group."""
    t = head.technology
    cells = head.streams * head.cells * t.supply * t.off_current * (t.cell_switches + t.cell_write)
    gates = sum(found.gates + GATES_PER_FLIP_FLOP * found.flip_flops for found in circuits(head).values())
    power = (cells + gates * t.gate_leakage) / head.group
    return Cost(energy=power * head.design.token_period / head.streams, power=power)


def held(head: Head) -> Second:
    """How long a token is needed: until its column is overwritten, or the model's own window gates it."""
    window = head.design.window
    return min(window, head.sliding_window or window) * head.design.token_period


def refresh_interval(head: Head) -> Second | None:
    """After what time a stored voltage may have drifted by half a level; None: never, as with two levels
    about where they decay to, or levels are not quantised.
    """
    d = head.design
    if d.tau is None or d.storage_levels is None:
        return None
    even = (d.v_max - d.v_min) / (d.storage_levels - 1)
    half = min((b - a for a, b in pairwise(d.levels.storage)), default=even) / 2
    target = d.v_offset + d.decay_target
    largest = max(d.v_max - target, target - d.v_min)
    return None if half >= largest * (1 - 1e-12) else -d.tau * math.log1p(-half / largest)


def needs_refresh(head: Head) -> bool:
    """Whether tokens drift by more than half a level while they are needed."""
    interval = refresh_interval(head)
    return interval is not None and held(head) > interval


def refresh(head: Head, interval: Second) -> Cost:
    """Rewriting the valid columns every `interval`, per token and query head.

    Energy: columns x a write x dt / interval. Latency: the columns' share of dt, during which nothing else
    happens, and of those of all sequences that take turns; the layers are refreshed at the same time.

    Raises:
        InputError: it takes longer than the time between two.
    """
    _check_time(head, interval)
    share = head.columns * head.design.token_period / interval
    return Cost(energy=share * write(head).energy / head.group, latency=share * head.slot * head.streams)


def _check_time(head: Head, interval: Second) -> None:
    if head.rewriting >= interval:
        raise InputError(
            f"a refresh every {interval:.3g} s is out of range: rewriting {head.streams * head.columns:.0f} "
            f"columns takes {head.rewriting:.3g} s; allowed: more than that (--refresh-seconds, "
            "--refresh-tokens), or fewer columns"
        )


def paced(head: Head, period: Second) -> Head:
    """The head where a token would follow another after `period` if there were no refreshes.

    Rewriting the columns takes t. A refresh every T seconds takes a share of the
    token period, dt = period / (1 - t / T); one every n tokens makes it dt = period + t / n.

    Raises:
        InputError: a refresh takes longer than the time between two.
    """
    policy = head.refresh
    if policy is not None and policy.every_seconds is not None:
        _check_time(head, policy.every_seconds)
        period /= 1 - head.rewriting / policy.every_seconds
    elif policy is not None and policy.every_tokens is not None:
        period += head.rewriting / policy.every_tokens
    return replace(head, design=head.design.supposed(token_period=period))


def without_pauses(head: Head) -> Second:
    """The token period less what refreshes take of it, s."""
    every = head.refresh_every
    return head.design.token_period - (refresh(head, every).latency if every is not None else 0.0)


def note(head: Head, heads: int) -> str | None:
    """What to say where tokens are held longer than the chip keeps them; None where nothing is to be said, or
    where columns are refreshed often enough. `heads` are those of all layers, whose refreshes are priced.
    """
    tau, interval = head.design.tau, refresh_interval(head)
    if tau is None or interval is None or not needs_refresh(head):
        return None
    if head.refresh_every is not None and head.refresh_every <= interval * (1 + 1e-9):
        return None
    digit = 10.0 ** (math.floor(math.log10(interval)) - 2)
    interval = math.floor(interval / digit) * digit  # as it is printed, so that it is enough
    if head.rewriting >= interval:
        remedy = "a refresh would take longer than that; choose a smaller window or a cell that holds longer"
    else:
        refreshed = replace(head, refresh=Refresh("copy", every_seconds=interval))
        cost = refresh(paced(refreshed, without_pauses(head)), interval)
        energy, time = with_scale(heads * cost.energy, "J"), with_scale(cost.latency, "s")
        remedy = (
            f"refreshing in time costs {energy} (all layers and heads) and {time} a token "
            f"(--refresh copy --refresh-seconds {interval:.3g})"
        )
    longer = held(head) > tau
    kept = f"a token is held for {with_scale(held(head), 's')}"
    kept += f", longer than the retention time of {with_scale(tau, 's')}" if longer else ""
    drifted = f"after {with_scale(interval, 's')} it may have drifted by half a storage level"
    return f"{'WARNING: ' if longer else ''}{kept}; {drifted}; {remedy}"
