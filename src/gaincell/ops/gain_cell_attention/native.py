"""Gain-cell attention on a CPU in compiled code (`gaincell/native`): forward and backward pass.

Agrees with `naive.py` as `blocked.py` does, whose formulation it shares. Clamps, drivers and write DACs are
part of the kernel: it takes requested pulse widths and volts. The library is built when the package is
installed; without it (no compiler) everything runs in `blocked.py`.

Served: float32 on a CPU; every cell, with mismatch and without quantised storage too. Not served, and left
to `blocked.py` by `impl="auto"`: other precisions and devices, polynomials of more than 8 orders, queries
that are not those of the last tokens, values that are not finite.

Dimensions: B sequences, H query heads, Hk key/value heads, T tokens, D head dimension, R queries of a block,
n slabs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, gcd, inf, isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gaincell.circuits.converter import in_precision, sum_rounding
from gaincell.circuits.converter_errors import converter_errors
from gaincell.circuits.noise import Noise, cell_read_std, converter_std
from gaincell.config import Design
from gaincell.devices.cell import Cell
from gaincell.devices.random import KEY_ARRAY, LARGEST_NORMAL, VALUE_ARRAY
from gaincell.devices.variability import cell_errors
from gaincell.ops.gain_cell_attention.curves import Curve, piecewise
from gaincell.ops.gain_cell_attention.native_library import (
    AS_GIVEN,
    BY_LEVEL,
    CURVE,
    MOST_SLABS,
    MOST_THREADS,
    OK,
    POLYNOMIAL,
    READOUTS,
    TABLE,
    TIMED,
    TIMED_CURVE,
    Cells,
    Errors,
    Gradient,
    Problem,
    compiled_library,
    invoke,
    level_in_use,
    level_number,
)
from gaincell.ops.gain_cell_attention.ragged import over_real_tokens
from gaincell.ops.gain_cell_attention.slabs import (
    LARGEST_EXPONENT,
    PolynomialSlabs,
    SampledSlabs,
    Slabs,
    TimedSlabs,
    errors_about_target,
    fastest_leak,
    linear_slabs,
    slabs_of,
)

LONGEST_BLOCK = 64  # queries
LARGEST_SIDE, LARGEST_ORDER = 4096, 64  # as dispatch.cpp has them


def why_not(q: Tensor, k: Tensor, v: Tensor, design: Design) -> str | None:
    """Why a call is not served, in words; None if it is."""
    if compiled_library() is None:
        return "the compiled kernel was not built when gaincell was installed"
    if q.device.type != "cpu":
        return f"it runs on a CPU, not on {q.device}"
    for x in (q, k, v):
        if x.dtype != torch.float32:
            return f"it computes in float32, not {x.dtype}"
    if max(q.shape[3], design.tile) > LARGEST_SIDE:
        return f"head dimension and sub-tile are at most {LARGEST_SIDE}"
    if design.cell.coefficients is not None:
        orders = _orders(design)
        fits = len(orders) <= MOST_SLABS and max(orders, default=0) <= LARGEST_ORDER
        return None if fits else "the cell's polynomial has too many orders"
    if any(design.mismatch.coefficient_covariance):
        return "the coefficients of cells differ whose curve is no polynomial"
    if not _by_level(design) and _curve(quiet(design), q.shape[1] // k.shape[1], 0.0) is None:
        return "the cell's curve is not smooth enough for pieces of cubics"
    if design.query_levels is not None and design.query_levels > 2**15:
        return "there are too many query levels"
    return None


class Served(NamedTuple):
    """Results of one call.  finite: False if an input was not: the output is then meaningless."""

    out: Tensor
    finite: bool


def gain_cell_native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    design: Design,
    key_index: Tensor | None = None,
    query_index: Tensor | None = None,
    sliding_window: int | None = None,
    layer: int = 0,
    gradient: str = "exact",
) -> Served:
    """The digital sum over the sub-tiles for requested pulse widths `q` and volts `k`, `v`.

    Args and result as of `gain_cell_core_blocked`, but for q, k, v: before drivers and write DACs.
    """
    finite = True

    def run(q: Tensor, k: Tensor, v: Tensor, first_query: int, first_key: int) -> Tensor:
        nonlocal finite
        call = _Call(design, first_query, first_key, sliding_window, layer, gradient, level_in_use())
        out = _NativeCore.apply(q, k, v, call)  # type: ignore[no-untyped-call]
        finite &= call.finite
        return out  # type: ignore[no-any-return]

    if key_index is None:
        return Served(run(q, k, v, k.shape[2] - q.shape[2], 0), finite)
    if query_index is None:
        query_index = key_index[:, k.shape[2] - q.shape[2] :]
    out = over_real_tokens(run, q, k, v, key_index, query_index)
    return Served(out, finite)


@dataclass
class _Call:
    design: Design
    first_query: int
    first_key: int
    sliding_window: int | None
    layer: int
    gradient: str
    level: str
    finite: bool = True
    reads: int = 1
    """Of one column, per token."""
    fastest: float = 0.0
    """See slabs.fastest_leak."""


class _NativeCore(torch.autograd.Function):
    """Requested q, k, v of consecutive tokens -> digital sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, call: _Call) -> Tensor:
        q, k, v = (t.resolve_neg().contiguous() for t in (q, k, v))
        call.reads = q.shape[1] // k.shape[1]
        call.fastest = _fastest(quiet(call.design), call.layer, k.shape[1], q.shape[3])
        out = torch.empty_like(q)
        open_ = None
        if any(ctx.needs_input_grad):
            tiles, dim = call.design.tiles, q.shape[3]
            open_ = torch.empty(*q.shape[:3], tiles, -(-dim // 8), dtype=torch.uint8)
        problem, kept = _problem(call, q, k, v, open_)
        problem.out = out.data_ptr()
        call.finite = invoke("gc_forward", problem) == OK
        del kept
        if open_ is not None:
            ctx.save_for_backward(q, k, v, open_)
            ctx.call = call
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, open_ = ctx.saved_tensors
        call = ctx.call
        grad = grad.resolve_neg().contiguous()
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        problem, kept = _problem(call, q, k, v, open_)
        through = problem.cells
        if call.gradient == "surrogate":
            through, linear = _cells(_constants(call, q.shape[3], surrogate=True), None, None)
            kept += linear
        pointers = (t.data_ptr() for t in (grad, dq, dk, dv))
        invoke("gc_backward", problem, Gradient(*pointers, through))
        del kept
        return dq, dk, dv, None


def _window(call: _Call) -> int:
    return min(call.design.window, call.sliding_window or call.design.window)


def _problem(
    call: _Call, q: Tensor, k: Tensor, v: Tensor, open_: Tensor | None
) -> tuple[Problem, list[Tensor]]:
    """The C structure, and the tensors that it points to."""
    d = quiet(call.design)
    raw = d.front_differs
    dim = q.shape[3]
    constants = _constants(call, dim, surrogate=False)
    curve = None
    if d.cell.coefficients is None and not _by_level(d):
        curve = _curve(d, call.reads, call.fastest)
    mismatch = _mismatch(d, call.layer, k.shape[1], dim, call.reads, call.fastest)
    cells, kept = _cells(constants, curve, mismatch)
    errors, more = _errors(call.design, call.layer, k.shape[1], dim)
    kept += more
    span = d.v_max - d.v_min
    margin = sum_rounding(torch.float32)
    integer = constants.integer_factors
    problem = Problem(
        batch=q.shape[0],
        heads=q.shape[1],
        kv_heads=k.shape[1],
        queries=q.shape[2],
        keys=k.shape[2],
        dim=dim,
        first_query=call.first_query,
        first_key=call.first_key,
        window=_window(call),
        columns=d.window,
        tile=d.tile,
        rows=constants.rows,
        margin=constants.margin,
        ages=constants.ages,
        q=q.data_ptr(),
        k=k.data_ptr(),
        v=v.data_ptr(),
        q_levels=AS_GIVEN if raw else d.query_levels or 0,
        storage_levels=0 if raw else d.storage_levels or 0,
        low=-inf if raw else in_precision(d.v_min, torch.float32),
        high=inf if raw else in_precision(d.v_max, torch.float32),
        middle=d.decay_target if raw else in_precision(d.v_offset, torch.float32),
        to_code=((d.storage_levels or 1) - 1) / span,
        to_volts=span / ((d.storage_levels or 2) - 1),
        readout=READOUTS[d.readout],
        score_ceiling=d.score_ceiling,
        output_ceiling=d.output_ceiling,
        steps=constants.steps,
        score_scale=1 / d.score_saturation(dim),
        output_scale=constants.steps / d.output_saturation,
        score_margin=margin,
        output_margin=margin,
        cells=cells,
        errors=errors,
        integer_factors=None if integer is None else integer.data_ptr(),
        integer_third=constants.integer_third,
        open=None if open_ is None else open_.data_ptr(),
        threads=min(torch.get_num_threads(), MOST_THREADS),
        level=level_number(call.level),
    )
    return problem, kept


class _Constants(NamedTuple):
    """What does not change from call to call."""

    rows: int
    margin: int
    ages: int
    steps: float
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


def _orders(design: Design) -> tuple[int, ...]:
    """Of a polynomial cell."""
    if design.leakage.spread > 0:
        return tuple(
            range(
                max(len(design.cell.coefficients or ()), isqrt(len(design.mismatch.coefficient_covariance)))
            )
        )
    return _slabs(quiet(design), 1, 0.0).orders  # type: ignore[attr-defined, no-any-return]


def _largest_shift(design: Design) -> float:
    return LARGEST_NORMAL * design.mismatch.offset_voltage_std + abs(design.decay_target)


def _by_level(design: Design) -> bool:
    """Whether a cell that is no polynomial is tabulated for every storage level."""
    levels = design.storage_levels
    return levels is not None and levels <= TABLE and not design.cells_differ and not design.front_differs


@lru_cache(maxsize=64)
def _curve(design: Design, reads: int, fastest: float) -> Curve | None:
    """Of a cell that is no polynomial, over all voltages that a block's base time sees."""
    slabs = _slabs(design, reads, fastest)
    reach = design.largest_voltage + abs(design.decay_target)
    alpha = design.leak_per_token * max(1.0, fastest) + reads * design.disturb_per_read
    growth = exp(min(alpha * (slabs.span - 1), LARGEST_EXPONENT))
    widest = reach * growth + _largest_shift(design)
    cell: Cell = slabs.cell  # type: ignore[attr-defined]
    return piecewise(cell, -widest, widest)


@lru_cache(maxsize=64)
def _fastest(design: Design, layer: int, kv_heads: int, dim: int) -> float:
    if design.leakage.spread == 0:
        return 0.0
    device = torch.device("cpu")
    return fastest_leak(
        *(cell_errors(design, layer, kv_heads, dim, a, torch.float32, device) for a in (0, 1))
    )


def _constants(call: _Call, dim: int, *, surrogate: bool) -> _Constants:
    return _constants_of(quiet(call.design), _window(call), dim, call.reads, call.fastest, surrogate)


@lru_cache(maxsize=64)
def _constants_of(
    design: Design, window: int, dim: int, reads: int, fastest: float, surrogate: bool
) -> _Constants:
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
    left = torch.exp(-slabs.alpha * age)  # type: ignore[attr-defined]
    columns = left
    if isinstance(slabs, TimedSlabs):
        columns = age[:, None] + torch.tensor(slabs.nodes, dtype=torch.float64)
    if isinstance(slabs, SampledSlabs):
        if _by_level(design):
            table, slopes = _tables(design, slabs, age)
        else:
            columns = left[:, None] * torch.tensor(slabs.nodes, dtype=torch.float64)
    integer, third = (None, 1) if surrogate else _integers(design, slabs, left, dim)
    steps = {"none": 1.0, "published-code": (2 * design.counter_levels - 1) / 2}.get(
        design.readout, design.counter_levels - 1.0
    )
    return _Constants(
        rows, margin, ages, steps, slabs, factors, columns.float().contiguous(), table, slopes, integer, third
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


def _cells(
    constants: _Constants, curve: Curve | None, mismatch: tuple[Tensor, Tensor] | None
) -> tuple[Cells, list[Tensor]]:
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
    if mismatch is not None:
        cells.powers = mismatch[0].shape[2] - 1
        cells.key_mismatch, cells.value_mismatch = (t.data_ptr() for t in mismatch)
        kept += mismatch
    return cells, kept


@lru_cache(maxsize=128)
def _mismatch(
    design: Design, layer: int, kv_heads: int, dim: int, reads: int, fastest: float
) -> tuple[Tensor, Tensor] | None:
    """Of every cell of the key and the value array, what the kind of cells takes: see the C header."""
    if not design.cells_differ:
        return None
    slabs, device = _slabs(design, reads, fastest), torch.device("cpu")
    arrays = []
    for array in (KEY_ARRAY, VALUE_ARRAY):
        errors = errors_about_target(design, layer, kv_heads, dim, array, torch.float32, device)
        assert errors is not None
        parts: Sequence[Tensor | float] = errors[:3]
        timed = isinstance(slabs, TimedSlabs)
        if design.cell.coefficients is not None:
            polynomial = slabs
            if timed:
                c = design.cell.coefficients
                polynomial = PolynomialSlabs(c + (0.0,) * (len(_orders(design)) - len(c)), 0.0, True)
            assert isinstance(polynomial, PolynomialSlabs)
            parts = [polynomial.cell_coefficient(p, errors) for p in polynomial.orders]
        if isinstance(slabs, TimedSlabs):
            assert errors.leakage is not None
            parts = [slabs.leak * errors.leakage + slabs.disturb, *parts]
        shape = (kv_heads, design.window, dim)
        arrays.append(torch.stack([torch.as_tensor(part).expand(shape) for part in parts], 2).contiguous())
    return arrays[0], arrays[1]


def _errors(design: Design, layer: int, kv_heads: int, dim: int) -> tuple[Errors, list[Tensor]]:
    """Errors of the converters and noise, in the units of the kernel."""
    noise, steps = design.noise, design.readout_steps
    lines = converter_errors(design, layer, kv_heads, dim, torch.float32, torch.device("cpu"))
    score_saturation, output_saturation = design.score_saturation(dim), design.output_saturation
    cell = cell_read_std(design)
    errors = Errors(
        score_of_cell=cell / score_saturation,
        output_of_cell=cell * steps / output_saturation,
        score_std=converter_std(design, noise.score_std, score_saturation) / score_saturation,
        output_std=converter_std(design, noise.output_std, output_saturation) * steps / output_saturation,
        jitter_std=noise.pulse_jitter / design.t_pulse_max,
        seed=noise.seed,
        chip=design.mismatch.chip,
        layer=layer,
        present=noise.present or design.converters.present,
    )
    kept: list[Tensor] = []
    if lines.score is not None and lines.output is not None:
        kept = [*lines.score, lines.output.gain, lines.output.offset * steps]
        errors.score_gain, errors.score_offset, errors.output_gain, errors.output_offset = (
            t.contiguous().data_ptr() for t in kept
        )
    return errors, kept
