"""beartype for jaxtyping's import hook, once per function of the source.

A function within a function is made anew at every call of the outer one. Its checks depend only on its name
and its annotations, so they are compiled at the first call and used again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from beartype import BeartypeConf, beartype

CONF = BeartypeConf(is_pep484_tower=True)
"""An int passes for a float, as everywhere in Python."""

_checks: dict[Hashable, Callable[..., Any]] = {}


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
