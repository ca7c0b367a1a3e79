"""The raw-file reader: what ngspice writes, and files that are cut short."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincell.errors import SimulationError
from gaincell.spice.rawfile import read_raw

HEAD = """Title: t
Plotname: Transient Analysis
Flags: real
No. Variables: 2
No. Points: 3
Variables:
\t0\ttime\ttime
\t1\tV(Out)\tvoltage
Binary:
"""
DATA = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 4.0]])
WHOLE = HEAD.encode() + DATA.tobytes()


def test_plots_follow_one_another() -> None:
    plots = read_raw(WHOLE + WHOLE)
    assert len(plots) == 2
    assert len(next(iter(plots[1].waves.values()))) == 3
    np.testing.assert_array_equal(plots[1]["v(out)"], DATA[:, 1])


@given(st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_short_anywhere_is_refused(length: int) -> None:
    with pytest.raises(SimulationError):
        read_raw(WHOLE[:length])


def test_an_unknown_variable_is_named() -> None:
    with pytest.raises(SimulationError, match=r"no 'v\(in\)'; it has 2 variables: time, v\(out\)"):
        read_raw(WHOLE)[0]["v(in)"]
