"""Everything that is checked of a generated head, each check with what it compared and what was different.

    head          the tokens through Amaranth's simulator, against HeadArray and the schedule
    ring          the same of a ring of fewer columns, so short that the tokens go around it
    Verilog       the testbench in Icarus Verilog or Verilator, against Amaranth's simulator, every output
    properties    of controller and sequencer, proved (formal.py)
    gates         the synthesised head, gate by gate, against Amaranth's simulator, every output

A check whose program is not installed says so; it neither passes nor fails. One whose program is killed, or
takes too long, fails, and the others are done.
"""

from __future__ import annotations

from dataclasses import replace

from gaincell.errors import SimulationError
from gaincell.progress import Progress, silent
from gaincell.results.common import Value
from gaincell.results.rtl import RtlCheck
from gaincell.rtl import formal, programs
from gaincell.rtl.equivalence import compare
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Comparison, Record, Stimulus, random_scales, random_words, simulate
from gaincell.rtl.verilog import Verilog, play, simulator

RING_TILES = 2
"""Most sub-tiles of the shorter ring."""


def done(found: Comparison, how: str, unit: str = "periods") -> RtlCheck:
    """A check of what a comparison found."""
    compared, different = (Value(n, unit, "simulated") for n in (found.compared, found.different))
    return RtlCheck(found.name, how, "; ".join(found.first), compared, different)


def not_done(name: str, how: str, why: str | Exception) -> RtlCheck:
    """A check whose program is not there, or failed, which makes it fail."""
    broken = isinstance(why, SimulationError)
    return RtlCheck(name, how, str(why), Value(0, "periods", "simulated"), broken=broken)


def check_head(run: Stimulus, progress: Progress = silent, title: str = "head") -> list[RtlCheck]:
    """Simulate a run and compare it; a check a quantity."""
    simulate(run, progress)
    p = run.parameters
    sizes = f"{len(run.words)} tokens, {p.columns} columns, query heads: {p.group}"
    return [
        done(
            replace(one, name=f"{title}: {one.name}"),
            f"{sizes}, against {'the schedule' if one.name == 'periods' else 'HeadArray'}",
            "numbers",
        )
        for one in compare(run)
    ]


def check_ring(parameters: Parameters, tokens: int, seed: int, progress: Progress = silent) -> list[RtlCheck]:
    """Random words through a ring that is shorter than they are; nothing where the head's own is, and a check
    that is not done where they do not go around a sub-tile.
    """
    tile = parameters.design.tile
    columns = tile * min(RING_TILES, (tokens - 1) // tile)
    if tokens > parameters.columns:
        return []
    if not columns:
        why = f"{tokens} tokens do not go around a sub-tile of {tile} columns; give {tile + 1} or more"
        return [not_done("short ring", "", why)]
    short = replace(parameters, design=parameters.design.replace(window=columns))
    scales = random_scales(short, seed)
    run = Stimulus(short, scales, random_words(short, scales, tokens, seed))
    return check_head(run, progress, f"ring of {columns}")


def check_verilog(design: Verilog, record: Record) -> RtlCheck:
    """Play the testbench."""
    how = "testbench of the Verilog, every output in every period"
    try:
        program = simulator()
        return done(play(design, record, program), f"{how}, in {program}")
    except (programs.MissingProgram, SimulationError) as error:
        return not_done("Verilog", how, error)


def check_properties(design: Verilog, parameters: Parameters) -> RtlCheck:
    """Prove the properties."""
    how = "controller and sequencer for every input at every time, by yosys-smtbmc and z3"
    count = formal.properties(parameters).count("assert (")
    try:
        proved = formal.prove(design.modules, parameters)
        return done(Comparison("properties", count, int(not proved)), how, "assertions")
    except (programs.MissingProgram, SimulationError) as error:
        return not_done("properties", how, error)
