"""How a cell's current separates over time, which turns gain-cell products into matrix products.

Dimensions: G key/value heads processed together, c key tokens, R query tokens, D head dimension, n slabs
(terms of the basis).

The charge of one cell is x_i F(u_j delta^(i-j)): the paper's equation (6), with the decay of (7) in F. With a
base time b,

    F(u_j delta^(i-j)) = constant + sum_n row_n(i - b) * slab_n(u_j, j - b),

so a product over a whole block is one matrix product with inner dimension n * D:

* a polynomial of orders p: row_p(r) = delta^(p r), slab_p(u, r) = C_p (u delta^-r)^p: exact;
* any other smooth curve: with s = delta^(i-b) in a short range below 1, F((u_j delta^(b-j)) s) is
  interpolated in s at Chebyshev nodes s_n; row_n is the Lagrange basis, slab_n(u, r) = F(u delta^-r s_n). The
  number of nodes is raised until the interpolation error, measured on a grid, is below the rounding error of
  the precision in use, and the range is shortened until few nodes suffice; a range of one token needs one
  node and is exact for every curve. Unlike slabs per stored level this also serves unquantised storage;
* cells that leak at rates of their own have no common factor: F_cell(u_j exp(-k_cell (i-j))) is interpolated
  in the time i - b itself, over a span that is short for the fastest cell of the layer.

Mismatch (devices/variability.py) gives every cell coefficients of its own; a polynomial then has an order-0
slab too. A store that decays towards u_inf instead of 0 holds v = u - u_inf, of which the cell makes
F(v + u_inf): voltages here are relative to u_inf.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, comb, exp, inf, isqrt, log, log2
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaincell.chips.design_file import Design
from gaincell.devices.cell import Cell, PolynomialCell
from gaincell.devices.random import LARGEST_NORMAL
from gaincell.devices.variability import CellErrors, cell_errors, current_of, slope_of

LARGEST_EXPONENT = 30.0  # exp(30) times a full-scale current is far inside float32; bounds p * alpha * span
LONGEST_SPAN = 2048  # tokens served from one base time: bounds memory
LONGEST_SAMPLED_SPAN = 256
MOST_NODES = 8
SLOPE_FACTOR = 1e3
"""By how much more the slope of a cell may be off than its current: gradients are needed to fewer digits."""
FASTEST_DECAY = 1e-300  # delta below this is 0 to any precision


@dataclass(frozen=True)
class PolynomialBasis:
    """Exact time basis of a polynomial cell F(u) = sum_p C_p u^p.

    As of every time basis: `span` is the number of query tokens that one base time may serve, `row_factors`
    those of queries at `rel` = i - base (0 <= rel < span), [n, R] in float64, `of_keys` the slabs, or with
    `slopes` their derivative by the voltage, [G, c, n, D], of voltages `u` [G, c, D] stored at `rel` =
    j - base into cells with `errors`. With `mismatch` every cell has its own C_p.
    """

    coefficients: tuple[float, ...]
    alpha: float
    mismatch: bool = False

    @property
    def orders(self) -> tuple[int, ...]:
        if self.mismatch:
            return tuple(range(len(self.coefficients)))
        return tuple(p for p, c in enumerate(self.coefficients) if p > 0 and c != 0.0)

    @property
    def constant(self) -> float:
        return 0.0 if self.mismatch else self.coefficients[0]

    @property
    def count(self) -> int:
        return len(self.orders)

    @property
    def span(self) -> int:
        return _bounded_span(self.alpha * max(1, len(self.coefficients) - 1), LONGEST_SPAN)

    def row_factors(self, rel: Tensor) -> Tensor:
        orders = torch.tensor(self.orders, dtype=torch.float64, device=rel.device)
        return torch.exp(-self.alpha * orders[:, None] * rel.double()[None, :])

    def of_keys(self, u: Tensor, rel: Tensor, errors: CellErrors | None, *, slopes: bool = False) -> Tensor:
        """C_p w^p of every order, or p C_p w^(p-1) dw/du."""
        stack = u.new_empty(*u.shape[:2], self.count, u.shape[2])
        factor = torch.exp(self.alpha * rel.double()).to(u.dtype)[None, :, None]
        w = u * factor
        power, reached = (factor.expand_as(w), 1) if slopes else (torch.ones_like(w), 0)
        for n, p in enumerate(self.orders):
            while reached < p:
                power = power * w
                reached += 1
            if p == 0 and slopes:
                stack[:, :, n] = 0.0
                continue
            c = self.cell_coefficient(p, errors)
            factors = torch.as_tensor(c * p if slopes else c, dtype=u.dtype, device=u.device)
            torch.mul(power, factors, out=stack[:, :, n])
        return stack

    def cell_coefficient(self, m: int, errors: CellErrors | None) -> Tensor | float:
        """C_m, or with mismatch gain * sum_p C_p binom(p, m) shift^(p-m) (+ current offset at m = 0)."""
        if errors is None:
            return self.coefficients[m]
        total = torch.zeros_like(errors.offset_voltage)
        own = errors.deviations
        for p in range(max(len(self.coefficients), 0 if own is None else len(own)) - 1, m - 1, -1):
            coefficient: Tensor | float = self.coefficients[p] if p < len(self.coefficients) else 0.0
            if own is not None and p < len(own):
                coefficient = own[p] + coefficient
            total = total * errors.offset_voltage + coefficient * comb(p, m)
        total = total * errors.gain
        return total + errors.current_offset if m == 0 else total


@dataclass(frozen=True)
class _Interpolation:
    """Time basis of any cell, by interpolation at nodes."""

    cell: Cell
    nodes: tuple[float, ...]
    span: int

    constant = 0.0

    @property
    def count(self) -> int:
        return len(self.nodes)

    def left(self, rel: Tensor, like: Tensor, errors: CellErrors | None) -> list[Tensor]:
        """What is left of the voltages at every node."""
        raise NotImplementedError

    def of_keys(self, u: Tensor, rel: Tensor, errors: CellErrors | None, *, slopes: bool = False) -> Tensor:
        stack = u.new_empty(*u.shape[:2], self.count, u.shape[2])
        for n, left in enumerate(self.left(rel, u, errors)):
            slab = (slope_of if slopes else current_of)(self.cell, u * left, errors)
            stack[:, :, n] = slab * left if slopes else slab
        return stack


@dataclass(frozen=True)
class SampledBasis(_Interpolation):
    """Over the short range of decay factors that one base time sees."""

    alpha: float

    def row_factors(self, rel: Tensor) -> Tensor:
        return lagrange_basis(self.nodes, torch.exp(-self.alpha * rel.double()))

    def left(self, rel: Tensor, like: Tensor, errors: CellErrors | None) -> list[Tensor]:
        columns = torch.exp(self.alpha * rel.double())
        return [(columns * s).to(like.dtype)[None, :, None] for s in self.nodes]


@dataclass(frozen=True)
class TimedBasis(_Interpolation):
    """Of cells that leak at rates of their own, over the time that one base time serves.

    Attributes:
        leak: Exponent of the decay per token of a nominal cell.
        disturb: Exponent of the decay per token by the reads.
    """

    leak: float
    disturb: float

    @property
    def alpha(self) -> float:
        """Exponent of a nominal cell."""
        return self.leak + self.disturb

    def row_factors(self, rel: Tensor) -> Tensor:
        return lagrange_basis(self.nodes, rel.double())

    def left(self, rel: Tensor, like: Tensor, errors: CellErrors | None) -> list[Tensor]:
        assert errors is not None
        assert errors.leakage is not None
        rate = self.leak * errors.leakage + self.disturb
        age = rel.to(rate.dtype)[None, :, None]
        return [torch.exp(rate * (age - node)) for node in self.nodes]


TimeBasis = PolynomialBasis | SampledBasis | TimedBasis


@dataclass(frozen=True)
class ShiftedCell:
    """F(v + shift): a curve about the voltage that the store decays to."""

    cell: Cell
    shift: float
    name: str
    linear_slope: float
    volts: tuple[float, ...]
    coefficients: None = None

    @property
    def numbers(self) -> dict[str, Any]:
        return {**self.cell.numbers, "shift": self.shift}

    def current(self, v: Tensor) -> Tensor:
        return self.cell.current(v + self.shift)

    def slope(self, v: Tensor) -> Tensor:
        return self.cell.slope(v + self.shift)


def _shifted(cell: Cell, shift: float) -> Cell:
    """F(v + shift) as a polynomial in v, where it is one."""
    c = cell.coefficients
    if c is None:
        volts = tuple(v - shift for v in getattr(cell, "volts", ()))
        return ShiftedCell(cell, shift, f"{cell.name} about {shift} V", cell.linear_slope, volts)
    orders = range(len(c))
    moved = (sum(c[p] * comb(p, m) * shift ** (p - m) for p in orders if p >= m) for m in orders)
    return PolynomialCell(tuple(moved), cell.linear_slope)


def errors_about_target(
    design: Design, layer: int, heads: int, like: Tensor, array: int, *, keep: bool = True
) -> CellErrors | None:
    """`cell_errors`, of D, type and device of a tensor [..., D], for voltages relative to u_inf."""
    errors = cell_errors(design, layer, heads, like.shape[-1], array, like.dtype, like.device, keep=keep)
    if errors is None or design.decay_target == 0:
        return errors
    return errors._replace(offset_voltage=errors.offset_voltage + design.decay_target)


def fastest_leak(*errors: CellErrors | None) -> float:
    """A power of two that no cell's rate exceeds, in multiples of the nominal one; 0 where all leak alike."""
    largest = max(
        (float(e.leakage.max()) for e in errors if e is not None and e.leakage is not None), default=0.0
    )
    return 2.0 ** ceil(log2(largest)) if largest > 0 else 0.0


