"""The current of one gain cell.

A cell answers an input pulse of relative width x in [0, 1] with the charge

    f(x, u) = x * F(u),        u = V - V_offset                                              (6)

on its bit line, signed about V_offset. A cell class is the curve F: `current` gives F, `slope` its
derivative, both in charge units for a full pulse. Classes hold no numbers of their own: `named_cell` builds
them from the numbers of a design file.

To add a cell, read README.md in this folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.devices.tabulated import Numbered, TabulatedCell, require_positive
from gaincell.errors import DesignError
from gaincell.quantity import did_you_mean, one_of
from gaincell.units import ChargeUnit, ChargeUnitPerVolt, Coefficients, PerVolt, Volt


@runtime_checkable
class Cell(Protocol):
    """What every cell offers. Cells are immutable, comparable and hashable.

    Attributes:
        name: Kind of cell, the key of `named_cell`.
        coefficients: (C0, ..., Cp) when F(u) = sum_p C_p u^p, so that age separates as delta^(p age), else
            None.
        linear_slope: Slope of the linear surrogate used by `gradient="surrogate"`, charge units per volt.
        numbers: What rebuilds the cell exactly: `named_cell(cell.name, cell.numbers) == cell`.
    """

    @property
    def name(self) -> str: ...
    @property
    def coefficients(self) -> tuple[float, ...] | None: ...
    @property
    def linear_slope(self) -> float: ...
    @property
    def numbers(self) -> dict[str, Any]: ...

    def __hash__(self) -> int: ...

    def current(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """F(u) in charge units for a full pulse; u in volts relative to V_offset."""

    def slope(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """dF/du in charge units per volt."""


def _polynomial(coefficients: Sequence[float], u: Tensor) -> Tensor:
    """sum_p coefficients[p] u^p by Horner's rule."""
    value = torch.full_like(u, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * u + coefficient
    return value


@dataclass(frozen=True)
class LinearCell(Numbered):
    """The ideal cell, F(u) = linear_slope * u.

    Source: the paper's linear model [R]. Not modelled: any current at u = 0.
    """

    linear_slope: ChargeUnitPerVolt
    name = "linear"

    @property
    def coefficients(self) -> tuple[float, ...]:
        return (0.0, self.linear_slope)

    def current(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.linear_slope * u

    def slope(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.full_like(u, self.linear_slope)


@dataclass(frozen=True)
class PolynomialCell(Numbered):
    """A fitted cell, F(u) = sum_p C_p u^p.                                                       (6)

    Source: cubic fit of the silicon CMOS cell [R]. C0 != 0: a cell that stores V_offset still drives C0.

    Attributes:
        coefficients: (C0, ..., Cp).
        linear_slope: Slope of the linear surrogate.
    """

    coefficients: Coefficients
    linear_slope: ChargeUnitPerVolt
    name = "polynomial"

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))
        if len(self.coefficients) < 2 or not all(math.isfinite(c) for c in self.coefficients):
            raise DesignError(
                f"cell 'polynomial': coefficients {self.coefficients!r} must be two or more finite numbers"
            )
        require_positive(self.name, {"linear_slope": self.linear_slope})

    def current(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _polynomial(self.coefficients, u)

    def slope(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return _polynomial([p * c for p, c in enumerate(self.coefficients) if p > 0] or [0.0], u)


@dataclass(frozen=True)
class PowerCell:
    """An odd power, F(u) = span / R * u^exponent with R = g(half_span) - g(-half_span), g(u) = u^exponent.

    Source: the paper's supplement, x3 and x5 [R].

    Attributes:
        exponent: Odd, >= 3.
        span: F(half_span) - F(-half_span).
        half_span: Largest |u| of the storage range.
        linear_slope: Slope of the linear surrogate.
    """

    exponent: int
    span: ChargeUnit
    half_span: Volt
    linear_slope: ChargeUnitPerVolt

    def __post_init__(self) -> None:
        if self.exponent < 3 or self.exponent % 2 == 0:
            raise DesignError(f"cell {self.name!r}: the exponent must be odd and at least 3")
        require_positive(self.name, self.numbers)

    @property
    def name(self) -> str:
        return f"x{self.exponent}"

    @property
    def coefficients(self) -> tuple[float, ...]:
        return (0.0,) * self.exponent + (self.span / (2 * self.half_span**self.exponent),)

    @property
    def numbers(self) -> dict[str, Any]:
        return {"span": self.span, "half_span": self.half_span, "linear_slope": self.linear_slope}

    def current(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.coefficients[-1] * u**self.exponent

    def slope(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self.exponent * self.coefficients[-1] * u ** (self.exponent - 1)


@dataclass(frozen=True)
class SigmoidCell(Numbered):
    """F(u) = span / R * (g(u) - g(0)),  g(u) = sigmoid(s * u),  R = g(half_span) - g(-half_span).

    Source: the paper's supplement [R]. The curve is not a polynomial, so age does not separate from it.

    Attributes:
        sigmoid_steepness: s.
        span: As of `PowerCell`.
        half_span: As of `PowerCell`.
        linear_slope: As of `PowerCell`.
    """

    sigmoid_steepness: PerVolt
    span: ChargeUnit
    half_span: Volt
    linear_slope: ChargeUnitPerVolt
    name = "sigmoid"
    coefficients = None

    @property
    def _scale(self) -> float:
        return self.span / math.tanh(self.sigmoid_steepness * self.half_span / 2)

    def current(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        # sigmoid(z) - 1/2 = tanh(z/2)/2 without the cancellation near u = 0
        return (self._scale / 2) * torch.tanh(self.sigmoid_steepness * u / 2)

    def slope(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        g = torch.sigmoid(self.sigmoid_steepness * u)
        return self._scale * self.sigmoid_steepness * g * (1 - g)


@dataclass(frozen=True)
class ExponentialCell(Numbered):
    """F(u) = span / R * (g(u) - g(0)),  g(u) = exp(r * u),  R = g(half_span) - g(-half_span).

    Source: the paper's supplement [R]. The curve is not a polynomial, so age does not separate from it.

    Attributes:
        exponential_rate: r.
        span: As of `PowerCell`.
        half_span: As of `PowerCell`.
        linear_slope: As of `PowerCell`.
    """

    exponential_rate: PerVolt
    span: ChargeUnit
    half_span: Volt
    linear_slope: ChargeUnitPerVolt
    name = "exponential"
    coefficients = None

    @property
    def _scale(self) -> float:
        return self.span / (2 * math.sinh(self.exponential_rate * self.half_span))

    def current(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self._scale * torch.expm1(self.exponential_rate * u)

    def slope(self, u: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self._scale * self.exponential_rate * torch.exp(self.exponential_rate * u)


def _with_coefficients(n: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the coefficients of a fit f = x sum_ij c_ij u^i V_in^j: C_i = sum_j c_ij V_in^j."""
    fit = sorted(key for key in n if re.fullmatch(r"c\d\d", key))
    if "coefficients" in n or not fit:
        return n
    coefficients = [0.0] * (int(fit[-1][1]) + 1)
    for key in fit:
        coefficients[int(key[1])] += n[key] * n["v_in"] ** int(key[2])
    return {**n, "coefficients": tuple(coefficients)}


class Kind(NamedTuple):
    """A kind of cell: its dataclass, and fields whose value it fixes. The others are numbers of a file."""

    owner: Any
    fixed: Mapping[str, Any] = {}


CELL_KINDS: Mapping[str, Kind] = {
    "linear": Kind(LinearCell),
    "polynomial": Kind(PolynomialCell),
    "x3": Kind(PowerCell, {"exponent": 3}),
    "x5": Kind(PowerCell, {"exponent": 5}),
    "sigmoid": Kind(SigmoidCell),
    "exponential": Kind(ExponentialCell),
    "tabulated": Kind(TabulatedCell),
}
"""By the word of `kind` in the table [cell] of a design file."""


def named_cell(kind: Any, numbers: Mapping[str, Any]) -> Cell:
    """Build a cell from the numbers of a design file.

    Args:
        kind: A key of CELL_KINDS.
        numbers: At least the fields of the kind's class, by name; there may be more, so one table serves all
            kinds. Instead of the coefficients of a polynomial: c00, c01, ..., c30 of a fit, in charge units
            per volt^(i + j), and v_in.

    Raises:
        DesignError: an unknown kind or a missing number.
    """
    if not isinstance(kind, str) or kind not in CELL_KINDS:
        raise DesignError(
            f"cell {kind!r} is unknown{did_you_mean(str(kind), CELL_KINDS)}; allowed: {one_of(CELL_KINDS)}"
        )
    owner, fixed = CELL_KINDS[kind]
    try:
        found = {**(_with_coefficients(numbers) if owner is PolynomialCell else numbers), **fixed}
        cell: Cell = owner(**{field.name: found[field.name] for field in fields(owner)})
    except KeyError as missing:
        if owner is TabulatedCell:
            raise DesignError(
                f"cell {kind!r} has points of its own: give its device file (.toml) or measured curve (.csv)"
            ) from None
        raise DesignError(
            f"cell {kind!r} needs the number {missing.args[0]!r}; "
            f"given: {', '.join(sorted(numbers)) or 'nothing'}"
        ) from None
    return cell
