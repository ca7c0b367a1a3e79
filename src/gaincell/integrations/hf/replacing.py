"""Our functions in place of another library's methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any


def replaces(owner: type, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate what stands in for a method, or class method, and is called with it before its arguments."""
    method: Any = inspect.getattr_static(owner, name)
    of_class = isinstance(method, classmethod)
    before: Callable[..., Any] = method.__func__ if of_class else method

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(before)
        def called(*arguments: Any, **keywords: Any) -> Any:
            return function(before, *arguments, **keywords)

        setattr(owner, name, classmethod(called) if of_class else called)
        return function

    return decorate
