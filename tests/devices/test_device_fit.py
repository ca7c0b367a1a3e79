"""Measured cells: reading, fitting, the device file, and what a design makes of it."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gaincell import results
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.chips.device import fit_device, load_device, with_cell
from gaincell.chips.device_file import inputs_of_cell
from gaincell.chips.fields import BASIC
from gaincell.chips.text import commented
from gaincell.circuits.noise import Noise
from gaincell.cli import main
from gaincell.devices import decay as laws
from gaincell.devices.columns import Columns
from gaincell.devices.decay import fit_decay
from gaincell.devices.leakage import Leakage
from gaincell.devices.measurement import read_curve, read_decay
from gaincell.devices.tabulated import TabulatedCell
from gaincell.devices.variability import Mismatch
from gaincell.errors import DesignError, GaincellError, InputError
from gaincell.reports.device import describe
from gaincell.results.codec import from_json, to_json
from gaincell.results.description import ShownDevice, Stated
from gaincell.results.device import DeviceResult, Fitted
from gaincell.text import sha256

TRUE = (0.52, 13.6, -2.6, 46.0)
MICROAMPERE = 1.0
"""A charge unit of leroux2025 is one microampere for a full pulse."""


def charge(u: np.ndarray) -> np.ndarray:
    return np.polynomial.polynomial.polyval(u, TRUE)


def cells(
    path: Path,
    count: int = 40,
    seed: int = 0,
    gain: float = 0.05,
    shift: float = 0.01,
    current: float = 0.02,
    noise: float = 0.01,
    reads: int = 2,
) -> Path:
    """A file of synthetic cells with known errors and noise."""
    g = np.random.default_rng(seed)
    u, full = np.linspace(-0.45, 0.45, 19), float(charge(np.array(0.45)))
    lines = ["# synthetic", "cell, read, voltage [mV], current [nA]"]
    for cell in range(count):
        e = g.normal(size=3)
        y = (1 + gain * e[0]) * charge(u + shift * e[1]) + current * full * e[2]
        for read in range(reads):
            for a, b in zip(u, y + noise * full * g.normal(size=19), strict=True):
                lines.append(f"{cell}, {read}, {1e3 * (a + 0.45):.6g}, {1e3 * MICROAMPERE * b:.8g}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def design() -> Design:
    return load_design("leroux2025")


@pytest.mark.slow
def test_known_cells_are_recovered_within_their_confidence_intervals(design: Design, tmp_path: Path) -> None:
    """95 % intervals of seven numbers over twelve chips: of 84, all but a few contain the truth."""
    missed = 0
    for seed in range(12):
        _, fit, _ = fit_device(cells(tmp_path / "curve.csv", seed=seed), design)
        pairs = list(zip(fit.coefficients, TRUE, strict=True))
        pairs += [(fit.gain_std, 0.05), (fit.offset_voltage_std, 0.01), (fit.current_offset_std, 0.02)]
        for estimate, truth in pairs:
            assert estimate is not None
            low, high = estimate.interval
            missed += not low <= truth <= high
        assert fit.noise_std == pytest.approx(0.01, rel=0.15)
    assert missed <= 12  # 84 intervals, 4 expected; more than 12 with probability below 1e-3
    assert fit.r_squared > 0.999
    assert fit.explained is not None
    assert fit.explained > 0.8
    covariance = np.array(fit.covariance)
    assert np.linalg.eigvalsh(covariance).min() >= -1e-9
    assert covariance[1, 1] == pytest.approx((0.05 * 13.6) ** 2 + (0.01 * 2 * 2.6) ** 2, rel=0.5)


def test_intervals_of_standard_deviations_are_those_of_chi_square(design: Design, tmp_path: Path) -> None:
    """Eight cells without noise: 0.66 to 2.04 times the standard deviation, never below zero."""
    path = cells(tmp_path / "curve.csv", count=8, noise=1e-6)
    device, fit, _ = fit_device(path, design)
    for key in ("gain_std", "offset_voltage_std", "current_offset_std"):
        estimate = getattr(fit, key)
        low, high = (end / estimate.value for end in estimate.interval)
        assert (low, high) == pytest.approx((0.661, 2.035), rel=0.02)
        assert device.numbers[f"mismatch.{key}"].range == estimate.interval


@pytest.mark.parametrize("order", [3, 7, 9])
def test_the_spread_of_cells_does_not_grow_with_the_order(order: int, design: Design, tmp_path: Path) -> None:
    """Standard deviation over the cells of F at the ends and in the middle, by the covariance."""
    path = cells(tmp_path / "curve.csv", gain=0.05, shift=0.0, current=0.02, noise=0.005)
    fit = fit_device(path, design)[1]
    curves = fit_device(path, design, order=order)[1]
    powers = np.vander([-0.45, 0.0, 0.45], order + 1, increasing=True)
    spread = np.sqrt(np.diag(powers @ np.array(curves.covariance) @ powers.T))
    assert spread == pytest.approx(fit.curves[:, [0, 200, 400]].std(0, ddof=1), rel=0.05)


def test_the_nominal_curve_is_judged_by_all_points(design: Design, tmp_path: Path) -> None:
    """Cells that follow their own curves exactly, and differ: only those are followed without a rest."""
    device, fit, _ = fit_device(cells(tmp_path / "curve.csv", gain=0.2, noise=0, reads=1), design)
    u, y = fit.measured
    rest = y - np.polynomial.polynomial.polyval(u, device.cell.coefficients)
    assert device.quality["rms_about_own_curves_charge_units"] < 0.01 * fit.nominal_rms
    assert fit.nominal_rms == pytest.approx(float(np.sqrt((rest**2).mean())))
    assert fit.nominal_r_squared == pytest.approx(1 - float(rest.var() + rest.mean() ** 2) / float(y.var()))
    assert fit.nominal_r_squared < 0.99 < fit.r_squared


def test_a_perfect_cell_is_recovered_exactly(design: Design, tmp_path: Path) -> None:
    path = cells(tmp_path / "one.csv", count=1, gain=0, shift=0, current=0, noise=0, reads=1)
    device, fit, _ = fit_device(path, design)
    assert device.cell.coefficients == pytest.approx(TRUE, rel=1e-6)
    assert fit.gain_std is None
    assert fit.offset_voltage == pytest.approx(-0.0379, abs=1e-3)
    higher, _, _ = fit_device(path, design, order=5)
    assert higher.cell.coefficients == pytest.approx((*TRUE, 0, 0), abs=1e-4)


def test_a_polynomial_follows_the_storage_range_whatever_lies_beyond(design: Design, tmp_path: Path) -> None:
    """A cubic within 0 to 0.9 V that saturates beyond: the fit is that of the range."""
    path, volts = tmp_path / "wide.csv", np.linspace(-0.6, 1.5, 43)
    u = volts.clip(-0.05, 0.95) - design.v_offset
    amperes = (0.5 + 14 * u - 3 * u**2 + 40 * u**3) * 1e-6
    lines = [f"{v:.6f},{i:.9e}" for v, i in zip(volts, amperes, strict=True)]
    path.write_text("voltage [V],current [A]\n" + "\n".join(lines))
    device, fitted, _ = fit_device(path, design)
    assert [c.value for c in fitted.coefficients] == pytest.approx([0.5, 14.0, -3.0, 40.0], rel=1e-4)
    assert (fitted.points, device.origin["points_beyond_the_storage_range"]) == (19, 24)
    table, _, _ = fit_device(path, design, kind="tabulated")
    assert table.origin["points"] == 43
    path.write_text("voltage [V],current [A]\n" + "\n".join(lines[:24]))
    with pytest.raises(InputError, match=r"voltages go from -0\.6 to 0\.55 V"):
        fit_device(path, design)


def test_the_device_file_reads_back_and_enters_a_design(design: Design, tmp_path: Path) -> None:
    device, _, _ = fit_device(cells(tmp_path / "curve.csv"), design)
    path = device.save(tmp_path / "device.toml")
    assert load_device(path) == device
    chip = with_cell(design, str(path))
    assert chip == with_cell(design, str(tmp_path / "curve.csv"))
    assert chip.cell == device.cell
    rows = device.covariance["coefficients"]
    assert chip.mismatch == Mismatch(coefficient_covariance=tuple(entry for row in rows for entry in row))
    for key in ("cell.coefficients", "mismatch.coefficient_covariance"):
        assert chip.provenance[key].source == "F"
    chip.save(tmp_path / "chip.toml")
    assert load_design(tmp_path / "chip.toml") == chip
    assert with_cell(design, "x3") == design.replace(cell="x3")
    with pytest.raises(DesignError, match="fit it again"):
        with_cell(design.replace(v_max=0.8), device)


def test_a_chip_is_called_by_its_device(design: Design, tmp_path: Path) -> None:
    curve = cells(tmp_path / "mine.csv", count=2)
    device, other = (fit_device(curve, design, name=name)[0] for name in (None, "other"))
    chip = with_cell(design, device)
    assert chip.name == "leroux2025+mine"
    assert chip.description == "leroux2025 with polynomial cell fitted to 2 measured cells"
    assert load_design(chip.save(tmp_path / "chip.toml")) == chip == with_cell(chip, device)
    assert with_cell(chip, other).name == "leroux2025+other"
    path = device.save(tmp_path / "device.toml")
    assert inputs_of_cell(str(path)) == {"cell device.toml": sha256(path)}
    assert inputs_of_cell("x3") == inputs_of_cell(None) == {}


def test_simulated_cells_are_not_called_measured(design: Design, tmp_path: Path) -> None:
    """Whoever fits the files of `gaincell spice characterise`."""
    curve, decay = cells(tmp_path / "c.csv", count=2), decays(tmp_path / "d.csv", "exponential")
    for path in (curve, decay):
        path.write_text("# simulated: kit; ngspice\n" + path.read_text())
    device, fitted, held = fit_device(curve, design, decay=decay)
    assert "fitted to 2 simulated cells" in device.description
    assert device.origin["curve_simulated"] == device.origin["decay_simulated"] == "kit; ngspice"
    fits = [number for number in device.numbers.values() if number.source == "F"]
    assert {Stated.of(number).kind for number in fits} == {"simulated"}
    assert "retention.spread" not in device.numbers
    result = describe(device, fitted, held, ["gaincell"], design.hash)
    assert {number.kind for name, number in result.fit.items() if name != "charge unit"} == {"simulated"}
    assert result.fit["charge unit"] == Fitted(design.charge_unit, "C", "assumed")
    assert (result.curves.numbers, result.decays[0].numbers) == ("simulated", "simulated")
    assert from_json(DeviceResult, to_json(result)) == result
    mixed, *_ = fit_device(curve, design, decay=decays(tmp_path / "m.csv", "exponential"))
    kinds = {key.partition(".")[0]: Stated.of(n).kind for key, n in mixed.numbers.items() if n.source == "F"}
    assert (kinds["cell"], kinds["retention"]) == ("simulated", "measured")


def test_what_a_device_brought_goes_with_it(design: Design, tmp_path: Path) -> None:
    decay = decays(tmp_path / "decay.csv", "exponential")
    many = fit_device(cells(tmp_path / "many.csv"), design, decay=decay)[0]
    one = fit_device(cells(tmp_path / "one.csv", count=1), design, order=5)[0]
    chip = with_cell(design, many)
    assert all((chip.mismatch.coefficient_covariance, chip.leakage.spread, chip.noise.cell_std))
    with pytest.raises(
        DesignError, match=r"'one' states no retention, and that of design 'leroux2025\+many'"
    ):
        with_cell(chip, one)
    changed = with_cell(chip.replace(retention_time=1e-3), one)
    assert changed.hash == with_cell(design.replace(retention_time=1e-3), one).hash
    assert not any("many" in quantity.note for quantity in changed.provenance.values())
    assert load_design(changed.save(tmp_path / "chip.toml")) == changed
    for kind in ("x3", "linear"):
        found = with_cell(chip, kind)
        assert found.mismatch == Mismatch()
        assert (found.leakage, found.retention_time) == (chip.leakage, chip.retention_time)
    assert with_cell(chip, "polynomial") == chip


def test_what_a_device_does_not_state_stays(
    design: Design, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stuck cells, correlation, numbers of the basic model; without a device again, or with another, all."""
    own = Mismatch(gain_std=0.03, stuck_low=0.01, smooth_share=0.5, correlation_length=4.0, seed=3)
    chip = design.replace(mismatch=own, leakage=Leakage(spread=0.3), noise=Noise(cell_std=0.02))
    curve, decay = cells(tmp_path / "many.csv", count=8), decays(tmp_path / "decay.csv", "exponential")
    law = "exponential"
    one = fit_device(cells(tmp_path / "one.csv", count=1, reads=1), design, decay=decay, law=law)[0]
    one = replace(one, numbers={key: n for key, n in one.numbers.items() if key != "retention.spread"})
    expected = with_cell(chip, one)
    assert (expected.mismatch, expected.noise) == (own, chip.noise)
    for kind in ("tabulated", "polynomial"):
        device = fit_device(curve, design, decay=decay, kind=kind, law=law)[0]
        found = with_cell(chip, device)
        stated = {key: device.number(f"mismatch.{key}") for key in BASIC} if kind == "tabulated" else BASIC
        covariance = found.mismatch.coefficient_covariance
        assert found.mismatch == replace(own, **stated, coefficient_covariance=covariance)
        assert bool(covariance) == ("have no effect" in caplog.text) == (kind == "polynomial")
        found = load_design(found.save(tmp_path / "chip.toml"))
        assert with_cell(found, one) == expected
        assert with_cell(found, device) == found
        cited = replace(device, numbers={key: replace(n, source="P") for key, n in device.numbers.items()})
        again = with_cell(with_cell(chip, cited), one)
        assert again == expected
        assert not any("many" in quantity.note for quantity in again.provenance.values())
        assert "cell.volts" not in again.provenance
    assert with_cell(found, "x3").mismatch == own


