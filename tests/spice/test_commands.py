"""The commands as a user gives them: quick mode, few columns, what is refused before any simulation."""

import json
import math
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gaincell.chips.design_file import load_design
from gaincell.cli import app
from gaincell.cli._spice_options import simulating
from gaincell.errors import InputError
from gaincell.reports.spice import cell_figure
from gaincell.reports.spice_tables import artefacts, cells, limit, slowest_write
from gaincell.results import read
from gaincell.results.common import Result
from gaincell.results.spice_cell import CharacterisationResult
from gaincell.spice import wires
from gaincell.spice.inputs import random_inputs
from gaincell.spice.runner import SimulationWarning, available
from gaincell.spice.technology import Corner, technology, user_technology
from gaincell.spice.verify import verify
from gaincell.spice.write_path import characterise_write_path
from gaincell.text import sha256

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "spice"
needs_ngspice = [pytest.mark.spice, pytest.mark.skipif(not available(), reason="ngspice is not installed")]


class TestSimulated:
    pytestmark = needs_ngspice

    @pytest.mark.slow
    def test_the_quick_mode_passes(self, tmp_path: Path) -> None:
        out = tmp_path / "verify.json"
        result = CliRunner().invoke(app, ["spice", "verify", "--json", str(out)])
        assert result.exit_code == 0, result.output
        found = json.loads(out.read_text())
        assert found["columns"]["value"] == 8
        assert found["corner"]["process"] == "nominal"
        assert all(check["passed"] for check in found["checks"])
        assert "FAIL" not in result.output

    @pytest.mark.slow
    @pytest.mark.parametrize(("dac", "code"), [("string", 0), ("charge", 1)])
    def test_from_a_code_to_the_current(self, dac: str, code: int, tmp_path: Path) -> None:
        """Cells hold what the DAC wrote; the model reads them as they are. Only the string is close."""
        out = tmp_path / "verify.json"
        options = ["--write-dac", dac, "--columns", "2", "--json", str(out)]
        result = CliRunner().invoke(app, ["spice", "verify", *options])
        assert result.exit_code == code, result.output
        found = json.loads(out.read_text())
        expected = {"string": 0.9, "charge": 0.72}
        assert found["levels"]["value"][-1] == pytest.approx(expected[dac], abs=0.02)
        checks = {check["name"]: check["passed"] for check in found["checks"]}
        assert checks.pop("write: largest error of a stored voltage") == (dac == "string")
        assert all(checks.values())

    @pytest.mark.slow
    def test_too_few_columns_for_a_calibration_are_shown_without_one(self, tmp_path: Path) -> None:
        out = tmp_path / "verify.json"
        options = ["--inputs", "centred", "--columns", "1", "--json", str(out)]
        result = CliRunner().invoke(
            app, ["spice", "verify", *options, "--figure", str(tmp_path / "verify.png")]
        )
        assert result.exit_code == 0, result.output
        assert json.loads(out.read_text())["first"]["affine_calibration"] == {}
        assert (tmp_path / "verify.png").exists()


@pytest.mark.parametrize(
    "command",
    [["verify", "--json"], ["wires", "--json"], ["energy", "--json"], ["characterise", "--json"]],
)
def test_outputs_that_cannot_be_written_are_refused_first(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["spice", *command, str(tmp_path / "file" / "result.json")])
    assert result.exit_code == 2


def test_a_command_shows_every_warning_once(capsys: pytest.CaptureFixture[str]) -> None:
    with simulating():
        for text in ("Warning: one", "Warning: one", "Warning: two"):
            warnings.warn(text, SimulationWarning, stacklevel=1)
    said = capsys.readouterr().err
    assert said.count("ngspice warned: Warning: one") == 1
    assert said.count("ngspice warned") == 2


def test_a_supply_voltage_is_of_own_models_only() -> None:
    result = CliRunner().invoke(app, ["spice", "wires", "--vdd", "1.0"])
    assert result.exit_code == 2
    assert "use --supply" in result.output


