"""Energy of the digital part, per query, and the gates and flip-flops that it is made of.

    scaling         equation (3): a multiply-add a component of q, k, v and of the output (see below)
    division        of every component by the sum of a normalising column, where there is one, or of all but
                    the last by the last (nn/array_normaliser.py)
    column gains    a (n / 1024)^g of q and of the output, where they follow the n columns read (see below)
    turning         of q and k by a Walsh-Hadamard matrix, and the row that balances a key, where rows are
                    balanced (see below)
    code registers  words that come in and codes that are driven and written: captured once
    query pulses    D generators of b-bit codes against a counter: b flip-flops clocked (L - 1) times
    counters        D a sub-tile, of b + 1 flip-flops, clocked while the pulse lasts; a count changes 2 bits;
                    cleared once
    adder tree      D adders of as many inputs as there are sub-tiles, by pairs: at level l, bits + l each
    adder registers the result of every adder of every level, which the schedule gives a clock period each
    write pointer   a counter of log2 M bits, 2 of which change, their wires to the decoders, a valid bit
    control         gates of a sequencer per sub-tile, at an activity, through the step
    clock           one wire over the head's edge and one along each sub-tile, in every period of the step
    routing         wires over half the head: codes in and out, and pulses to all sub-tiles

Random data: C VDD^2 / 4 a bit; a captured bit is clocked once besides. The head's edge is that of a square of
its area.

Scaling. D multiply-adders take k, q and v by turns, D more the sums; keys and values are scaled once for the
g query heads of a group, so that a query takes D (1 + 2 / g + 1) multiply-adds. Multiplying m by n bits takes
m n bits of adders, adding the offset m + n more: with the bit of technologies/28nm.toml that is the 0.2 pJ of
8 bits and 3.1 pJ of 32 bits at 45 nm (M. Horowitz, ISSCC 2014, as commonly quoted). Widths, of value and gain
alike:

    q, k, v   bits of the code + guard bits: one, because what the clamp keeps may lie on either side of zero;
              one, because full scale is a power of two; two below a level. A value is then rounded to a
              quarter of a level at most, which adds 1/16 to the variance of the converter's own rounding.
    output    bits of the sum: a gain as fine rounds by less than the sum's last bit. The product is rounded
              to as many.

A clamp is a gate a bit of the code; the round is half a level in the offset. Gains and offsets stand in
registers that do not switch. A division takes as many subtractions as the sum has bits, all by one divider.
Rows of a pair (paired rows) are counted as two, though one product would do for both.

Column gains. a (n / 1024)^g = 2^(log2 a + g log2(n / 1024)), twice a query: log2 n comes from a table, is
multiplied by g and added to log2 a, and a table of powers gives the gain, which multiplies as any other. Each
table has 64 words, as wide as the output's, behind trees of multiplexers: the gain is right to about 1 % for
|g| up to 0.6. n is known before the token comes, so it takes no time. (A full ring always reads M columns and
needs none of it; it is counted all the same.)

Balanced rows (nn/balanced_rows.py). P and R take 2 D multiply-adds for every direction, by words and entries
as wide as those of the scaling; a fast Walsh-Hadamard transform then adds D log2 D times, words that grow by
a bit at every level. A key, once for the group, looks up D - 1 charges in a table with a word for every level
of the write DAC, adds them, multiplies the sum by a and adds b, and compares what is wanted with the L - 1
middles between charges.
Not modelled: see notes.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gaincell.costs.cost import Cost, total
from gaincell.costs.head import Head
from gaincell.costs.system_costs import movement
from gaincell.units import Joule, Metre, SquareMetre

INPUTS, OUTPUTS = "input scaling", "output scaling"
"""Blocks of circuits: the one lies where values come in, the other beside the adders."""
MULTIPLY_ADD = "multiply-add"
"""Unit of the operations of equation (3)."""
TABLE_WORDS = 64
"""Of each of both tables behind a gain that follows the columns read."""
GATES_PER_MULTIPLEXER = 3
"""Two-input gates that choose one of two bits."""
GATES_PER_ADDER_BIT = 5
"""Two-input gates of a full adder: two XOR, two AND, one OR."""


@dataclass(frozen=True)
class Operations:
    """What a query does so many times, maybe on average, and the energy of each."""

    count: float
    unit: str
    each: Joule


@dataclass(frozen=True)
class Circuit:
    """What a block of a key/value head is made of: two-input gates and flip-flops."""

    gates: int
    flip_flops: int


def digital(head: Head, area: SquareMetre) -> Cost:
    """One query's digital part; the area of the head gives the length of its wires."""
    edge = math.sqrt(area)
    counted = {name: Cost(energy=found.count * found.each) for name, found in operations(head, edge).items()}
    return total(counted | {"routing": Cost(energy=_routing(head, edge))})


