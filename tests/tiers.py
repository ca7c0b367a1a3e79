"""Parameters of the slow and the nightly tier, in tests whose other parameters run by default."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """One set of parameters that runs in the slow tier only."""
    return pytest.param(*values, marks=pytest.mark.slow)


def nightly(*values: Any) -> Any:
    """One set of parameters that runs nightly only."""
    return pytest.param(*values, marks=pytest.mark.nightly)


def slow_after(count: int, values: Iterable[Any]) -> list[Any]:
    """Values of one parameter, of which the first few run by default."""
    return [value if n < count else slow(value) for n, value in enumerate(values)]