@pytest.mark.parametrize(("vdd", "words"), [("0", "vdd = 0.0 V is out of range"), ("7", "vdd = 7.0 V")])
def test_a_supply_voltage_of_own_models_is_not_replaced(vdd: str, words: str, tmp_path: Path) -> None:
    kit = tmp_path / "kit.lib"
    kit.write_text(".model nmos nmos level=54\n.model pmos pmos level=54\n")
    result = CliRunner().invoke(app, ["spice", "wires", "--lib", str(kit), "--vdd", vdd])
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize("name", ["freepdk45", "generic28", "oxide"])
def test_own_models_are_called_that_and_bring_what_their_cell_needs(name: str, tmp_path: Path) -> None:
    """Whatever their file is called; with an oxide write transistor where the cell has one."""
    kit = tmp_path / f"{name}.lib"
    kit.write_text(".model nmos nmos level=54\n.model pmos pmos level=54\n")
    own = user_technology(kit, "nmos", "pmos", like=name)
    assert own.title == f"{name} (a user's own models)"
    files = own.files(Corner())
    assert files["card.spi"] == f'.include "{kit.resolve()}"\n'
    assert files.get("oxide.spi") == technology(name).files(Corner()).get("oxide.spi")
    assert ("oxide.spi" in files) == (name == "oxide")


@pytest.mark.parametrize(
    ("design", "words"),
    [("leroux2025-signed", "queries with signs"), ("leroux2025-extended", "exponent 3"), ("ideal", "'none'")],
)
def test_designs_without_circuits_are_refused(design: str, words: str) -> None:
    chip = load_design(design)
    with pytest.raises(InputError, match=words):
        verify(technology("freepdk45"), chip, random_inputs(chip, 0))
    with pytest.raises(InputError, match=words):
        wires.study(technology("freepdk45"), chip)


def test_wires_of_other_sub_tiles_are_refused() -> None:
    chip = load_design("leroux2025").replace(tile=32)
    with pytest.raises(InputError, match=r"sub-tiles of 32 columns; .* give a design with tile = 64"):
        wires.study(technology("freepdk45"), chip)


def test_a_tolerance_may_be_reached_outside_of_what_is_simulated() -> None:
    errors = [(1.0, 0.0033), (3.0, 0.013)]
    assert [limit(wires._limit(errors, most)) for most in (0.002, 0.0033, 0.013, 0.02)] == [
        "below the range",
        "below the range",
        "3",
        "beyond 100",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"v_min": 0.2, "v_max": 0.7}, r"stores 0\.2 to 0\.7 V about 0\.45 V"),
        ({"v_offset": 0.4}, r"about 0\.4 V"),
        ({"storage_levels": None}, "not quantised"),
        ({"query_levels": None}, "not quantised"),
        ({"score_ceiling": False}, "without a ceiling"),
    ],
)
def test_designs_of_another_range_are_refused(changes: dict[str, Any], words: str) -> None:
    """Levels of the circuits go from 0 to VDD about VDD/2, and none is made up where none is stated."""
    chip, models = load_design("leroux2025").replace(**changes), technology("freepdk45")
    for simulate in (lambda: verify(models, chip, random_inputs(chip, 0)), lambda: wires.study(models, chip)):
        with pytest.raises(InputError, match=words):
            simulate()
    if "V about" in words:
        with pytest.raises(InputError, match=words):
            characterise_write_path(models, chip)


@pytest.fixture
def cell() -> CharacterisationResult:
    return read(RESULTS / "cell-freepdk45.json", CharacterisationResult)


def test_levels_that_never_settle_are_counted(cell: CharacterisationResult) -> None:
    assert slowest_write(cell) == "0.66"
    settled = (*cell.write.settled_within_9_mV[:-2], math.inf, math.inf)
    never = replace(cell, write=replace(cell.write, settled_within_9_mV=settled))
    assert slowest_write(never) == f"2 of {len(settled)} levels never"
    assert slowest_write(never) in cells({"": never}).markdown()


