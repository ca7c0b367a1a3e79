"""One gain cell: its curve, its retention."""

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaincell.chips.design_file import load_design
from gaincell.chips.fields import CELL_NUMBERS, number_kinds
from gaincell.devices.cell import CELL_KINDS, Cell, PolynomialCell, named_cell
from gaincell.devices.leakage import remaining
from gaincell.errors import DesignError

KINDS = tuple(CELL_KINDS)
POINTS = {"volts": (-0.45, -0.3, -0.1, 0.0, 0.2, 0.45), "currents": (-9.0, -6.5, -2.0, 0.0, 3.0, 10.5)}
SPANS = {
    "tabulated": 19.5,
    "linear": 17.37,
    "polynomial": 20.64,
    "x3": 19.3,
    "x5": 19.3,
    "sigmoid": 19.3,
    "exponential": 19.3,
}
STORED = st.floats(-0.45, 0.45)


def cell(kind: str) -> Cell:
    if kind == "tabulated":
        return named_cell(kind, POINTS | {"linear_slope": 19.3})
    return load_design("leroux2025").replace(cell=kind).cell


def current(kind: str, u: float) -> float:
    return float(cell(kind).current(torch.tensor(u, dtype=torch.float64)))


def test_coefficients_of_the_published_fit_at_its_input_voltage() -> None:
    published = (0.5213636, 13.6122606, -2.6204456, 46.0548378)
    assert cell("polynomial").coefficients == pytest.approx(published, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fields_of_a_kind_are_its_numbers_in_a_file(kind: str) -> None:
    owner, fixed = CELL_KINDS[kind]
    names = {field.name for field in fields(owner)}
    assert names - fixed.keys() == cell(kind).numbers.keys() <= CELL_NUMBERS.keys()
    assert not fixed.keys() & CELL_NUMBERS.keys()
    own = number_kinds(owner)
    assert {name: CELL_NUMBERS[name] for name in cell(kind).numbers} == {
        n: own[n] for n in names - fixed.keys()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_span_over_the_storage_range(kind: str) -> None:
    assert current(kind, 0.45) - current(kind, -0.45) == pytest.approx(SPANS[kind], abs=5e-3)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(a=STORED, b=STORED)
def test_current_rises_monotonically_with_the_stored_voltage(kind: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert current(kind, low) <= current(kind, high)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_polynomial_cell_drives_current_at_the_offset_voltage(kind: str) -> None:
    assert (current(kind, 0.0) == 0.0) == (kind != "polynomial")


@pytest.mark.parametrize("kind", KINDS)
def test_slope_is_the_derivative_of_the_current(kind: str) -> None:
    u = torch.linspace(-0.45, 0.45, 19, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(cell(kind).current(u).sum(), u)
    torch.testing.assert_close(cell(kind).slope(u.detach()), derivative, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if cell(kind).coefficients is not None])
def test_coefficients_are_those_of_the_current(kind: str) -> None:
    u = torch.linspace(-0.45, 0.45, 19, dtype=torch.float64)
    powers = sum(c * u**p for p, c in enumerate(cell(kind).coefficients or ()))
    torch.testing.assert_close(cell(kind).current(u), powers, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_rebuilt_exactly_from_its_numbers(kind: str) -> None:
    assert named_cell(cell(kind).name, cell(kind).numbers) == cell(kind)
    assert isinstance(cell(kind), Cell)


def test_supplement_curves_are_the_published_formulas() -> None:
    curves = {
        "x3": lambda u: u**3,
        "x5": lambda u: u**5,
        "sigmoid": lambda u: 1 / (1 + math.exp(-10 * u)),
        "exponential": lambda u: math.exp(3 * u),
    }
    for kind, g in curves.items():
        full_range = g(0.45) - g(-0.45)
        for u in (-0.45, -0.2, 0.05, 0.3):
            assert current(kind, u) == pytest.approx(19.3 / full_range * (g(u) - g(0)), rel=1e-12)


def test_unacceptable_cells_are_refused() -> None:
    with pytest.raises(DesignError, match="cell 'cubic' is unknown; allowed: linear"):
        named_cell("cubic", {})
    with pytest.raises(DesignError, match="'half_span'"):
        named_cell("x3", {"linear_slope": 19.3, "span": 19.3})
    with pytest.raises(DesignError, match="needs the number 'v_in'"):
        named_cell("polynomial", {"linear_slope": 19.3, "c00": 1.0})
    assert named_cell("linear", {"linear_slope": 19.3, "c00": 1.0}).linear_slope == 19.3
    with pytest.raises(DesignError, match="linear_slope"):
        named_cell("linear", {"linear_slope": -1.0})
    with pytest.raises(DesignError, match="coefficients"):
        PolynomialCell((1.0, math.nan), 19.3)


@given(delta=st.floats(0.0, 1.0))
def test_age_0_means_no_decay(delta: float) -> None:
    ages = torch.tensor([0, 1, 2])
    kept = remaining(delta, ages, torch.float64).tolist()
    assert kept[0] == 1.0
    assert kept[1:] == pytest.approx([delta, delta * delta])


def test_decay_of_the_published_chip() -> None:
    design = load_design("leroux2025")
    assert design.decay_per_token == pytest.approx(math.exp(-1.56e-4), rel=1e-12)
    assert design.replace(retention_time=None).decay_per_token == 1.0
