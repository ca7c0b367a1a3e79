"""Measured curves and decays that are odd: what is still used, what is refused, and why."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.chips.device import fit_device, with_cell
from gaincell.devices.decay import fit_decay
from gaincell.devices.measurement import read_curve, read_decay
from gaincell.devices.tabulated import TabulatedCell
from gaincell.errors import InputError

PUBLISHED = (0.52, 13.6, -2.6, 46.0)


@pytest.fixture(scope="module")
def design() -> Design:
    return load_design("leroux2025")


def charge(u: np.ndarray) -> np.ndarray:
    return np.polynomial.polynomial.polyval(u, PUBLISHED)


def curves(path: Path, cells: Sequence[tuple[np.ndarray, np.ndarray]]) -> Path:
    """A file of the voltages and currents, V and uA, of every cell."""
    lines = [f"{n},{v:.7f},{i:.7g}" for n, points in enumerate(cells) for v, i in zip(*points, strict=True)]
    path.write_text("cell,voltage [V],current [uA]\n" + "\n".join(lines) + "\n")
    return path


def test_voltages_that_differ_are_no_repeated_reads(design: Design, tmp_path: Path) -> None:
    """Two hundred equal cells without noise, whose voltages are not quite those that were asked for."""
    g = np.random.default_rng(0)
    volts = [np.linspace(0, 0.9, 31) + 6e-3 * g.normal(size=31) for _ in range(200)]
    for v in volts:
        v[0], v[-1] = 0.0, 0.9
    path = curves(tmp_path / "jitter.csv", [(v, charge(v - 0.45)) for v in volts])
    device, fit, _ = fit_device(path, design)
    assert fit.noise_std is None
    assert "noise.read_std" not in device.numbers


def test_a_sweep_up_and_down_is_refused_whatever_the_last_digits(design: Design, tmp_path: Path) -> None:
    g, up = np.random.default_rng(0), np.linspace(0, 0.9, 31)
    volts = np.concatenate([up, up[::-1]]) + 2e-4 * g.normal(size=62)
    late = np.repeat([0.0, 0.02], 31)
    path = curves(tmp_path / "sweep.csv", [(volts, charge(volts - 0.45 + late))])
    with pytest.raises(InputError, match=r"cell 0 has most of its voltages twice.*keep one direction"):
        fit_device(path, design)


@pytest.mark.parametrize("count", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_a_table_of_many_voltages_keeps_them_apart(count: int, design: Design, tmp_path: Path) -> None:
    g, u = np.random.default_rng(0), np.linspace(-0.44, 0.44, 97)
    volts = [np.concatenate([[0.0, 0.9], 0.9 * g.random(28)]) for _ in range(count)]
    path = curves(tmp_path / "many.csv", [(v, 9 * np.tanh(6 * (v - 0.45))) for v in volts])
    device, fit, _ = fit_device(path, design, kind="tabulated")
    assert isinstance(device.cell, TabulatedCell)
    assert len(device.cell.volts) > 250
    error = np.interp(u, fit.u, fit.nominal) - 9 * np.tanh(6 * u)
    assert np.abs(error).max() < 0.03
    assert fit.noise_std is None


def test_the_slope_of_a_table_is_that_within_the_storage_range(design: Design, tmp_path: Path) -> None:
    volts, grid = np.linspace(-3, 4, 141), np.linspace(-0.45, 0.45, 401)
    path = curves(tmp_path / "wide.csv", [(volts, 10 * np.tanh(5 * (volts - 0.45)))])
    expected = np.polyfit(grid, 10 * np.tanh(5 * grid), 1)[0]
    for rescale, wanted in ((False, expected), (True, design.cell.linear_slope)):
        device, _, _ = fit_device(path, design, kind="tabulated", rescale=rescale)
        assert device.cell.linear_slope == pytest.approx(wanted, rel=1e-3)
    falling = curves(tmp_path / "falling.csv", [(volts, -10 * np.tanh(5 * (volts - 0.45)))])
    with pytest.raises(InputError, match="the current falls with the voltage"):
        fit_device(falling, design, kind="tabulated")


@pytest.mark.parametrize("kind", ["polynomial", "tabulated"])
def test_currents_that_fall_somewhere_are_refused(kind: str, design: Design, tmp_path: Path) -> None:
    volts = np.linspace(0, 0.9, 91)
    dip = 6 * np.exp(-(((volts - 0.6) / 0.04) ** 2) / 2)
    path = curves(tmp_path / "dip.csv", [(volts, charge(volts - 0.45) - dip)])
    with pytest.raises(InputError, match="the currents do not rise with the voltage"):
        fit_device(path, design, kind=kind)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_fall(seed: int, design: Design, tmp_path: Path) -> None:
    """Of one cell with 8 % of its range, which a polynomial follows well enough."""
    g, volts = np.random.default_rng(seed), np.linspace(0, 0.9, 31)
    currents = charge(volts - 0.45)
    noisy = currents + 0.08 * np.ptp(currents) * g.normal(size=31)
    fit_device(curves(tmp_path / "noise.csv", [(volts, noisy)]), design)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_square_law_does_not_fall(noise: float, design: Design, tmp_path: Path) -> None:
    """By more than the digits of its file, or its noise."""
    volts = np.linspace(0, 0.9, 19)
    currents = 12 * (volts / 0.9) ** 2 + noise * np.random.default_rng(2).normal(size=19)
    path = curves(tmp_path / "square.csv", [(volts, currents.round(5))])
    fit = fit_device(path, design)[1]
    assert fit.full_scale == pytest.approx(12, rel=1e-3)


def test_decimals_of_three_digits_are_no_thousands(tmp_path: Path) -> None:
    for place, rows in enumerate(["0;-9.120\n50;-1.332\n", "0;0\n50;1.332\n", "0.050;-9\n0.100;-1.332\n"]):
        path = tmp_path / f"{place}.csv"
        path.write_text(f"voltage [{'V' if place == 2 else 'mV'}];current [uA]\n{rows}")
        assert read_curve(path).columns["current"][-1] == pytest.approx((1 if place == 1 else -1) * 1.332e-6)


def test_currents_that_no_curve_explains_are_refused(design: Design, tmp_path: Path) -> None:
    g, volts = np.random.default_rng(0), np.linspace(0, 0.9, 31)
    noisy = [(volts, charge(volts - 0.45) + 5 * g.normal(size=31)) for _ in range(100)]
    with pytest.raises(InputError, match=r"explains 5\d\.\d % of the variance"):
        fit_device(curves(tmp_path / "noise.csv", noisy), design)


@pytest.mark.parametrize("kind", ["polynomial", "tabulated"])
def test_fractions_of_no_full_scale_are_left_out_or_refused(
    kind: str, design: Design, tmp_path: Path
) -> None:
    """A p-type read: no current at the highest voltage."""
    volts = np.linspace(0, 0.9, 31)
    cell = (volts, -10 * (1.01 - volts / 0.9) ** 2)
    device, fit, _ = fit_device(curves(tmp_path / "pmos.csv", [cell]), design, kind=kind)
    assert fit.residual_std is None
    assert "residual_of_full_scale" not in device.quality
    with pytest.raises(InputError, match=r"the current at 0\.9 V is nearly 0.*add a constant"):
        fit_device(curves(tmp_path / "two.csv", [cell, cell]), design, kind=kind)


@pytest.mark.parametrize("count", [1, 20])
def test_rounded_currents_are_no_swapped_voltages(count: int, design: Design, tmp_path: Path) -> None:
    volts = np.array([0, 0.05, 0.09, 0.2, 0.27, 0.35, 0.44, 0.51, 0.6, 0.66, 0.75, 0.83, 0.9])
    gains = 1 + 0.05 * np.random.default_rng(0).normal(size=count)
    path = curves(tmp_path / "steps.csv", [(volts, np.round(g * charge(volts - 0.45))) for g in gains])
    assert len(read_curve(path)) == 13 * count
    assert fit_device(path, design)[1].cells == count


def test_every_cell_keeps_its_own_point_beyond_the_range(design: Design, tmp_path: Path) -> None:
    coarse, fine = np.arange(-0.1, 1.15, 0.2), np.linspace(0, 0.9, 19)
    path = curves(tmp_path / "two.csv", [(v, charge(v - 0.45)) for v in (coarse, fine)])
    device, fit, _ = fit_device(path, design)
    assert fit.points == 6 + 19
    assert device.cell.coefficients == pytest.approx(PUBLISHED, rel=1e-3)


def decays(path: Path, cells: Sequence[tuple[np.ndarray, np.ndarray]]) -> Path:
    """A file of the times and voltages, ms and V, of every cell."""
    lines = [f"{n},{t:.6g},{v:.6g}" for n, points in enumerate(cells) for t, v in zip(*points, strict=True)]
    path.write_text("cell,time [ms],voltage [V]\n" + "\n".join(lines) + "\n")
    return path


def test_one_cell_that_says_little_does_not_hide_the_spread(tmp_path: Path) -> None:
    """Written 3 mV from the target, it determines no retention time: left out, and counted."""
    g, t = np.random.default_rng(0), np.geomspace(0.02, 100, 40)
    signals = [0.4] * 19 + [3e-3]
    cells = [
        (t, 0.45 + signal * np.exp(-t / (5 * np.exp(0.3 * g.normal()))) + 2e-3 * g.normal(size=40))
        for signal in signals
    ]
    alone = fit_decay(read_decay(decays(tmp_path / "19.csv", cells[:19])), "exponential")
    fit = fit_decay(read_decay(decays(tmp_path / "20.csv", cells)), "exponential")
    assert (alone.left_out, fit.left_out, fit.cells) == (0, 1, 19)
    assert fit.tau_spread == alone.tau_spread == pytest.approx(0.3, rel=0.3)
    assert fit.intervals == alone.intervals


def test_a_cell_with_too_few_times_is_named(tmp_path: Path) -> None:
    t = np.geomspace(0.02, 100, 20)
    cells = [
        (t[:: 5 if n == 7 else 1], 0.45 + 0.4 * np.exp(-t[:: 5 if n == 7 else 1] / 5)) for n in range(21)
    ]
    with pytest.raises(InputError, match="no law fits: cell 7 has 4 times; give 6 or more"):
        fit_decay(read_decay(decays(tmp_path / "few.csv", cells)))


def test_a_curve_that_is_not_there_brings_no_hint(design: Design, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no such file$"):
        with_cell(design, tmp_path / "none.csv")