def operations(head: Head, edge: Metre) -> dict[str, Operations]:
    """Everything but the routing, counted one by one, by part; wires are as long as the head's edge."""
    t, dim, group = head.technology, head.head_dim, head.group
    output = head.sum_bits(head.active_tiles)
    words = head.query_word + head.query_bits + 2 * (head.storage_word + head.storage_bits) / group
    found = {
        "scaling of q": Operations(dim, MULTIPLY_ADD, _scaled(head, head.query_word, head.query_bits)),
        "scaling of k, v": Operations(
            2 * dim / group, MULTIPLY_ADD, _scaled(head, head.storage_word, head.storage_bits)
        ),
        "scaling of the output": Operations(dim, MULTIPLY_ADD, _scaled(head, output)),
        "code registers": Operations(dim * words, "bit", captured(head)),
        "query pulses": Operations(dim, "pulse", _query_pulse(head)),
        "counters": Operations(head.output_lines, "counter", _counter(head)),
        "adder tree": Operations(_active(adder_bits, head), "bit", t.adder_bit),
        "adder registers": Operations(_active(register_bits, head), "bit", captured(head)),
        "write pointer": Operations(1 / group, "write", _write_pointer(head, edge)),
        "control": Operations(head.cycles, "clock period", _control(head)),
        "clock": Operations(head.cycles, "clock period", _clock(head, edge)),
    }
    if head.divisions:
        found["division"] = Operations(head.divisions, "division", output**2 * t.adder_bit)
    if head.column_gains:
        read = output * (math.log2(TABLE_WORDS) * t.data(t.gate_switching) + captured(head))
        each = multiply_add_bits(output) * t.adder_bit + 2 * read
        found["column gains"] = Operations(2, "gain", each)
    if head.balanced_rows:
        found |= _balance(head)
    return found


def _balance(head: Head) -> dict[str, Operations]:
    """What balanced rows ask of the digital block."""
    t, dim, group, word = head.technology, head.head_dim, head.group, head.storage_word
    levels = head.design.storage_levels or 2**head.storage_bits
    depth = math.log2(dim)
    grown = (depth - 1) / 2  # bits, on average over the levels

    def turned(bits: int) -> Joule:
        products = 2 * head.balanced_rows * dim * multiply_add_bits(bits)
        return (products + dim * depth * (bits + grown)) * t.adder_bit

    read = word * head.storage_bits * t.data(t.gate_switching)
    looked_up = Operations((dim - 1) / group, "charge", read + (word + depth) * t.adder_bit)
    found = (multiply_add_bits(word) + (levels - 1) * word) * t.adder_bit
    return {
        "turning of q": Operations(1, "query", turned(head.query_word)),
        "turning of k": Operations(1 / group, "key", turned(word)),
        "sum of a key's charges": looked_up,
        "row that balances": Operations(1 / group, "key", found),
    }


def float_surplus(head: Head) -> Joule:
    """What the scaling stages of a query would take more as multiply-adds of 16-bit floats."""
    t, moved = head.technology, movement()
    each = (moved.multiply + moved.add) * t.adder_bit / t.adder_energy
    scaled = [found for found in operations(head, 0.0).values() if found.unit == MULTIPLY_ADD]
    return sum(found.count * (each - found.each) for found in scaled)


def circuits(head: Head) -> dict[str, Circuit]:
    """Gates and flip-flops by block, of a key/value head with all its sub-tiles, in use or not."""
    t, d, dim = head.technology, head.design, head.head_dim
    output, query, stored = head.sum_bits(d.tiles), head.query_word, head.storage_word
    divider = output**2 if head.divisions else 0
    tables = 2 * output * (TABLE_WORDS - 1) * GATES_PER_MULTIPLEXER
    power = GATES_PER_ADDER_BIT * multiply_add_bits(output) + tables if head.column_gains else 0
    exponents = 2 * (head.group + 1) * output if head.column_gains else 0
    balance = _balance_gates(head) if head.balanced_rows else 0
    factors = 2 * head.balanced_rows * dim * (head.group * query + stored)
    values = dim * (query + 2 * stored) + 2 * (head.group * query + 2 * stored) + factors
    codes = head.rows * (head.query_bits + 2 * head.storage_bits)
    return {
        "counters": Circuit(0, d.tiles * head.rows * head.output_bits),
        "adder tree": Circuit(GATES_PER_ADDER_BIT * adder_bits(head, d.tiles), register_bits(head, d.tiles)),
        INPUTS: Circuit(GATES_PER_ADDER_BIT * dim * multiply_add_bits(max(query, stored)) + balance, values),
        OUTPUTS: Circuit(
            GATES_PER_ADDER_BIT * (dim * multiply_add_bits(output) + divider) + power,
            2 * head.group * output + exponents,
        ),
        "digital control": Circuit(
            d.tiles * t.control_gates + 2 * d.window, codes + d.window + _pointer_bits(head)
        ),
    }


