"""Checks of annotated shapes and types at every call, as cheap as they can be.

jaxtyping's import hook decorates every function with `jaxtyping.jaxtyped`, which binds and keeps all
arguments to compare the shapes of arrays. Most functions have no arrays in their signature: beartype alone
checks these. Where there are arrays, the verdict depends on types, shapes and dtypes alone: a call that has
those of one that passed passes. A function within a function is made anew at every call of the outer one;
its checks depend only on its name and its annotations, and are kept.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Hashable
from dataclasses import is_dataclass
from functools import cache, partial, update_wrapper, wraps
from types import FunctionType
from typing import Any

import jaxtyping
import numpy as np
import torch
from beartype import BeartypeConf, beartype

CONF = BeartypeConf(is_pep484_tower=True)
"""An int passes for a float, as everywhere in Python."""

_jaxtyped = jaxtyping.jaxtyped
_checks: dict[Hashable, Callable[..., Any]] = {}
_passed: dict[Hashable, set[Hashable]] = {}
"""Of every function with arrays in its signature, the kinds of arguments, and of these with a result."""

if sys.version_info < (3, 12):  # collects the members of a protocol at every isinstance
    typing._get_protocol_attrs = cache(typing._get_protocol_attrs)  # type: ignore[attr-defined]


def install(packages: list[str]) -> None:
    """Check all functions of packages that are imported from now on."""
    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook(packages, f"{__name__}.check")


def check(signature: Callable[..., Any]) -> Callable[..., Any]:
    """The empty function that jaxtyping makes of a signature, with its arguments and its result checked."""
    key = _identity(signature)
    if key not in _checks:
        _checks[key] = beartype(conf=CONF)(signature)
    return _checks[key]


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """jaxtyping's decorator where there are arrays to compare, else beartype's."""
    if function is None:
        return partial(jaxtyped, typechecker=typechecker)
    if inspect.isclass(function):
        if is_dataclass(function):
            function.__init__ = jaxtyped(function.__init__, typechecker=typechecker)
        return function
    hints = {name: _hint(hint, function.__globals__) for name, hint in function.__annotations__.items()}
    if "jaxtyping" in str(hints) or "<locals>" in function.__qualname__:
        return _once(function, typechecker)
    function.__annotations__ = hints
    return beartype(conf=CONF)(function)


def _once(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """jaxtyping's check of every call unlike those that passed."""
    passed = _passed.setdefault(_identity(function), set())
    checked = cache(partial(_jaxtyped, typechecker=typechecker))  # at the first call that needs it

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        given = _kind((args, kwargs))
        out = (function if given in passed else checked(function))(*args, **kwargs)
        both = given, _kind(out)
        if given not in passed:
            passed.update((given, both))
        elif both not in passed:
            known = lambda *_, **__: out  # noqa: E731
            known = FunctionType(known.__code__, function.__globals__, closure=known.__closure__)
            _jaxtyped(update_wrapper(known, function), typechecker=typechecker)(*args, **kwargs)
            passed.add(both)
        return out

    return called


def _kind(value: Any) -> Hashable:
    """All that annotations of a value can be about: types, shapes, numbers of arrays, words."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return type(value), value.dtype, tuple(value.shape)
    if isinstance(value, (tuple, list)):
        return type(value), *map(_kind, value)
    if isinstance(value, dict):
        return type(value), *((name, _kind(held)) for name, held in value.items())
    return value if isinstance(value, (str, type)) else type(value)


def _identity(function: Callable[..., Any]) -> Hashable:
    """The same for functions that are made anew of the same text and annotations."""
    annotations = tuple(function.__annotations__.items())
    return function.__module__, function.__qualname__, function.__code__, annotations


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    """What an annotation stands for; anything, where it cannot be known yet, as for jaxtyping."""

    def stub() -> None: ...

    stub.__annotations__ = {"hint": annotation}
    try:
        return typing.get_type_hints(stub, names, include_extras=True)["hint"]
    except Exception:
        return Any
