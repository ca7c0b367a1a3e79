"""Means and variances of what a chip's errors and noise do, against closed forms.

`assert_standard` standardises samples by the closed form and asks for mean 0 and variance 1 within 4.5
standard errors. With n Gaussian samples it misses, with a probability of 1e-3 or less, no error of the mean
above 7.6 / sqrt(n) standard deviations and none of the variance above 7.8 sqrt(2 / n): 5.4 % and 7.8 % for 20
000 samples, which each use has. Seeds are fixed: a test passes always or never.
"""

from __future__ import annotations

import math

import pytest
import torch
from tests.tiers import slow
from torch import Tensor

from gaincell.arrays import HeadArray
from gaincell.chips.design_file import Design, load_design
from gaincell.circuits.converter_errors import Converters, Line, converter_errors, driven
from gaincell.circuits.noise import Noise
from gaincell.devices.leakage import BOLTZMANN, Leakage
from gaincell.devices.random import VALUE_ARRAY
from gaincell.devices.variability import KEY_ARRAY, Mismatch, cell_errors
from gaincell.devices.wires import Wires, weights
from gaincell.devices.writing import Writing, write_errors
from gaincell.errors import DesignError

M, N, D, HEADS, DRAWS = 64, 16, 16, 32, 40
ENOUGH = 20_000


def chip(**changes: object) -> Design:
    """Read out without counter and ceiling, so that an output is a sum of charges."""
    return load_design("leroux2025").replace(
        **{"window": M, "tile": N, "readout": "none", "output_ceiling": False, **changes}
    )


def assert_standard(z: Tensor) -> None:
    """Mean 0 and variance 1, see above."""
    n = z.numel()
    assert n >= ENOUGH
    kurtosis = float(z.pow(4).mean() / z.square().mean().square())
    assert abs(float(z.mean())) < 4.5 / math.sqrt(n)
    assert abs(float(z.square().mean()) - 1) < 4.5 * math.sqrt((kurtosis - 1) / n)


def filled(design: Design, seed: int) -> HeadArray:
    """Arrays whose every column holds random voltages, after one step with random queries."""
    g = torch.Generator().manual_seed(seed)
    arrays = HeadArray(design, D, heads=HEADS)
    for store in (arrays.state.key, arrays.state.value):
        store.uniform_(-0.45, 0.45, generator=g)
    arrays.state.valid.fill_(True)
    step(arrays, g)
    return arrays


def step(arrays: HeadArray, g: torch.Generator) -> None:
    q, k, v = torch.rand(3, 1, arrays.heads, D, generator=g, dtype=torch.float64)
    arrays.step(q, 0.9 * k, 0.9 * v)


