"""How a cell's current separates over time: the factorisation that turns gain-cell products into matrix
products.

Dimensions: G key/value heads processed together, c key tokens, R query tokens, D head dimension, n slabs.

The charge of one cell is x_i F(u_j delta^(i-j)): the paper's equation (6), with the decay of (7) in F. With a
base time b,

    F(u_j delta^(i-j)) = constant + sum_n row_n(i - b) * slab_n(u_j, j - b),

so a product over a whole block is one matrix product with inner dimension n * D:

* a polynomial of orders p: row_p(r) = delta^(p r), slab_p(u, r) = C_p (u delta^-r)^p: exact;
* any other smooth curve: with s = delta^(i-b) in a short range below 1, F((u_j delta^(b-j)) s) is
  interpolated in s at Chebyshev nodes s_n; row_n is the Lagrange basis, slab_n(u, r) = F(u delta^-r s_n). The
  number of nodes is raised until the interpolation error, measured on a grid, is below the rounding error of
  the precision in use, and the range is shortened until few nodes suffice; a range of one token needs one
  node and is exact for every curve. Unlike slabs per stored level this also serves unquantised storage.

Mismatch (devices/variability.py) gives every cell coefficients of its own; a polynomial then has an order-0
slab too.

Where cells leak at rates of their own, no factor is common to them: F_cell(u_j exp(-k_cell (i-j))) is
interpolated in the time i - b itself, over a span that is short for the fastest cell of the layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb, exp, inf, log

import numpy as np
import torch
from torch import Tensor

from gaincell.devices.cell import Cell
from gaincell.devices.variability import CellErrors, current_of, slope_of

LARGEST_EXPONENT = 30.0  # exp(30) times a full-scale current is far inside float32; bounds p * alpha * span
LONGEST_SPAN = 2048  # tokens served from one base time: bounds memory
LONGEST_SAMPLED_SPAN = 256
MOST_NODES = 8
SLOPE_FACTOR = 1e3
"""By how much more the slope of a cell may be off than its current: gradients are needed to fewer digits."""
FASTEST_DECAY = 1e-300  # delta below this is 0 to any precision


@dataclass(frozen=True)
class PolynomialSlabs:
    """Exact separation of a polynomial cell F(u) = sum_p C_p u^p.

    As of every separation: `span` is the number of query tokens that one base time may serve, `row_factors`
    are those of query tokens at `rel` = i - base (0 <= rel < span), [n, R] in float64, and `key_slabs` and
    `key_slopes` the slabs and their derivative by the voltage, [G, c, n, D], of voltages `u` [G, c, D] stored
    at `rel` = j - base into cells with `errors`.

    mismatch: every cell has its own C_p.
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

    def key_slabs(self, u: Tensor, rel: Tensor, errors: CellErrors | None) -> Tensor:
        stack = u.new_empty(*u.shape[:2], self.count, u.shape[2])
        w = u * self._column_factor(rel, u)
        power, reached = torch.ones_like(w), 0
        for n, p in enumerate(self.orders):
            while reached < p:
                power = power * w
                reached += 1
            _times(power, self.cell_coefficient(p, errors), stack[:, :, n])
        return stack

    def key_slopes(self, u: Tensor, rel: Tensor, errors: CellErrors | None) -> Tensor:
        stack = u.new_zeros(*u.shape[:2], self.count, u.shape[2])
        factor = self._column_factor(rel, u)
        w = u * factor
        power, reached = factor.expand_as(w), 1
        for n, p in enumerate(self.orders):
            while reached < p:
                power = power * w
                reached += 1
            if p > 0:
                _times(power, self.cell_coefficient(p, errors) * p, stack[:, :, n])
        return stack

    def _column_factor(self, rel: Tensor, like: Tensor) -> Tensor:
        return torch.exp(self.alpha * rel.double()).to(like.dtype)[None, :, None]

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
    """Separation of any cell by interpolation at nodes."""

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

    def key_slabs(self, u: Tensor, rel: Tensor, errors: CellErrors | None) -> Tensor:
        stack = u.new_empty(*u.shape[:2], self.count, u.shape[2])
        for n, left in enumerate(self.left(rel, u, errors)):
            stack[:, :, n] = current_of(self.cell, u * left, errors)
        return stack

    def key_slopes(self, u: Tensor, rel: Tensor, errors: CellErrors | None) -> Tensor:
        stack = u.new_empty(*u.shape[:2], self.count, u.shape[2])
        for n, left in enumerate(self.left(rel, u, errors)):
            stack[:, :, n] = slope_of(self.cell, u * left, errors) * left
        return stack


@dataclass(frozen=True)
class SampledSlabs(_Interpolation):
    """Over the short range of decay factors that one base time sees."""

    alpha: float

    def row_factors(self, rel: Tensor) -> Tensor:
        return lagrange_basis(self.nodes, torch.exp(-self.alpha * rel.double()))

    def left(self, rel: Tensor, like: Tensor, errors: CellErrors | None) -> list[Tensor]:
        columns = torch.exp(self.alpha * rel.double())
        return [(columns * s).to(like.dtype)[None, :, None] for s in self.nodes]


