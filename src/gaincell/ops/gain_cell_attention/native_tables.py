"""What the compiled kernel is told of a chip, and what is kept of it from call to call.

Dimensions: M columns, D head dimension, n slabs, Hk key/value heads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from math import exp, gcd, isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaincell.chips.design_file import Design
from gaincell.circuits.noise import Noise
from gaincell.devices.chip_cache import kept
from gaincell.devices.random import KEY_ARRAY, LARGEST_NORMAL, VALUE_ARRAY
from gaincell.devices.variability import cell_errors
from gaincell.ops.gain_cell_attention.blocked_noise import Disturbance
from gaincell.ops.gain_cell_attention.native_library import (
    BY_LEVEL,
    CURVE,
    MOST_SLABS,
    POLYNOMIAL,
    READOUTS,
    TABLE,
    TIMED,
    TIMED_CURVE,
    Cells,
    Errors,
)
from gaincell.ops.gain_cell_attention.piecewise_cubic import Curve, piecewise
from gaincell.ops.gain_cell_attention.slabs import (
    LARGEST_EXPONENT,
    PolynomialSlabs,
    SampledSlabs,
    Slabs,
    TimedSlabs,
)
from gaincell.ops.gain_cell_attention.time_basis import (
    errors_about_target,
    fastest_leak,
    linear_slabs,
    slabs_of,
)

LONGEST_BLOCK = 64  # queries


class Constants(NamedTuple):
    """What does not change from call to call."""

    rows: int
    margin: int
    ages: int
    slabs: Slabs
    row_factors: Tensor  # [n, R padded]
    column_factors: Tensor  # [ages], or [ages, n] for a curve
    table: Tensor | None  # [ages, n, 16]
    slopes: Tensor | None
    integer_factors: Tensor | None  # [3, ages]
    integer_third: int


@lru_cache(maxsize=256)
def quiet(design: Design) -> Design:
    """The chip without noise of reads: what tables are made for."""
    rest = Noise(pulse_jitter=design.noise.pulse_jitter)
    return design.replace(noise=rest) if design.noise != rest else design


def _slabs(design: Design, reads: int, fastest: float) -> Slabs:
    return slabs_of(design, reads, torch.float32, fastest, LONGEST_BLOCK)


def orders_of(design: Design) -> tuple[int, ...]:
    """Of a polynomial cell."""
    if design.leakage.spread > 0:
        own = isqrt(len(design.mismatch.coefficient_covariance))
        return tuple(range(max(len(design.cell.coefficients or ()), own)))
    slabs = _slabs(quiet(design), 1, 0.0)
    assert isinstance(slabs, PolynomialSlabs)
    return slabs.orders


def _largest_shift(design: Design) -> float:
    return LARGEST_NORMAL * design.mismatch.offset_voltage_std + abs(design.decay_target)


def by_level(design: Design) -> bool:
    """Whether a cell that is no polynomial is tabulated for every storage level."""
    levels = design.storage_levels
    return levels is not None and levels <= TABLE and not design.cells_differ and not design.front_differs


@lru_cache(maxsize=64)
def curve_of(design: Design, reads: int, fastest: float) -> Curve | None:
    """Of a cell that is no polynomial, over all voltages that a block's base time sees."""
    slabs = _slabs(design, reads, fastest)
    reach = design.largest_voltage + abs(design.decay_target)
    alpha = design.leak_per_token * max(1.0, fastest) + reads * design.disturb_per_read
    growth = exp(min(alpha * (slabs.span - 1), LARGEST_EXPONENT))
    widest = reach * growth + _largest_shift(design)
    assert not isinstance(slabs, PolynomialSlabs)
    return piecewise(slabs.cell, -widest, widest)


@lru_cache(maxsize=64)
def fastest_of(design: Design, layer: int, kv_heads: int, dim: int) -> float:
    if design.leakage.spread == 0:
        return 0.0
    device = torch.device("cpu")
    return fastest_leak(
        *(cell_errors(design, layer, kv_heads, dim, a, torch.float32, device, keep=False) for a in (0, 1))
    )


