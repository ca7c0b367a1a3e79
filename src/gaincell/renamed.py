"""Old names of keyword arguments, which work for one release."""

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function one of whose keyword arguments had another name: it warns and passes it on."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*arguments: P.args, **keywords: P.kwargs) -> R:
            if old in keywords:
                if new in keywords:
                    raise TypeError(
                        f"{function.__qualname__}: {old}= is called {new}= now; give {new}= alone"
                    )
                warnings.warn(
                    f"{function.__qualname__}: {old}= is called {new}= now; the next release refuses {old}=",
                    FutureWarning,
                    stacklevel=2,
                )
                keywords[new] = keywords.pop(old)
            return function(*arguments, **keywords)

        return called

    return decorate
