"""The digital half of a head: blocks, the sequencer, and the wires between them and to the analog arrays.

    q, k, v words -> input scalers -> code registers -> DACs, pulse generators -> [arrays]
                  -> pulse counters -> adder trees -> output scalers -> results

Beside them the write address controller, the sequencer and the registers of gains and offsets. One clock, the
pulse clock; one reset, synchronous.
Not modelled: clock tree, test logic, the converters' own control beyond the windows of the sequencer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from amaranth.hdl import Cat, Elaboratable, Module, Signal, signed

from gaincell.rtl.blocks import (
    AdderTree,
    Block,
    CodeRegisters,
    InputScaler,
    OutputScaler,
    PulseCounter,
    PulseGenerator,
    ScaleRegisters,
    WriteAddressController,
)
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.sequencer import Sequencer


class Head(Elaboratable):
    """The top module.

    Its ports are in `inputs`: start, word (components side by side), clear; load, address, number: gains and
    offsets one by one; pulse, negative: of the value bit lines, sub-tile by sub-tile. `outputs` has what the
    arrays and whoever uses the head see.

    Args:
        parameters: Sizes.
        instances: Whether blocks are placed by name, for Verilog with one module a kind; otherwise they are
            elaborated in place.
    """

    module = "gaincell_head"

    def __init__(self, parameters: Parameters, *, instances: bool = False) -> None:
        p = self.parameters = parameters
        self.instances = instances
        self.inputs = self._ports()
        i = self.inputs
        self.sequencer = s = Sequencer(p, start=i["start"])
        r = s.registers
        self.controller = WriteAddressController(p, clear=i["clear"], busy=s.period != 0, advance=s.advance)
        self.scales = scales = ScaleRegisters(
            p, load=i["load"], address=i["address"], number=i["number"], turn=s.turn, head=r["result_head"]
        )
        words = [i["word"].word_select(row, p.word_bits).as_signed() for row in range(p.rows)]
        self.scalers = [
            InputScaler(p, word=word, gain=scales.gain, offset=scales.offset, stored=s.turn < 2)
            for word in words
        ]
        self.codes = [CodeRegisters(p, code=scaler.code, take=s.take) for scaler in self.scalers]
        early = {name: r[name] for name in ("early", "early_negative") if name in r}
        self.generators = [
            PulseGenerator(p, codes=Cat(*codes.queries), position=r["position"], query=r["query"], **early)
            for codes in self.codes
        ]
        self.counters = [
            PulseCounter(p, clear=r["clear_counts"], enable=r["count"], pulse=pulse, negative=negative)
            for pulse, negative in zip(i["pulse"], i["negative"], strict=True)
        ]
        self.trees = [
            AdderTree(p, enable=r["add"], counts=Cat(*(c.count for c in self.counters[row :: p.rows])))
            for row in range(p.rows)
        ]
        gain, offset, take = scales.sum_gain, scales.sum_offset, r["take_result"]
        self.results = [
            OutputScaler(p, total=tree.total, gain=gain, offset=offset, take=take) for tree in self.trees
        ]
        self._driven = self._driven_by(r)
        self.outputs = {name: Signal(len(value), name=name) for name, value in self._driven.items()}

    def _ports(self) -> dict[str, Signal]:
        """What comes in, by name."""
        p = self.parameters
        lines = p.tiles * p.rows
        shapes = {
            "start": 1,
            "clear": 1,
            "word": p.rows * p.word_bits,
            "load": 1,
            "address": (3 + 4 * p.group).bit_length(),
            "number": signed(max(p.offset_bits, p.sum_offset_bits)),
            "pulse": lines,
            "negative": lines,
        }
        return {name: Signal(shape, name=name) for name, shape in shapes.items()}

    def _driven_by(self, r: Mapping[str, Any]) -> dict[str, Any]:
        """What drives every output, from the registers `r` of the sequencer."""
        controls = ("discharge_key", "write_key", "discharge_value", "write_value", "key_read", "value_read")
        return {
            "busy": self.sequencer.period != 0,
            "select": self.controller.select,
            "valid": self.controller.valid,
            **{name: r[name] for name in (*controls, "key_negative") if name in r},
            "key_code": Cat(*(codes.key for codes in self.codes)),
            "value_code": Cat(*(codes.value for codes in self.codes)),
            "query_pulse": Cat(*(generator.pulse for generator in self.generators)),
            "count": r["count"],
            "result_valid": r["result_valid"],
            "result_head": r["result_head"],
            "total": Cat(*(tree.total for tree in self.trees)),
            "result": Cat(*(result.result for result in self.results)),
        }

    @property
    def blocks(self) -> dict[str, Sequence[Block]]:
        """Everything that is placed, by kind."""
        kinds: tuple[Sequence[Block], ...] = (
            *([self.sequencer], [self.controller], [self.scales], self.scalers, self.codes),
            *(self.generators, self.counters, self.trees, self.results),
        )
        return {kind[0].module: kind for kind in kinds}

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for module, placed in self.blocks.items():
            if self.instances:
                for n, block in enumerate(placed):
                    m.submodules[f"{module}_{n}" if len(placed) > 1 else module] = block.instance()
                continue
            bank = m.submodules[module] = Module()
            for block in placed:
                block.describe(bank)
        for name, value in self._driven.items():
            m.d.comb += self.outputs[name].eq(value)
        return m
