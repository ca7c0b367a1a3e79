"""Everything that is checked of a generated head, each check with what it compared and what was different.

    head          the tokens through Amaranth's simulator, against HeadArray and the schedule
    ring          the same of a ring of fewer columns, so short that the tokens go around it
    Verilog       the testbench in Icarus Verilog or Verilator, against Amaranth's simulator, every output
    properties    of controller and sequencer, proved (formal.py)
    gates         the synthesised head, gate by gate, against Amaranth's simulator, every output

A check whose program is not installed says so; it neither passes nor fails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gaincell.progress import Progress, silent
from gaincell.results.common import Value
from gaincell.results.rtl import RtlCheck
from gaincell.rtl import formal, programs
from gaincell.rtl.equivalence import Equivalence, compare
from gaincell.rtl.fixed_point import Scales
from gaincell.rtl.gates import Replay, replay
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Record, Stimulus, simulate
from gaincell.rtl.synthesis import Synthesis
from gaincell.rtl.verilog import Design, play, simulator
from gaincell.rtl.words import random_scales, random_words

RING_TILES = 2
"""Most sub-tiles of the shorter ring."""


def _check(name: str, how: str, compared: int, unit: str, different: int | None, note: str = "") -> RtlCheck:
    found = None if different is None else Value(different, unit, "simulated")
    return RtlCheck(name, how, note, Value(compared, unit, "simulated"), found)


def check_head(run: Stimulus, scales: Scales, progress: Progress = silent) -> list[RtlCheck]:
    """Simulate a run and compare it; a check a quantity."""
    simulate(run, progress)
    return _checks("head", compare(run, scales), run.parameters)


def check_ring(parameters: Parameters, tokens: int, seed: int, progress: Progress = silent) -> list[RtlCheck]:
    """Random words through a ring that is shorter than they are; nothing where the head's own is."""
    tile = parameters.design.tile
    columns = tile * min(RING_TILES, (tokens - 1) // tile)
    if tokens > parameters.columns or not columns:
        return []
    short = replace(parameters, design=parameters.design.replace(window=columns))
    scales = random_scales(short, seed)
    run = Stimulus(short, scales, random_words(short, scales, tokens, seed))
    simulate(run, progress)
    return _checks(f"ring of {columns}", compare(run, scales), short)


def check_verilog(design: Design, record: Record) -> RtlCheck:
    """Play the testbench."""
    how = "testbench of the Verilog, every output in every period"

    def done() -> RtlCheck:
        program = simulator()
        found = play(design, record, program)
        note = "; ".join(found.first)
        return _check("Verilog", f"{how}, in {program}", found.periods, "periods", found.different, note)

    return _unless_missing("Verilog", how, done)


def check_properties(design: Design, parameters: Parameters) -> RtlCheck:
    """Prove the properties."""
    how = "controller and sequencer for every input at every time, by yosys-smtbmc and z3"

    def done() -> RtlCheck:
        proved = formal.prove(design.modules, parameters)
        count = formal.properties(parameters).count("assert (")
        return _check("properties", how, count, "assertions", 0 if proved else 1)

    return _unless_missing("properties", how, done)


def check_gates(design: Design, synthesis: Synthesis, record: Record) -> tuple[RtlCheck, Replay]:
    """Replay a record in the gates."""
    found = replay(synthesis, design.top, record)
    how = "gates and flip-flops of the synthesis, every output in every period"
    return _check("gates", how, found.periods, "periods", found.different), found


def not_done(name: str, program: str) -> RtlCheck:
    """A check that needs a program which is not there."""
    return _check(name, "", 0, "periods", None, str(programs.missing(program)))


def _unless_missing(name: str, how: str, done: Callable[[], RtlCheck]) -> RtlCheck:
    try:
        return done()
    except programs.MissingProgram as error:
        return _check(name, how, 0, "periods", None, str(error))


def _checks(name: str, found: Equivalence, p: Parameters) -> list[RtlCheck]:
    sizes = f"{found.tokens} tokens, {p.columns} columns, query heads: {p.group}"
    return [
        _check(
            f"{name}: {one.name}",
            f"{sizes}, against {'the schedule' if one.name == 'periods' else 'HeadArray'}",
            one.compared,
            "numbers",
            one.different,
            "; ".join(one.first),
        )
        for one in found.comparisons
    ]
