"""The separation (slabs.py) of the cells of one chip: errors, leakage and its target as a design has them.

A store that decays towards u_inf instead of 0 holds v = u - u_inf, of which the cell makes F(v + u_inf):
voltages here are relative to u_inf.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, comb, exp, isqrt, log2
from typing import Any

import torch
from torch import Tensor

from gaincell.chips.design_file import Design
from gaincell.devices.cell import Cell, PolynomialCell
from gaincell.devices.random import LARGEST_NORMAL
from gaincell.devices.variability import CellErrors, cell_errors
from gaincell.ops.gain_cell_attention.slabs import (
    LONGEST_SAMPLED_SPAN,
    PolynomialSlabs,
    SampledSlabs,
    Slabs,
    TimedSlabs,
    exponent,
    sampled_nodes,
    timed_nodes,
)


@dataclass(frozen=True)
class ShiftedCell:
    """F(v + shift): a curve about the voltage that the store decays to."""

    cell: Cell
    shift: float
    coefficients: None = None

    @property
    def name(self) -> str:
        return f"{self.cell.name} about {self.shift} V"

    @property
    def linear_slope(self) -> float:
        return self.cell.linear_slope

    @property
    def numbers(self) -> dict[str, Any]:
        return {**self.cell.numbers, "shift": self.shift}

    @property
    def volts(self) -> tuple[float, ...]:
        return tuple(v - self.shift for v in getattr(self.cell, "volts", ()))

    def current(self, v: Tensor) -> Tensor:
        return self.cell.current(v + self.shift)

    def slope(self, v: Tensor) -> Tensor:
        return self.cell.slope(v + self.shift)


def errors_about_target(
    design: Design,
    layer: int,
    heads: int,
    head_dim: int,
    array: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    keep: bool = True,
) -> CellErrors | None:
    """`cell_errors` of cells whose voltages are relative to u_inf."""
    errors = cell_errors(design, layer, heads, head_dim, array, dtype, device, keep=keep)
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
def slabs_of(
    design: Design,
    reads: int,
    dtype: torch.dtype,
    fastest: float = 0.0,
    longest_span: int = LONGEST_SAMPLED_SPAN,
) -> Slabs:
    """The separation of the cells of a chip.

    Args:
        reads: of one column, per token.
        dtype: precision that an interpolation must not spoil.
        fastest: see `fastest_leak`.
        longest_span: query tokens that one base time of a non-polynomial cell has to serve.
    """
    target, reach = design.decay_target, design.largest_voltage
    shift = 0.0
    if design.cells_differ:
        shift = LARGEST_NORMAL * design.mismatch.offset_voltage_std + abs(target)
    cell: Cell = design.cell
    if target:
        reach += abs(target)
        cell = design.cell if design.cells_differ else _shifted(design.cell, target)
    disturb = reads * design.disturb_per_read
    tolerance = 1e-14 if dtype == torch.float64 else 2e-8
    if fastest > 0:
        rates = (design.leak_per_token * fastest + disturb, disturb)
        nodes, span = timed_nodes(cell, rates, reach, shift, tolerance, longest_span)
        return TimedSlabs(cell, nodes, span, design.leak_per_token, disturb)
    alpha = exponent(exp(-design.leak_per_token - disturb))
    if cell.coefficients is not None:
        own_orders = isqrt(len(design.mismatch.coefficient_covariance))
        padding = (0.0,) * (own_orders - len(cell.coefficients))
        return PolynomialSlabs((*cell.coefficients, *padding), alpha, design.cells_differ)
    nodes, span = sampled_nodes(cell, alpha, reach, shift, tolerance, longest_span)
    return SampledSlabs(cell, nodes, span, alpha)


def linear_slabs(design: Design, reads: int) -> Slabs:
    """The linear surrogate of the backward pass: F(u) = slope * u of nominal cells, decaying at order 1."""
    slope = design.cell.linear_slope
    alpha = exponent(exp(-design.leak_per_token - reads * design.disturb_per_read))
    return PolynomialSlabs((slope * design.decay_target, slope), alpha)


def _shifted(cell: Cell, shift: float) -> Cell:
    """F(v + shift) as a polynomial in v, where it is one."""
    c = cell.coefficients
    if c is None:
        return ShiftedCell(cell, shift)
    orders = range(len(c))
    moved = (sum(c[p] * comb(p, m) * shift ** (p - m) for p in orders if p >= m) for m in orders)
    return PolynomialCell(tuple(moved), cell.linear_slope)
