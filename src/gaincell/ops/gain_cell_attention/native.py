"""Gain-cell attention on a CPU in compiled code (`gaincell/native`): forward and backward pass.

Agrees with `naive.py` as `blocked.py` does, whose formulation it shares. Clamps, drivers and write DACs are
part of the kernel: it takes requested pulse widths and volts. The library is built when the package is
installed; without it (no compiler) everything runs in `blocked.py`.

Served: float32 on a CPU; every cell; polynomials with mismatch and without quantised storage too. Not served,
and left to `blocked.py` by `impl="auto"`: other precisions and devices, non-polynomial cells with mismatch or
with more than 16 or no storage levels, values that are not finite.

Dimensions: B sequences, H query heads, Hk key/value heads, T tokens, D head dimension, R queries of a block,
n slabs.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaincell.circuits.converter import in_precision, sum_rounding
from gaincell.config import Design
from gaincell.devices.variability import KEY_ARRAY, VALUE_ARRAY, cell_errors
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention.ragged import over_real_tokens
from gaincell.ops.gain_cell_attention.slabs import PolynomialSlabs, Slabs, linear_slabs, make_slabs

LEVELS = ("portable", "avx2", "avx512")
"""Instruction levels, slowest first."""
MOST_SLABS, TABLE = 8, 16  # GC_MAX_SLABS, GC_TABLE
LONGEST_BLOCK = 64  # queries
WORTH_A_THREAD = (
    4_000_000  # cells of a decoding step, below which starting threads takes longer than it saves
)
WRITE: Any = [
    *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64),
    *(ctypes.c_int32, ctypes.c_float, ctypes.c_float, ctypes.c_float, ctypes.c_float),
]
"""Types of the arguments of gc_write."""
READOUTS = {"none": 0, "counter": 1, "counter-floor": 2, "published-code": 3}
OK, NOT_FINITE, BAD_ARGUMENT, NO_MEMORY, NO_SUCH_LEVEL = range(5)


class _Cells(ctypes.Structure):
    """gc_cells"""

    _fields_ = [
        ("kind", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("orders", ctypes.c_int32 * MOST_SLABS),
        ("coefficients", ctypes.c_float * MOST_SLABS),
        ("constant", ctypes.c_float),
        ("row_factors", ctypes.c_void_p),
        ("column_factors", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
        ("key_mismatch", ctypes.c_void_p),
        ("value_mismatch", ctypes.c_void_p),
    ]


_SIZES = (
    *("batch", "heads", "kv_heads", "queries", "keys", "dim", "first_query", "first_key"),
    *("window", "columns", "tile", "rows", "margin", "ages"),
)
_SCALES = ("q_gain", "q_offset", "k_gain", "k_offset", "v_gain", "v_offset")


class _Problem(ctypes.Structure):
    """gc_problem"""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", *_SCALES)),
        *((name, ctypes.c_int32) for name in ("q_levels", "storage_levels")),
        *((name, ctypes.c_float) for name in ("low", "high", "middle", "to_code", "to_volts")),
        *((name, ctypes.c_int32) for name in ("readout", "score_ceiling", "output_ceiling")),
        *((name, ctypes.c_float) for name in ("steps", "score_scale", "output_scale")),
        *((name, ctypes.c_float) for name in ("score_margin", "output_margin")),
        ("cells", _Cells),
        ("integer_factors", ctypes.c_void_p),
        ("integer_third", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("out", "out_gain", "out_offset", "open")),
        *((name, ctypes.c_int32) for name in ("threads", "level")),
    ]


class _Gradient(ctypes.Structure):
    """gc_gradient"""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("grad", "dq", "dk", "dv")),
        ("cells", _Cells),
    ]


class _Step(ctypes.Structure):
    """gc_step"""

    _fields_ = [
        *((n, ctypes.c_int64) for n in ("batch", "heads", "kv_heads", "dim", "columns", "tiles", "slots")),
        *((n, ctypes.c_void_p) for n in ("q", "key", "value", "positions", "tile_of", "left", "table")),
        ("order", ctypes.c_int32),
        ("coefficients", ctypes.c_float * (MOST_SLABS + 1)),
        *((name, ctypes.c_int32) for name in ("q_levels", "storage_levels")),
        ("to_volts", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("readout", "score_ceiling", "output_ceiling")),
        *((name, ctypes.c_float) for name in ("steps", "score_scale", "output_scale")),
        ("out", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in ("threads", "level")),
    ]


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled library, None where it was not built. GAINCELL_NATIVE names another folder for it."""
    folder = Path(os.environ.get("GAINCELL_NATIVE") or Path(__file__).parents[2] / "native")
    found = sorted(folder.glob("_native*"))
    for path in found:
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError:
            continue
        structures = {"problem": _Problem, "gradient": _Gradient, "step": _Step}
        sizes = [getattr(loaded, f"gc_sizeof_{name}") for name in structures]
        for size in sizes:
            size.restype = ctypes.c_int64
        loaded.gc_write.argtypes = WRITE
        if [size() for size in sizes] == [ctypes.sizeof(structure) for structure in structures.values()]:
            return loaded
    logging.getLogger("gaincell").warning(
        "the compiled kernel was not built when gaincell was installed (no C++ compiler?): attention runs in "
        "plain torch, impl='blocked', several times slower"
    )
    return None


