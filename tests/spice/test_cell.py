"""One simulated cell: curve, writes, retention without artefacts, mismatch; the device that comes of it."""

from pathlib import Path

import numpy as np
import pytest
from tests.tiers import slow

from gaincell.chips.design_file import load_design
from gaincell.chips.device import with_cell
from gaincell.chips.device_file import load_device
from gaincell.errors import InputError
from gaincell.results.description import Stated
from gaincell.results.spice_cell import CharacterisationResult
from gaincell.spice.characterise import characterise, device_of, threshold_shifts
from gaincell.spice.netlists.cell import curve_bench, hold_bench
from gaincell.spice.result import head
from gaincell.spice.runner import available, run
from gaincell.spice.technology import Corner, Site, technology, user_technology
from gaincell.text import sha256

pytestmark = [pytest.mark.spice, pytest.mark.skipif(not available(), reason="ngspice is not installed")]


@pytest.fixture(scope="module", params=["freepdk45", slow("generic28")])
def found(request: pytest.FixtureRequest) -> CharacterisationResult:
    return characterise(technology(request.param), load_design("leroux2025"), cells=10, tau=5e-3)


def test_the_curve_rises_and_is_nearly_odd(found: CharacterisationResult) -> None:
    assert (np.diff(found.curve.current) > 0).all()
    assert (np.diff(found.curve.charge) > 0).all()
    assert abs(found.curve.current[0] / found.curve.current[-1] + 1) < 0.15
    assert 8e-6 < found.curve.current[-1] < 11e-6


def test_every_level_is_written_within_a_nanosecond(found: CharacterisationResult) -> None:
    assert max(found.write.settled_within_9_mV) < 1e-9
    assert np.abs(found.write.error_after_switching_off).max() < 9e-3


def test_disturb_stays_below_a_tenth_of_a_level(found: CharacterisationResult) -> None:
    assert np.abs(found.disturb.after_8_reads).max() < 12e-3
    assert np.abs(found.disturb.half_selected).max() < 12e-3


def test_cells_are_disturbed_by_pulses_of_the_design(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def stopped(*_: object, t_pulse: float, **__: object) -> None:
        given.append(t_pulse)
        raise InputError("stopped")

    monkeypatch.setattr("gaincell.spice.characterise.disturb_bench", stopped)
    with pytest.raises(InputError, match="stopped"):
        characterise(technology("freepdk45"), load_design("leroux2025").replace(t_pulse_max=30e-9))
    assert given == [30e-9]


def test_the_device_is_what_was_simulated(found: CharacterisationResult, tmp_path: Path) -> None:
    design = load_design("leroux2025")
    device, without = device_of(found, design, tmp_path / "cell", 5e-3)
    assert without == ""
    device.save(tmp_path / "cell.toml")
    again = load_device(tmp_path / "cell.toml")
    assert again.cell == device.cell
    assert again.number("retention.retention_time") == pytest.approx(5e-3, rel=0.15)
    assert device.quality["r_squared_of_own_curves"] > 0.99
    fitted = [quantity for quantity in again.numbers.values() if quantity.source == "F"]
    assert all(quantity.note.startswith("simulated") for quantity in fitted)
    on_the_chip = [q for q in with_cell(design, again).provenance.values() if q.source == "F"]
    assert on_the_chip
    assert {Stated.of(quantity).kind for quantity in fitted + on_the_chip} == {"simulated"}


def test_decays_from_several_voltages_are_no_spread_between_cells(
    found: CharacterisationResult, tmp_path: Path
) -> None:
    device, _ = device_of(found, load_design("leroux2025"), tmp_path / "cell", 5e-3)
    note = "simulated; range: 95 %, over written voltages of one cell"
    assert device.numbers["retention.retention_time"].note == note
    assert device.number("retention.spread") is None
    assert with_cell(load_design("leroux2025"), device).leakage.spread == 0


def test_default_gmin_is_not_taken_for_retention() -> None:
    """The simulator's 1e-12 S discharges the store within milliseconds; ours must not."""
    held = [
        float(run(hold_bench(Site(technology("freepdk45")), [0.75], 1e-2, gmin=gmin)).plot["v(st0)"][-1])
        for gmin in (1e-20, 1e-18, 1e-12)
    ]
    assert held[0] == pytest.approx(held[1], abs=2e-4)
    assert held[0] > 0.74
    assert held[2] < 0.55


def test_an_oxide_write_transistor_holds() -> None:
    plot = run(hold_bench(Site(technology("oxide")), [0.0, 0.9], 1.0, gmin=1e-24)).plot
    assert abs(plot["v(st1)"][-1] - 0.9) < 1e-3


def test_threshold_shifts_follow_pelgrom_and_repeat() -> None:
    free = technology("freepdk45")
    shifts = threshold_shifts(free, 4000, 3)
    np.testing.assert_array_equal(shifts, threshold_shifts(free, 4000, 3))
    assert shifts[:, 0].std() == pytest.approx(2e-9 / np.sqrt(90e-9 * 300e-9), rel=0.05)


@pytest.mark.parametrize("vdd", [0.7, 1.2, 3.3])
def test_a_sweep_ends_at_the_supply(vdd: float, tmp_path: Path) -> None:
    """Also where the step has more digits than a number of a netlist."""
    kit = tmp_path / "kit.lib"
    kit.write_text(technology("freepdk45").files(Corner())["card.spi"])
    own = user_technology(kit, "NMOS_VTG", "PMOS_VTG", vdd=vdd)
    volts = run(curve_bench(Site(own), points=19)).plot["v(st)"]
    np.testing.assert_allclose(volts, np.linspace(0, vdd, 19), rtol=1e-9, atol=1e-12)


def test_own_models_give_the_same_curve_as_the_vendored_ones(tmp_path: Path) -> None:
    free = technology("freepdk45")
    kit = tmp_path / "kit.lib"
    text = free.files(Corner())["card.spi"]
    subcircuits = "".join(
        f".subckt {name} b d g s w=1u l=1u\nM1 d g s b {model} w={{w}} l={{l}}\n.ends\n"
        for name, model in (("nch", "NMOS_VTG"), ("pch", "PMOS_VTG"))
    )
    kit.write_text(text + subcircuits)
    top = tmp_path / "error_free.spi"  # a name that ngspice repeats
    top.write_text('.include "kit.lib"\n')
    own = user_technology(top, "nch", "pch", subcircuits=True, nodes="bdgs")
    told = head(own, ["gaincell"], load_design("leroux2025"))
    assert told["provenance"].inputs == {"models error_free.spi": sha256(top)}
    curves = [run(curve_bench(Site(t), points=5)).plot["i(vb0)"] for t in (free, own)]
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4, atol=1e-10)
    shifted = [run(curve_bench(Site(t), points=5, shifts=[[0.012] * 4])).plot["i(vb0)"] for t in (free, own)]
    effect = [a - b for a, b in zip(shifted, curves, strict=True)]
    share = effect[1] / effect[0]  # without the part that delvto has in the mobility
    assert (share > 0.5).all()
    assert (share < 1.0).all()
    with pytest.raises(InputError, match="choose it with --section"):
        own.files(Corner("fast"))
    with pytest.raises(InputError, match=r"give --vdd 0\.9"):
        characterise(user_technology(kit, "nch", "pch", vdd=1.2), load_design("leroux2025"))