@lru_cache(maxsize=256)
def time_basis_of(
    design: Design, reads: int, dtype: torch.dtype, fastest: float = 0.0, longest: int = LONGEST_SAMPLED_SPAN
) -> TimeBasis:
    """The time basis of the cells of a chip whose columns are read so many times per token.

    Args:
        design: The chip.
        reads: Reads of a column per token.
        dtype: Precision that an interpolation must not spoil.
        fastest: See `fastest_leak`.
        longest: Query tokens that one base time of a non-polynomial cell has to serve.
    """
    target, reach, cell = design.decay_target, design.largest_voltage, design.cell
    shift = largest_shift(design) if design.cells_differ else 0.0
    if target:
        reach += abs(target)
        cell = cell if design.cells_differ else _shifted(cell, target)
    disturb = reads * design.disturb_per_read
    searched = (cell, reach, shift, 1e-14 if dtype == torch.float64 else 2e-8, longest)
    if fastest > 0:
        rates = (design.leak_per_token * fastest + disturb, disturb)
        return TimedBasis(cell, *_timed_nodes(rates, *searched), design.leak_per_token, disturb)
    alpha = _exponent(design, reads)
    if cell.coefficients is not None:
        own_orders = isqrt(len(design.mismatch.coefficient_covariance))
        padding = (0.0,) * (own_orders - len(cell.coefficients))
        return PolynomialBasis((*cell.coefficients, *padding), alpha, design.cells_differ)
    return SampledBasis(cell, *_sampled_nodes(alpha, *searched), alpha)


