"""The write path: netlists as text, and what ngspice makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gaincell.chips.design_file import load_design
from gaincell.cli import main
from gaincell.errors import InputError
from gaincell.results import parse
from gaincell.results.codec import to_json
from gaincell.results.spice import WriteResult
from gaincell.spice.netlists.write_path import (
    BIT_CAPACITANCE,
    KINDS,
    WriteTimes,
    pulse_bench,
    write_path_bench,
)
from gaincell.spice.rawfile import Plot
from gaincell.spice.runner import available
from gaincell.spice.technology import Site, technology
from gaincell.spice.write_path import _pulses, characterise_write_path

needs_ngspice = [pytest.mark.spice, pytest.mark.skipif(not available(), reason="ngspice is not installed")]
PAPER = load_design("leroux2025")
TIMES = WriteTimes(8e-9, 8e-9, 15e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_has_a_line_of_its_own(kind: str) -> None:
    text = write_path_bench(Site(technology("freepdk45")), kind, 8, 64, TIMES).text
    assert text == write_path_bench(Site(technology("freepdk45")), kind, 8, 64, TIMES).text
    for code in range(8):
        assert f"Xc{code} b{code} wl wlb w{code} wwl wwlb st{code} vdd gaincell" in text
    if kind == "string":
        assert sum(line.startswith("Xs") and " con conb " in line for line in text.splitlines()) == 8
    else:
        assert text.count("\nCd5_") == 3


def test_a_pulse_that_never_reaches_half_of_the_supply_has_no_width() -> None:
    """The shortest of 512 query levels, 15 ns / 511, is shorter than an edge."""
    widths = np.array([15e-9 / 511, 1e-9])
    text = pulse_bench(Site(technology("freepdk45")), widths.tolist(), 64, 15e-9).text
    assert "Vi0 in0 0 PWL(0 0 1e-09 0 1.02935421e-09 0.528375734 1.05870841e-09 0)" in text
    t = np.array([0.0, 1e-9, 2e-9, 3e-9])
    waves = {"v(wl0)": 0.4 * (t == 1e-9), "v(wl1)": 0.9 * (t == 1e-9), "i(vw0)": 0 * t, "i(vw1)": 0 * t}
    errors, energies = _pulses(Plot({"time": t, **waves}), widths, 0.9)
    assert errors == pytest.approx([-widths[0], 0.0])
    assert energies == (0, 0)


@pytest.fixture(scope="module")
def found() -> WriteResult:
    return characterise_write_path(technology("freepdk45"), PAPER, jobs=1)


def test_levels_that_are_no_codes_are_refused() -> None:
    for design in (PAPER.replace(storage_levels=6), load_design("ideal")):
        with pytest.raises(InputError, match="evenly spaced codes"):
            characterise_write_path(technology("freepdk45"), design)


class TestSimulated:
    pytestmark = needs_ngspice

    def test_the_string_reaches_its_levels(self, found: WriteResult) -> None:
        string = found.dacs["string"]
        step = string.levels[1] - string.levels[0]
        assert np.abs(np.subtract(string.stored, string.levels)).max() < step / 14
        assert np.abs(string.inl).max() < 0.05
        assert np.abs(string.dnl).max() < 0.05
        assert 0 < max(string.settling) < found.write
        assert np.abs(string.residual).max() < 1e-3

    def test_charge_redistribution_divides_by_the_line(self, found: WriteResult) -> None:
        """The range is that of seven units over these, the line's wires and the store, gates left out."""
        charge = found.dacs["charge"]
        wires = 63 * 0.2e-15 + technology("freepdk45").storage
        assert 0.7 < charge.gain < 7 * BIT_CAPACITANCE / (7 * BIT_CAPACITANCE + wires)
        assert np.abs(charge.inl).max() < 0.05

    def test_a_string_draws_what_its_resistors_draw(self, found: WriteResult) -> None:
        """The lowest code charges nothing: V^2 / R over discharge and write."""
        string, charge = found.dacs["string"].energy, found.dacs["charge"].energy
        duration = found.discharge + found.write
        assert string[0] == pytest.approx(0.9**2 / (7 * 5e3) * duration, rel=0.02, abs=0)
        assert np.mean(string) > 5 * np.mean(charge)

    def test_the_written_cell_gives_the_charge_of_its_voltage(self, found: WriteResult) -> None:
        for dac in found.dacs.values():
            expected = np.interp(dac.stored, dac.levels, dac.ideal_charge)
            full = np.abs(dac.ideal_charge).max()
            assert np.abs(dac.charge[1:-1] - expected[1:-1]).max() < 0.05 * full

    def test_word_line_pulses_keep_their_width(self, found: WriteResult) -> None:
        assert len(found.pulses.error) == 15
        assert np.abs(found.pulses.error).max() < 10e-12
        assert np.ptp(found.pulses.energy) < 0.05 * np.mean(found.pulses.energy)

    @pytest.mark.slow
    def test_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "write.json"
        with pytest.raises(SystemExit) as left:
            main(["spice", "write", "--json", str(file), "--workers", "1"])
        assert left.value.code == 0
        assert "resistor string" in capsys.readouterr().out
        result = json.loads(file.read_text())
        assert to_json(parse(result, "write")) == result
        assert len(result["dacs"]["charge"]["stored"]["value"]) == 8
