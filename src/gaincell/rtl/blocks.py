"""The modules that a head is made of, one of each kind: placed many times by head.py.

A block takes the signals that it reads when it is made, and says which it drives, so that the same class is
elaborated in place by Amaranth's simulator and written once as a Verilog module that is instantiated.

Not modelled: synchronisers of the pulses that come from the analog converters, and so metastability.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import (
    Array,
    ClockSignal,
    Elaboratable,
    Fragment,
    Instance,
    Module,
    Mux,
    ResetSignal,
    Signal,
    Value,
    signed,
)

from gaincell.rtl.parameters import Parameters, bits_of


class Block:
    """One module, whose name in Verilog is `module` and whose output ports are `outputs`.

    Args:
        parameters: Of the head.
        **inputs: By port.
    """

    module: str

    def __init__(self, parameters: Parameters, **inputs: Any) -> None:
        self.parameters = parameters
        self.inputs = {name: Value.cast(value) for name, value in inputs.items()}
        self.outputs: dict[str, Signal] = {}
        self.build(parameters)

    def build(self, p: Parameters) -> None:
        """Make the outputs."""
        raise NotImplementedError

    def describe(self, m: Module) -> None:
        """Add what the block does to a module."""
        raise NotImplementedError

    def output(self, name: str, shape: Any) -> Signal:
        """A signal that the block drives."""
        self.outputs[name] = Signal(shape, name=name)
        return self.outputs[name]

    def alone(self) -> Alone:
        """The same module without its surroundings."""
        inputs = {name: Signal(value.shape(), name=name) for name, value in self.inputs.items()}
        return Alone(type(self)(self.parameters, **inputs))

    def instance(self) -> Instance:
        """The module where it is placed, as a name."""
        ports = [("i", name, value) for name, value in self.inputs.items()]
        ports += [("o", name, signal) for name, signal in self.outputs.items()]
        if self.clocked:
            ports += [("i", "clk", ClockSignal()), ("i", "rst", ResetSignal())]
        return Instance(self.module, *ports)

    @property
    def clocked(self) -> bool:
        """Whether there is a register in it."""
        return "sync" in Fragment.get(self.alone(), None).statements


class Alone(Elaboratable):
    """A block as a design of its own."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        self.block.describe(m)
        return m


class InputScaler(Block):
    """code = clamp((word gain + offset) >> F): a component of q, k or v becomes its code.

    The input `stored` says whether it is a key or value, whose code has other limits.
    """

    module = "input_scaler"

    def build(self, p: Parameters) -> None:
        self.code = self.output("code", signed(p.code_bits) if p.signed else p.code_bits)

    def describe(self, m: Module) -> None:
        p, i = self.parameters, self.inputs
        whole = Signal(signed(p.offset_bits + 1 - p.fraction_bits))
        m.d.comb += whole.eq((i["word"] * i["gain"] + i["offset"]) >> p.fraction_bits)
        query, stored = p.code_limits
        low, high = (Mux(i["stored"], stored[n], query[n]) for n in (0, 1))
        with m.If(whole < low):
            m.d.comb += self.code.eq(low)
        with m.Elif(whole > high):
            m.d.comb += self.code.eq(high)
        with m.Else():
            m.d.comb += self.code.eq(whole)


class CodeRegisters(Block):
    """The codes of one row: key, value and every query head's query, each taken when it is told."""

    module = "code_registers"

    def build(self, p: Parameters) -> None:
        self.key = self.output("key", p.storage_bits)
        self.value = self.output("value", p.storage_bits)
        self.queries = [self.output(f"query_{head}", p.query_bits) for head in range(p.group)]

    def describe(self, m: Module) -> None:
        i = self.inputs
        targets = [self.key, self.value, *self.queries]
        for take, register in zip(i["take"], targets, strict=True):
            with m.If(take):
                m.d.sync += register.eq(i["code"])


class PulseGenerator(Block):
    """The pulse of one row: high for as many periods as the code of the query head says.

    With the input `early` the next period belongs to a read, and is its period number `position`; `query`
    says whose code it is. Where queries have signs, `early_negative` says that it belongs to the half of the
    negative ones.
    """

    module = "pulse_generator"

    def build(self, p: Parameters) -> None:
        self.pulse = self.output("pulse", 1)

    def describe(self, m: Module) -> None:
        p, i = self.parameters, self.inputs
        code = Array([i["codes"].word_select(head, p.query_bits) for head in range(p.group)])[i["query"]]
        if not p.signed:
            m.d.sync += self.pulse.eq(i["early"] & (code > i["position"]))
            return
        width, turn = abs(code.as_signed()), code[-1] == i["early_negative"]
        m.d.sync += self.pulse.eq(i["early"] & turn & (width > i["position"]))


