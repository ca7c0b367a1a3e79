"""A sub-tile of transistors with its digital block in one simulation."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.rtl.heads import AMARANTH, needs

from gaincell.chips.design_file import load_design
from gaincell.cli import main
from gaincell.errors import InputError
from gaincell.results import parse, read
from gaincell.results.codec import to_json
from gaincell.results.spice import MixedResult
from gaincell.spice.netlists.sub_tile import ARRAYS, inputs, outputs
from gaincell.spice.rawfile import Plot
from gaincell.spice.runner import available
from gaincell.spice.technology import technology

pytest.importorskip("amaranth", reason=AMARANTH)

from gaincell.rtl import mixed_signal
from gaincell.rtl.mixed_signal import PROGRAMS, _stored, simulate_sub_tile, source
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Record, Stimulus, random_scales, random_words, simulate
from gaincell.rtl.verilog import generate

PAPER = load_design("leroux2025")
FREE = technology("freepdk45")
needs_ngspice = pytest.mark.skipif(not available(), reason="ngspice is not installed")


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["spice", "mixed", *map(str, arguments)])
    return int(left.value.code or 0)


def test_every_port_of_the_circuit_is_one_of_the_verilog_and_driven_once() -> None:
    needs("yosys")
    p = Parameters(PAPER.replace(tile=3, window=3), rows=3)
    scales = random_scales(p, 0)
    run = Stimulus(p, scales, random_words(p, scales, 4, 0))
    text = source(generate(p), p, simulate(run))
    header = re.search(r"module sub_tile\((.*?)\);", text, re.DOTALL)
    assert header is not None
    ports = [tuple(port.split()) for port in header[1].split(",")]
    driven = outputs(3, p.storage_levels, p.sum_bits)
    assert ports == [("input", name) for name in inputs(3)] + [("output", name) for name in driven]
    top = text[: text.index("endmodule")]
    assert sorted(re.findall(r"^  assign (\w+) =", top, re.MULTILINE)) == sorted(driven)
    assert text.count("start = 1'h1") == 4


def test_a_store_is_followed_until_its_column_is_written_again() -> None:
    """Stores that rise by a millivolt in every step, around a ring of three columns."""
    p = Parameters(PAPER.replace(tile=3, window=3), rows=3)
    step = p.step_cycles / PAPER.counter_clock
    time = np.linspace(0, 9 * step, 1000)
    waves = {
        f"v(st_{array}_{row}_{column})": time / step
        for array in ARRAYS
        for row in range(3)
        for column in range(3)
    }
    record = Record(starts=[n * p.step_cycles for n in range(8)])
    plot = Plot({"time": time, **waves})
    moved = _stored(p, record, plot, reads=3) - _stored(p, record, plot)
    np.testing.assert_allclose(moved, np.broadcast_to([[2], [2], [2], [2], [2], [2], [1], [0]], (2, 8, 3)))


def test_tokens_that_do_not_go_around_the_ring_are_refused() -> None:
    with pytest.raises(InputError, match="give 9 or more"):
        simulate_sub_tile(FREE, PAPER, size=8, tokens=8)


def test_designs_without_circuits_are_refused() -> None:
    with pytest.raises(InputError, match="queries with signs"):
        simulate_sub_tile(FREE, load_design("leroux2025-signed"))


@needs_ngspice
def test_without_verilator_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = shutil.which
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "verilator" else there(program))
    assert call("--head-dim", 2, "--tokens", 3) == 2
    assert "install the package verilator" in capsys.readouterr().err


def test_without_ngspice_the_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert call("--head-dim", 2, "--tokens", 3) == 2
    assert "package 'ngspice'" in capsys.readouterr().err


@pytest.mark.parametrize(("passes", "left"), [(True, 0), (False, 1)])
def test_the_result_is_written_before_the_circuit(
    passes: bool, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulation of minutes is not lost where the circuit cannot be written, or where a check fails."""
    file, out = tmp_path / "mixed.json", tmp_path / "out"
    kept = Path(__file__).parents[2] / "docs" / "results" / "spice" / "mixed-freepdk45.json"
    found = read(kept, MixedResult)
    found = replace(found, checks=tuple(replace(check, passed=passes) for check in found.checks))
    circuit = SimpleNamespace(text="circuit", files={})
    monkeypatch.setattr(mixed_signal, "simulate_sub_tile", lambda *_, **__: (found, circuit, "verilog"))
    assert call("--json", file, "--out", out) == left
    assert {path.name for path in out.iterdir()} == {"circuit.cir", "sub_tile.v"}
    file.unlink()

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("gaincell.cli.spice.write_text", full)
    assert call("--json", file, "--out", out) == 2
    assert file.is_file()


@pytest.mark.nightly
@pytest.mark.spice
@needs_ngspice
def test_codes_of_the_circuit_are_those_of_the_head(tmp_path: Path) -> None:
    """Eight tokens around a ring of three columns; the first column is written three times."""
    needs(*PROGRAMS)
    file, figure, out = tmp_path / "mixed.json", tmp_path / "mixed.png", tmp_path / "out"
    options = ("--json", file, "--figure", figure, "--out", out)
    assert call("--head-dim", 3, "--tokens", 8, *options) == 0
    result = json.loads(file.read_text())
    assert to_json(parse(result, "mixed.json")) == result
    seen, expected = (np.array(result["codes"][key]["value"]) for key in ("spice", "head_array"))
    assert seen.shape == (8, 3)
    assert len(np.unique(expected)) > 5
    assert (np.abs(seen - expected) <= 1).all()
    assert (seen != expected).mean() <= 0.1
    assert result["write_error"]["largest"]["value"] < 0.9 / 7 / 10
    assert 0 < result["drift"]["rms"]["value"] <= result["drift"]["largest"]["value"] < 0.9 / 7 / 2
    assert figure.stat().st_size > 10_000
    names = {path.name for path in out.iterdir()}
    assert names == {"circuit.cir", "sub_tile.v", "card.spi"}