@pytest.mark.usefixtures("blank_figures")
def test_the_simulation_of_a_cell_that_does_not_fit_is_kept(
    cell: CharacterisationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge = tuple(tuple(1e-3 * one for one in row) for row in cell.mismatch.charge)
    weak = replace(cell, mismatch=replace(cell.mismatch, charge=charge))
    monkeypatch.setattr("gaincell.spice.characterise.characterise", lambda *_, **__: weak)
    out, json_file, design = tmp_path / "cell.toml", tmp_path / "cell.json", tmp_path / "mine.toml"
    load_design("leroux2025").save(design)
    options = ["--out", str(out), "--json", str(json_file), "--design", str(design)]
    result = CliRunner().invoke(app, ["spice", "characterise", *options])
    stem = out.with_suffix("")
    assert result.exit_code == 2
    advice = f"gaincell device fit {stem}-curve.csv --rescale --out {out} --design {design}"
    assert advice in result.output
    assert read(json_file, Result).provenance.inputs == {"design mine.toml": sha256(design)}
    assert out.with_suffix(".png").exists()
    assert stem.with_name("cell-curve.csv").exists()
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "simulating_function", "others"),
    [
        ("write", "spice.write_path.characterise_write_path", None),
        ("wires", "spice.wires.study", None),
        ("verify", "spice.verify.verify", 1),
        ("energy", "spice.verify.energy_result", None),
        ("mixed", "rtl.mixed_signal.simulate_sub_tile", 2),
    ],
)
def test_results_name_a_design_file_and_its_hash(
    command: str,
    simulating_function: str,
    others: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suffix = "-random" if command == "verify" else ""
    known = read(RESULTS / f"{command}-freepdk45{suffix}.json", Result)
    returned = known if others is None else (known, *[None] * others)
    monkeypatch.setattr("gaincell.spice.verify.verify", lambda *_, **__: None)
    module, _, function = simulating_function.rpartition(".")
    monkeypatch.setattr(import_module(f"gaincell.{module}"), function, lambda *_, **__: returned)
    out, design = tmp_path / "found.json", tmp_path / "mine.toml"
    load_design("leroux2025").save(design)
    options = ["--design", str(design), "--json", str(out)]
    result = CliRunner().invoke(app, ["spice", command, *options])
    assert result.exit_code == 0, result.output
    inputs = {**known.provenance.inputs, "design mine.toml": sha256(design)}
    assert read(out, Result).provenance.inputs == inputs


@pytest.mark.usefixtures("blank_figures")
def test_a_simulated_cell_replaces_no_measurement(
    cell: CharacterisationResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaincell.spice.characterise.characterise", lambda *_, **__: cell)
    out, curve, decay = (tmp_path / name for name in ("mine.toml", "mine-curve.csv", "mine-decay.csv"))

    def said(code: int, *options: str) -> str:
        result = CliRunner().invoke(app, ["spice", "characterise", "--out", str(out), *options])
        assert result.exit_code == code, result.output
        return " ".join(result.output.split())

    curve.write_text("voltage [V],current [A]\n")
    assert "mine-curve.csv is there already, not from gaincell spice characterise" in said(2)
    assert curve.read_text() == "voltage [V],current [A]\n"
    curve.unlink()
    assert "would be written to the same place" in said(2, "--json", str(decay))
    for _ in range(2):  # its own it replaces
        assert "Device and figure" in said(0)
        assert decay.read_text().startswith("# simulated")


@pytest.mark.parametrize(("card", "wrong"), [("freepdk45", [-40.0]), ("oxide", [-40.0]), ("generic28", [])])
def test_currents_of_a_card_beyond_its_temperatures_are_called_artefacts(
    card: str, wrong: list[float]
) -> None:
    result = read(RESULTS / f"cell-{card}.json", CharacterisationResult)
    assert artefacts(result) == wrong
    assert ("artefact of the card" in cells({card: result}).markdown()) == bool(wrong)
    assert cells({"here": result}).headings[1] == f"here: {result.technology}"
    leaky = replace(result, retention=replace(result.retention, set_by_a_leak=True))
    assert "after 10 ms, by a leak that was set" in cells({card: leaky}).markdown()
    assert "leak that was set" not in cells({card: replace(leaky, retention=result.retention)}).markdown()
    axes = next(axes for axes in cell_figure(result).axes if axes.get_title(loc="left") == "Corners")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert ("artefact: card at -40 °C" in labels) == bool(wrong)
    assert any("27 to 85 °C" in label for label in labels) == bool(wrong)