def gaussian_moments(coefficients: tuple[float, ...], u: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """E[F(u + e)] and E[F(u + e)^2] of a polynomial and Gaussian e, exactly."""
    order = len(coefficients) - 1
    expanded = [  # F(u + e) = sum_m a_m e^m
        sum(coefficients[p] * math.comb(p, m) * u ** (p - m) for p in range(m, order + 1))
        for m in range(order + 1)
    ]
    moment = [0.0 if m % 2 else std**m * math.prod(range(1, m, 2)) for m in range(2 * order + 1)]
    first = sum(a * moment[m] for m, a in enumerate(expanded))
    second = sum(a * b * moment[m + n] for m, a in enumerate(expanded) for n, b in enumerate(expanded))
    return torch.as_tensor(first), torch.as_tensor(second)


@pytest.mark.parametrize("cell", [slow("linear"), "polynomial", slow("x5")])
def test_scores_and_charges_under_mismatch(cell: str) -> None:
    """S = sum_d x_d { (1 + e_g) F(u_d + e_v) + e_c }, over chips; the charge of a sub-tile likewise."""
    scores, charges, outputs = [], [], []
    gain, shift, offset = 0.08, 0.02, 0.03
    for number in range(DRAWS):
        design = chip(cell=cell, mismatch=Mismatch(gain, shift, offset, chip=number))
        trace = filled(design, 0).trace
        full = float(design.cell.current(torch.tensor(0.45, dtype=torch.float64)))
        assert trace is not None
        assert design.cell.coefficients is not None

        def of(
            u: Tensor, c: tuple[float, ...] = design.cell.coefficients, full: float = full
        ) -> tuple[Tensor, Tensor]:
            first, second = gaussian_moments(c, u, shift)
            return first, second * (1 + gain**2) - first.square() + (offset * full) ** 2

        mean, variance = of(trace.key[0])
        x = trace.query[0]
        z = trace.scores[0] - torch.einsum("hd,hmd->hm", x, mean)
        scores.append(z / torch.einsum("hd,hmd->hm", x.square(), variance).sqrt())
        mean, variance = (t.view(HEADS, M // N, N, D) for t in of(trace.value[0]))
        a = trace.pulses[0].view(HEADS, M // N, N)
        z = trace.tile_charge[0] - torch.einsum("htn,htnd->htd", a, mean)
        variance = torch.einsum("htn,htnd->htd", a.square(), variance)
        charges.append(z / variance.sqrt())
        expected = trace.tile_charge[0].sub(z).sum(1) / design.output_saturation
        outputs.append((trace.output[0] - expected) / variance.sum(1).sqrt() * design.output_saturation)
    # a chip's pulses follow from its own key cells, the charges given the pulses from its value cells alone
    for samples in (scores, charges, outputs):
        assert_standard(torch.stack(samples))


@pytest.mark.parametrize(
    "noise",
    [
        Noise(cell_std=0.05),
        Noise(score_std=0.02, output_std=0.03, seed=1),
        Noise(integrator_capacitance=1e-7, seed=2),
        Noise(0.02, 0.01, 0.01, 1e-8, seed=4),
    ],
)
def test_scores_and_charges_under_read_noise(noise: Noise) -> None:
    """sigma^2 = (std saturation)^2 + k T C / q^2 + (cell_std F_max)^2 sum of squared widths, over reads."""
    design = chip(noise=noise, temperature=330.0)
    arrays, g = filled(design, 1), torch.Generator().manual_seed(2)
    full = noise.cell_std * float(design.cell.current(torch.tensor(0.45, dtype=torch.float64)))
    thermal = BOLTZMANN * 330.0 * (noise.integrator_capacitance or 0.0) / design.charge_unit**2
    scores, charges, outputs = [], [], []
    for _ in range(DRAWS):
        step(arrays, g)
        trace = arrays.trace
        assert trace is not None
        x, a = trace.query[0], trace.pulses[0].view(HEADS, M // N, N)
        z = trace.scores[0] - torch.einsum("hd,hmd->hm", x, trace.key_current[0])
        saturation = design.score_saturation(D)
        std = (
            (noise.score_std * saturation) ** 2 + thermal + full**2 * x.square().sum(-1, keepdim=True)
        ).sqrt()
        scores.append(z / std)
        values = trace.value_current[0].view(HEADS, M // N, N, D)
        z = trace.tile_charge[0] - torch.einsum("htn,htnd->htd", a, values)
        squares = full**2 * a.square().sum(-1, keepdim=True)
        variance = (noise.output_std * design.output_saturation) ** 2 + thermal + squares.expand_as(z)
        charges.append(z / variance.sqrt())
        expected = torch.einsum("htn,htnd->hd", a, values) / design.output_saturation
        outputs.append((trace.output[0] - expected) / variance.sum(1).sqrt() * design.output_saturation)
    for samples in (scores, charges, outputs):
        assert_standard(torch.stack(samples))


def test_jitter_of_pulses() -> None:
    """Widths scatter by jitter / T_max; nothing becomes a pulse, and none becomes shorter than nothing."""
    design = chip(noise=Noise(pulse_jitter=0.3e-9))
    arrays, quiet = HeadArray(design, D, heads=16), HeadArray(chip(), D, heads=16)
    found, expected = [], []
    for arrays_, widths in ((arrays, found), (quiet, expected)):
        g = torch.Generator().manual_seed(3)
        for _ in range(105):
            step(arrays_, g)
            assert arrays_.trace is not None
            widths.append(arrays_.trace.query)
    x, wanted = torch.stack(found), torch.stack(expected)
    assert bool((x[wanted == 0] == 0).all())
    assert float(x.min()) >= 0
    wide = wanted > 0.2  # ten standard deviations from nothing
    assert_standard((x - wanted)[wide] * 15e-9 / 0.3e-9)


def errors_of(design: Design, layer: int = 0) -> list[Tensor | None]:
    found = cell_errors(design, layer, 4, 64, KEY_ARRAY, torch.float64, torch.device("cpu"))
    assert found is not None
    return list(found)


@pytest.mark.slow
def test_smooth_mismatch_has_its_variance_and_correlation() -> None:
    length, share, std = 6.0, 0.8, 0.1
    design = load_design("leroux2025").replace(
        mismatch=Mismatch(gain_std=std, smooth_share=share, correlation_length=length)
    )
    e = torch.cat([errors_of(design, layer)[0] for layer in range(8)]) - 1  # type: ignore[misc]
    assert float(e.square().mean()) == pytest.approx(std**2, rel=0.03)
    for distance in (1, 3, 6, 12):
        expected = share * math.exp(-(distance**2) / (2 * length**2))
        for axis in (1, 2):
            ahead = e.narrow(axis, distance, e.shape[axis] - distance)
            behind = e.narrow(axis, 0, e.shape[axis] - distance)
            assert float((ahead * behind).mean()) / std**2 == pytest.approx(expected, abs=0.03)


def test_coefficients_have_their_covariance() -> None:
    covariance = torch.tensor([[0.04, 0.02, 0.0], [0.02, 0.5, -0.3], [0.0, -0.3, 0.9]], dtype=torch.float64)
    design = chip(mismatch=Mismatch(coefficient_covariance=tuple(covariance.flatten().tolist())))
    e = errors_of(design)[3]
    assert e is not None
    e = e.flatten(1)
    found = e @ e.T / e.shape[1]
    error = 4.5 * math.sqrt(2 / e.shape[1])
    scale = torch.outer(covariance.diagonal().sqrt(), covariance.diagonal().sqrt())
    assert bool(((found - covariance).abs() < error * scale).all())


@pytest.mark.parametrize(
    ("covariance", "message"),
    [
        ((1.0, 2.0, 3.0), "3 entries"),
        ((1.0, 0.5, 0.2, 1.0), "not symmetric"),
        ((1.0, 2.0, 2.0, 1.0), "no covariance matrix"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance: tuple[float, ...], message: str) -> None:
    with pytest.raises(DesignError, match=message):
        Mismatch(coefficient_covariance=covariance)


def test_stuck_cells_in_their_shares() -> None:
    design = chip(mismatch=Mismatch(stuck_low=0.02, stuck_high=0.03, dead=0.05))
    gain, _, offset, _, _ = errors_of(design)
    assert gain is not None
    assert offset is not None
    low, high = (float(design.cell.current(torch.tensor(v, dtype=torch.float64))) for v in (-0.45, 0.45))
    shares = [float(((gain == 0) & (offset == current)).double().mean()) for current in (low, high, 0.0)]
    for found, share in zip(shares, (0.02, 0.03, 0.05), strict=True):
        assert abs(found - share) < 4.5 * math.sqrt(share * (1 - share) / gain.numel())
    assert float((gain == 1).double().mean()) == pytest.approx(1 - sum(shares))


def test_retention_times_are_lognormal() -> None:
    rate = errors_of(load_design("leroux2025").replace(leakage=Leakage(spread=0.7)))[4]
    assert rate is not None
    assert_standard(-rate.log() / 0.7)


def test_leakage_is_thermally_activated() -> None:
    """Arrhenius' law: 0.6 eV from 300 K to 358 K is a factor of exp(E / k (1/300 - 1/358)) = 42.9."""
    design = load_design("leroux2025").replace(leakage=Leakage(activation_energy=0.6), temperature=358.0)
    factor = math.exp(0.6 * 1.602176634e-19 / 1.380649e-23 * (1 / 300 - 1 / 358))
    assert factor == pytest.approx(42.9, abs=0.5)
    assert design.tau == pytest.approx(5e-3 / factor)
    assert design.replace(temperature=300.0).tau == pytest.approx(5e-3)


def test_errors_of_writes() -> None:
    """(1 + g) u + V_inj, with a spread of sqrt(error_std^2 + k T / C)."""
    writing = Writing(error_std=2e-3, injection_voltage=5e-3, injection_gain=-0.04, storage_capacitance=1e-15)
    design = chip(writing=writing)
    u = torch.linspace(-0.45, 0.45, 64, dtype=torch.float64).expand(1, 4, 300, 64)
    found = write_errors(u, design, 0, KEY_ARRAY, torch.arange(300)[None])
    std = math.sqrt(4e-6 + BOLTZMANN * 300 / 1e-15)
    assert std == pytest.approx(2.856e-3, rel=1e-3)
    assert_standard((found - (0.96 * u + 5e-3)) / std)


def test_converter_errors_before_and_after_calibration() -> None:
    """Variance of column and tile parts add; calibration leaves at most half a step, uniformly."""
    raw = Converters(0.03, 0.02, 0.03, 0.04, 0.02, 0.05)
    design = load_design("leroux2025").replace(converters=raw)
    lines = [
        converter_errors(design, layer, 12, 64, torch.float64, torch.device("cpu")) for layer in range(4)
    ]
    gain = torch.stack([line.output.gain for line in lines]) - 1  # type: ignore[union-attr]
    assert_standard((gain - gain.mean(-1, keepdim=True)) / 0.03 * math.sqrt(64 / 63))
    assert float(gain.mean(-1).square().mean()) == pytest.approx(0.04**2 + 0.03**2 / 64, rel=0.2)
    trimmed = design.replace(converters=Converters(0.03, 0.02, 0.03, 0.04, 0.02, 0.05, calibration_step=0.01))
    line = converter_errors(trimmed, 0, 12, 64, torch.float64, torch.device("cpu")).score
    assert line is not None
    for error in (line.gain - 1, line.offset):
        assert float(error.abs().max()) <= 0.005
        assert float(error.square().mean()) == pytest.approx(0.01**2 / 12, rel=0.05)


def test_the_drop_along_a_bit_line_is_the_ladders_to_first_order() -> None:
    """Against the solution of the resistance ladder, for a small drop."""
    n, conductance, drop = 16, 1e-6, 1e-3
    w = weights(drop, n)
    resistance = drop / (conductance * (n * n - n * (n - 1) / 2))  # G R s_n = drop
    shared = (
        torch.minimum(*torch.meshgrid(*[torch.arange(1, n + 1)] * 2, indexing="ij")).double() * resistance
    )
    current = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-6
    # V = R_shared I, I = I_0 - G V
    solved = torch.linalg.solve(torch.eye(n, dtype=torch.float64) + conductance * shared, current)
    lost = current.sum() - solved.sum()
    assert float((current * (1 - w)).sum() / lost) == pytest.approx(1, abs=drop * n)
    assert chip(wires=Wires(0.1, 0.0)).cells_differ


def assert_independent(*draws: Tensor) -> None:
    """No two have a correlation beyond 4.5 standard errors of none."""
    found = torch.corrcoef(torch.stack([draw.flatten() for draw in draws]))
    apart = found - torch.eye(len(draws), dtype=found.dtype)
    assert float(apart.abs().max()) < 4.5 / math.sqrt(draws[0].numel())


def test_writes_of_other_layers_arrays_heads_and_rows_are_other_ones() -> None:
    design, u = chip(writing=Writing(error_std=2e-3)), torch.zeros(1, 2, 300, 64, dtype=torch.float64)
    tokens = torch.arange(300)[None]
    found = [
        write_errors(u, design, layer, array, tokens)
        for layer in (0, 1)
        for array in (KEY_ARRAY, VALUE_ARRAY)
    ]
    assert_independent(*(one[:, head] for one in found for head in (0, 1)))
    assert_independent(*found[0][0, 0].T[:8])


def test_converters_of_other_layers_heads_and_lines_are_other_ones() -> None:
    own = Converters(0.05, 0.05, ramp_gain_std=0.03, comparator_offset_std=0.04)
    design = load_design("leroux2025").replace(converters=own)
    layers = [converter_errors(design, layer, 8, 64, torch.float64, torch.device("cpu")) for layer in (0, 1)]
    for line in ("driver", "score", "output"):
        lines = [getattr(errors, line) for errors in layers]
        assert_independent(*(error for one in lines for error in (one.gain - 1, one.offset)))
        heads = [error[head] for one in lines for error in (one.gain, one.offset) for head in (0, 1)]
        assert_independent(*heads)
    both = layers[0].output
    assert both is not None
    score = layers[0].score
    assert score is not None
    assert_independent(score.gain.flatten()[:8000], both.gain.flatten()[:8000])


def test_drivers_have_a_gain_and_an_offset_of_their_own() -> None:
    raw = Converters(driver_gain_std=0.02, driver_offset_std=0.05)
    line = converter_errors(
        load_design("leroux2025").replace(converters=raw), 0, 400, 64, torch.float64, torch.device("cpu")
    ).driver
    assert line is not None
    assert_standard((line.gain - 1) / 0.02)
    assert_standard(line.offset / 0.05)


def test_a_driver_with_errors_gives_no_pulse_for_none_and_none_below_zero() -> None:
    x = torch.tensor([0.0, 0.4, -0.4, 0.01, -0.01])
    for offset, expected in (
        (-0.02, [0.0, 0.42, -0.42, 0.0, 0.0]),
        (0.02, [0.0, 0.46, -0.46, 0.031, -0.031]),
    ):
        found = driven(x, Line(torch.tensor(1.1), torch.tensor(offset)))
        torch.testing.assert_close(found, torch.tensor(expected))


def test_the_drop_runs_along_rows_of_keys_and_columns_of_values() -> None:
    design = chip(wires=Wires(0.1, 0.05), mismatch=Mismatch(current_offset_std=0.02))
    for array, drop, axis in ((KEY_ARRAY, 0.1, 1), (VALUE_ARRAY, 0.05, 0)):
        errors = cell_errors(design, 0, 2, D, array, torch.float64, torch.device("cpu"))
        assert errors is not None
        along = weights(drop, N)[torch.arange((M, D)[axis]) % N]
        weight = along if axis else along[:, None]
        torch.testing.assert_close(errors.gain, weight.expand(2, M, D))
        plain = cell_errors(design.replace(wires=Wires()), 0, 2, D, array, torch.float64, torch.device("cpu"))
        assert plain is not None
        torch.testing.assert_close(errors.current_offset, plain.current_offset * weight)
