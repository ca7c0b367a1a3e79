"""The Verilog in simulators, its properties, its gates; and each with a deliberate fault in it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from tests.rtl.heads import AMARANTH, CELLS, needs

from gaincell.arrays import digital
from gaincell.chips.design_file import load_design
from gaincell.circuits.pwm import Drivers
from gaincell.costs.activity import Activity
from gaincell.costs.digital import circuits
from gaincell.costs.head import Head, assumed_head
from gaincell.costs.technology import load_technology
from gaincell.errors import InputError, SimulationError

pytest.importorskip("amaranth", reason=AMARANTH)

from gaincell.rtl import formal, gates, generation, programs
from gaincell.rtl.energy import energies, hypotheses
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Stimulus, random_scales, random_words, simulate
from gaincell.rtl.synthesis import Synthesis, map_to_library, synthesise
from gaincell.rtl.verilog import Verilog, generate, play

PARAMETERS = Parameters(load_design("leroux2025").replace(tile=4, window=12), rows=4, group=2)
"""Three sub-tiles of four columns; the tokens go around the ring."""
AREAS = {"BUF": 3, "NOT": 1, "NAND": 2, "DFF": 6}


@pytest.fixture(scope="module")
def run() -> Stimulus:
    """Simulated."""
    scales = random_scales(PARAMETERS, 1)
    found = Stimulus(PARAMETERS, scales, random_words(PARAMETERS, scales, 16, 1), [0, 2] * 8)
    simulate(found)
    return found


def test_time_limits_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = []

    def run(command: list[str], folder: Path, *, timeout: float = 600.0) -> str:
        limits.append(timeout)
        if "synthesise.ys" in command:
            raise SimulationError("stopped")
        return ""

    monkeypatch.setattr(programs, "run", run)
    monkeypatch.setattr(programs, "require", lambda *programs: None)
    modules, library = {"sequencer": "", "write_address_controller": ""}, tmp_path / "cells.lib"
    assert not formal.prove(modules, PARAMETERS, timeout=7.0)
    library.write_text(CELLS)
    with pytest.raises(SimulationError, match="stopped"):
        synthesise(generate(PARAMETERS), timeout=8.0)
    with pytest.raises(InputError, match="stopped"):
        map_to_library(generate(PARAMETERS), library, timeout=9.0)
    assert limits == [600.0, 7.0, 7.0, 8.0, 9.0]


@pytest.fixture(scope="module")
def verilog() -> Verilog:
    needs("yosys")
    return generate(PARAMETERS)


@pytest.fixture(scope="module")
def synthesis(verilog: Verilog) -> Synthesis:
    return synthesise(verilog)


@pytest.fixture(scope="module")
def switching(run: Stimulus, verilog: Verilog, synthesis: Synthesis) -> dict[str, gates.Switching]:
    """What the gates do in the simulated run, by the kind of module."""
    return gates.replay(synthesis, verilog.top, run.record).switching


def with_fault(design: Verilog, module: str, old: str, new: str) -> Verilog:
    """The Verilog with one expression replaced."""
    changed = re.sub(old, new, design.modules[module], count=1)
    assert changed != design.modules[module]
    return dataclasses.replace(design, modules={**design.modules, module: changed})


FAULTS = {
    "counter that counts up only": ("pulse_counter", r"negative \? 2'h3", "negative ? 2'h1"),
    "adder without sign extension": ("adder_tree", r"\$signed\(counts\[4:0\]\)", "{1'b0, counts[4:0]}"),
    "pointer that wraps a column early": ("write_address_controller", r"4'hb", "4'ha"),
}


@pytest.mark.parametrize("program", ["iverilog", pytest.param("verilator", marks=pytest.mark.slow)])
def test_the_verilog_gives_every_wire_of_the_simulator_in_every_period(
    run: Stimulus, verilog: Verilog, program: str
) -> None:
    needs(program)
    found = play(verilog, run.record, program)
    assert (found.compared, found.different, found.first) == (len(run.record.outputs), 0, ())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_the_testbench(run: Stimulus, verilog: Verilog, fault: str) -> None:
    needs("iverilog")
    found = play(with_fault(verilog, *FAULTS[fault]), run.record, "iverilog")
    assert found.different > 0
    assert re.match(r"period \d+: \w+ is \w+ instead of \w+", found.first[0])


def test_the_properties_are_proved(verilog: Verilog) -> None:
    needs(*formal.PROGRAMS)
    assert formal.prove(verilog.modules, PARAMETERS)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("write_address_controller", r"4'hb", "4'ha"),
        ("write_address_controller", r"valid \| ", "valid & "),
        ("write_address_controller", r"= ~ busy", "= 1'h1"),
        ("sequencer", r"period == 7'h5e", "period == 7'h5d"),
    ],
    ids=["wraps early", "valid bit not set", "clears within a step", "a step a period short"],
)
def test_a_fault_in_the_verilog_is_no_theorem(verilog: Verilog, module: str, old: str, new: str) -> None:
    needs(*formal.PROGRAMS)
    assert not formal.prove(with_fault(verilog, module, old, new).modules, PARAMETERS)


@pytest.mark.slow
def test_signed_queries_in_verilog() -> None:
    """A read has two halves; in the Verilog as in the simulator, and proved to be those of the schedule."""
    needs("iverilog", *formal.PROGRAMS)
    p = dataclasses.replace(PARAMETERS, design=PARAMETERS.design.replace(drivers=Drivers(phases=2)))
    scales = random_scales(p, 1)
    found = Stimulus(p, scales, random_words(p, scales, 14, 1))
    simulate(found)
    verilog = generate(p)
    assert "key_negative" in verilog.outputs
    assert play(verilog, found.record, "iverilog").different == 0
    assert formal.prove(verilog.modules, p)
    same = with_fault(verilog, "pulse_generator", r"== early_negative", "== 1'h0")
    assert play(same, found.record, "iverilog").different > 0


@pytest.mark.slow
def test_the_gates_give_every_wire_of_the_simulator(
    run: Stimulus, verilog: Verilog, synthesis: Synthesis
) -> None:
    found = gates.replay(synthesis, verilog.top, run.record).comparison
    assert (found.compared, found.different) == (len(run.record.outputs), 0)
    faulty = with_fault(verilog, *FAULTS["adder without sign extension"])
    assert gates.replay(synthesise(faulty), verilog.top, run.record).comparison.different > 0


def test_registers_are_those_that_the_cost_model_counts(synthesis: Synthesis) -> None:
    found = {m.name: m.placed * m.flip_flops for m in synthesis.modules}
    p, t = PARAMETERS, load_technology("28nm")
    counted = circuits(assumed_head(p.design, t, p.rows, p.group))
    assert found["pulse_counter"] == counted["counters"].flip_flops
    passes = 1  # of three words one passes the first level: yosys keeps its sign once
    assert found["adder_tree"] == counted["adder tree"].flip_flops - p.rows * passes
    assert found["write_address_controller"] == p.columns + digital.WriteAddressController(p.columns).bits


def test_energy_is_what_switches_times_the_technology(
    run: Stimulus, synthesis: Synthesis, switching: dict[str, gates.Switching]
) -> None:
    t, tokens = load_technology("28nm"), len(run.words)
    found = energies(switching, tokens, t)
    counter = switching["pulse_counter"]
    expected = (counter.gates * t.gate_switching + counter.data * t.flip_flop_data) / 2
    expected = (expected + counter.clocked * t.flip_flop_clock) * t.supply**2 / tokens
    assert found["pulse_counter"].total == pytest.approx(expected)
    assert 0 < counter.clocked < counter.all_clocked
    double = energies(switching, tokens, t.replace(gate_switching=2 * t.gate_switching))
    assert double["pulse_counter"].gates == pytest.approx(2 * found["pulse_counter"].gates)
    activity = Activity.assumed(PARAMETERS.design).mean()
    few, all_columns = (Head(PARAMETERS.design, t, activity, 4, 2, columns) for columns in (4, 12))
    more = {one.name: one.energy for one in hypotheses(PARAMETERS, synthesis, found, few)}
    full = {one.name: one.energy for one in hypotheses(PARAMETERS, synthesis, found, all_columns)}
    assert more["routing"] < full["routing"]
    assert more["clock tree"] == full["clock tree"]
    flip_flops = sum(one.all_clocked - one.clocked for one in switching.values())
    assert more["clock not gated"] == pytest.approx(
        flip_flops * t.switched(t.flip_flop_clock) / tokens, rel=1e-6, abs=0
    )
    assert all(energy > 0 for energy in more.values())


def test_the_formula_and_the_papers_number_are_those_of_the_head(
    synthesis: Synthesis, switching: dict[str, gates.Switching]
) -> None:
    t = load_technology("28nm")
    found = energies(switching, 16, t)
    wide = generation._energy(16, found, synthesis, PARAMETERS, t)
    narrow = generation._energy(16, found, synthesis, dataclasses.replace(PARAMETERS, guard_bits=2), t)
    assert narrow.formula < wide.formula
    surplus = [next(h.energy for h in e.hypotheses if h.name == "wider scaling") for e in (wide, narrow)]
    assert surplus[0] < surplus[1]
    papers = 2 * (4 * 3) / (64 * 16)  # two query heads; output lines over the paper's
    assert wide.paper == narrow.paper == pytest.approx(papers * 4e-9)


def test_counters_change_no_less_than_they_count(
    run: Stimulus, switching: dict[str, gates.Switching]
) -> None:
    """A step of a counter changes a bit or more; every pulse that is high while it counts is a step."""
    seen = zip(run.record.outputs, run.record.inputs, strict=True)
    steps = sum(inputs["pulse"].bit_count() for outputs, inputs in seen if outputs["count"])
    assert 0 < steps <= switching["pulse_counter"].data


def test_gated_counters_are_clocked_to_count_and_to_clear(
    run: Stimulus, switching: dict[str, gates.Switching]
) -> None:
    p, record = PARAMETERS, run.record
    seen = zip(record.outputs, record.inputs, strict=True)
    steps = sum(inputs["pulse"].bit_count() for outputs, inputs in seen if outputs["count"])
    clears = len(record.starts) * p.group * p.tiles * p.rows
    assert switching["pulse_counter"].clocked == (steps + clears) * p.count_bits


@pytest.mark.slow
def test_a_library_gives_its_cells_and_its_area(verilog: Verilog, tmp_path: Path) -> None:
    library = tmp_path / "tiny.lib"
    library.write_text(CELLS)
    found = map_to_library(verilog, library)
    assert set(found.cells) <= set(AREAS)
    assert found.area == sum(count * AREAS[name] for name, count in found.cells.items())
    library.write_text("library (none) { }")
    with pytest.raises(InputError, match=r"--liberty tiny\.lib"):
        map_to_library(verilog, library)
    with pytest.raises(InputError, match="no such file"):
        map_to_library(verilog, tmp_path / "other.lib")
