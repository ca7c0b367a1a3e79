"""What was worked out of a chip's cells, kept for the next call: at most `LIMIT` bytes, whatever the model.

A pass through a model asks for layer after layer of one chip. Where one chip is more than `LIMIT`, dropping
what was used longest ago would drop every layer before it is asked for again; so a chip drops other chips,
longest unused first, never itself, and what does not fit is worked out anew each time.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from functools import wraps
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

LIMIT = 2**31
"""Bytes of tensors that are kept of all chips together."""

R = TypeVar("R")


class _Entry(NamedTuple):
    found: Any
    chip: Hashable
    size: int


_entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # last used last; each change is atomic


def kept(*within: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Keep what a function of hashable positional arguments returns: tensors, or tuples of these.

    Args:
        *within: Its parameters that tell the parts of one chip apart, "layer" for instance.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        apart = {list(inspect.signature(function).parameters).index(name) for name in within}

        @wraps(function)
        def lookup(*args: Any) -> R:
            key = (function, *args)
            entry = _entries.pop(key, None)
            if entry is None:
                found = function(*args)
                chip = (function, *(a for n, a in enumerate(args) if n not in apart))
                entry = _Entry(found, chip, _bytes(found))
                if not _make_room(entry):
                    return found
            _entries[key] = entry
            result: R = entry.found
            return result

        return lookup

    return decorate


def held() -> int:
    """Bytes that are kept now."""
    return sum(entry.size for entry in list(_entries.values()))


def _make_room(new: _Entry) -> bool:
    """Drop other chips until there is room; False where there is not enough."""
    others = [key for key, entry in list(_entries.items()) if entry.chip != new.chip]
    excess = held() + new.size - LIMIT
    for key in others:
        if excess <= 0:
            break
        dropped = _entries.pop(key, None)
        excess -= 0 if dropped is None else dropped.size
    return excess <= 0


def _bytes(found: Any) -> int:
    if isinstance(found, Tensor):
        return found.numel() * found.element_size()
    return sum(map(_bytes, found)) if isinstance(found, Iterable) else 0
