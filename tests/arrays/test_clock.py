"""Time on the chip: how long a pause lasts, and when a refresh is due."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gaincell.arrays.clock import Clock
from gaincell.arrays.refresh import Refresh
from gaincell.errors import InputError
from gaincell.units import Second

COLUMNS = 8


class Refreshed:
    """Columns that note when they were refreshed, in tokens; `steady`: nothing stored changes."""

    def __init__(self, steady: bool) -> None:
        self.steady, self.clock, self.at = steady, None, []
        self.postponed = 0.0

    def rewrite(self) -> tuple[int, bool]:
        self.at.append((self.clock.tokens, self.clock.now))
        return COLUMNS, not self.steady

    def postpone(self, seconds: Second) -> None:
        self.postponed += seconds


def made(every: Second, slot: Second, steady: bool) -> tuple[Clock, Refreshed]:
    arrays = Refreshed(steady)
    arrays.clock = Clock(Refresh("copy", every_seconds=every), COLUMNS, slot)
    return arrays.clock, arrays


@given(
    period=st.sampled_from([0.1, 30e-6, 65e-9, 7.8e-7, 1e-3]),
    tokens=st.integers(1, 40),
    slot=st.sampled_from([0.0, 1e-12]),
    pauses=st.lists(st.integers(0, 30), max_size=3),
)
def test_a_refresh_at_a_token_boundary_comes_at_that_token_in_pieces_too(
    period: float, tokens: int, slot: float, pauses: list[int]
) -> None:
    """0.1 + 0.1 + 0.1 is not 0.3: a sum of periods must not decide."""
    (singly, one), (pieces, some) = (made(tokens * period, slot, False) for _ in range(2))
    for count in (*pauses, 100):
        for _ in range(count):
            singly.step(one, period)
        while count:
            piece = min(count, pieces.tokens_left(period))
            pieces.step(some, period, piece)
            count -= piece
        for clock, arrays in ((singly, one), (pieces, some)):
            clock.idle(arrays, 0.37 * period)
    assert one.at == some.at
    assert singly.now == pieces.now


@pytest.mark.parametrize("steady", [True, False])
@given(
    seconds=st.floats(0, 1e-2),
    every=st.sampled_from([1e-4, 3e-4, 1e-3]),
    slot=st.sampled_from([0.0, 1e-7, 1e-5]),
)
def test_a_pause_lasts_as_long_as_it_was_asked_to(
    steady: bool, seconds: float, every: float, slot: float
) -> None:
    """But for a refresh that has begun; refreshes that change nothing are counted without being done."""
    begins = [every + n * (every + COLUMNS * slot) for n in range(101)]
    assume(all(abs(begin - seconds) > 1e-12 for begin in begins))
    clock, arrays = made(every, slot, steady)
    clock.idle(arrays, seconds)
    assert seconds <= clock.now <= seconds + COLUMNS * slot + 1e-15
    assert clock.refreshes == sum(begin < seconds for begin in begins)
    assert clock.refreshing == pytest.approx(clock.refreshes * COLUMNS * slot)


@pytest.mark.parametrize("every", [5e-4, 2.0**-10])  # the second is half of what 1e13 can be told apart by
def test_a_pause_in_which_refreshes_are_lost_in_rounding_is_refused(every: float) -> None:
    clock, arrays = made(every, 1e-7, True)
    clock.idle(arrays, 1e11)
    assert clock.refreshes == pytest.approx(1e11 / (every + COLUMNS * 1e-7))
    with pytest.raises(InputError, match=f"a refresh every {every} s is lost in rounding; give a shorter"):
        clock.idle(arrays, 1e13)


def test_a_token_waits_for_a_refresh() -> None:
    clock, arrays = made(1e-3, 1e-5, False)
    clock.step(arrays, 1.05e-2)
    assert clock.now == pytest.approx(1.05e-2 + clock.refreshing)
    assert clock.refreshes == 10
