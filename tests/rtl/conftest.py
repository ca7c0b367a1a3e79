"""One small head for the tests: three sub-tiles of four columns, two query heads, a lap and more."""

from __future__ import annotations

import pytest

pytest.importorskip("amaranth", reason="Amaranth is not installed: pip install 'gaincell[rtl]'")

from gaincell.config import load_design
from gaincell.rtl import programs
from gaincell.rtl.fixed_point import Scales
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Run, simulate
from gaincell.rtl.synthesis import Synthesis, synthesise
from gaincell.rtl.verilog import Design, generate
from gaincell.rtl.words import random_scales, random_words

PARAMETERS = Parameters(load_design("leroux2025").replace(tile=4, window=12), rows=4, group=2)


def needs(*names: str) -> None:
    """Skip, saying why, without a program."""
    if found := programs.missing(*names):
        pytest.skip(str(found))


@pytest.fixture(scope="session")
def scales() -> Scales:
    return random_scales(PARAMETERS, 1)


@pytest.fixture(scope="session")
def run(scales: Scales) -> Run:
    """Simulated."""
    found = Run(PARAMETERS, scales, random_words(PARAMETERS, scales, 16, 1), [0, 2] * 8)
    simulate(found)
    return found


@pytest.fixture(scope="session")
def verilog() -> Design:
    needs("yosys")
    return generate(PARAMETERS)


@pytest.fixture(scope="session")
def synthesis(verilog: Design) -> Synthesis:
    return synthesise(verilog)