def linear_basis(design: Design, reads: int) -> TimeBasis:
    """The linear surrogate of the backward pass: F(u) = slope * u of nominal cells, decaying at order 1."""
    slope = design.cell.linear_slope
    return PolynomialBasis((slope * design.decay_target, slope), _exponent(design, reads))


def largest_shift(design: Design) -> float:
    """Of the voltages of cells that differ."""
    return LARGEST_NORMAL * design.mismatch.offset_voltage_std + abs(design.decay_target)


def _exponent(design: Design, reads: int) -> float:
    """-ln(delta); finite also for a cell that forgets everything within one token (delta = 0)."""
    return -log(max(design.kept_per_token(reads), FASTEST_DECAY))


def lagrange_basis(nodes: Sequence[float], s: Tensor) -> Tensor:
    """[n, len(s)] Lagrange basis polynomials of `nodes` at `s`."""
    rows = []
    for n, a in enumerate(nodes):
        row = torch.ones_like(s)
        for m, b in enumerate(nodes):
            if m != n:
                row = row * ((s - b) / (a - b))
        rows.append(row)
    return torch.stack(rows)


def _bounded_span(exponent_per_token: float, longest: int) -> int:
    span = longest
    while span > 1 and exponent_per_token * span > LARGEST_EXPONENT:
        span //= 2
    return span