_forced: list[str] = []


@contextmanager
def instructions(level: str) -> Iterator[None]:
    """Within the context, use the instructions of one level only; also GAINCELL_INSTRUCTIONS=level.

    Raises:
        InputError: an unknown level, or one that this processor or build does not have.
    """
    _index(level)
    _forced.append(level)
    try:
        yield
    finally:
        _forced.pop()


def levels() -> tuple[str, ...]:
    """Levels that can be used here, slowest first; empty without the library."""
    found = library()
    return () if found is None else LEVELS[: found.gc_best_level() + 1]


def level_in_use() -> str:
    """The level that the next call uses. Raises InputError where there is none."""
    if _forced:
        return _forced[-1]
    named = os.environ.get("GAINCELL_INSTRUCTIONS")
    if named:
        return LEVELS[_index(named)]
    if not levels():
        raise InputError("the compiled kernel is not there; install gaincell where there is a C++ compiler")
    return levels()[-1]


def _index(level: str) -> int:
    if level not in levels():
        raise InputError(f"instruction level {level!r} is not available; choose one of {', '.join(levels())}")
    return LEVELS.index(level)


def why_not(q: Tensor, k: Tensor, design: Design) -> str | None:
    """Why a call is not served, in words; None if it is."""
    if library() is None:
        return "the compiled kernel was not built when gaincell was installed"
    if q.device.type != "cpu":
        return f"it runs on a CPU, not on {q.device}"
    if not q.dtype == k.dtype == torch.float32:
        return f"it computes in float32, not {q.dtype}"
    if design.cell.coefficients is not None:
        return None if len(_slabs(design).orders) <= MOST_SLABS else "the cell has too many orders"  # type: ignore[attr-defined]
    if design.mismatch.present:
        return "mismatch of cells that are not polynomials is computed by 'blocked'"
    if design.storage_levels is None or design.storage_levels > TABLE:
        return f"cells that are not polynomials need at most {TABLE} storage levels"
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


