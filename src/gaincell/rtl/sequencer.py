"""The read and write sequencer: what acts in which clock period of a step, as the schedule says.

A counter of periods, 0 while idle, and a register for everything that acts, set and cleared at the edges
where its windows begin and end: windows of analog switches come from registers and have no glitches.
(`select` is decoded: see blocks.WriteAddressController.)

    discharge, write   the halves of "key write" and of "value write", of each array
    key_read           "key read"; `early` and `position` are one period ahead, for the pulse generators
    key_negative       second half of a signed read: integrators reversed; `early_negative` a period ahead
    value_read         "value read"
    clear_counts       the last period of "value read"
    count, add         "count", "add"
    take_result        "scale output"; result_valid is high in the period after it
    advance            the last period of "value write": the column becomes valid, the pointer moves on

Words come in by turns, from the period of `start` on: keys, values, every query head's queries. Their codes
are taken at the end of their period.
"""

from __future__ import annotations

from collections import defaultdict

from amaranth.hdl import Module

from gaincell.rtl.blocks import Block
from gaincell.rtl.parameters import Parameters, bits_of

PHASES = {
    "key_read": "key read",
    "value_read": "value read",
    "count": "count",
    "add": "add",
    "take_result": "scale output",
}
"""Registers that are set during a phase of the schedule."""
Edges = dict[int, dict[str, int]]
"""What registers become at an edge, by the number of the period that begins there."""


class Sequencer(Block):
    """See the head of this file. start: begin a step; it is not seen while one is under way."""

    module = "sequencer"

    def build(self, p: Parameters) -> None:
        head = max(1, (p.group - 1).bit_length())
        self.period = self.output("period", p.step_cycles.bit_length())
        self.take = self.output("take", 2 + p.group)
        self.turn = self.output("turn", (1 + p.group).bit_length())
        self.advance = self.output("advance", 1)
        self.registers = {
            name: self.output(name, 1)
            for name in (
                *("discharge_key", "write_key", "discharge_value", "write_value", "early", "key_read"),
                *("value_read", "clear_counts", "count", "add", "take_result", "result_valid"),
                *(("early_negative", "key_negative") if p.signed else ()),
            )
        } | {name: self.output(name, head) for name in ("query", "result_head")}
        self.registers["position"] = self.output("position", bits_of(p.query_levels))

    def describe(self, m: Module) -> None:
        p = self.parameters
        last = p.step_cycles - 1
        begins = self.inputs["start"] & (self.period == 0)
        with m.If(self.period == last):
            m.d.sync += self.period.eq(0)
        with m.Elif(begins | (self.period != 0)):
            m.d.sync += self.period.eq(self.period + 1)
        m.d.sync += self.registers["position"].eq(self.registers["position"] + 1)
        (value_write,) = p.of_phase("value write")
        m.d.comb += [
            self.take[0].eq(begins),
            *(self.take[turn].eq(self.period == turn) for turn in range(1, 2 + p.group)),
            self.advance.eq(self.period == value_write.end - 1),
        ]
        with m.If(self.period < 2 + p.group):
            m.d.comb += self.turn.eq(self.period)
        m.d.sync += self.registers["result_valid"].eq(0)
        with m.Switch(self.period):
            for edge, changes in sorted(edges(p).items()):
                with m.Case(edge - 1), m.If(begins | (edge > 1)):
                    m.d.sync += [self.registers[name].eq(value) for name, value in changes.items()]


def windows(p: Parameters) -> dict[str, list[tuple[int, int]]]:
    """Periods during which each register is set, first included, last not."""
    found: dict[str, list[tuple[int, int]]] = {}
    for array in ("key", "value"):
        (write,) = p.of_phase(f"{array} write")
        middle = write.start + (write.end - write.start) // 2
        found[f"discharge_{array}"] = [(write.start, middle)]
        found[f"write_{array}"] = [(middle, write.end)]
    keys, reads = p.of_phase("key read"), p.of_phase("value read")
    found["early"] = [(read.start - 1, read.end - 1) for read in keys]
    if p.signed:
        found["key_negative"] = [(read.start + p.pulse_cycles, read.end) for read in keys]
        found["early_negative"] = [(start - 1, end - 1) for start, end in found["key_negative"]]
    found["clear_counts"] = [(read.end - 1, read.end) for read in reads]
    for name, phase in PHASES.items():
        found[name] = [
            (window.start, window.end) for window in p.of_phase(phase) if window.end > window.start
        ]
    return found


def edges(p: Parameters) -> Edges:
    """The program of the sequencer."""
    found: Edges = defaultdict(dict)
    for name, spans in windows(p).items():
        for _, end in spans:
            found[end][name] = 0
        for start, _ in spans:
            found[start][name] = 1
    for read in p.of_phase("key read"):
        found[read.start - 1] |= {"position": 0, "query": read.query}
        if p.signed:
            found[read.start - 1 + p.pulse_cycles]["position"] = 0
    for result in p.of_phase("scale output"):
        found[result.start]["result_head"] = result.query
        found[result.end]["result_valid"] = 1
    return found
