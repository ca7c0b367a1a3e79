"""Programs that tests need, without Amaranth."""

from __future__ import annotations

import pytest

from gaincell.rtl import programs

AMARANTH = "Amaranth is not installed: pip install 'gaincell[rtl]'"


def needs(*names: str) -> None:
    """Skip, saying why, without a program."""
    if found := programs.missing(*names):
        pytest.skip(str(found))