class _NativeCore(torch.autograd.Function):
    """Requested q, k, v of consecutive tokens -> digital sum."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, call: _Call) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q)
        open_ = None
        if any(ctx.needs_input_grad):
            tiles, dim = call.design.tiles, q.shape[3]
            open_ = torch.empty(*q.shape[:3], tiles, -(-dim // 8), dtype=torch.uint8)
        problem, kept = _problem(call, q, k, v, open_)
        problem.out = out.data_ptr()
        call.finite = _call("gc_forward", problem) == OK
        del kept
        if open_ is not None:
            ctx.save_for_backward(q, k, v, open_)
            ctx.call = call
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, open_ = ctx.saved_tensors
        call = ctx.call
        grad = grad.contiguous()
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        problem, kept = _problem(call, q, k, v, open_)
        through = problem.cells
        if call.gradient == "surrogate":
            through, linear = _cells(_constants(call.design, _window(call), q.shape[3], surrogate=True), None)
            kept += linear
        pointers = (t.data_ptr() for t in (grad, dq, dk, dv))
        _call("gc_backward", problem, _Gradient(*pointers, through))
        del kept
        return dq, dk, dv, None


def _call(name: str, *arguments: ctypes.Structure) -> int:
    found = library()
    assert found is not None
    status = int(getattr(found, name)(*(ctypes.byref(argument) for argument in arguments)))
    if status == NO_MEMORY:
        raise MemoryError("there is not enough memory for the workspace of the compiled attention")
    if status in (BAD_ARGUMENT, NO_SUCH_LEVEL):
        raise InputError(f"the compiled attention refused its arguments (status {status})")
    return status


def _window(call: _Call) -> int:
    return min(call.design.window, call.sliding_window or call.design.window)


def _problem(
    call: _Call, q: Tensor, k: Tensor, v: Tensor, open_: Tensor | None
) -> tuple[_Problem, list[Tensor]]:
    """The C structure, and the tensors that it points to."""
    d = call.design
    dim = q.shape[3]
    constants = _constants(d, _window(call), dim, surrogate=False)
    cells, kept = _cells(constants, _mismatch(d, call.layer, k.shape[1], dim))
    span = d.v_max - d.v_min
    margin = sum_rounding(torch.float32)
    integer = constants.integer_factors
    problem = _Problem(
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
        q_levels=d.query_levels or 0,
        storage_levels=d.storage_levels or 0,
        low=in_precision(d.v_min, torch.float32),
        high=in_precision(d.v_max, torch.float32),
        middle=in_precision(d.v_offset, torch.float32),
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
        integer_factors=None if integer is None else integer.data_ptr(),
        integer_third=constants.integer_third,
        open=None if open_ is None else open_.data_ptr(),
        threads=torch.get_num_threads(),
        level=_index(call.level),
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
    column_factors: Tensor  # [ages]
    table: Tensor | None  # [ages, n, 16]
    slopes: Tensor | None
    integer_factors: Tensor | None  # [3, ages]
    integer_third: int


@lru_cache(maxsize=256)
def _slabs(design: Design) -> Slabs:
    reach = max(design.v_max - design.v_offset, design.v_offset - design.v_min)
    shift = 0.0 if design.mismatch.present else None
    return make_slabs(
        design.cell, design.decay_per_token, reach, torch.float32, shift, longest_span=LONGEST_BLOCK
    )


@lru_cache(maxsize=64)
def _constants(design: Design, window: int, dim: int, *, surrogate: bool) -> _Constants:
    slabs = _slabs(design)
    rows = min(LONGEST_BLOCK, slabs.span)
    if surrogate:
        slabs = linear_slabs(design.cell.linear_slope, design.decay_per_token)
    padded = -(-rows // 16) * 16
    margin = padded + -(-design.tile // 16) * 16
    ages = 2 * margin + window
    age = torch.arange(ages, dtype=torch.float64) - margin
    age = age.clamp(min=1 - rows)  # tokens beyond the block are never seen: keep them finite
    factors = torch.zeros(slabs.count, padded)
    factors[:, :rows] = slabs.row_factors(torch.arange(rows)).float()
    table = slopes = None
    left = torch.exp(-_alpha(design) * age)
    if not isinstance(slabs, PolynomialSlabs):
        table, slopes = _tables(design, slabs, age)
    integer, third = (None, 1) if surrogate else _integers(design, slabs, left, dim)
    steps = {"none": 1.0, "published-code": (2 * design.counter_levels - 1) / 2}.get(
        design.readout, design.counter_levels - 1.0
    )
    return _Constants(rows, margin, ages, steps, slabs, factors, left.float(), table, slopes, integer, third)


def _alpha(design: Design) -> float:
    return float(_slabs(design).alpha)  # type: ignore[attr-defined]


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


def _cells(constants: _Constants, mismatch: tuple[Tensor, Tensor] | None) -> tuple[_Cells, list[Tensor]]:
    slabs = constants.slabs
    polynomial = isinstance(slabs, PolynomialSlabs)
    orders = slabs.orders if isinstance(slabs, PolynomialSlabs) else ()
    coefficients = [slabs.coefficients[p] for p in orders] if isinstance(slabs, PolynomialSlabs) else []
    kept = [
        t
        for t in (constants.row_factors, constants.column_factors, constants.table, constants.slopes)
        if t is not None
    ]
    cells = _Cells(
        kind=0 if polynomial else 1,
        count=slabs.count,
        orders=(ctypes.c_int32 * MOST_SLABS)(*orders),
        coefficients=(ctypes.c_float * MOST_SLABS)(*coefficients),
        constant=slabs.constant,
        row_factors=constants.row_factors.data_ptr(),
        column_factors=constants.column_factors.data_ptr(),
        table=None if constants.table is None else constants.table.data_ptr(),
        slopes=None if constants.slopes is None else constants.slopes.data_ptr(),
    )
    if mismatch is not None:
        cells.key_mismatch, cells.value_mismatch = (t.data_ptr() for t in mismatch)
        kept += mismatch
    return cells, kept


@lru_cache(maxsize=128)
def _mismatch(design: Design, layer: int, kv_heads: int, dim: int) -> tuple[Tensor, Tensor] | None:
    """Coefficients of every cell of the key and the value array, [Hk, M, n, D]."""
    if not design.mismatch.present:
        return None
    slabs = _slabs(design)
    assert isinstance(slabs, PolynomialSlabs)
    arrays = []
    for array in (KEY_ARRAY, VALUE_ARRAY):
        errors = cell_errors(design, layer, kv_heads, dim, array, torch.float32, torch.device("cpu"))
        parts = [slabs.cell_coefficient(p, errors) for p in slabs.orders]
        shape = (kv_heads, design.window, dim)
        arrays.append(torch.stack([torch.as_tensor(part).expand(shape) for part in parts], 2).contiguous())
    return arrays[0], arrays[1]


def decode_why_not(design: Design, like: Tensor) -> str | None:
    """Why one query against a ring of codes is not served, in words; None if it is."""
    if design.mismatch.present:
        return "cells differ from each other"
    if design.storage_levels is None or design.storage_levels > TABLE:
        return f"a ring of codes has at most {TABLE} storage levels"
    if like.requires_grad and torch.is_grad_enabled():
        return "it has no gradients"
    return why_not(like, like, design)


class Slots(NamedTuple):
    """What the query of every sequence sees of a ring, oldest first."""

    positions: Tensor
    """[S] int32: column of the ring."""
    tile_of: Tensor
    """[B, S] int32: sub-tile, -1 where the slot is not seen."""
    left: Tensor
    """[B, S] float32: what is left of the voltages."""
    table: Tensor | None
    """[B, S, 16] charge of every level now, of cells that are not polynomials."""


def make_slots(positions: Tensor, tile_of: Tensor, left: Tensor, design: Design) -> Slots:
    """From columns [S], sub-tiles [B, S] and what is left of the voltages [B, S]."""
    table = None
    left = left.float().contiguous()
    if design.cell.coefficients is None:
        levels = design.storage_levels
        assert levels is not None
        u = (torch.arange(levels) - (levels - 1) / 2) * ((design.v_max - design.v_min) / (levels - 1))
        table = torch.zeros(*left.shape, TABLE)
        table[..., :levels] = design.cell.current(left[..., None] * u)
    return Slots(positions.to(torch.int32), tile_of.to(torch.int32).contiguous(), left, table)


def write_ring(volts: Tensor, ring: Tensor, position: int, design: Design) -> None:
    """Codes of requested voltages [B, Hk, 1, D] into one column of a ring [B, Hk, M, D], uint8."""
    found = library()
    assert found is not None
    volts = volts.contiguous()
    levels = design.storage_levels or 0
    found.gc_write(
        volts.data_ptr(),
        ring.shape[0] * ring.shape[1],
        ring.shape[3],
        ring.data_ptr(),
        ring.shape[2],
        position,
        levels,
        in_precision(design.v_min, torch.float32),
        in_precision(design.v_max, torch.float32),
        in_precision(design.v_offset, torch.float32),
        (levels - 1) / (design.v_max - design.v_min),
    )


def decode_ring(q: Tensor, keys: Tensor, values: Tensor, slots: Slots, design: Design) -> Tensor | None:
    """The digital sum for one query of every head against a ring of codes.

    Args:
        q: [B, H, 1, D] requested pulse widths.
        keys, values: [B, Hk, M, D] codes, uint8.
        slots: what is looked at.

    Returns:
        [B, H, 1, D]; None where q is not finite.
    """
    q = q.contiguous()
    out = torch.empty_like(q)
    dim, coefficients = q.shape[3], design.cell.coefficients or (0.0,)
    steps = _steps(design)
    work = keys.shape[0] * keys.shape[1] * len(slots.positions) * dim
    step = _Step(
        batch=q.shape[0],
        heads=q.shape[1],
        kv_heads=keys.shape[1],
        dim=dim,
        columns=keys.shape[2],
        tiles=design.tiles,
        slots=len(slots.positions),
        q=q.data_ptr(),
        key=keys.data_ptr(),
        value=values.data_ptr(),
        positions=slots.positions.data_ptr(),
        tile_of=slots.tile_of.data_ptr(),
        left=slots.left.data_ptr(),
        table=None if slots.table is None else slots.table.data_ptr(),
        order=len(coefficients) - 1,
        coefficients=(ctypes.c_float * (MOST_SLABS + 1))(*coefficients),
        q_levels=design.query_levels or 0,
        storage_levels=design.storage_levels or 0,
        to_volts=(design.v_max - design.v_min) / ((design.storage_levels or 2) - 1),
        readout=READOUTS[design.readout],
        score_ceiling=design.score_ceiling,
        output_ceiling=design.output_ceiling,
        steps=steps,
        score_scale=1 / design.score_saturation(dim),
        output_scale=steps / design.output_saturation,
        out=out.data_ptr(),
        threads=torch.get_num_threads() if work > WORTH_A_THREAD else 1,
        level=_index(level_in_use()),
    )
    return out if _call("gc_decode", step) == OK else None


def _steps(design: Design) -> float:
    """Readout steps between zero and full scale."""
    counts = {"none": 1.0, "published-code": (2 * design.counter_levels - 1) / 2}
    return counts.get(design.readout, design.counter_levels - 1.0)
