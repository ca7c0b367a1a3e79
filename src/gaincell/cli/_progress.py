"""Progress on stderr, one line a step: bars with the time left, or plain lines where stderr is a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from gaincell import progress

UNSHOWN = ("learning_rate", "tokens_per_second", "iteration", "expected")
"""Numbers not shown by name, value and unit: speed has its own form, the count shows the last two."""
EVERY = 30.0
"""Seconds between two plain lines, at the least."""


@contextmanager
def progress_bars() -> Iterator[progress.StageProgress]:
    """Within the context, every step that is opened shows as a bar, or as lines where nobody watches."""
    console = Console(stderr=True)
    if not console.is_interactive:
        lines = _Lines()
        try:
            yield lines
        finally:
            lines.print()
        return
    columns = (
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        BarColumn(bar_width=12),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("left {task.fields[numbers]}", table_column=Column(overflow="fold")),
    )
    with Progress(*columns, console=console, speed_estimate_period=3600.0) as bars:  # a step may take long

        def stages(step: str) -> progress.Progress:
            task = bars.add_task(step, total=None, numbers="")

            def show(done: int, total: int, numbers: dict[str, float]) -> None:
                likely = numbers.get("expected", total)
                bars.update(task, completed=done, total=likely or None, numbers=_shown(numbers))

            return show

        yield stages


@contextmanager
def kept_in(folder: Path | None) -> Iterator[None]:
    """Within the context Ctrl-C says where what is done is kept; nothing is where there is no folder."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is None:
            raise
        raise KeyboardInterrupt(
            f"finished work is kept in {folder}; the same command goes on from there"
        ) from None


class _Lines:
    """A stage progress that prints a plain line every now and then, and the last one of every step; none
    before something has changed.
    """

    def __init__(self) -> None:
        self._waiting, self._printed = "", time.monotonic()

    def __call__(self, step: str) -> progress.Progress:
        self.print()
        begun, first, last = 0.0, -1, -1

        def show(done: int, total: int, numbers: dict[str, float]) -> None:
            nonlocal begun, first, last
            now = time.monotonic()
            if first < 0:  # where the step goes on from
                begun, first = now, done
            elif done == last:
                return
            last = done
            likely = numbers.get("expected", total)
            most = f"at most {total:,}" if "expected" in numbers else f"{total:,}"
            parts = [step, f"{done:,} of {most}" if total else f"{done:,}", _shown(numbers)]
            if first < done < likely:
                seconds = (now - begun) / (done - first) * (likely - done)
                parts.append(f"{timedelta(seconds=round(seconds))} left")
            self._waiting = ", ".join(filter(None, parts))
            if done == total or now - self._printed >= EVERY:
                self.print()

        return show

    def print(self) -> None:
        """Print the latest line, unless it is printed."""
        if self._waiting:
            print(self._waiting, file=sys.stderr, flush=True)
            self._waiting, self._printed = "", time.monotonic()


def _shown(numbers: Mapping[str, float]) -> str:
    shown = []
    for key, number in numbers.items():
        if key not in UNSHOWN:
            name, _, unit = key.removesuffix(")").partition(" (")
            shown.append(f"{name} {number:.4g} {unit}".rstrip())
    if "tokens_per_second" in numbers:
        shown.append(f"{numbers['tokens_per_second']:,.0f} tok/s")
    return ", ".join(shown)
