"""Programs and cells that tests need, without Amaranth."""

from __future__ import annotations

import pytest

from gaincell.rtl import programs

AMARANTH = "Amaranth is not installed: pip install 'gaincell[rtl]'"
CELLS = """
library(tiny) {
  cell(BUF) { area: 3; pin(A) { direction: input; } pin(Y) { direction: output; function: "A"; } }
  cell(NOT) { area: 1; pin(A) { direction: input; } pin(Y) { direction: output; function: "A'"; } }
  cell(NAND) { area: 2; pin(A) { direction: input; } pin(B) { direction: input; }
    pin(Y) { direction: output; function: "(A*B)'"; } }
  cell(DFF) { area: 6; ff("IQ", "IQN") { clocked_on: C; next_state: D; }
    pin(C) { direction: input; clock: true; } pin(D) { direction: input; }
    pin(Q) { direction: output; function: "IQ"; } }
}
"""


def needs(*names: str) -> None:
    """Skip, saying why, without a program."""
    if found := programs.missing(*names):
        pytest.skip(str(found))