def test_the_coefficients_of_a_device_replace_the_published_fit(design: Design, tmp_path: Path) -> None:
    """Numbers of a fit that have no effect are not written, and those of older files are left out."""
    chip = with_cell(design, fit_device(cells(tmp_path / "curve.csv", count=2), design)[0])
    text = commented(chip, "mine")
    assert "c10" not in text
    assert "v_in =" not in text
    older = tmp_path / "older.toml"
    fit = "\n".join(f"{key} = {design.provenance[f'cell.{key}'].to_toml()}" for key in ("v_in", "c10"))
    older.write_text(text.replace("coefficients =", f"{fit}\ncoefficients ="))
    found = load_design(older)
    assert found.hash == chip.hash
    assert found.provenance == chip.provenance


def test_a_table_follows_the_points_and_rises(design: Design, tmp_path: Path) -> None:
    device, _, _ = fit_device(cells(tmp_path / "curve.csv"), design, kind="tabulated")
    cell = device.cell
    assert isinstance(cell, TabulatedCell)
    points = torch.tensor(cell.volts, dtype=torch.float64)
    torch.testing.assert_close(cell.current(points), torch.tensor(cell.currents, dtype=torch.float64))
    u = torch.linspace(-0.6, 0.6, 997, dtype=torch.float64, requires_grad=True)
    f = cell.current(u)
    assert bool((f.diff() >= 0).all())
    (slope,) = torch.autograd.grad(f.sum(), u)
    torch.testing.assert_close(cell.slope(u.detach()), slope, rtol=1e-9, atol=1e-9)
    assert load_device(device.save(tmp_path / "table.toml")) == device
    chip = with_cell(design, device)
    assert chip.mismatch.gain_std == device.number("mismatch.gain_std")
    chip.save(tmp_path / "chip.toml")
    assert load_design(tmp_path / "chip.toml") == chip