@lru_cache(maxsize=64)
def constants_of(
    design: Design, window: int, dim: int, reads: int, fastest: float, surrogate: bool
) -> Constants:
    slabs = _slabs(design, reads, fastest)
    rows = min(LONGEST_BLOCK, slabs.span)
    if surrogate:
        slabs = linear_slabs(design, reads)
    padded = -(-rows // 16) * 16
    margin = padded + -(-design.tile // 16) * 16
    ages = 2 * margin + window
    age = torch.arange(ages, dtype=torch.float64) - margin
    age = age.clamp(min=1 - rows)  # tokens beyond the block are never seen: keep them finite
    factors = torch.zeros(slabs.count, padded)
    factors[:, :rows] = slabs.row_factors(torch.arange(rows)).float()
    table = slopes = None
    left = torch.exp(-slabs.alpha * age)
    columns = left
    if isinstance(slabs, TimedSlabs):
        columns = age[:, None] + torch.tensor(slabs.nodes, dtype=torch.float64)
    if isinstance(slabs, SampledSlabs):
        if by_level(design):
            table, slopes = _tables(design, slabs, age)
        else:
            columns = left[:, None] * torch.tensor(slabs.nodes, dtype=torch.float64)
    integer, third = (None, 1) if surrogate else _integers(design, slabs, left, dim)
    return Constants(
        rows, margin, ages, slabs, factors, columns.float().contiguous(), table, slopes, integer, third
    )


def _tables(design: Design, slabs: Slabs, age: Tensor) -> tuple[Tensor, Tensor]:
    """Slab and slope of every storage level, for every age: [ages, n, 16]."""
    levels = design.storage_levels
    assert levels is not None
    step = (design.v_max - design.v_min) / (levels - 1)
    u = (torch.arange(levels, dtype=torch.float64) - (levels - 1) / 2) * step
    tables = []
    for slab_of in (slabs.key_slabs, slabs.key_slopes):
        filled = torch.zeros(len(age), slabs.count, TABLE, dtype=torch.float64)
        # a token of age a about the block's first query was written at -a
        filled[:, :, :levels] = slab_of(u.expand(1, len(age), levels), -age, None)[0]
        tables.append(filled.float().contiguous())
    return tables[0], tables[1]


def _integers(design: Design, slabs: Slabs, left: Tensor, dim: int) -> tuple[Tensor | None, int]:
    """Factors of the first product in integers, where it can be done so: see the C header."""
    levels, q_levels = design.storage_levels, design.query_levels
    if not isinstance(slabs, PolynomialSlabs) or slabs.mismatch or levels is None or q_levels is None:
        return None, 1
    if design.front_differs:
        return None, 1
    if levels > 8 or q_levels > 256 or max(slabs.orders, default=0) > 3:
        return None, 1
    top = levels - 1
    codes = range(-top, top + 1, 2)
    third = gcd(*(x**3 - top**2 * x for x in codes)) or 1
    h = (design.v_max - design.v_min) / top / 2
    c = dict.fromkeys((1, 2, 3), 0.0) | {p: slabs.coefficients[p] for p in slabs.orders}
    unit = 1 / ((q_levels - 1) * design.score_saturation(dim))
    cubic = c[3] * h**3 * left**3
    factors = torch.stack((c[1] * h * left + top**2 * cubic, c[2] * h**2 * left**2, third * cubic))
    return (factors * unit).float().contiguous(), third


def cells_of(constants: Constants, curve: Curve | None) -> tuple[Cells, list[Tensor]]:
    """What the kernel is told of cells, but for what is of each cell, and the tensors that it points to."""
    slabs = constants.slabs
    kinds = {PolynomialSlabs: POLYNOMIAL, SampledSlabs: BY_LEVEL if curve is None else CURVE}
    kinds[TimedSlabs] = TIMED if curve is None else TIMED_CURVE
    orders = slabs.orders if isinstance(slabs, PolynomialSlabs) else ()
    coefficients = [slabs.coefficients[p] for p in orders] if isinstance(slabs, PolynomialSlabs) else []
    kept = [
        t
        for t in (constants.row_factors, constants.column_factors, constants.table, constants.slopes)
        if t is not None
    ]
    cells = Cells(
        kind=kinds[type(slabs)],
        count=slabs.count,
        orders=(ctypes.c_int32 * MOST_SLABS)(*orders),
        coefficients=(ctypes.c_float * MOST_SLABS)(*coefficients),
        constant=slabs.constant,
        row_factors=constants.row_factors.data_ptr(),
        column_factors=constants.column_factors.data_ptr(),
        table=None if constants.table is None else constants.table.data_ptr(),
        slopes=None if constants.slopes is None else constants.slopes.data_ptr(),
    )
    if curve is not None:
        cells.curve, cells.pieces = curve.pieces.data_ptr(), len(curve.pieces)
        cells.curve_low, cells.pieces_per_volt = curve.low, curve.per_volt
        kept.append(curve.pieces)
    return cells, kept


@kept("layer", "fastest")
def mismatch_of(
    design: Design, layer: int, kv_heads: int, dim: int, reads: int, fastest: float
) -> tuple[Tensor, Tensor]:
    """Of every cell of the key and the value array, what the kind of cells takes: see the C header. Cells
    differ.
    """
    slabs, device = _slabs(design, reads, fastest), torch.device("cpu")
    arrays = []
    for array in (KEY_ARRAY, VALUE_ARRAY):
        # the table below is kept, and made of these alone
        errors = errors_about_target(design, layer, kv_heads, dim, array, torch.float32, device, keep=False)
        assert errors is not None
        parts: Sequence[Tensor | float] = errors[:3]
        timed = isinstance(slabs, TimedSlabs)
        if design.cell.coefficients is not None:
            polynomial = slabs
            if timed:
                c = design.cell.coefficients
                polynomial = PolynomialSlabs(c + (0.0,) * (len(orders_of(design)) - len(c)), 0.0, True)
            assert isinstance(polynomial, PolynomialSlabs)
            parts = [polynomial.cell_coefficient(p, errors) for p in polynomial.orders]
        if isinstance(slabs, TimedSlabs):
            assert errors.leakage is not None
            parts = [slabs.leak * errors.leakage + slabs.disturb, *parts]
        shape = (kv_heads, design.window, dim)
        arrays.append(torch.stack([torch.as_tensor(part).expand(shape) for part in parts], 2).contiguous())
    return arrays[0], arrays[1]


def converters_of(design: Design, dim: int) -> dict[str, Any]:
    """Converters of scores and outputs, in the units of the kernel."""
    steps = design.readout_steps
    return {
        "readout": READOUTS[design.readout],
        "score_ceiling": design.score_ceiling,
        "score_exponent": design.charge_to_pulse.exponent,
        "output_ceiling": design.output_ceiling,
        "steps": steps,
        "score_scale": 1 / design.score_saturation(dim),
        "output_scale": steps / design.output_saturation,
    }


def errors_of(design: Design, layer: int, kv_heads: int, dim: int) -> tuple[Errors, list[Tensor]]:
    """Errors of the converters and noise, in the units of the kernel."""
    d = Disturbance(design, layer, kv_heads, 1, torch.empty(0, dim, dtype=torch.float32))
    stds = ("score_std", "output_std", "score_of_cell", "output_of_cell", "jitter_std")
    errors = Errors(
        **{name: getattr(d, name) for name in stds},
        seed=design.noise.seed,
        chip=design.mismatch.chip,
        layer=layer,
        present=design.noise.present or design.converters.present,
    )
    kept = [part.contiguous() for part in d.lines]  # their memory must outlive the call
    if kept:
        errors.score_gain, errors.score_offset, errors.output_gain, errors.output_offset = (
            t.data_ptr() for t in kept
        )
    return errors, kept
