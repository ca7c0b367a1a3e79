"""`gaincell rtl`: what it writes, says and refuses, with and without the programs that it calls."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.rtl.heads import AMARANTH, CELLS, needs

import gaincell
from gaincell.chips.design_file import load_design
from gaincell.cli import main
from gaincell.costs.floorplan import blocks_of, head_plan, tile_plan
from gaincell.costs.head import assumed_head
from gaincell.costs.technology import load_technology
from gaincell.errors import SimulationError
from gaincell.reports.rtl import check_rows, headline, liberty_rows
from gaincell.results import parse, read
from gaincell.results.codec import to_json
from gaincell.results.rtl import RtlResult
from gaincell.text import sha256

pytest.importorskip("amaranth", reason=AMARANTH)

from amaranth.hdl import Module, Signal

from gaincell.rtl import layout
from gaincell.rtl.blocks import PulseCounter
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.verilog import generate

SMALL = """
extends = "leroux2025"
name = "small"
description = "three sub-tiles of four columns"
tile   = { value = 4, unit = "1", source = "U", range = [1, 4096] }
window = { value = 12, unit = "1", source = "U", range = [1, 1048576] }
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["rtl", *map(str, arguments)])
    return int(left.value.code or 0)


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    assert to_json(parse(result, "result.json")) == result
    return result


@pytest.mark.slow
def test_a_verified_head(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs("yosys", "yosys-smtbmc", "z3", "iverilog")
    out = tmp_path / "out"
    assert call(small, "--out", out, "--verify", "--tokens", 16, "--head-dim", 4, "--group", 2) == 0
    shown = capsys.readouterr().out
    assert "pulse_counter" in shown
    result = result_of(out)
    checks = {one["name"]: one for one in result["checks"]}
    assert {"head: sums", "head: periods", "Verilog", "properties", "gates"} <= set(checks)
    assert all(one["different"]["value"] == 0 < one["compared"]["value"] for one in checks.values())
    energy = result["energy"]
    parts = [energy[name]["value"] for name in ("gates", "registers", "clock")]
    assert energy["synthesised"]["value"] == pytest.approx(sum(parts))
    assert energy["paper"]["kind"] == "cited"
    for phase in result["timeline"]:
        assert phase["seen"]["value"] == phase["scheduled"]["value"], phase["name"]
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"README.md", "constraints.sdc", "floorplan.def", "timeline.svg"} <= names
    assert {"verilog/gaincell_head.v", "testbench/testbench.v", "testbench/vectors.hex"} <= names


