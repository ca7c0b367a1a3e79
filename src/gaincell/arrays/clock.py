"""Time on the chip: tokens, pauses, and the refreshes that a policy asks for in between.

A refresh stops the head: a token that has to wait for one takes that much longer. A pause lasts as long as
it was asked to, refreshes included, and beyond that only until one that has begun is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from gaincell.arrays.refresh import Refresh
from gaincell.errors import InputError
from gaincell.units import Second


class Columns(Protocol):
    """What a clock refreshes."""

    def rewrite(self) -> tuple[int, bool]:
        """Rewrite, now, the columns that hold a token; how many, and whether any is different from before."""
        ...

    def postpone(self, seconds: Second) -> None:
        """Move the write times of those columns: refreshes that change nothing else were left out."""
        ...


@dataclass
class Clock:
    """Time since the arrays were made.

    Attributes:
        write_slot: Duration of one column's discharge and write, s.
        now: Time, s.
        tokens: Tokens so far.
        refreshes: Their number.
        rewrites: Columns that refreshes rewrote.
        refreshing: Time that refreshes took, s.

    Raises:
        InputError: a refresh would take longer than its period.
    """

    policy: Refresh
    columns: int
    write_slot: Second
    now: Second = 0.0
    tokens: int = 0
    refreshes: int = 0
    rewrites: int = 0
    refreshing: Second = 0.0
    _last: Second = 0.0
    _last_token: int = 0
    _run: tuple[Second, int, Second] = (0.0, 0, 0.0)
    """Time and tokens at the beginning of a run of equal periods, and the period: times in it are products,
    so that they do not depend on how many tokens are given at once."""

    def __post_init__(self) -> None:
        every = self.policy.every_seconds
        if not (math.isfinite(self.write_slot) and self.write_slot >= 0):
            raise InputError(f"write_slot = {self.write_slot} s; give a finite number, 0 or above")
        if every is not None and self.columns * self.write_slot >= every:
            raise InputError(
                f"a refresh of {self.columns} columns, {self.write_slot} s each, takes longer than its "
                f"period of {every} s; give a longer one"
            )

    def step(self, arrays: Columns, period: Second, tokens: int = 1) -> None:
        """Tokens were written, a period each. Those of one call see no refresh in between: `tokens_left`."""
        end = self._after(period, tokens)
        self.tokens += tokens
        self._pass(arrays, end, longer=True)
        every = self.policy.every_tokens
        if every is not None and self.tokens - self._last_token >= every:
            self.refresh(arrays)

    def idle(self, arrays: Columns, seconds: Second) -> None:
        """Let time pass between two tokens.

        Raises:
            InputError: a negative or infinite time, or one so long that rounding loses the time between two
                refreshes.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InputError(f"told to idle for {seconds} s; give a finite number, 0 or above")
        end, every = self.now + seconds, self.policy.every_seconds
        if every is not None and end + every / 2 == end:  # half: ties are rounded either way
            raise InputError(
                f"told to idle for {seconds} s, next to which a refresh every {every} s is lost in rounding; "
                "give a shorter time, or a longer one between refreshes"
            )
        self._pass(arrays, end, longer=False)

    def refresh(self, arrays: Columns) -> bool:
        """Refresh now. Whether anything stored changed."""
        columns, changed = arrays.rewrite()
        self._count(1, columns)
        self.now += columns * self.write_slot
        self._last, self._last_token = self.now, self.tokens
        return changed

    def tokens_left(self, period: Second) -> int | None:
        """Tokens until the next refresh; None for ever."""
        policy = self.policy
        if policy.every_tokens is not None:
            return max(1, policy.every_tokens - (self.tokens - self._last_token))
        if policy.every_seconds is not None:
            due = self._last + policy.every_seconds
            left = max(1, math.ceil((due - self.now) / period))  # give or take the rounding
            while left > 1 and self._after(period, left - 1) >= due:
                left -= 1
            while self._after(period, left) < due:
                left += 1
            return left
        return None

    def _after(self, period: Second, tokens: int) -> Second:
        """When so many more tokens are over."""
        start, before, of_run = self._run
        if of_run != period or start + (self.tokens - before) * period != self.now:
            self._run = start, before, _ = self.now, self.tokens, period
        return start + (self.tokens + tokens - before) * period

    def _pass(self, arrays: Columns, end: Second, longer: bool) -> None:
        """Let time pass until `end`, or, if `longer`, until as much later as refreshes take."""
        every = self.policy.every_seconds
        whole = False  # whether a whole period has gone by since the refresh before
        while every is not None and self._last + every <= end:
            self.now = max(self.now, self._last + every)
            before, rewritten = self.now, self.rewrites
            changed = self.refresh(arrays)
            duration = self.now - before
            end += duration if longer else 0.0
            if whole and not changed:  # nor will the next ones change anything
                cycle = every + duration
                count = math.floor(
                    (end - self._last) / every if longer else (end - self._last + duration) / cycle
                )
                self._count(count, self.rewrites - rewritten)
                arrays.postpone(count * cycle)
                self._last += count * cycle
                self.now = self._last
                end += count * duration if longer else 0.0
            whole = True
        self.now = max(self.now, end)

    def _count(self, refreshes: int, columns: int) -> None:
        self.refreshes += refreshes
        self.rewrites += refreshes * columns
        self.refreshing += refreshes * columns * self.write_slot