def decays(path: Path, law: str, seed: int = 0, cells: int = 12, target: float = 0.3) -> Path:
    g = np.random.default_rng(seed)
    t = np.geomspace(0.02, 100, 60)
    lines = ["time [ms], voltage [V], cell"]
    for cell in range(cells):
        tau = 5 * np.exp(0.1 * g.normal())
        left = {
            "exponential": np.exp(-t / tau),
            "stretched": np.exp(-((t / tau) ** 0.6)),
            "two-times": 0.7 * np.exp(-t / tau) + 0.3 * np.exp(-t / (20 * tau)),
        }[law]
        noise = 5e-4 * g.normal(size=len(t))
        lines += [f"{a:.6g},{b:.6g},{cell}" for a, b in zip(t, target + 0.6 * left + noise, strict=True)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("law", ["exponential", "stretched", "two-times"])
def test_the_law_of_a_decay_is_found(law: str, tmp_path: Path) -> None:
    fit = fit_decay(read_decay(decays(tmp_path / "decay.csv", law)))
    assert fit.law == law
    assert fit.tau == pytest.approx(5e-3, rel=0.1)
    assert fit.tau_spread == pytest.approx(0.1, rel=0.6)
    assert fit.target == pytest.approx(0.3, abs=0.02)
    if law == "stretched":
        assert fit.beta == pytest.approx(0.6, abs=0.02)
    if law == "two-times":
        assert fit.tau_slow == pytest.approx(0.1, rel=0.15)
        assert fit.share == pytest.approx(0.7, abs=0.03)
        assert 5e-3 < fit.time_to_1_over_e < 0.1


def test_a_law_with_too_many_parameters_is_given_up_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight times of an exponential do not determine two of them: thousands of evaluations a cell."""
    g, t, calls = np.random.default_rng(0), np.array([0, 0.1, 0.3, 1, 2, 4, 8, 16]), [0]
    lines = ["time [ms], voltage [V], cell"]
    for cell in range(8):
        volts = 0.45 + 0.35 * np.exp(-t / 4) + 1e-3 * g.normal(size=len(t))
        lines += [f"{a},{b:.5f},{cell}" for a, b in zip(t, volts, strict=True)]
    path = tmp_path / "decay.csv"
    path.write_text("\n".join(lines))
    law, *rest = laws.LAWS["two-times"]

    def counted(*arguments: np.ndarray | float) -> np.ndarray:
        calls[0] += 1
        return law(*arguments)

    monkeypatch.setattr(laws, "LAWS", {**laws.LAWS, "two-times": (counted, *rest)})
    fit = fit_decay(read_decay(path))
    assert fit.law == "exponential"
    assert fit.tau == pytest.approx(4e-3, rel=0.02)
    assert calls[0] < 8 * 7 * laws.MOST_TRIED


def test_decay_and_read_noise_enter_a_design(design: Design, tmp_path: Path) -> None:
    curve = cells(tmp_path / "curve.csv", count=8)
    device, _, _ = fit_device(curve, design, decay=decays(tmp_path / "decay.csv", "exponential"))
    chip = with_cell(design, device)
    assert chip.retention_time == device.number("retention.retention_time")
    assert chip.leakage.decay_voltage == pytest.approx(0.3, abs=0.02)
    assert chip.leakage.spread == device.number("retention.spread") > 0
    own, late = (device.numbers[f"retention.{key}"] for key in ("retention_time", "time_to_1_over_e"))
    assert (own.value, own.range) == (late.value, late.range)
    assert chip.noise.cell_std == device.number("noise.read_std")
    for key, of_device in (("leakage.spread", "spread"), ("leakage.decay_voltage", "target_voltage")):
        stated, fitted = chip.provenance[key], device.numbers[f"retention.{of_device}"]
        assert (stated.source, stated.range) == ("F", fitted.range)
        assert stated.note == f"device curve; {fitted.note}"
    assert (
        chip.replace(leakage=Leakage(spread=3.0)).leakage.spread == 3.0
    )  # no bound is a confidence interval
    assert load_design(chip.save(tmp_path / "chip.toml")) == chip


def test_a_target_that_agrees_with_the_offset_voltage_is_that(design: Design, tmp_path: Path) -> None:
    curve = cells(tmp_path / "curve.csv", count=1, noise=0, reads=1)
    decay = decays(tmp_path / "decay.csv", "exponential", cells=1, target=design.v_offset)
    device, _, held = fit_device(curve, design, decay=decay)
    assert held is not None
    target = device.numbers["retention.target_voltage"]
    assert held.target != design.v_offset == target.value
    assert "agrees" in target.note
    chip = with_cell(design, device)
    assert chip.retention_time == pytest.approx(held.tau)
    assert "leakage.decay_voltage" not in chip.in_use
    assert "retention.spread" not in device.numbers  # of one cell
    assert with_cell(design.replace(leakage=Leakage(spread=0.3)), device).leakage.spread == 0.3


def test_other_laws_give_a_chip_their_time_to_1_over_e(
    design: Design, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    curve = cells(tmp_path / "curve.csv", count=1)
    device, _, held = fit_device(curve, design, decay=decays(tmp_path / "decay.csv", "two-times", cells=4))
    assert held is not None
    assert device.law == "two-times"
    for missing in (None, "time_to_1_over_e"):
        numbers = {key: n for key, n in device.numbers.items() if key != f"retention.{missing}"}
        chip = with_cell(design, replace(device, numbers=numbers))
        assert chip.retention_time == pytest.approx(held.time_to_1_over_e)
        stated = chip.provenance["retention_time"]
        assert (stated.source, stated.note) == ("F", "device curve; time to 1/e of the law two-times")
        assert f"with tau = {chip.retention_time:.4g} s" in caplog.text
    numbers = {key: n for key, n in device.numbers.items() if not key.startswith("retention.")}
    with pytest.raises(DesignError, match=r"two-times', but its numbers are missing: state retention\.time"):
        with_cell(design, replace(device, numbers=numbers))


@pytest.mark.slow
def test_the_interval_of_the_slower_time_of_a_single_cell_holds_the_truth(tmp_path: Path) -> None:
    missed = 0
    for seed in range(30):
        path = tmp_path / "decay.csv"
        g, t = np.random.default_rng(seed), np.geomspace(0.02, 400, 60)
        left = 0.7 * np.exp(-t / 5) + 0.3 * np.exp(-t / 100) + 2e-3 * g.normal(size=len(t))
        rows = "\n".join(f"{a:.6g},{0.3 + 0.6 * b:.6g}" for a, b in zip(t, left, strict=True))
        path.write_text(f"time [ms], voltage [V]\n{rows}\n")
        low, high = fit_decay(read_decay(path), "two-times").intervals["tau_slow"]
        missed += not low <= 0.1 <= high
    assert missed <= 5  # 1.5 expected; more than 5 with probability below 0.004


@pytest.mark.slow
def test_intervals_of_a_decay_hold_the_truth(tmp_path: Path) -> None:
    missed = 0
    for seed in range(12):
        fit = fit_decay(read_decay(decays(tmp_path / "decay.csv", "exponential", seed)))
        truth = {"retention_time": 5e-3, "target_voltage": 0.3, "spread": 0.1}
        missed += sum(not low <= truth[key] <= high for key, (low, high) in fit.intervals.items())
    assert missed <= 7  # 36 intervals, 1.8 expected; more than 7 with probability below 1e-3


@pytest.mark.parametrize(
    ("voltage", "last", "message"),
    [
        (lambda t, g: np.full_like(t, 0.8), 20.0, "hardly change beyond their noise"),
        (lambda t, g: 0.5 + 1e-3 * g.normal(size=len(t)), 20.0, "hardly change beyond their noise"),
        (lambda t, g: 0.8 * np.exp(-t / 5) + 1e-4 * g.normal(size=len(t)), 0.05, "measure for longer"),
        (lambda t, g: 0.2 + 0.3 * np.exp(t / 10), 20.0, "measure for longer"),
        (lambda t, g: 0.8 - 0.02 * t, 20.0, "measure for longer"),
        (lambda t, g: 0.45 + 0.4 * np.exp(-t / 1e6), 20.0, "signal or more is left"),  # by 8 uV
    ],
)
def test_decays_that_say_nothing_are_refused(
    voltage: Callable[..., np.ndarray], last: float, message: str, tmp_path: Path
) -> None:
    g = np.random.default_rng(0)
    t = np.linspace(last / 60, last, 60)
    path = tmp_path / "decay.csv"
    rows = "\n".join(f"{a:.6g},{b:.8g}" for a, b in zip(t, voltage(t, g), strict=True))
    path.write_text(f"time [ms], voltage [V]\n{rows}\n")
    with pytest.raises(InputError, match=message):
        fit_decay(read_decay(path))


def test_decays_of_several_cells_are_not_taken_for_one(design: Design, tmp_path: Path) -> None:
    curve, path = cells(tmp_path / "curve.csv", count=8), decays(tmp_path / "decay.csv", "exponential")
    device, fitted, held = fit_device(curve, design, decay=path)
    result = describe(device, fitted, held, "gaincell device fit", design.hash)
    assert [result.fit[name].value for name in ("cells", "cells of the decays")] == [8, 12]
    path.write_text(path.read_text().replace("cell", "sample", 1))
    with pytest.raises(InputError, match=r"time 2e-05 s 12 times; .* --read COLUMN.* --cell COLUMN\)$"):
        read_decay(path)
    assert len(read_decay(path, Columns(cell="sample"))) == 12 * 60


def test_a_leak_and_cells_that_do_not_work_are_left_out_and_counted(design: Design, tmp_path: Path) -> None:
    path = cells(tmp_path / "curve.csv", count=60)
    lines = path.read_text().splitlines()
    for n, line in enumerate(lines[2:], 2):
        cell, read, volts, _ = (part.strip() for part in line.split(","))
        if int(cell) in (3, 7):
            lines[n] = f"{cell}, {read}, {volts}, 0.01"
        if int(cell) == 11:
            lines[n] = f"{cell}, {read}, {volts}, {1e3 * MICROAMPERE * float(charge(np.array(0.45))):.6g}"
    path.write_text("\n".join(lines) + "\n")
    slow = decays(tmp_path / "decay.csv", "exponential", seed=1, cells=20)
    text = slow.read_text().rstrip() + "\n"
    t = np.geomspace(0.02, 100, 60)
    text += "\n".join(f"{a:.6g},{0.3 + 0.6 * np.exp(-a / 500):.6g},20" for a in t) + "\n"
    slow.write_text(text)
    device, fit, held = fit_device(path, design, decay=slow)
    assert fit.broken == {"dead": 2, "stuck_high": 1}
    assert fit.cells == 57
    assert fit.gain_std is not None
    assert fit.gain_std.value == pytest.approx(0.05, rel=0.3)
    assert held is not None
    assert (held.cells, held.left_out) == (20, 1)
    assert held.tau_spread == pytest.approx(0.1, rel=0.4)
    chip = with_cell(design, device)
    assert chip.mismatch.dead == pytest.approx(2 / 60)
    assert chip.mismatch.stuck_high == pytest.approx(1 / 60)
    assert load_device(device.save(tmp_path / "device.toml")) == device


def test_a_table_is_judged_by_the_table(design: Design, tmp_path: Path) -> None:
    """Noise and residuals are those about the table, also with voltages that differ a little every time."""
    g = np.random.default_rng(0)
    path = tmp_path / "tanh.csv"
    lines = ["cell, read, voltage [V], current [uA]"]
    for cell in range(8):
        for read in range(2):
            for u in np.linspace(-0.45, 0.45, 31):
                seen = u + 1e-4 * g.normal()
                lines.append(
                    f"{cell},{read},{seen + 0.45:.7f},{8 * np.tanh(6 * u) + 0.5 + 0.08 * g.normal():.6f}"
                )
    path.write_text("\n".join(lines) + "\n")
    device, fit, _ = fit_device(path, design, kind="tabulated")
    assert isinstance(device.cell, TabulatedCell)
    assert len(device.cell.volts) == 31
    assert fit.noise_std == pytest.approx(0.08 / 8.5, rel=0.15)
    assert fit.residual_std == pytest.approx(0.08 / 8.5, rel=0.15)
    assert fit.r_squared > 0.999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace("coefficients = [[", 'coefficients = "abc" # [['), "n rows of n numbers"),
        (lambda s: s.replace("[covariance]\ncoefficients", "[covariance]\ncoeficients"), "did you mean"),
        (lambda s: s.split("[covariance]")[0] + "[covariance]\ncoefficients = [[1.0]]\n", "1 rows for 4"),
        (lambda s: "covariance = 3\n" + s.split("[covariance]")[0], "is not a table"),
    ],
)
def test_device_files_with_mistakes(
    change: Callable[[str], str], message: str, design: Design, tmp_path: Path
) -> None:
    device, _, _ = fit_device(cells(tmp_path / "curve.csv", count=8), design)
    path = tmp_path / "device.toml"
    path.write_text(change(device.to_toml()))
    with pytest.raises(DesignError, match=message):
        load_device(path)


def test_swapped_columns_and_overwriting(design: Design, tmp_path: Path) -> None:
    path = cells(tmp_path / "curve.csv", count=3)
    before = path.read_text()
    with pytest.raises(SystemExit) as stop:
        main(["device", "fit", str(path), "--out", str(path)])
    assert stop.value.code == 2
    assert path.read_text() == before
    rows = [line.split(",") for line in before.splitlines()[2:]]
    swapped = [f"{c},{r},{float(i) / 1e3:.6g},{float(v) / 1e3:.6g}" for c, r, v, i in rows]
    path.write_text("\n".join(["cell,read,voltage [V],current [uA]", *swapped]) + "\n")
    with pytest.raises(InputError, match="look swapped"):
        fit_device(path, design, rescale=True)


def test_a_table_of_one_cell_has_no_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cells(tmp_path / "curve.csv", count=1)
    with pytest.raises(SystemExit) as stop:
        main(["device", "fit", str(path), "--kind", "tabulated", "--order", "5"])
    assert stop.value.code == 2
    assert "--order has no effect here" in capsys.readouterr().err
    assert not (tmp_path / "curve.toml").exists()


def test_what_lies_beside_the_curve_and_is_no_device_stays(
    design: Design, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cells(tmp_path / "curve.csv", count=1)
    device, figure = path.with_suffix(".toml"), path.with_suffix(".png")

    def code(*options: str) -> int:
        with pytest.raises(SystemExit) as stop:
            main(["device", "fit", str(path), *options])
        return int(stop.value.code or 0)

    for place, content in ((device, design.to_toml()), (device, "no TOML"), (figure, "a picture")):
        place.write_text(content)
        assert code() == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"{place.name} is there already" in said
        assert "give --out DEVICE.toml" in said
        assert place.read_text() == content
        place.unlink()
    device.write_text(design.to_toml())
    for options in (["--out", str(device)], []):  # asked for; a device by now
        assert code(*options) == 0
        assert load_device(device).name == "curve"


@pytest.mark.nightly
def test_two_hundred_cells_to_an_adapted_model_in_two_commands(tmp_path: Path) -> None:
    curve = cells(tmp_path / "curve.csv", count=200, reads=3)
    start = time.monotonic()
    device, run = str(tmp_path / "cell.toml"), str(tmp_path / "run")
    for command in (
        ["device", "fit", str(curve), "--out", device],
        ["adapt", "tiny", "--cell", device, "--out", run],
    ):
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 0
    assert time.monotonic() - start < 180


def test_currents_far_from_those_of_the_chip_are_noticed_and_can_be_rescaled(
    design: Design, tmp_path: Path
) -> None:
    path = cells(tmp_path / "curve.csv", count=3)
    path.write_text(path.read_text().replace("[nA]", "[pA]"))
    with pytest.raises(InputError, match="check the unit of the current, or give --rescale"):
        fit_device(path, design)
    device, fitted, held = fit_device(path, design, rescale=True)
    assert device.cell.linear_slope == pytest.approx(design.cell.linear_slope)
    chip = with_cell(design, device)
    assert chip.charge_unit == pytest.approx(design.charge_unit * 1e-3, rel=0.1, abs=0)
    note = "rescaled to the linear slope of leroux2025, whose own is 1.5e-14 C"
    assert (device.numbers["scale.charge_unit"].source, chip.provenance["charge_unit"].source) == ("F", "F")
    assert device.numbers["scale.charge_unit"].note == note
    assert load_design(chip.save(tmp_path / "chip.toml")) == chip
    shown = describe(device, fitted, held, "gaincell device fit", design.hash).fit["charge unit"]
    assert shown == Fitted(chip.charge_unit, "C", "measured")
    path.write_text(path.read_text().replace("[pA]", "[fA]"))  # a tenth of an electron
    with pytest.raises(InputError, match=r"charge unit would be 1.* C; design 'leroux2025' allows 1e-18 to"):
        fit_device(path, design, rescale=True)


def test_the_command_that_is_recommended_names_the_chip(
    design: Design, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cells(tmp_path / "curve.csv", count=1)
    slow = design.replace(name="slow", t_pulse_max=20e-9).save(tmp_path / "slow.toml")
    for options, words in (([], "curve.toml\n"), (["--design", str(slow)], f"curve.toml --design {slow}\n")):
        with pytest.raises(SystemExit) as stop:
            main(["device", "fit", str(path), *options])
        assert stop.value.code == 0
        assert capsys.readouterr().out.endswith(words)
    with pytest.raises(DesignError, match="the --design it was fitted for, or fit it again for"):
        with_cell(design, tmp_path / "curve.toml")


BAD = {
    "voltage [V], current [uA]\n": "a line that names the columns and lines of numbers",
    "bias [V], current [uA]\n0,1\n": "no column 'voltage'",
    "voltage, current [uA]\n0,1\n": "has no unit",
    "voltage [V], current [kA]\n0,1\n": "unit 'kA'",
    "voltage [V], current [uA]\n0,nan\n0.1,x\n0.2\n": "line 2: current is 'nan'; line 3: current is",
    "current [A], voltage [V]\n0,-9e-6\n0.45,1e-7\n0.9,9e-6\n": "columns look swapped",
    "voltage [V], current [mA]\n0,-9\n0.45,0\n0.9,9\n": "more than one cell can have; is the unit right",
    "voltage [uV], current [uA]\n0,-9\n": "unit 'uV'",
    "voltage [V], current [uA]\n0,-9\n0,-8\n0.9,9\n": "2 times; number repeated reads",
    "voltage [V], current [uA]\n0,-9\n0.5,0\n0.9,9\n": "has 3 voltages; 5 or more",
    "voltage [V], current [uA]\n0,1\n0.2,1\n0.5,1\n0.9,1\n": "a curve must rise",
    "voltage [V], current [uA]\n0,9\n.2,5\n.4,1\n.6,-1\n.8,-5\n.9,-9\n": "falls with the voltage",
    "voltage [V], current [uA]\n0,-9\n.2,-5\n.4,-1\n.5,1\n.6,3\n": "measure that range",
    "voltage [V], current [uA]\n0,-9\n.2,9\n.4,-9\n.5,0\n.6,9\n.7,-3\n.9,9\n": "falls from 0.2813 to 0.6188",
    "voltage [V], current [uA]\n0,-2.677\n.1,-2.642\n.2,-2.188\n.4,-0.497\n.5,0.497\n.7,2.188\n.8,2.642\n"
    ".9,2.677\n": "falls from 0 to 0.04275 V and from 0.8573 to 0.9 V",
    "voltage [V], voltage [V], current [uA]\n0,0,-9\n": "twice",
    "voltage [mV];current [pA]\n0;-10,331,541\n": "Every entry must be a finite number without thousands",
    "voltage [V];current [nA]\n0,1;-10.332\n": "Write the file with one of them, and without thousands",
    "voltage [mV];current [nA]\n0;-10.332\n50;-842\n": "'-10.332' and '-842': decimals or thousands?",
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_used_is_refused_with_a_reason(text: str, design: Design, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(GaincellError) as error:
        fit_device(path, design)
    assert BAD[text] in str(error.value)


def test_other_files_are_refused(design: Design, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_curve(tmp_path / "none.csv")
    large = tmp_path / "large.csv"
    with large.open("wb") as file:
        file.truncate(2**30)  # sparse
    with pytest.raises(InputError, match="1024 MiB; give at most 16 MiB"):
        read_curve(large)
    (tmp_path / "picture.csv").write_bytes(b"\xff\xd8\xff\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_curve(tmp_path / "picture.csv")
    with pytest.raises(DesignError, match="no cell 'x4'"):
        with_cell(design, "x4")
    with pytest.raises(DesignError, match="no such device file"):
        with_cell(design, str(tmp_path / "none.toml"))
    design.save(tmp_path / "chip.toml")
    with pytest.raises(DesignError, match="a design belongs to --design"):
        with_cell(design, str(tmp_path / "chip.toml"))
    device = fit_device(cells(tmp_path / "curve.csv", count=2), design)[0].save(tmp_path / "device.toml")
    device.write_text(device.read_text().replace("gain_std", "gain_sdt"))
    with pytest.raises(DesignError, match=r"unknown key 'gain_sdt' \(did you mean 'gain_std'"):
        load_device(device)
    (tmp_path / "decay.csv").write_text("time [s], voltage [V]\n0,1\n1,0.5\n2,0.2\n")
    with pytest.raises(InputError, match="no law fits"):
        fit_device(tmp_path / "curve.csv", design, decay=tmp_path / "decay.csv")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curve, decay = cells(tmp_path / "curve.csv", count=5), decays(tmp_path / "decay.csv", "stretched")
    out = tmp_path / "device.toml"
    for arguments in (
        [
            "device",
            "fit",
            str(curve),
            "--decay",
            str(decay),
            "--out",
            str(out),
            "--json",
            str(tmp_path / "f.json"),
        ],
        ["device", "show", str(out), "--json", str(tmp_path / "s.json")],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0
    written = json.loads((tmp_path / "f.json").read_text())
    assert to_json(results.read(tmp_path / "f.json", DeviceResult)) == written
    shown = json.loads((tmp_path / "s.json").read_text())
    assert to_json(results.read(tmp_path / "s.json", ShownDevice)) == shown
    assert shown["quality"] == load_device(out).quality
    assert shown["numbers"]["retention.beta"]["kind"] == "measured"
    printed = capsys.readouterr().out
    assert "stretched" in printed
    assert "mismatch: gain" in printed
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert load_device(out).law == "stretched"
