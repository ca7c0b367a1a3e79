"""The generated head against the golden reference: blocks, whole heads, deliberate faults, refusals."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import pytest
import torch
from tests.rtl.heads import AMARANTH
from tests.tiers import nightly, slow

from gaincell.arrays import Schedule, digital
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.circuits import dac_code, query_code
from gaincell.circuits.pwm import Drivers
from gaincell.errors import DesignError, InputError

pytest.importorskip("amaranth", reason=AMARANTH)

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.sim import Simulator

from gaincell.rtl import fixed_point
from gaincell.rtl.blocks import AdderTree, Block, InputScaler, PulseCounter, WriteAddressController
from gaincell.rtl.equivalence import compare
from gaincell.rtl.fixed_point import Stage, output_stage, query_stage, storage_stage
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Comparison, Stimulus, random_scales, random_words, simulate

PAPER = load_design("leroux2025")
SMALL = PAPER.replace(tile=8, window=24)
DEEP = PAPER.replace(query_levels=4, counter_levels=4, t_pulse_max=3e-9, window=8192)


def play(block: Block, inputs: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """A block by itself: its outputs with each of some inputs, an edge after each."""
    alone, seen = block.alone(), []
    simulator = Simulator(alone)
    if block.clocked:
        simulator.add_clock(1e-9)

    async def bench(context: Any) -> None:
        for one in inputs:
            for name, number in one.items():
                context.set(alone.block.inputs[name], number)
            seen.append({name: context.get(signal) for name, signal in alone.block.outputs.items()})
            if block.clocked:
                await context.tick()

    simulator.add_testbench(bench)
    simulator.run()
    return seen


def equivalence(
    design: Design = SMALL, tokens: int = 40, rows: int = 8, group: int = 1, seed: int = 0
) -> list[Comparison]:
    parameters = Parameters(design, rows, group)
    scales = random_scales(parameters, seed)
    words = random_words(parameters, scales, tokens, seed)
    run = Stimulus(parameters, scales, words, [token % 3 for token in range(tokens)], clears=(0, tokens - 3))
    simulate(run)
    return compare(run)


def differences(found: list[Comparison]) -> set[str]:
    return {comparison.name for comparison in found if comparison.different}


@pytest.mark.parametrize(
    ("design", "rows", "group"),
    [
        slow(SMALL, 8, 1),
        slow(SMALL.replace(window=16), 8, 3),
        slow(SMALL.replace(window=8, readout="counter-floor"), 12, 2),
        (SMALL.replace(query_levels=8, storage_levels=16, counter_levels=8, t_pulse_max=7e-9), 4, 1),
        slow(load_design("oxide-2t-unipolar").replace(tile=4, window=20), 8, 1),
        slow(SMALL.replace(cell="linear", v_offset=0.4), 8, 1),
        slow(SMALL.replace(drivers=Drivers(phases=2)), 8, 2),
    ],
    ids=[
        *("three tiles", "grouped", "one tile, floor", "other levels", "unipolar cell", "offset off centre"),
        "signed queries",
    ],
)
def test_a_head_gives_the_codes_of_the_golden_reference_when_the_schedule_says(
    design: Design, rows: int, group: int
) -> None:
    """More tokens than columns, pauses, a new sequence, random and extreme words."""
    found = equivalence(design, rows=rows, group=group)
    assert not differences(found)
    assert {c.name: c.compared for c in found}["sums"] == 40 * group * rows


def test_a_step_takes_as_many_periods_as_the_schedule() -> None:
    for group in (1, 3):
        schedule = Schedule(PAPER, group, scales=True)
        assert Parameters(PAPER, group=group).step_cycles == pytest.approx(
            schedule.latency * PAPER.counter_clock
        )


@pytest.mark.parametrize("group", [slow(1), pytest.param(3, marks=pytest.mark.nightly)])
def test_a_head_of_the_papers_rows(group: int) -> None:
    assert not differences(equivalence(PAPER.replace(window=192), tokens=230, rows=64, group=group))


@pytest.mark.parametrize("columns", [1, 8, 12])
def test_the_controller_is_the_digital_twin(columns: int) -> None:
    parameters = Parameters(PAPER.replace(window=columns, tile=columns))
    twin, draw = digital.WriteAddressController(columns), random.Random(columns)
    odds = {"advance": 0.8, "clear": 0.06, "busy": 0.5}
    inputs = [{name: draw.random() < share for name, share in odds.items()} for _ in range(150)]
    controller = WriteAddressController(parameters, **{name: Signal() for name in odds})
    for one, seen in zip(inputs, play(controller, inputs), strict=True):
        assert seen["pointer"] == twin.pointer
        assert [bool(seen["valid"] >> n & 1) for n in range(columns)] == twin.valid
        assert [bool(seen["select"] >> n & 1) for n in range(columns)] == twin.select
        twin.clock(write=one["advance"], reset=one["clear"] and not one["busy"])


@pytest.mark.parametrize("tiles", [1, 2, 5, 16])
def test_the_adder_tree_is_the_digital_twin(tiles: int) -> None:
    parameters = Parameters(PAPER.replace(window=4 * tiles, tile=4))
    twin, draw = digital.AdderTree(tiles, parameters.count_bits), random.Random(tiles)
    codes = [[draw.choice([-16, 15, draw.randrange(-16, 16)]) for _ in range(tiles)] for _ in range(60)]
    words = [sum((code & 31) << 5 * n for n, code in enumerate(some)) for some in codes]
    tree = AdderTree(parameters, enable=Signal(), counts=Signal(5 * tiles))
    seen = [one["total"] for one in play(tree, [{"enable": 1, "counts": word} for word in words])]
    expected = [twin.clock(some) for some in codes]
    assert seen[1:] == expected[:-1] if tiles > 1 else seen == expected


@pytest.mark.parametrize("phases", [1, 2], ids=["unsigned", "signed"])
@pytest.mark.parametrize("guard_bits", [0, 2, slow(4), nightly(6)])
def test_the_input_stage_gives_the_converters_codes_for_every_word(guard_bits: int, phases: int) -> None:
    parameters = Parameters(PAPER.replace(drivers=Drivers(phases)), guard_bits=guard_bits)
    limit = 2 ** (parameters.word_bits - 1)
    words = torch.arange(-limit, limit)
    queries = [query_stage(parameters, a, b) for a, b in ((1.0, 0.0), (0.03, -0.7), (9.0, 0.6))]
    stores = [storage_stage(parameters, "k", a, b) for a, b in ((1.0, 0.45), (0.1, 0.3), (5.0, 0.8))]
    d = PAPER
    for stage in (*queries, *stores):
        stored = stage in stores
        expected = (
            dac_code(fixed_point.storage_volts(words, stage, parameters), 8, d.v_min, d.v_max, d.v_offset)
            if stored
            else query_code(fixed_point.query_widths(words, stage, parameters), 16, signed=parameters.signed)
        )
        assert codes_of(parameters, stage, words.tolist(), stored) == expected.tolist()


def codes_of(p: Parameters, stage: Stage, words: Sequence[int], stored: bool) -> list[int]:
    scaler = InputScaler(
        p,
        word=Signal(signed(p.word_bits)),
        gain=Signal(p.gain_bits),
        offset=Signal(signed(p.offset_bits)),
        stored=Signal(),
    )
    fixed = {"gain": stage.gain, "offset": stage.offset, "stored": int(stored)}
    return [seen["code"] for seen in play(scaler, [{**fixed, "word": word} for word in words])]


@pytest.mark.parametrize("drivers", [Drivers(), Drivers(phases=2)])
def test_the_longest_words_are_exact_in_the_reference(drivers: Drivers) -> None:
    """Products at the ends of their range, against whole numbers without a limit."""
    design = PAPER.replace(drivers=drivers)
    p = Parameters(design, guard_bits=26 - Parameters(design).code_bits)
    stage = Stage(gain=2**p.gain_bits - 1, offset=-(2 ** (p.offset_bits - 1)) + 1, exponent=0)
    words = [-(2 ** (p.word_bits - 1)), 2 ** (p.word_bits - 1) - 1, 1, 0, -1]
    found = fixed_point.scaled(torch.tensor(words), stage, p)
    exact = [2 * (word * stage.gain + stage.offset) + 1 for word in words]
    assert [int(one * 2 ** (p.fraction_bits + 1)) for one in found.tolist()] == exact


def test_a_zero_key_at_the_offset_is_code_4() -> None:
    parameters = Parameters(PAPER)
    for gain in (0.3, 1.0, 2.7):
        assert codes_of(parameters, storage_stage(parameters, "k", gain, 0.45), [0], True) == [4]


@pytest.mark.parametrize(("tiles", "levels", "gain"), [(33, 16, 1.9375), (17, 16, 1.8805), (5, 4, 1.598)])
def test_the_gain_of_the_output_is_rounded_and_not_cut(tiles: int, levels: int, gain: float) -> None:
    converters = {"counter_levels": levels, "query_levels": levels, "t_pulse_max": (levels - 1) * 1e-9}
    p = Parameters(PAPER.replace(tile=2, window=2 * tiles, **converters))
    stage = output_stage(p, gain, 0.0)
    assert 0 < stage.gain < 2**p.sum_bits
    made = stage.gain * (levels - 1) * 2.0 ** (stage.exponent - p.sum_bits + 1)
    assert made == pytest.approx(gain, rel=2.0 ** (2 - p.sum_bits))


def test_words_of_more_bits_come_closer_to_the_stage_as_it_is_defined() -> None:
    signals = torch.linspace(-0.5, 1.5, 4001, dtype=torch.float64)
    gain, offset = 0.83, 0.11
    wrong = []
    for guard_bits in (1, 3, 5, 7):
        parameters = Parameters(PAPER, guard_bits=guard_bits)
        stage = query_stage(parameters, gain, offset)
        words = fixed_point.words(signals, stage, parameters.word_bits)
        codes = query_code(fixed_point.query_widths(words, stage, parameters), 16)
        wrong.append(int((codes != query_code(gain * signals + offset, 16)).sum()))
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[-1] < len(signals) / 50


class LateCounter(PulseCounter):
    """Starts to count a clock late."""

    def describe(self, m: Module) -> None:
        late = Signal()
        m.d.sync += late.eq(self.inputs["enable"])
        self.inputs["enable"] = self.inputs["enable"] & late
        super().describe(m)


class UnsignedTree(AdderTree):
    """Adds codes without extending their signs."""

    def describe(self, m: Module) -> None:
        p, counts = self.parameters, self.inputs["counts"]
        found = sum(counts.word_select(tile, p.count_bits) for tile in range(p.tiles))
        with m.If(self.inputs["enable"]):
            m.d.sync += self.total.eq(found)


class ShortRing(WriteAddressController):
    """Wraps a column early."""

    def describe(self, m: Module) -> None:
        super().describe(m)
        last = self.pointer == self.parameters.columns - 2
        with m.If(self.inputs["advance"]):
            m.d.sync += self.pointer.eq(Mux(last, 0, self.pointer + 1))


@pytest.mark.parametrize(
    ("name", "fault", "seen"),
    [
        slow("PulseCounter", LateCounter, {"sums", "results"}),
        ("AdderTree", UnsignedTree, {"sums", "results"}),
        slow("WriteAddressController", ShortRing, {"columns written", "valid columns"}),
    ],
)
def test_a_deliberate_fault_makes_the_equivalence_fail(
    monkeypatch: pytest.MonkeyPatch, name: str, fault: type[Block], seen: set[str]
) -> None:
    monkeypatch.setattr(import_module("gaincell.rtl.head"), name, fault)
    found = equivalence()
    assert seen <= differences(found)
    assert any(c.first and "instead of" in c.first[0] for c in found)


Change = Callable[[], object]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Parameters(PAPER.replace(query_levels=12)), "query_levels is 12; .* 2, 4, 8, 16"),
        (lambda: Parameters(PAPER.replace(storage_levels=None)), "storage_levels is not quantised"),
        (
            lambda: Parameters(PAPER.replace(readout="published-code")),
            "'published-code' is no count of pulses",
        ),
        (lambda: Parameters(load_design("ideal")), "query_levels is not quantised"),
        (
            lambda: Parameters(load_design("leroux2025-signed")),
            "division by a normalising column have no circuit",
        ),
        (lambda: Parameters(PAPER.replace(output_ceiling=False)), "output_ceiling is false"),
        (
            lambda: Parameters(PAPER.replace(query_levels=8)),
            "query_levels = 8 does not fit a longest pulse of 15",
        ),
        (lambda: Parameters(PAPER.replace(unstated_latency=15.5e-9)), "'key write' .* whole ones"),
        (
            lambda: Parameters(PAPER.replace(unstated_latency=2e-9)),
            "the key write 2 clock periods; it needs 3",
        ),
        (
            lambda: Parameters(PAPER.replace(query_levels=2, counter_levels=2, t_pulse_max=1e-9)),
            "t_pulse_max gives the value write 1 clock periods",
        ),
        (
            lambda: Parameters(
                PAPER.replace(query_levels=4, counter_levels=4, storage_levels=4, t_pulse_max=3e-9),
                guard_bits=0,
            ),
            "guard_bits = 0 is out of range; allowed: 1 to 24",
        ),
        (lambda: Parameters(PAPER.replace(unstated_latency=4e-9), group=8), "group = 8: the words"),
        (lambda: Parameters(DEEP, group=5), "counts of query head 4 replace those of head 3 before they are"),
        (lambda: Parameters(PAPER, rows=0), "rows = 0"),
        (lambda: Parameters(PAPER, guard_bits=23), "guard_bits = 23 is out of range; allowed: 0 to 22"),
        (lambda: Parameters(PAPER, rows=1025), "rows = 1025, window = 1024, 16 sub-tiles: too large"),
        (lambda: Parameters(PAPER.replace(window=1 << 20)), "window = 1048576, 16384 sub-tiles: too large"),
        (lambda: PAPER.replace(window=1000), "tile = 64 does not divide window = 1000"),
        (lambda: query_stage(Parameters(PAPER), -1.0, 0.0), "the gain of q is -15"),
        (lambda: query_stage(Parameters(PAPER), 1.0, 5.0), "the offset of q moves the range"),
        (
            lambda: Stimulus(Parameters(PAPER.replace(noise=type(PAPER.noise)(cell_std=0.1))), None, None),  # type: ignore[arg-type]
            "lacks noise.cell_std of design",
        ),
    ],
)
def test_what_no_such_circuit_can_do_is_refused(make: Change, said: str) -> None:
    with pytest.raises((DesignError, InputError), match=said):
        make()
