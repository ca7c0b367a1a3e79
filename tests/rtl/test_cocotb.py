"""The generated Verilog in closed loop with the model of the arrays, through cocotb."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
from tests.rtl.heads import AMARANTH, needs

pytest.importorskip("amaranth", reason=AMARANTH)
pytest.importorskip("cocotb", reason="cocotb is not installed: pip install 'gaincell[dev]'")

from cocotb_tools.runner import get_runner

from gaincell.chips.design_file import load_design
from gaincell.rtl.equivalence import compare
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Record, Stimulus, random_scales, random_words, simulate
from gaincell.rtl.verilog import generate

PAPER = load_design("leroux2025")


def through_cocotb(run: Stimulus, arguments: tuple[object, ...], folder: Path, program: str) -> Record:
    verilog = generate(run.parameters)
    for module, text in verilog.modules.items():
        (folder / f"{module}.v").write_text(text)
    given = folder / "run.pickle"
    given.write_bytes(pickle.dumps(arguments))
    simulator = get_runner(program)
    sources = [folder / f"{module}.v" for module in verilog.modules]
    simulator.build(sources=sources, hdl_toplevel=verilog.top, build_dir=folder, timescale=("1ns", "1ps"))
    simulator.test(
        hdl_toplevel=verilog.top,
        test_module="tests.rtl.cocotb_bench",
        plusargs=[f"+run={given}", f"+outputs={','.join(verilog.outputs)}"],
        build_dir=folder,
        test_dir=folder,
        extra_env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    record = pickle.loads(given.read_bytes())
    assert isinstance(record, Record)
    return record


@pytest.mark.slow
def test_the_verilog_gives_the_traces_of_the_rtl_in_closed_loop(tmp_path: Path) -> None:
    """The words go around a ring of two sub-tiles; the arrays answer what the Verilog drives."""
    needs("yosys", "iverilog")
    p = Parameters(PAPER.replace(tile=4, window=8), rows=3, group=2)
    scales = random_scales(p, 5)
    words = random_words(p, scales, 11, 5)
    run = Stimulus(p, scales, words)
    found = through_cocotb(run, (p, scales, words), tmp_path, "icarus")
    assert found == simulate(run)
    run.record = found
    assert not any(one.different for one in compare(run))
