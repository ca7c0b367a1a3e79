"""The peripheral circuits: their codes, thresholds, ties and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaincell.circuits import (
    READOUTS,
    charge_to_pulse,
    dac_code,
    quantize_output,
    query_code,
    query_driver,
    signed_charge_to_pulse,
    strict_clamp,
    write_dac,
)
from gaincell.circuits.normaliser import Normaliser, normalised
from gaincell.circuits.pwm import Drivers
from gaincell.errors import DesignError

RAILS = {"v_min": 0.0, "v_max": 0.9, "v_offset": 0.45}
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WIDE = (torch.float64, torch.float32)
EDGE = 1e-4  # well above float32 rounding of a threshold


def gradient(function, x: list[float]) -> list[float]:
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(at).sum(), at)
    return slope.tolist()


# ---- write DAC


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_voltage_at_the_offset_gives_code_4_in_every_precision(dtype: torch.dtype) -> None:
    at_offset = torch.tensor([0.45], dtype=dtype)
    assert dac_code(at_offset, 8, **RAILS).tolist() == [4]
    assert write_dac(at_offset, 8, **RAILS).item() == pytest.approx(0.5 * 0.9 / 7)
    zero_key = torch.tensor([1.7], dtype=dtype) * torch.zeros(1, dtype=dtype) + torch.tensor(
        [0.45], dtype=dtype
    )
    assert dac_code(zero_key, 8, **RAILS).tolist() == [4]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_rails_give_the_outer_codes(dtype: torch.dtype) -> None:
    volts = torch.tensor([-1.0, 0.0, 0.9, 2.0], dtype=dtype)
    assert dac_code(volts, 8, **RAILS).tolist() == [0, 0, 7, 7]


def test_dac_thresholds() -> None:
    for code in range(1, 8):
        threshold = 0.45 + (code - 4) * 0.9 / 7
        volts = torch.tensor([threshold - EDGE, threshold + EDGE])
        assert dac_code(volts, 8, **RAILS).tolist() == [code - 1, code]


@pytest.mark.parametrize("dtype", WIDE)
@given(volts=st.lists(st.floats(-0.25, 1.25, width=32), min_size=1))
def test_dac_is_idempotent_and_has_no_level_at_the_offset(dtype: torch.dtype, volts: list[float]) -> None:
    u = write_dac(torch.tensor(volts, dtype=dtype), 8, **RAILS)
    assert (u != 0).all()
    torch.testing.assert_close(write_dac(u + 0.45, 8, **RAILS), u, rtol=0, atol=0)


def test_dac_has_exactly_8_levels() -> None:
    u = write_dac(torch.linspace(-0.1, 1.0, 5001, dtype=torch.float64), 8, **RAILS).unique()
    expected = torch.tensor([(code - 3.5) * 0.9 / 7 for code in range(8)], dtype=torch.float64)
    torch.testing.assert_close(u, expected, rtol=1e-12, atol=1e-12)


def test_a_dac_without_quantisation_clamps_only() -> None:
    u = write_dac(torch.tensor([-1.0, 0.1, 0.45, 2.0], dtype=torch.float64), None, **RAILS)
    torch.testing.assert_close(u, torch.tensor([-0.45, -0.35, 0.0, 0.45], dtype=torch.float64))


def test_dac_passes_the_gradient_strictly_between_the_rails() -> None:
    assert gradient(lambda v: write_dac(v, 8, **RAILS), [-0.1, 0.0, 0.001, 0.45, 0.899, 0.9, 1.0]) == [
        0.0,
        0.0,
        1.0,
        1.0,
        1.0,
        0.0,
        0.0,
    ]


# ---- query driver


def test_query_thresholds() -> None:
    for code in range(1, 16):
        q = torch.tensor([(code - 0.5) / 15 - EDGE, (code - 0.5) / 15 + EDGE])
        assert query_code(q, 16).tolist() == [code - 1, code]


def test_query_driver_has_exactly_16_levels() -> None:
    x = query_driver(torch.linspace(-0.2, 1.2, 5001, dtype=torch.float64), 16).unique()
    torch.testing.assert_close(x, torch.arange(16, dtype=torch.float64) / 15, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", WIDE)
@given(q=st.lists(st.floats(-0.5, 1.5, width=32), min_size=1))
def test_query_driver_is_idempotent(dtype: torch.dtype, q: list[float]) -> None:
    x = query_driver(torch.tensor(q, dtype=dtype), 16)
    assert torch.equal(query_driver(x, 16), x)


def test_query_driver_passes_the_gradient_strictly_inside() -> None:
    assert gradient(lambda q: query_driver(q, 16), [-0.1, 0.0, 1e-9, 0.5, 1.0, 1.1]) == [0, 0, 1, 1, 0, 0]


def test_signed_queries_mirror_the_others() -> None:
    q = torch.linspace(-1.2, 1.2, 2401, dtype=torch.float64)
    x = query_driver(q, 16, signed=True)
    torch.testing.assert_close(x, query_driver(q, 16) - query_driver(-q, 16), rtol=0, atol=0)
    assert len(x.unique()) == 31
    assert torch.equal(query_code(q, 16, signed=True), torch.round(15 * x).long())
    passed = gradient(lambda q: query_driver(q, 16, signed=True), [-1.0, -0.5, 0.0, 0.5, 1.0])
    assert passed == [0, 1, 1, 1, 0]
    with pytest.raises(DesignError, match="phases = 3 is out of range; allowed: 1 or 2"):
        Drivers(3)


def test_the_normalising_column_divides() -> None:
    total = torch.tensor([[1.0, -2.0, 3.9], [1.0, 2.0, -0.5]], dtype=torch.float64)
    expected = [[0.25, -0.5], [10.0, 20.0]]  # a sum below 0, as errors may give, counts as 0
    torch.testing.assert_close(
        normalised(total, Normaliser(0.1)), torch.tensor(expected, dtype=torch.float64)
    )
    with pytest.raises(DesignError, match="floor = 0 is out of range"):
        Normaliser(0)
    assert not Normaliser().present


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_signals_are_widened(dtype: torch.dtype) -> None:
    assert query_driver(torch.tensor([0.4], dtype=dtype), 16).dtype == torch.float32
    assert query_driver(torch.tensor([0.4], dtype=dtype), 16).item() == pytest.approx(6 / 15)
    assert write_dac(torch.tensor([0.1], dtype=dtype), 8, **RAILS).dtype == torch.float32


# ---- charge-to-pulse


def test_a_score_of_exactly_0_has_no_gradient() -> None:
    scores = [-1.0, -0.0, 0.0, 1e-9, 40.0, 80.0, 81.0]
    slope = 1 / 80
    assert gradient(lambda s: charge_to_pulse(s, 80.0), scores) == [0, 0, 0, slope, slope, 0, 0]
    no_ceiling = gradient(lambda s: charge_to_pulse(s, 80.0, ceiling=False), scores)
    assert no_ceiling == [0, 0, 0, slope, slope, slope, slope]


@pytest.mark.parametrize("dtype", WIDE)
def test_a_score_that_is_0_up_to_rounding_has_no_gradient(dtype: torch.dtype) -> None:
    """Charges that cancel sum to 0 only up to rounding; the gradient must not depend on their order."""
    scores = torch.tensor([80 * torch.finfo(dtype).eps], dtype=dtype, requires_grad=True)
    pulse = charge_to_pulse(scores, 80.0)
    pulse.sum().backward()
    assert scores.grad is not None
    assert scores.grad.item() == 0.0
    assert pulse.item() > 0.0


def test_charge_to_pulse_values() -> None:
    scores = torch.tensor([-8.0, 0.0, 20.0, 80.0, 160.0])
    assert charge_to_pulse(scores, 80.0).tolist() == [0.0, 0.0, 0.25, 1.0, 1.0]
    assert charge_to_pulse(scores, 80.0, ceiling=False).tolist() == [0.0, 0.0, 0.25, 1.0, 2.0]


# ---- output


def test_signed_charge_to_pulse() -> None:
    charge = [-41.0, -40.0, -10.0, 0.0, 39.9, 40.0, 41.0]
    values = signed_charge_to_pulse(torch.tensor(charge), 40.0)
    torch.testing.assert_close(values, torch.tensor([-1.0, -1.0, -0.25, 0.0, 39.9 / 40, 1.0, 1.0]))
    slope = 1 / 40
    assert gradient(lambda o: signed_charge_to_pulse(o, 40.0), charge) == [0, 0, slope, slope, slope, 0, 0]
    assert gradient(lambda o: signed_charge_to_pulse(o, 40.0, ceiling=False), charge) == [slope] * 7


@pytest.mark.parametrize(
    ("kind", "codes", "full_scale"),
    [("counter", 31, 1.0), ("counter-floor", 31, 1.0), ("published-code", 33, 32 / 31)],
)
def test_readouts_have_exactly_their_codes(kind: str, codes: int, full_scale: float) -> None:
    o = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    values = quantize_output(o, kind, 16).unique()
    assert len(values) == codes
    assert values.max().item() == pytest.approx(full_scale)
    assert torch.equal(values, -values.flip(0))


@pytest.mark.parametrize("kind", READOUTS)
@pytest.mark.parametrize("dtype", WIDE)
@given(o=st.lists(st.floats(-1.0, 1.0, width=32), min_size=1))
def test_readouts_are_idempotent(kind: str, dtype: torch.dtype, o: list[float]) -> None:
    value = quantize_output(torch.tensor(o, dtype=dtype), kind, 16)
    assert torch.equal(quantize_output(value, kind, 16), value)


def test_readout_thresholds() -> None:
    for code in range(1, 16):
        for sign in (-1, 1):
            near = torch.tensor([code - 0.5 - EDGE, code - 0.5 + EDGE]) / 15 * sign
            assert (quantize_output(near, "counter", 16) * 15).round().tolist() == [
                sign * (code - 1),
                sign * code,
            ]
            near = torch.tensor([code - EDGE, code + EDGE]) / 15 * sign
            assert (quantize_output(near, "counter-floor", 16) * 15).round().tolist() == [
                sign * (code - 1),
                sign * code,
            ]


@pytest.mark.parametrize("dtype", WIDE)
def test_published_code_rounds_ties_to_even(dtype: torch.dtype) -> None:
    """Full scale is a tie and goes up to code 16; 1/31 (half a step) goes down to 0, 3/31 up to 2."""
    o = torch.tensor([1.0, -1.0], dtype=dtype)
    assert (quantize_output(o, "published-code", 16) * 31 / 2).round().tolist() == [16.0, -16.0]
    ties = torch.tensor([0.5, 1.5, 2.5], dtype=torch.float64) * 2 / 31
    nudged = torch.cat([ties - EDGE, ties + EDGE])
    assert (quantize_output(nudged, "published-code", 16) * 31 / 2).round().tolist() == [0, 1, 2, 1, 2, 3]


def test_readouts_are_straight_through() -> None:
    for kind in READOUTS:
        assert gradient(lambda o, kind=kind: quantize_output(o, kind, 16), [-0.9, 0.0, 0.3]) == [
            1.0,
            1.0,
            1.0,
        ]


def test_an_unknown_readout_is_refused() -> None:
    with pytest.raises(DesignError, match="published-code"):
        quantize_output(torch.zeros(1), "adc", 16)


def test_nan_stays_nan() -> None:
    nan = torch.tensor([torch.nan])
    assert strict_clamp(nan, 0.0, 1.0).isnan().all()
    assert query_driver(nan, 16).isnan().all()
    assert write_dac(nan, 8, **RAILS).isnan().all()
    assert charge_to_pulse(nan, 80.0).isnan().all()
    assert quantize_output(signed_charge_to_pulse(nan, 40.0), "counter", 16).isnan().all()


def test_ties_are_rounded_as_stated() -> None:
    """The counter counts a period that is half over, away from zero; the published code goes to even."""
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -2.5], dtype=torch.float64)
    assert READOUTS["counter"].code(x.clone()).tolist() == [1, 2, 3, -1, -3]
    assert READOUTS["published-code"].code(x.clone()).tolist() == [0, 2, 2, 0, -2]
    assert READOUTS["counter-floor"].code(x.clone()).tolist() == [0, 1, 2, 0, -2]
    assert query_code(torch.tensor([4.5, 5.5], dtype=torch.float64) / 15, 16).tolist() == [5, 6]
