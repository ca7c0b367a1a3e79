"""The compiled library (`gaincell/native`) as Python sees it: its structures, where it is, its levels.

Built when the package is installed; without it (no compiler) attention runs in `blocked.py`.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from gaincell.errors import InputError
from gaincell.files import open_file

LEVELS = ("portable", "avx2", "avx512", "amx")
"""Instruction levels, slowest first."""
MOST_SLABS, TABLE = 8, 16  # GC_MAX_SLABS, GC_TABLE
MOST_THREADS = 1024
WORTH_A_THREAD = 2**19
"""Cells that are read, for each of which another thread saves more time than it takes to start."""
READOUTS = {"none": 0, "counter": 1, "counter-floor": 2, "published-code": 3}
POLYNOMIAL, BY_LEVEL, CURVE, TIMED, TIMED_CURVE = range(5)  # kinds of cells
AS_GIVEN = -1  # GC_AS_GIVEN
FLOAT32, BF16 = range(2)  # GC_FLOAT32, GC_BF16: products of a backward pass
OK, NOT_FINITE, BAD_ARGUMENT, NO_MEMORY, NO_SUCH_LEVEL = range(5)


def _fields(*groups: str | tuple[str, type]) -> list[tuple[str, type]]:
    """Fields in their order in C: "type name name ..." of ctypes, or a name and a type of its own."""
    fields: list[tuple[str, type]] = []
    for group in groups:
        if isinstance(group, str):
            kind, *names = group.split()
            fields += [(name, getattr(ctypes, f"c_{kind}")) for name in names]
        else:
            fields.append(group)
    return fields


class Cells(ctypes.Structure):
    """gc_cells"""

    _fields_ = _fields(
        "int32 kind count",
        ("orders", ctypes.c_int32 * MOST_SLABS),
        ("coefficients", ctypes.c_float * MOST_SLABS),
        "float constant",
        "void_p row_factors column_factors table slopes curve",
        "int32 pieces",
        "float curve_low pieces_per_volt",
        "void_p key_mismatch value_mismatch",
        "int32 powers",
    )


class Errors(ctypes.Structure):
    """gc_errors"""

    _fields_ = _fields(
        "void_p score_gain score_offset output_gain output_offset",
        "float score_std output_std score_of_cell output_of_cell jitter_std",
        "uint32 seed chip layer",
        "int32 present",
    )


SCALES = ("q_gain", "q_offset", "k_gain", "k_offset", "v_gain", "v_offset", "out_gain", "out_offset")


class Problem(ctypes.Structure):
    """gc_problem"""

    _fields_ = _fields(
        "int64 batch heads kv_heads queries keys dim first_query first_key",
        "int64 window columns tile rows margin ages",
        "void_p q k v q_gain q_offset k_gain k_offset v_gain v_offset",
        "int32 q_levels storage_levels",
        "float low high middle to_code to_volts",
        "int32 readout score_ceiling score_exponent output_ceiling",
        "float steps score_scale output_scale score_margin output_margin",
        ("cells", Cells),
        ("errors", Errors),
        "void_p integer_factors",
        "int32 integer_third",
        "void_p out out_gain out_offset sum open",
        "int32 threads level",
    )


class Gradient(ctypes.Structure):
    """gc_gradient"""

    _fields_ = _fields(
        "void_p grad dq dk dv q_scales k_scales v_scales out_scales", ("cells", Cells), "int32 products"
    )


class Step(ctypes.Structure):
    """gc_step"""

    _fields_ = _fields(
        "int64 batch heads kv_heads dim columns tiles slots",
        "void_p q q_gain q_offset key value positions tile_of left table",
        "int32 order",
        ("coefficients", ctypes.c_float * (MOST_SLABS + 1)),
        ("cells", Cells),
        ("errors", Errors),
        "void_p query_tokens",
        "int32 q_levels storage_levels",
        "float to_volts",
        "int32 readout score_ceiling score_exponent output_ceiling",
        "float steps score_scale output_scale",
        "void_p out out_gain out_offset",
        "int32 threads level",
    )


class Tokens(ctypes.Structure):
    """gc_tokens"""

    _fields_ = _fields(
        "int64 batch heads tokens dim columns position",
        "void_p volts gain offset ring",
        "int32 levels",
        "float low high middle to_code",
    )


def pointer(tensor: Tensor | None) -> int | None:
    """Whoever passes one into the library holds the tensor."""
    return None if tensor is None else tensor.data_ptr()


STRUCTURES = {"problem": Problem, "gradient": Gradient, "step": Step, "tokens": Tokens}
CALLS = ("gc_forward", "gc_backward", "gc_decode", "gc_write", "gc_best_level")
LARGEST = 64 * 2**20
"""Bytes of a library."""


@lru_cache(maxsize=1)
def compiled_library() -> ctypes.CDLL | None:
    """The compiled library, None where it was not built.

    GAINCELL_NATIVE names another folder for it; what is loaded from there is logged. A library that is loaded
    runs its own constructors: name only folders that you trust.

    Raises:
        InputError: that folder holds no kernel of this version.
    """
    named = os.environ.get("GAINCELL_NATIVE")
    log = logging.getLogger("gaincell")
    found = sorted((Path(named) if named else Path(__file__).parents[2] / "native").glob("_native*"))
    for path in found:
        loaded = _load(path)
        if loaded is not None:
            if named:
                log.warning("GAINCELL_NATIVE: the compiled kernel is %s", path)
            return loaded
    if named:
        what = f"{found[0]} is not gaincell's" if found else f"GAINCELL_NATIVE={named} has no"
        kind = "compiled kernel of this version" if found else "compiled kernel of gaincell"
        raise InputError(f"{what} {kind}; build one with setup.py build_ext, or unset GAINCELL_NATIVE")
    log.warning(
        "the compiled kernel is not there (a pure wheel, or no C++ compiler at installation): attention runs "
        "in plain torch, backend='blocked', several times slower"
    )
    return None


def _load(path: Path) -> ctypes.CDLL | None:
    """The library in a file; None where that is not the kernel of this version.

    A file without the names of all calls is not loaded. One that has them is, and its constructors run before
    its calls are looked up.
    """
    sizes = {f"gc_sizeof_{name}": structure for name, structure in STRUCTURES.items()}
    names = (*CALLS, *sizes)
    try:
        with open_file(path) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST or not all(name.encode() + b"\0" in content for name in names):
            return None
        loaded = ctypes.CDLL(str(path))
        for name in names:
            getattr(loaded, name)
    except (OSError, AttributeError):
        return None
    for name, structure in sizes.items():
        size = getattr(loaded, name)
        size.restype = ctypes.c_int64
        if size() != ctypes.sizeof(structure):
            return None
    return loaded


_forced: ContextVar[str | None] = ContextVar("instructions", default=None)


@contextmanager
def instructions(level: str) -> Iterator[None]:
    """Within the context, use the instructions of one level only; also GAINCELL_INSTRUCTIONS=level.

    Raises:
        InputError: a level that is unknown, or that this processor or build does not have.
    """
    level_number(level)
    before = _forced.set(level)
    try:
        yield
    finally:
        _forced.reset(before)


@lru_cache(maxsize=1)
def levels() -> tuple[str, ...]:
    """Levels that can be used here, slowest first; empty without the library."""
    found = compiled_library()
    return () if found is None else LEVELS[: found.gc_best_level() + 1]


def level_in_use() -> str:
    """The level that the next call uses.

    Raises:
        InputError: there is none.
    """
    if (forced := _forced.get()) is not None:
        return forced
    named = os.environ.get("GAINCELL_INSTRUCTIONS")
    if named:
        return LEVELS[level_number(named)]
    if not levels():
        raise InputError("the compiled kernel is not there; install gaincell where there is a C++ compiler")
    return levels()[-1]


def level_number(level: str) -> int:
    if level not in levels():
        raise InputError(f"instruction level {level!r} is not available; choose one of {', '.join(levels())}")
    return LEVELS.index(level)


def threads_for(cells: int) -> int:
    """Threads for a call that reads so many cells; at most torch's number of them."""
    return min(torch.get_num_threads(), MOST_THREADS, 1 + cells // WORTH_A_THREAD)


def invoke(name: str, *arguments: ctypes.Structure) -> int:
    found = compiled_library()
    assert found is not None
    status = int(getattr(found, name)(*(ctypes.byref(argument) for argument in arguments)))
    if status == NO_MEMORY:
        raise MemoryError("there is not enough memory for the workspace of the compiled attention")
    if status in (BAD_ARGUMENT, NO_SUCH_LEVEL):
        raise InputError(
            f"the compiled attention refused its arguments (status {status}): queries must be those of the "
            "last tokens among the keys; give backend='auto'"
        )
    return status
