"""Readouts of transistors on a small array: affine in the charge, and silent where there is none."""

import numpy as np
import pytest
from tests.tiers import slow_after

from gaincell.chips.design_file import load_design
from gaincell.spice.characterise import read_charge
from gaincell.spice.netlists.array import array_slice
from gaincell.spice.netlists.readout import RELU, SIGNED, Phases, Readout
from gaincell.spice.pulses import pulse_width
from gaincell.spice.runner import available, run
from gaincell.spice.technology import Site, technology

pytestmark = [pytest.mark.spice, pytest.mark.skipif(not available(), reason="ngspice is not installed")]
ROWS = 8


@pytest.mark.parametrize("kind", slow_after(0, [RELU, SIGNED]))
def test_the_pulse_is_affine_in_the_charge(kind: str) -> None:
    free, design = Site(technology("freepdk45")), load_design("leroux2025")
    levels = np.array([0.36, 0.40, 0.48, 0.5, 0.51, 0.525])
    stored = np.tile(levels, (ROWS, 1))
    full = ROWS * design.score_saturation_per_row * design.charge_unit
    charge = ROWS * read_charge(free, levels, 10e-9) / full * 15e-9
    bench = array_slice(free, stored.tolist(), [10e-9] * ROWS, Readout(kind, full), transistor_readout=True)
    plot = run(bench).plot
    t, at = plot["time"], Phases().convert
    width = np.array([pulse_width(t, plot[f"v(p{c})"], 0.9) for c in range(len(levels))])
    assert charge.max() < 14e-9  # in range
    up = charge > 0.2e-9
    left = width[up] - np.polyval(np.polyfit(charge[up], width[up], 1), charge[up])
    assert np.sqrt((left**2).mean()) < 0.2e-9
    if kind == RELU:
        assert width[0] < 0.1e-9
    else:
        signs = [bool(np.interp(at, t, plot[f"v(s{c})"]) > 0.45) for c in range(len(levels))]
        assert signs == (charge > 0).tolist()
        assert width[0] > 1e-9
