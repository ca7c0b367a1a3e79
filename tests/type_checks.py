"""Checks of annotated shapes and types at every call, as cheap as they can be.

jaxtyping's import hook decorates every function with `jaxtyping.jaxtyped`, which binds and keeps all
arguments to compare the shapes of arrays. Most functions have no arrays in their signature: beartype alone
checks these. A function within a function is made anew at every call of the outer one; its checks depend
only on its name and its annotations, so they are compiled at the first call and used again.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Hashable
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

CONF = BeartypeConf(is_pep484_tower=True)
"""An int passes for a float, as everywhere in Python."""

_jaxtyped = jaxtyping.jaxtyped
_checks: dict[Hashable, Callable[..., Any]] = {}


def install(packages: list[str]) -> None:
    """Check all functions of packages that are imported from now on."""
    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook(packages, f"{__name__}.check")


def check(signature: Callable[..., Any]) -> Callable[..., Any]:
    """The empty function that jaxtyping makes of a signature, with its arguments and its result checked."""
    key = (
        signature.__module__,
        signature.__qualname__,
        signature.__code__,
        tuple(signature.__annotations__.items()),
    )
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
        return _jaxtyped(function, typechecker=typechecker)
    function.__annotations__ = hints
    return beartype(conf=CONF)(function)


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    """What an annotation stands for; anything, where it cannot be known yet, as for jaxtyping."""

    def stub() -> None: ...

    stub.__annotations__ = {"hint": annotation}
    try:
        return typing.get_type_hints(stub, names, include_extras=True)["hint"]
    except Exception:
        return Any