def _balance_gates(head: Head) -> int:
    """Of what turns q and k by turns, adds a key's charges and finds the last row's code."""
    word, dim = head.storage_word, head.head_dim
    levels = head.design.storage_levels or 2**head.storage_bits
    wide = max(head.query_word, word) + round(math.log2(dim))
    adders = dim * multiply_add_bits(max(head.query_word, word)) + 2 * dim * wide
    adders += multiply_add_bits(word) + (levels - 1) * word
    return GATES_PER_ADDER_BIT * adders + GATES_PER_MULTIPLEXER * dim * (levels - 1) * word


def multiply_add_bits(bits: int) -> int:
    """Bits of adders that multiply a value by a gain as wide and add an offset to the product."""
    return bits * bits + 2 * bits


def adder_bits(head: Head, inputs: int) -> int:
    """Bits of all adders of all trees: floor(n / 2) adders of bits + level at every level."""
    return _trees(head) * sum(pairs * bits for pairs, _, bits in _levels(head, inputs))


def register_bits(head: Head, inputs: int) -> int:
    """Bits of the registers after every level of all trees: ceil(n / 2) words, a carry wider."""
    return _trees(head) * sum(words * (bits + 1) for _, words, bits in _levels(head, inputs))


def _active(bits: Callable[[Head, int], int], head: Head) -> float:
    """Such bits of the active sub-tiles; where their number is a mean, the mean over the two that it lies
    between.
    """
    few, more = math.floor(head.active_tiles), math.ceil(head.active_tiles)
    return bits(head, few) + (head.active_tiles - few) * (bits(head, more) - bits(head, few))


def captured(head: Head) -> Joule:
    """A bit of random data that a flip-flop takes."""
    t = head.technology
    return t.switched(t.flip_flop_clock) + t.data(t.flip_flop_data)


def _scaled(head: Head, bits: int, code_bits: int = 0) -> Joule:
    """A value of so many bits scaled, and clamped where a code follows."""
    t = head.technology
    return multiply_add_bits(bits) * t.adder_bit + code_bits * t.data(t.gate_switching)


def _trees(head: Head) -> int:
    """One a component, and one for the sum of a normalising column."""
    return head.head_dim + head.design.normaliser.present


def _levels(head: Head, inputs: int) -> list[tuple[int, int, int]]:
    """Adders, words that leave, bits of an adder, of every level of a tree."""
    found, bits = [], head.output_bits
    while inputs > 1:
        found.append((inputs // 2, (inputs + 1) // 2, bits))
        inputs, bits = (inputs + 1) // 2, bits + 1
    return found


def _counter(head: Head) -> Joule:
    t = head.technology
    counts = head.activity.output_pulse * (head.design.counter_levels - 1)
    a_count = head.output_bits * t.switched(t.flip_flop_clock) + 2 * t.switched(t.flip_flop_data) / 2
    return counts * a_count + head.output_bits * captured(head)


def _query_pulse(head: Head) -> Joule:
    t, d = head.technology, head.design
    steps = ((d.query_levels or 2**8) - 1) * d.drivers.phases
    return steps * head.query_bits * t.switched(t.flip_flop_clock + t.gate_switching)


def _pointer_bits(head: Head) -> int:
    return (head.design.window - 1).bit_length()


def _write_pointer(head: Head, edge: Metre) -> Joule:
    t = head.technology
    wires = 2 * t.switched(edge / 2 * t.wire_capacitance * (1 + t.driver_overhead)) / 2
    count = _pointer_bits(head) * t.switched(t.flip_flop_clock) + 2 * t.switched(t.flip_flop_data) / 2
    valid = t.switched(t.flip_flop_clock + t.flip_flop_data)
    return count + wires + 4 * t.switched(t.gate_switching) / 2 + valid


def _control(head: Head) -> Joule:
    t = head.technology
    gates = head.active_tiles * t.control_gates
    return gates * t.control_activity * t.switched(t.gate_switching) / 2


def _clock(head: Head, edge: Metre) -> Joule:
    t = head.technology
    length = edge + head.active_tiles * head.rows * t.pitch
    return t.switched(length * t.wire_capacitance * (1 + t.driver_overhead))


def _routing(head: Head, edge: Metre) -> Joule:
    t, a = head.technology, head.activity
    wire = edge * t.wire_capacitance * (1 + t.driver_overhead)
    codes_in = head.head_dim * (head.query_bits + 2 * head.storage_bits / head.group)
    codes_out = head.output_lines * head.output_bits
    result = head.head_dim * head.sum_bits(head.active_tiles)
    pulses = head.head_dim * a.query_active * t.switched(wire)
    return pulses + (codes_in + codes_out + result) * t.data(wire / 2)