class PulseCounter(Block):
    """Counts the periods of a signed pulse, up or down by its sign: the code of a value bit line.

    The converter's pulse begins half a period after `enable` for the readout `counter`, with it for
    `counter-floor`; what is counted are the edges at which it is high.
    """

    module = "pulse_counter"

    def build(self, p: Parameters) -> None:
        self.count = self.output("count", signed(p.count_bits))

    def describe(self, m: Module) -> None:
        i = self.inputs
        with m.If(i["clear"]):
            m.d.sync += self.count.eq(0)
        with m.Elif(i["enable"] & i["pulse"]):
            m.d.sync += self.count.eq(self.count + Mux(i["negative"], -1, 1))


class AdderTree(Block):
    """Adds the counts of all sub-tiles of one output: two-input adders by pairs, a register after each."""

    module = "adder_tree"

    def build(self, p: Parameters) -> None:
        self.total = self.output("total", signed(p.sum_bits))

    def describe(self, m: Module) -> None:
        p, i = self.parameters, self.inputs
        level = [i["counts"].word_select(tile, p.count_bits).as_signed() for tile in range(p.tiles)]
        for depth in range(p.depth):
            pairs = [sum(level[n : n + 2]) for n in range(0, len(level), 2)]
            level = [
                Signal(signed(p.count_bits + depth + 1), name=f"sum_{depth}_{n}") for n in range(len(pairs))
            ]
            with m.If(i["enable"]):
                m.d.sync += [register.eq(pair) for register, pair in zip(level, pairs, strict=True)]
        m.d.comb += self.total.eq(level[0])


class OutputScaler(Block):
    """result = saturate((total gain + offset) >> F), taken when it is told."""

    module = "output_scaler"

    def build(self, p: Parameters) -> None:
        self.result = self.output("result", signed(p.sum_bits))

    def describe(self, m: Module) -> None:
        p, i = self.parameters, self.inputs
        whole = Signal(signed(p.sum_offset_bits + 2 - p.sum_bits))
        m.d.comb += whole.eq((i["total"] * i["gain"] + i["offset"]) >> (p.sum_bits - 1))
        limit = 1 << (p.sum_bits - 1)
        with m.If(i["take"]):
            with m.If(whole < -limit):
                m.d.sync += self.result.eq(-limit)
            with m.Elif(whole >= limit):
                m.d.sync += self.result.eq(limit - 1)
            with m.Else():
                m.d.sync += self.result.eq(whole)


class WriteAddressController(Block):
    """arrays.digital.WriteAddressController: a pointer, its decoder, a valid bit a column.

    The input `clear` forgets all tokens; it is not seen while a step is under way (busy), so that the column
    that is written stays selected. With `advance` the column at the pointer now holds a token.

    `select` is decoded from the pointer: it may glitch after the edge at which the pointer moves, which ends
    the value write.
    """

    module = "write_address_controller"

    def build(self, p: Parameters) -> None:
        self.pointer = self.output("pointer", max(1, bits_of(p.columns)))
        self.select = self.output("select", p.columns)
        self.valid = self.output("valid", p.columns)

    def describe(self, m: Module) -> None:
        p, i = self.parameters, self.inputs
        m.d.comb += self.select.eq(1 << self.pointer)
        with m.If(i["clear"] & ~i["busy"]):
            m.d.sync += [self.pointer.eq(0), self.valid.eq(0)]
        with m.Elif(i["advance"]):
            m.d.sync += self.valid.eq(self.valid | self.select)
            m.d.sync += self.pointer.eq(Mux(self.pointer == p.columns - 1, 0, self.pointer + 1))


class ScaleRegisters(Block):
    """Gains and offsets: loaded one by one, read by the stage at work.

    Addresses: gain and offset of keys, of values, of each query head's queries, of each query head's output.
    The input `turn` says which word comes in (0 keys, 1 values, then queries), `head` whose output is scaled.
    """

    module = "scale_registers"

    def build(self, p: Parameters) -> None:
        self.gain = self.output("gain", p.gain_bits)
        self.offset = self.output("offset", signed(p.offset_bits))
        self.sum_gain = self.output("sum_gain", p.sum_bits)
        self.sum_offset = self.output("sum_offset", signed(p.sum_offset_bits))

    def describe(self, m: Module) -> None:
        p, i = self.parameters, self.inputs
        stages = (
            ((self.gain, self.offset), 2 + p.group, i["turn"]),
            ((self.sum_gain, self.sum_offset), p.group, i["head"]),
        )
        registers = [
            [[Signal.like(one, name=f"{one.name}_{n}") for one in read] for n in range(count)]
            for read, count, _ in stages
        ]
        with m.If(i["load"]), m.Switch(i["address"]):
            for address, register in enumerate(r for pairs in registers for pair in pairs for r in pair):
                with m.Case(address):
                    m.d.sync += register.eq(i["number"])
        for pairs, (read, _, index) in zip(registers, stages, strict=True):
            for place, signal in enumerate(read):
                m.d.comb += signal.eq(Array([pair[place] for pair in pairs])[index])
