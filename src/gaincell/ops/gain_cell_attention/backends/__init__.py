"""What computes the arrays of a call. A backend is one file here, registered by its name in `backend_names`:

    IMPLEMENTS                  features of a chip (features.py), those of the input stage included
    supports(call)              why it does not compute a call, in words; None if it does
    run(call)                   the digital sum over the sub-tiles, every head, before the output scaling

A chip with another feature is refused by name, before `supports` is asked. `run` agrees with naive.py in
output and gradients, to the precision that it computes in. How to add one: docs/adding_a_backend.md.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Protocol, runtime_checkable

from torch import Tensor

from gaincell import features
from gaincell.chips.design_file import Design
from gaincell.errors import InputError
from gaincell.ops.autocast import without_autocast
from gaincell.ops.gain_cell_attention.call import APPROXIMATED, Call

AUTO = ("native", "decode", "blocked", "naive")
"""What "auto" tries, fastest first."""


@runtime_checkable
class Backend(Protocol):
    """A file of this folder."""

    @property
    def IMPLEMENTS(self) -> frozenset[str]: ...
    def supports(self, call: Call, /) -> str | None: ...
    def run(self, call: Call, /) -> Tensor: ...


@lru_cache
def load(name: str) -> Backend:
    backend: Backend = import_module(f"{__name__}.{name.partition('-')[0]}")
    return backend


def run(call: Call) -> Tensor:
    """The digital sum by the backend that is named, or for "auto" by the first of `AUTO` that supports it.

    Raises:
        InputError: the one that is named does not support it, or none does.
    """
    if call.backend != "auto":
        if reason := unsupported(call.backend, call):
            raise InputError(f"backend={call.backend!r} does not serve this: {reason}; give backend='auto'")
        return _sum(call.backend, call)
    reasons = {}
    for name in AUTO:
        found = attempt(name, call)
        if isinstance(found, Tensor):
            return found
        reasons[name] = found
    if call.gradient in APPROXIMATED and call.differentiated:
        raise InputError(
            f"gradient={call.gradient!r} is computed by the compiled kernel alone, which does not serve "
            f"this: {reasons['native']}; give gradient={APPROXIMATED[call.gradient]!r}"
        )
    raise InputError(
        f"no implementation serves design {call.design.name!r}: {reasons['naive']}; give a design without"
    )


def _sum(name: str, call: Call) -> Tensor:
    """The digital sum by one backend, with the precision of the call, autocast or not."""
    with without_autocast(call.q):
        return load(name).run(call)


def attempt(name: str, call: Call) -> Tensor | str:
    """The digital sum by one backend, or why it does not compute it."""
    reason = unsupported(name, call)
    if reason is not None:
        return reason
    try:
        return _sum(name, call)
    except InputError as error:
        if name != "native":
            raise
        return str(error)  # found on the way: queries that are not those of the last tokens


def in_kernel(call: Call) -> Tensor | None:
    """The digital sum by the compiled kernel; None for "auto" where that does not compute it."""
    if call.backend != "auto":
        return run(call)
    found = attempt("native", call)
    return found if isinstance(found, Tensor) else None


def unsupported(name: str, call: Call) -> str | None:
    """Why a backend does not compute a call, in words; None if it does."""
    try:
        backend = load(name)
    except ImportError as error:
        return f"it needs {error.name}: pip install 'gaincell[gpu]'"
    if reason := not_implemented(backend, call.design):
        return reason
    if call.gradient in APPROXIMATED and call.differentiated and not name.startswith("native"):
        instead = APPROXIMATED[call.gradient]
        return f"it does not compute gradient={call.gradient!r} (but gradient={instead!r})"
    return backend.supports(call)


def not_implemented(backend: Backend, design: Design) -> str | None:
    """What of a chip a backend does not implement, in words; None if it is nothing."""
    more = features.missing(design.in_use, backend.IMPLEMENTS)
    return f"it does not implement {more}" if more else None


def in_plain_torch(call: Call) -> Call:
    """A driven call by `blocked` in place of a kernel that is named and takes requests of its chip only."""
    kernel = call.backend == "triton" or call.backend.startswith("native")
    in_kernel = not call.design.input_stage_differs or call.aged
    return call._replace(backend="blocked") if kernel and in_kernel else call
