"""A generated head through tokens, period by period, between words that come in and a model of the arrays.

The words are random with corners at the ends of their ranges, or those of codes that a chip was seen to use.

A `Stimulus` is what whoever clocks the head needs: Amaranth's simulator here, a Verilog simulator through
cocotb, or a testbench of recorded vectors. In every period it is shown the head's outputs, and says its
inputs at the edge that ends the period.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from amaranth.hdl import Cat, Signal
from amaranth.sim import Simulator
from torch import Tensor

from gaincell.errors import InputError
from gaincell.progress import Progress, silent
from gaincell.rtl.analog import AnalogArrays, packed
from gaincell.rtl.fixed_point import Scales, Stage, output_stage, query_stage, scaled, storage_stage, words
from gaincell.rtl.head import Head
from gaincell.rtl.parameters import Parameters

Wires = dict[str, int]
PULSES = ("pulse", "negative")
"""Inputs that the arrays drive."""
CORNERS = 8
"""Tokens at the end of a run that consist of extreme words and of zeros."""


@dataclass(frozen=True)
class Words:
    """What comes in, whole numbers of word_bits.

    Attributes:
        query: [T, g, D].
        key: [T, D].
        value: [T, D].
    """

    query: Tensor
    key: Tensor
    value: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(words.shape) for words in (self.query, self.key, self.value)]
        if self.query.shape[0] < 1 or not self.query[:, 0].shape == self.key.shape == self.value.shape:
            raise InputError(f"words of shapes {shapes}; give [T, g, D] and twice [T, D], T 1 or more")

    def __len__(self) -> int:
        return len(self.key)


def random_scales(parameters: Parameters, seed: int) -> Scales:
    """Gains from 0.7 to 1.4, with offsets about those of the released code, of every query head its own."""
    p, random = parameters, torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=random))

    middle = p.design.v_offset
    return Scales(
        storage_stage(p, "k", draw(0.7, 1.4), draw(middle - 0.05, middle + 0.05)),
        storage_stage(p, "v", draw(0.7, 1.4), draw(middle - 0.05, middle + 0.05)),
        tuple(query_stage(p, draw(0.7, 1.4), draw(-0.1, 0.1)) for _ in range(p.group)),
        tuple(output_stage(p, draw(0.7, 1.4), draw(-0.1, 0.1)) for _ in range(p.group)),
    )


def random_words(parameters: Parameters, scales: Scales, tokens: int, seed: int) -> Words:
    """Signals whose scores lie about zero, then corners: all lowest, all highest, all zero, mixed."""
    p, random = parameters, torch.Generator().manual_seed(seed)
    span = p.design.v_max - p.design.v_min
    q = torch.randn(tokens, p.group, p.rows, generator=random) * 0.4 + 0.15
    k = torch.randn(tokens, p.rows, generator=random) * span / 6
    v = torch.randn(tokens, p.rows, generator=random) * span / 3
    query = torch.stack([words(q[:, h], stage, p.word_bits) for h, stage in enumerate(scales.queries)], 1)
    found = Words(query, words(k, scales.key, p.word_bits), words(v, scales.value, p.word_bits))
    lowest, highest = -(2 ** (p.word_bits - 1)), 2 ** (p.word_bits - 1) - 1
    for n, token in enumerate(range(max(0, tokens - CORNERS), tokens)):
        ends = torch.tensor([lowest, highest, 0])
        for m, of in enumerate((found.query, found.key, found.value)):
            mixed = ends[torch.randint(3, of[token].shape, generator=random)]
            of[token] = mixed if n >= 3 else ends[(n + m) % 3]
    return found


def words_of_codes(query: Tensor, key: Tensor, value: Tensor, scales: Scales, p: Parameters) -> Words:
    """Words whose codes are given: of those that a stage makes a code of, the one in the middle.

    Args:
        query: [T, g, D] codes that a chip was seen to use.
        key: [T, D] codes, likewise.
        value: [T, D] codes, likewise.
        scales: Of the stages.
        p: What the head is generated from.

    Raises:
        InputError: no word of a stage gives one of the codes.
    """
    limits = p.code_limits
    queries = [_words_of(query[:, h], stage, limits[0], p) for h, stage in enumerate(scales.queries)]
    stored = [
        _words_of(codes, stage, limits[1], p) for codes, stage in ((key, scales.key), (value, scales.value))
    ]
    return Words(torch.stack(queries, 1), *stored)


def _words_of(codes: Tensor, stage: Stage, limits: tuple[int, int], p: Parameters) -> Tensor:
    limit = 2 ** (p.word_bits - 1)
    every = torch.arange(-limit, limit)
    given = torch.floor(scaled(every, stage, p)).long().clamp(*limits)
    low, high = limits
    table = torch.zeros(high - low + 1, dtype=torch.int64)
    for code in codes.unique().tolist():
        found = every[given == code]
        if not len(found):
            raise InputError(f"no word of {p.word_bits} bits gives the code {code}; give more guard bits")
        table[code - low] = found[len(found) // 2]
    return table[codes.long() - low]


@dataclass
class Record:
    """What was seen.

    Attributes:
        inputs: Of every period, by port.
        outputs: Of every period, by port.
        starts: Periods in which a token began.
    """

    inputs: list[Wires] = field(default_factory=list)
    outputs: list[Wires] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def first(self, tokens: int) -> Record:
        """The first so many tokens, and what was loaded before them."""
        end = self.starts[tokens] if tokens < len(self.starts) else len(self.inputs)
        return Record(self.inputs[:end], self.outputs[:end], self.starts[:tokens])


@dataclass(frozen=True)
class Comparison:
    """Of one quantity.

    Attributes:
        compared: How many.
        different: How many were not as expected.
        first: The first of those.
    """

    name: str
    compared: int
    different: int
    first: tuple[str, ...] = ()


@dataclass(eq=False, repr=False)
class Stimulus:
    """Gains and offsets, loaded one by one, then the tokens.

    Attributes:
        pauses: Idle periods before each token; none where it is empty.
        clears: Tokens before which all others are forgotten, in an idle period.
    """

    parameters: Parameters
    scales: Scales
    words: Words
    pauses: Sequence[int] = ()
    clears: Collection[int] = (0,)
    record: Record = field(default_factory=Record, init=False)

    def __post_init__(self) -> None:
        self.arrays = AnalogArrays(self.parameters)

    def periods(self) -> Iterator[Wires]:
        """Inputs of every period but the pulses: give the outputs seen with them to `answer`."""
        p = self.parameters
        idle = dict.fromkeys(("start", "clear", "word", "load", "address", "number"), 0)
        for address, number in enumerate(self.scales.loads):
            yield idle | {"load": 1, "address": address, "number": number}
        for token, pause in enumerate(self.pauses or [0] * len(self.words)):
            yield from [idle] * pause
            if token in self.clears:
                yield idle | {"clear": 1}
            self.arrays.now = token * p.design.token_period
            self.record.starts.append(len(self.record.inputs))
            turns = [self.words.key[token], self.words.value[token], *self.words.query[token]]
            for period in range(p.step_cycles):
                word = packed(turns[period].tolist(), [p.word_bits] * p.rows) if period < len(turns) else 0
                yield idle | {"start": int(period == 0), "word": word}
        yield idle

    def answer(self, inputs: Wires, outputs: Wires) -> Wires:
        """The inputs with the pulses, having seen the outputs of the period."""
        pulse, negative = self.arrays.respond(outputs)
        inputs = inputs | {"pulse": pulse, "negative": negative}
        self.record.inputs.append(inputs)
        self.record.outputs.append(outputs)
        return inputs


def simulate(run: Stimulus, progress: Progress = silent) -> Record:
    """A run in Amaranth's simulator.

    Args:
        run: What goes in.
        progress: Called as its tokens pass.
    """
    head = Head(run.parameters)
    simulator = Simulator(head)
    simulator.add_clock(1 / run.parameters.design.counter_clock)

    script = {name: signal for name, signal in head.inputs.items() if name not in PULSES}
    pulses = {name: head.inputs[name] for name in PULSES}

    async def bench(context: Any) -> None:
        for inputs in run.periods():
            _set(context, script, inputs)
            outputs = {name: context.get(signal) for name, signal in head.outputs.items()}
            _set(context, pulses, run.answer(inputs, outputs))
            if inputs["start"]:
                progress(len(run.record.starts), len(run.words), {})
            await context.tick()

    simulator.add_testbench(bench)
    simulator.run()
    return run.record


def _set(context: Any, signals: Mapping[str, Signal], wires: Wires) -> None:
    """All at once: the simulator settles after every assignment."""
    widths = [len(signal) for signal in signals.values()]
    context.set(Cat(*signals.values()), packed([wires[name] for name in signals], widths))