@dataclass(frozen=True)
class TimedSlabs(_Interpolation):
    """Of cells that leak at rates of their own, over the time that one base time serves.

    leak, disturb: exponents of the decay per token: of a nominal cell, and of the reads.
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


Slabs = PolynomialSlabs | SampledSlabs | TimedSlabs


def exponent(decay_per_token: float) -> float:
    """-ln(delta); finite also for a cell that forgets everything within one token (delta = 0)."""
    return -log(max(decay_per_token, FASTEST_DECAY))


def lagrange_basis(nodes: tuple[float, ...], s: Tensor) -> Tensor:
    """[n, len(s)] Lagrange basis polynomials of `nodes` at `s`."""
    rows = []
    for n, a in enumerate(nodes):
        row = torch.ones_like(s)
        for m, b in enumerate(nodes):
            if m != n:
                row = row * ((s - b) / (a - b))
        rows.append(row)
    return torch.stack(rows)


def _times(a: Tensor, b: Tensor | float, out: Tensor) -> None:
    torch.mul(a, b if isinstance(b, Tensor) else torch.tensor(b, dtype=a.dtype, device=a.device), out=out)


def _bounded_span(exponent_per_token: float, longest: int) -> int:
    span = longest
    while span > 1 and exponent_per_token * span > LARGEST_EXPONENT:
        span //= 2
    return span


@lru_cache(maxsize=64)
def sampled_nodes(
    cell: Cell, alpha: float, largest_u: float, shift: float, tolerance: float, longest: int
) -> tuple[tuple[float, ...], int]:
    """Fewest Chebyshev nodes, on the longest span, whose interpolation error is below `tolerance` of full
    scale.
    """
    if alpha == 0.0:
        return (1.0,), LONGEST_SPAN
    span = _bounded_span(alpha, longest)
    full_scale = float(cell.current(torch.tensor(largest_u, dtype=torch.float64)).abs())
    while span > 1:
        low = exp(-alpha * (span - 1))
        s = torch.linspace(low, 1.0, 65, dtype=torch.float64)
        # stored voltages seen at the base time, those written later than it included
        w = torch.linspace(-largest_u / low, largest_u / low, 129, dtype=torch.float64)
        # where a table's pieces meet its curve is hardest to interpolate: in the middle of the range
        knots = torch.tensor(getattr(cell, "volts", ()), dtype=torch.float64)
        w = torch.cat((w, knots * (2 / (1 + low))))
        steepest = float(cell.slope(w).abs().nan_to_num(nan=inf, posinf=inf).max())
        for count in range(2, MOST_NODES + 1):
            x = np.cos((2 * np.arange(count) + 1) * np.pi / (2 * count))
            nodes = tuple(float(v) for v in (1.0 + low) / 2 + (1.0 - low) / 2 * x)
            at, basis = torch.tensor(nodes, dtype=torch.float64), lagrange_basis(nodes, s)
            error = _error(cell, w[:, None], at, s, basis, shift, (full_scale, steepest))
            if error <= tolerance:
                return nodes, span
        span //= 2
    return (1.0,), 1


@lru_cache(maxsize=64)
def timed_nodes(
    cell: Cell,
    rates: tuple[float, float],
    largest_u: float,
    shift: float,
    tolerance: float,
    longest: int,
) -> tuple[tuple[float, ...], int]:
    """The same in time, for cells of any rate up to the first of `rates` and down to the second."""
    span = _bounded_span(rates[0], longest)
    top = torch.tensor(largest_u, dtype=torch.float64)
    full_scale = float(cell.current(top).abs())
    steepest = float(cell.slope(torch.linspace(-largest_u, largest_u, 129, dtype=torch.float64)).abs().max())
    while span > 1:
        r = torch.linspace(0, span - 1, 33, dtype=torch.float64)
        for count in range(2, MOST_NODES + 1):
            x = np.cos((2 * np.arange(count) + 1) * np.pi / (2 * count))
            nodes = tuple(float(v) for v in (span - 1) / 2 * (1 + x))
            basis = lagrange_basis(nodes, r)
            error = 0.0
            for rate in np.linspace(rates[1], rates[0], 5):
                s, at = torch.exp(-rate * r), torch.exp(-rate * torch.tensor(nodes, dtype=torch.float64))
                widest = largest_u * exp(rate * (span - 1))
                w = torch.linspace(-widest, widest, 33, dtype=torch.float64)[:, None]
                error = max(error, _error(cell, w, at, s, basis, shift, (full_scale, steepest)))
            if error <= tolerance:
                return nodes, span
        span //= 2
    return (0.0,), 1


def _error(
    cell: Cell, w: Tensor, at: Tensor, s: Tensor, basis: Tensor, shift: float, scales: tuple[float, float]
) -> float:
    """Largest error of interpolating the current of voltages w s, known at w `at`, and its derivative by w.

    shift: largest of the cells.  scales: largest current and slope, of which it is a fraction.
    """
    error = 0.0
    for du in (0.0,) if shift == 0.0 else (-shift, 0.0, shift):
        current = cell.current(w * at + du) @ basis - cell.current(w * s + du)
        slope = (cell.slope(w * at + du) * at) @ basis - cell.slope(w * s + du) * s
        for missed, scale, factor in ((current, scales[0], 1.0), (slope, scales[1], SLOPE_FACTOR)):
            error = max(error, float(missed.abs().nan_to_num(nan=inf).max()) / scale / factor)
    return error