@pytest.mark.slow
def test_a_library_is_named_and_shown(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("yosys")
    out, library = tmp_path / "out", tmp_path / "cells.lib"
    library.write_text(CELLS)
    assert call(small, "--out", out, "--head-dim", 4, "--liberty", library) == 0
    shown, found = capsys.readouterr().out, read(out / "result.json", RtlResult)
    assert found.liberty is not None
    assert found.liberty.name == "cells.lib"
    assert f"{found.liberty.cells:,}" in shown
    assert liberty_rows(found.liberty).markdown() in (out / "README.md").read_text()
    inputs = {"design small.toml": sha256(small), "cells.lib": sha256(library)[:12]}
    assert found.provenance.inputs == inputs


def test_a_fault_ends_with_1(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class LateCounter(PulseCounter):
        def describe(self, m: Module) -> None:
            late = Signal()
            m.d.sync += late.eq(self.inputs["enable"])
            self.inputs["enable"] = self.inputs["enable"] & late
            super().describe(m)

    monkeypatch.setattr("gaincell.rtl.head.PulseCounter", LateCounter)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    arguments = (small, "--out", tmp_path / "out", "--verify", "--tokens", 16, "--head-dim", 4)
    assert call(*arguments) == 1
    assert re.search(r"head: sums: token \d+: -?\d+ instead of -?\d+", capsys.readouterr().out)


def test_without_programs_the_rest_is_done_and_the_packages_are_named(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    out, library = tmp_path / "out", tmp_path / "cells.lib"
    library.touch()
    arguments = ("--verify", "--tokens", 14, "--head-dim", 4, "--liberty", library)
    assert call(small, "--out", out, *arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "needs yosys, which is not installed" in said
    assert "install the package yosys of Debian" in said
    assert result_of(out)["provenance"]["inputs"]["design small.toml"] == sha256(small)
    checks = {one["name"]: one for one in result_of(out)["checks"]}
    assert checks["head: sums"]["different"]["value"] == 0
    assert not any("different" in checks[name] for name in ("Verilog", "properties", "gates", "library"))
    assert (out / "timeline.svg").exists()
    assert not (out / "verilog").exists()
    assert "testbench" not in (out / "README.md").read_text()
    before = (out / "result.json").read_text()
    for again, held in (
        (("--head-dim", 4), "a verification with random words, seed 0"),
        (("--verify", "--head-dim", 4, "--seed", 1), "a verification with random words, seed 0"),
        (("--verify", "--head-dim", 2), "another head, of small with 4 rows, 12 columns, 1 query heads"),
        (("--verify", "--head-dim", 4, "--guard-bits", 2), "another head, of small"),
    ):
        assert call(small, "--out", out, *again) == 2
        assert f"holds {held}" in " ".join(capsys.readouterr().err.split())
    small.write_text(SMALL.replace("value = 12", "value = 16"))
    assert call(small, "--out", out, "--verify", "--head-dim", 4) == 2
    assert (out / "result.json").read_text() == before
    small.write_text(SMALL)
    assert call(small, "--out", out, "--verify", "--tokens", 5, "--head-dim", 4) == 0


@pytest.mark.slow
def test_a_checker_that_is_killed_fails_and_the_rest_is_written(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs("yosys", "z3")
    killed = tmp_path / "bin" / "yosys-smtbmc"
    killed.parent.mkdir()
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setenv("PATH", str(killed.parent), prepend=":")
    out = tmp_path / "out"
    assert call(small, "--out", out, "--verify", "--tokens", 5, "--head-dim", 4) == 1
    assert "properties: yosys-smtbmc failed (-9): it said nothing; was it killed" in capsys.readouterr().out
    checks = {one["name"]: one for one in result_of(out)["checks"]}
    assert checks["properties"]["broken"]
    result = read(out / "result.json", RtlResult)
    assert headline(result).endswith("0 with differences, 1 failed")
    assert next(row for row in check_rows(result).rows if row[0] == "properties")[-1] == "failed"
    assert checks["gates"]["different"]["value"] == 0
    assert (out / "verilog" / "gaincell_head.v").exists()


@pytest.mark.parametrize("verified", [True, False])
def test_a_synthesis_that_fails_loses_no_verilog(
    verified: bool, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("yosys")

    def stopped(_: object) -> None:
        raise SimulationError("yosys was stopped after 600 s")

    monkeypatch.setattr("gaincell.rtl.generation.synthesise", stopped)
    out, more = tmp_path / "out", ("--verify", "--tokens", 5) if verified else ()
    assert call(small, "--out", out, "--head-dim", 4, *more) == 1
    checks = {one.name: one for one in read(out / "result.json", RtlResult).checks}
    assert checks["gates"].broken
    assert "stopped after 600 s" in checks["gates"].note
    assert verified == ("head: sums" in checks)
    assert (out / "verilog" / "gaincell_head.v").exists()


def test_what_was_not_verified_is_made_again(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its programs are there, say."""
    monkeypatch.setattr(shutil, "which", lambda program: None)
    for _ in range(2):
        assert call(small, "--out", tmp_path / "out", "--head-dim", 4) == 0


def test_few_tokens_do_not_go_around_a_ring(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    out = tmp_path / "out"
    assert call(small, "--out", out, "--verify", "--tokens", 4, "--head-dim", 2) == 0
    assert "4 tokens do not go around a sub-tile of 4 columns; give 5 or more" in capsys.readouterr().out


@pytest.mark.parametrize("installed", [True, False])
def test_a_library_that_is_not_there_is_refused_before_any_simulation(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = shutil.which
    monkeypatch.setattr(shutil, "which", lambda program: there(program) if installed else None)
    monkeypatch.setattr("gaincell.rtl.generation.simulate", None)
    assert call("leroux2025", "--out", tmp_path / "out", "--liberty", tmp_path / "no.lib") == 2
    assert "no.lib: there is no such file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("absent", "named"),
    [({"iverilog", "verilator"}, "simulating Verilog needs iverilog"), ({"z3"}, "a proof needs z3")],
)
def test_each_part_says_which_program_it_lacks(
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    absent: set[str],
    named: str,
) -> None:
    needs("yosys")
    there = shutil.which
    monkeypatch.setattr(shutil, "which", lambda program: None if program in absent else there(program))
    out = tmp_path / "out"
    assert call(small, "--out", out, "--verify", "--tokens", 5, "--head-dim", 4) == 0
    assert named in " ".join(capsys.readouterr().out.split())
    assert "energy" in result_of(out)


@pytest.mark.slow
def test_codes_of_a_model_come_out_as_they_went_in(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = torch.Generator().manual_seed(0)
    codes = {
        "q_code": torch.randint(0, 16, (1, 4, 20, 6), generator=random, dtype=torch.int32),
        "k_code": torch.randint(0, 8, (1, 2, 20, 6), generator=random, dtype=torch.int32),
        "v_code": torch.randint(0, 8, (1, 2, 20, 6), generator=random, dtype=torch.int32),
    }
    file, out = tmp_path / "layer.safetensors", tmp_path / "out"
    save_file(codes, file)
    again = (small, "--out", out, "--inputs", file, "--seed", 3)
    assert call(*again, "--verify", "--tokens", 5) == 0
    result = result_of(out)
    assert result["inputs"].startswith("codes of a model")
    assert (result["sizes"]["rows"]["value"], result["sizes"]["group"]["value"]) == (6, 2)
    assert call(*again, "--verify", "--tokens", 6) == 0
    save_file(codes | {"q_code": codes["q_code"].flip(2)}, file)
    assert call(*again, "--verify") == 2
    assert "holds a verification with codes of a model" in capsys.readouterr().err
    save_file(codes | {"q_code": codes["q_code"] + 9}, file)
    assert call(small, "--out", tmp_path / "other", "--inputs", file) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ideal"], "query_levels is not quantised"),
        (["leroux2025-signed"], "a division by a normalising column"),
        (["leroux2025", "--head-dim", "0"], "--head-dim"),
        (["leroux2025", "--group", "99"], "group = 99"),
        (["nothing"], "nothing"),
        (["leroux2025", "--tokens", "9"], "--tokens has no effect here: it needs --verify"),
    ],
)
def test_refusals(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("guard_bits", [4, 12])
def test_the_floorplan_is_that_of_the_costs(guard_bits: int) -> None:
    """Whose technology states the guard bits of the formula; a head has its own."""
    p, t = Parameters(load_design("leroux2025"), guard_bits=guard_bits), load_technology("28nm")
    blocks = blocks_of(assumed_head(p.design, replace(t, guard_bits=guard_bits)))
    text, plan, tile = layout.floorplan(p, t), head_plan(blocks), tile_plan(blocks)
    x, y = re.search(r"DIEAREA \( 0 0 \) \( (\d+) (\d+) \)", text).groups()  # type: ignore[union-attr]
    assert (int(x), int(y)) == (round(plan.w * 1e9), round(plan.h * 1e9))
    digital = [r for r in plan.rectangles if r.kind == "digital"]
    regions = re.findall(r"^- (\w+) \( (\d+) (\d+) \) \( (\d+) (\d+) \) ;$", text, re.MULTILINE)
    (counters,) = (r for r in tile.rectangles if r.kind == "digital")
    digital += [replace(counters, name=f"counters {n}") for n in range(p.tiles)]
    assert [name.replace("_", " ") for name, *_ in regions] == [r.name for r in digital]
    areas = {name: (int(b) - int(a)) * (int(d) - int(c)) * 1e-18 for name, a, c, b, d in regions}
    for r in digital:
        assert areas[r.name.replace(" ", "_")] == pytest.approx(r.w * r.h, rel=1e-3, abs=0)
    blocked = re.findall(r"^- PLACEMENT RECT \( (\d+) (\d+) \) \( (\d+) (\d+) \) ;$", text, re.MULTILINE)
    assert len(blocked) == p.tiles * (len(tile.rectangles) - 1)
    for a, c, b, d in (map(int, corners) for corners in blocked):
        assert not any(
            int(left) < b and a < int(right) and int(low) < d and c < int(high)
            for _, left, low, right, high in regions
        )


def test_the_constraints_name_every_input_once() -> None:
    needs("yosys")
    p = Parameters(load_design("leroux2025").replace(tile=2, window=2), rows=2)
    text = layout.constraints(p)
    named = [word.rstrip("*") for ports in re.findall(r"get_ports {([^}]+)}", text) for word in ports.split()]
    assert sorted(named) == sorted([*generate(p).inputs, "rst"])


def test_without_amaranth_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gaincell, "rtl", gaincell.rtl)  # which importing it again replaces
    for name in [name for name in sys.modules if name.startswith(("amaranth", "gaincell.rtl"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "amaranth", None)
    monkeypatch.setitem(sys.modules, "amaranth.hdl", None)
    assert call("leroux2025", "--out", tmp_path / "out") == 2
    assert "pip install 'gaincell[rtl]'" in capsys.readouterr().err
