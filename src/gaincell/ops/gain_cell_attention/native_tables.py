"""What the compiled kernel is told of a chip, and what is kept of it from call to call.

Dimensions: M columns, D head dimension, n slabs, Hk key/value heads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from math import exp, gcd, inf, isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaincell.chips.design_file import Design
from gaincell.circuits.converter import in_precision, sum_rounding
from gaincell.circuits.levels import stored_volts
from gaincell.circuits.noise import Noise
from gaincell.devices.cell import Cell
from gaincell.devices.chip_cache import kept
from gaincell.devices.random import KEY_ARRAY, VALUE_ARRAY
from gaincell.devices.variability import cell_errors
from gaincell.ops.gain_cell_attention import native_library as library
from gaincell.ops.gain_cell_attention import time_basis
from gaincell.ops.gain_cell_attention.blocked_noise import Disturbance
from gaincell.ops.gain_cell_attention.native_library import MOST_SLABS, TABLE, Cells, Errors, Problem, pointer
from gaincell.ops.gain_cell_attention.time_basis import PolynomialBasis, SampledBasis, TimeBasis, TimedBasis

LONGEST_BLOCK = 64  # queries
CPU = torch.device("cpu")
FEWEST_PIECES, MOST_PIECES = 256, 16_384
NOT_SMOOTH = "the cell's curve is not smooth enough for pieces of cubics"
TOLERANCE = 3e-8
"""Largest error of a curve in pieces, as a fraction of its largest current: below the rounding of float32."""


class Curve(NamedTuple):
    """F between two voltages, for compiled code that evaluates curves it does not know.

    Attributes:
        pieces: [K, 4] float32: coefficients (1, t, t^2, t^3) with t from 0 to 1 along each of K equal pieces.
        low: Where they begin, volts.
        per_volt: Pieces per volt.
    """

    pieces: Tensor
    low: float
    per_volt: float


def chip_problem(
    design: Design, window: int, layer: int, heads: int, kv_heads: int, dim: int
) -> tuple[Problem, list[object]]:
    """The C structure with what it says of the chip, and what holds the memory that it points to."""
    filled, pointed_to = filled_problem(design, window, layer, heads, kv_heads, dim)
    problem = Problem.from_buffer_copy(filled)
    held: list[object] = [pointed_to]
    if design.cells_differ:  # large, and kept elsewhere: see devices/chip_cache.py
        nominal = without_read_noise(design)
        fastest = fastest_of(nominal, layer, kv_heads, dim)
        mismatch = mismatch_of(nominal, layer, kv_heads, dim, heads // kv_heads, fastest)
        problem.cells.powers = mismatch[0].shape[2] - 1
        problem.cells.key_mismatch, problem.cells.value_mismatch = (t.data_ptr() for t in mismatch)
        held.append(mismatch)
    return problem, held


@lru_cache(maxsize=256)
def filled_problem(
    design: Design, window: int, layer: int, heads: int, kv_heads: int, dim: int, surrogate: bool = False
) -> tuple[Problem, tuple[object, ...]]:
    """The C structure with all that does not change from call to call, and what it points to.

    Args:
        design: The chip.
        window: M, columns.
        layer: Layer of the chip.
        heads: H.
        kv_heads: Hk.
        dim: Head dimension D.
        surrogate: Whether the cells are the linear ones that a gradient goes through.
    """
    d, reads, raw = without_read_noise(design), heads // kv_heads, design.input_stage_differs
    fastest = fastest_of(d, layer, kv_heads, dim)
    constants, held = _constants_of(d, window, dim, reads, fastest, surrogate)
    errors, lines = _errors_of(design, layer, kv_heads, dim)
    span, margin = d.v_max - d.v_min, sum_rounding(torch.float32)
    problem = Problem(
        heads=heads,
        kv_heads=kv_heads,
        dim=dim,
        window=window,
        columns=d.window,
        tile=d.tile,
        q_levels=library.AS_GIVEN if raw else d.query_levels or 0,
        storage_levels=0 if raw else d.storage_levels or 0,
        low=-inf if raw else in_precision(d.v_min, torch.float32),
        high=inf if raw else in_precision(d.v_max, torch.float32),
        middle=d.decay_target if raw else in_precision(d.v_offset, torch.float32),
        to_code=((d.storage_levels or 1) - 1) / span,
        to_volts=span / ((d.storage_levels or 2) - 1),
        **converters_of(d, dim),
        score_margin=margin,
        output_margin=margin,
        errors=errors,
        **constants,
    )
    return problem, (held, lines)


@lru_cache(maxsize=256)
def without_read_noise(design: Design) -> Design:
    """The chip without noise of reads: what tables are made for."""
    rest = Noise(pulse_jitter=design.noise.pulse_jitter)
    return design.replace(noise=rest) if design.noise != rest else design


def basis_of(design: Design, reads: int, fastest: float) -> TimeBasis:
    return time_basis.time_basis_of(design, reads, torch.float32, fastest, LONGEST_BLOCK)


def orders_of(design: Design) -> tuple[int, ...]:
    """Of a polynomial cell."""
    if design.leakage.spread > 0:
        own = isqrt(len(design.mismatch.coefficient_covariance))
        return tuple(range(max(len(design.cell.coefficients or ()), own)))
    basis = basis_of(without_read_noise(design), 1, 0.0)
    assert isinstance(basis, PolynomialBasis)
    return basis.orders


def by_level(design: Design) -> bool:
    """Whether a cell that is no polynomial is tabulated for every storage level."""
    levels = design.storage_levels
    return (
        levels is not None and levels <= TABLE and not design.cells_differ and not design.input_stage_differs
    )


@lru_cache(maxsize=64)
def curve_of(design: Design, reads: int, fastest: float) -> Curve | None:
    """Of a cell that is no polynomial, over all voltages that a block's base time sees; None where most
    pieces do not suffice.
    """
    basis = basis_of(design, reads, fastest)
    reach = design.largest_voltage + abs(design.decay_target)
    alpha = design.leak_per_token * max(1.0, fastest) + reads * design.disturb_per_read
    growth = exp(min(alpha * (basis.span - 1), time_basis.LARGEST_EXPONENT))
    assert not isinstance(basis, PolynomialBasis)
    return _piecewise(basis.cell, reach * growth + time_basis.largest_shift(design))


@lru_cache(maxsize=64)
def _piecewise(cell: Cell, widest: float) -> Curve | None:
    """Cubic Hermite pieces of F and its derivative, up to a voltage of either sign: as few as suffice."""
    count = FEWEST_PIECES
    while count <= MOST_PIECES:
        width = 2 * widest / count
        knots = torch.linspace(-widest, widest, count + 1, dtype=torch.float64, device=CPU)
        f, slope = cell.current(knots), cell.slope(knots) * width
        rise = f[1:] - f[:-1]
        bend = 3 * rise - 2 * slope[:-1] - slope[1:]
        pieces = torch.stack((f[:-1], slope[:-1], bend, slope[:-1] + slope[1:] - 2 * rise), 1)
        error = 0.0
        for t in (0.25, 0.5, 0.75):
            powers = torch.tensor([1.0, t, t * t, t**3], dtype=torch.float64, device=CPU)
            difference = pieces @ powers - cell.current(knots[:-1] + t * width)
            error = max(error, float(difference.abs().nan_to_num(nan=torch.inf).max()))
        if error <= TOLERANCE * float(f.abs().max()):
            return Curve(pieces.float().contiguous(), -widest, 1 / width)
        count *= 2
    return None


@lru_cache(maxsize=64)
def fastest_of(design: Design, layer: int, kv_heads: int, dim: int) -> float:
    """See time_basis.fastest_leak."""
    if design.leakage.spread == 0:
        return 0.0
    of_cells = torch.float32, CPU
    return time_basis.fastest_leak(
        *(cell_errors(design, layer, kv_heads, dim, array, *of_cells, keep=False) for array in (0, 1))
    )


@lru_cache(maxsize=64)
def _constants_of(
    design: Design, window: int, dim: int, reads: int, fastest: float, surrogate: bool
) -> tuple[dict[str, Any], list[Tensor]]:
    """Fields that are the same for all layers and in every call, and what they point to."""
    basis = basis_of(design, reads, fastest)
    rows = min(LONGEST_BLOCK, basis.span)
    if surrogate:
        basis = time_basis.linear_basis(design, reads)
    padded = -(-rows // 16) * 16
    margin = padded + -(-design.tile // 16) * 16
    ages = 2 * margin + window
    age = torch.arange(ages, dtype=torch.float64, device=CPU) - margin
    age = age.clamp(min=1 - rows)  # tokens beyond the block are never seen: keep them finite
    factors = torch.zeros(basis.count, padded, dtype=torch.float32, device=CPU)
    factors[:, :rows] = basis.row_factors(torch.arange(rows, device=CPU)).float()
    left = torch.exp(-basis.alpha * age)
    columns, kind, tables = left, library.POLYNOMIAL, tuple[Tensor, ...]()
    if isinstance(basis, SampledBasis) and by_level(design):
        kind, tables = library.BY_LEVEL, _tables(design, basis, age)
    elif isinstance(basis, SampledBasis):
        nodes = torch.tensor(basis.nodes, dtype=torch.float64, device=CPU)
        kind, columns = library.CURVE, left[:, None] * nodes
    elif isinstance(basis, TimedBasis):
        kind = library.TIMED_CURVE if design.cell.coefficients is None else library.TIMED
        columns = age[:, None] + torch.tensor(basis.nodes, dtype=torch.float64, device=CPU)
    orders = basis.orders if isinstance(basis, PolynomialBasis) else ()
    coefficients = [basis.coefficients[p] for p in orders] if isinstance(basis, PolynomialBasis) else []
    columns = columns.float().contiguous()
    cells = Cells(
        kind=kind,
        count=basis.count,
        orders=(ctypes.c_int32 * MOST_SLABS)(*orders),
        coefficients=(ctypes.c_float * MOST_SLABS)(*coefficients),
        constant=basis.constant,
        row_factors=pointer(factors),
        column_factors=pointer(columns),
    )
    held = [factors, columns, *tables]
    if tables:
        cells.table, cells.slopes = (t.data_ptr() for t in tables)
    if kind in (library.CURVE, library.TIMED_CURVE):
        curve = curve_of(design, reads, fastest)
        assert curve is not None, "native.supports asks for it"
        cells.curve, cells.pieces = curve.pieces.data_ptr(), len(curve.pieces)
        cells.curve_low, cells.pieces_per_volt = curve.low, curve.per_volt
        held.append(curve.pieces)
    integer, third = (None, 1) if surrogate else _integers(design, basis, left, dim)
    fields: dict[str, Any] = {"cells": cells, "rows": rows, "margin": margin, "ages": ages}
    fields |= {"integer_factors": pointer(integer), "integer_third": third}
    return fields, held if integer is None else [*held, integer]


def _tables(design: Design, basis: TimeBasis, age: Tensor) -> tuple[Tensor, Tensor]:
    """Slab and slope of every storage level, for every age: [ages, n, 16]."""
    levels = design.storage_levels
    assert levels is not None
    u = torch.tensor(stored_volts(levels, design.v_min, design.v_max), dtype=torch.float64, device=CPU)
    tables = []
    for slopes in (False, True):
        filled = torch.zeros(len(age), basis.count, TABLE, dtype=torch.float64, device=CPU)
        # a token of age a about the block's first query was written at -a
        filled[:, :, :levels] = basis.of_keys(u.expand(1, len(age), levels), -age, None, slopes=slopes)[0]
        tables.append(filled.float().contiguous())
    return tables[0], tables[1]


def _integers(design: Design, basis: TimeBasis, left: Tensor, dim: int) -> tuple[Tensor | None, int]:
    """Factors [3, ages] of the first product in integers, see the C header, and their third; None where it
    cannot be done so.
    """
    levels, q_levels = design.storage_levels, design.query_levels
    if not isinstance(basis, PolynomialBasis) or basis.mismatch or levels is None or q_levels is None:
        return None, 1
    if design.input_stage_differs or levels > 8 or q_levels > 256 or max(basis.orders, default=0) > 3:
        return None, 1
    top = levels - 1
    codes = range(-top, top + 1, 2)
    third = gcd(*(x**3 - top**2 * x for x in codes)) or 1
    h = (design.v_max - design.v_min) / top / 2
    c = dict.fromkeys((1, 2, 3), 0.0) | {p: basis.coefficients[p] for p in basis.orders}
    unit = 1 / ((q_levels - 1) * design.score_saturation(dim))
    cubic = c[3] * h**3 * left**3
    factors = torch.stack((c[1] * h * left + top**2 * cubic, c[2] * h**2 * left**2, third * cubic))
    return (factors * unit).float().contiguous(), third


@kept("layer", "fastest")
def mismatch_of(
    design: Design, layer: int, kv_heads: int, dim: int, reads: int, fastest: float
) -> tuple[Tensor, Tensor]:
    """Of every cell of the key and the value array, what the kind of cells takes: see the C header. Cells
    differ.
    """
    basis, c = basis_of(design, reads, fastest), design.cell.coefficients
    like = torch.empty(dim, dtype=torch.float32, device=CPU)
    shape = (kv_heads, design.window, dim)
    arrays = []
    for array in (KEY_ARRAY, VALUE_ARRAY):
        # the table below is kept, and made of these alone
        errors = time_basis.errors_about_target(design, layer, kv_heads, like, array, keep=False)
        assert errors is not None
        parts: Sequence[Tensor | float] = errors[:3]
        if c is not None:
            polynomial = basis
            if isinstance(basis, TimedBasis):
                polynomial = PolynomialBasis(c + (0.0,) * (len(orders_of(design)) - len(c)), 0.0, True)
            assert isinstance(polynomial, PolynomialBasis)
            parts = [polynomial.cell_coefficient(p, errors) for p in polynomial.orders]
        if isinstance(basis, TimedBasis):
            assert errors.leakage is not None
            parts = [basis.leak * errors.leakage + basis.disturb, *parts]
        numbers = [torch.as_tensor(part, dtype=torch.float32, device=CPU).expand(shape) for part in parts]
        arrays.append(torch.stack(numbers, 2).contiguous())
    return arrays[0], arrays[1]


def converters_of(design: Design, dim: int) -> dict[str, Any]:
    """Converters of scores and outputs, in the units of the kernel."""
    steps = design.readout_steps
    return {
        "readout": library.READOUTS[design.readout],
        "score_ceiling": design.score_ceiling,
        "score_exponent": design.charge_to_pulse.exponent,
        "output_ceiling": design.output_ceiling,
        "steps": steps,
        "score_scale": 1 / design.score_saturation(dim),
        "output_scale": steps / design.output_saturation,
    }


def _errors_of(design: Design, layer: int, kv_heads: int, dim: int) -> tuple[Errors, list[Tensor]]:
    """Errors of the converters and noise, in the units of the kernel, and what they point to."""
    d = Disturbance(design, layer, kv_heads, 1, torch.empty(0, dim, dtype=torch.float32, device=CPU))
    lines = [part.contiguous() for part in d.lines]
    errors = Errors(
        score_std=d.score_std,
        output_std=d.output_std,
        score_of_cell=d.score_of_cell,
        output_of_cell=d.output_of_cell,
        jitter_std=d.jitter_std,
        seed=design.noise.seed,
        chip=design.mismatch.chip,
        layer=layer,
        present=design.noise.present or design.converters.present,
    )
    if lines:
        errors.score_gain, errors.score_offset, errors.output_gain, errors.output_offset = map(pointer, lines)
    return errors, lines