@lru_cache(maxsize=64)
def _sampled_nodes(
    alpha: float, cell: Cell, largest_u: float, shift: float, tolerance: float, longest: int
) -> tuple[tuple[float, ...], int]:
    """Fewest nodes in the decay factor, on the longest span, whose error is below `tolerance`; the span."""
    if alpha == 0.0:
        return (1.0,), LONGEST_SPAN
    full_scale = _full_scale(cell, largest_u)
    # where a table's pieces meet its curve is hardest to interpolate: in the middle of the range
    knots = torch.tensor(getattr(cell, "volts", ()), dtype=torch.float64, device="cpu")

    def nodes_and_error(span: int, x: Tensor) -> tuple[Tensor, float]:
        low = exp(-alpha * (span - 1))
        nodes = (1.0 + low) / 2 + (1.0 - low) / 2 * x
        s = torch.linspace(low, 1.0, 65, dtype=torch.float64, device="cpu")
        # stored voltages seen at the base time, those written later than it included
        w = torch.linspace(-largest_u / low, largest_u / low, 129, dtype=torch.float64, device="cpu")
        w = torch.cat((w, knots * (2 / (1 + low))))
        scales = full_scale, float(cell.slope(w).abs().nan_to_num(nan=inf, posinf=inf).max())
        return nodes, _error(cell, w[:, None], nodes, s, lagrange_basis(nodes.tolist(), s), shift, scales)

    return _fewest(nodes_and_error, _bounded_span(alpha, longest), tolerance) or ((1.0,), 1)


@lru_cache(maxsize=64)
def _timed_nodes(
    rates: tuple[float, float], cell: Cell, largest_u: float, shift: float, tolerance: float, longest: int
) -> tuple[tuple[float, ...], int]:
    """The same in time, for cells of any rate up to the first of `rates` and down to the second."""
    voltages = torch.linspace(-largest_u, largest_u, 129, dtype=torch.float64, device="cpu")
    scales = _full_scale(cell, largest_u), float(cell.slope(voltages).abs().max())

    def nodes_and_error(span: int, x: Tensor) -> tuple[Tensor, float]:
        nodes = (span - 1) / 2 * (1 + x)
        r, error = torch.linspace(0, span - 1, 33, dtype=torch.float64, device="cpu"), 0.0
        basis = lagrange_basis(nodes.tolist(), r)
        for rate in np.linspace(rates[1], rates[0], 5):
            s, at, widest = torch.exp(-rate * r), torch.exp(-rate * nodes), largest_u * exp(rate * (span - 1))
            w = torch.linspace(-widest, widest, 33, dtype=torch.float64, device="cpu")[:, None]
            error = max(error, _error(cell, w, at, s, basis, shift, scales))
        return nodes, error

    return _fewest(nodes_and_error, _bounded_span(rates[0], longest), tolerance) or ((0.0,), 1)


def _full_scale(cell: Cell, largest_u: float) -> float:
    return float(cell.current(torch.tensor(largest_u, dtype=torch.float64, device="cpu")).abs())


def _fewest(
    nodes_and_error: Callable[[int, Tensor], tuple[Tensor, float]], span: int, tolerance: float
) -> tuple[tuple[float, ...], int] | None:
    """Nodes and span, of spans that are halved; None where only a span of 1 is left."""
    while span > 1:
        for count in range(2, MOST_NODES + 1):
            chebyshev = np.cos((2 * np.arange(count) + 1) * np.pi / (2 * count))
            nodes, error = nodes_and_error(span, torch.from_numpy(chebyshev))
            if error <= tolerance:
                return tuple(nodes.tolist()), span
        span //= 2
    return None


def _error(
    cell: Cell, w: Tensor, at: Tensor, s: Tensor, basis: Tensor, shift: float, scales: tuple[float, float]
) -> float:
    """Largest error of interpolating the current of voltages w s, known at w `at`, and its derivative by w.

    `shift` is the largest of the cells, `scales` the largest current and slope, of which it is a fraction.
    """
    error = 0.0
    for du in (0.0,) if shift == 0.0 else (-shift, 0.0, shift):
        current = cell.current(w * at + du) @ basis - cell.current(w * s + du)
        slope = (cell.slope(w * at + du) * at) @ basis - cell.slope(w * s + du) * s
        for missed, scale, factor in ((current, scales[0], 1.0), (slope, scales[1], SLOPE_FACTOR)):
            error = max(error, float(missed.abs().nan_to_num(nan=inf).max()) / scale / factor)
    return error
