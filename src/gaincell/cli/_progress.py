"""Progress bars with the time left, one line a step, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from gaincell import progress

SHOWN = ("loss", "residual")
"""Numbers shown behind a bar."""


@contextmanager
def progress_bars() -> Iterator[progress.StageProgress]:
    """Within the context, every step that is opened shows as a bar."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("left {task.fields[numbers]}"),
    )
    with Progress(*columns, console=console) as bars:

        def stages(step: str) -> progress.Progress:
            task = bars.add_task(step, total=None, numbers="")

            def show(done: int, total: int, numbers: dict[str, float]) -> None:
                _update(bars, task, done, total, numbers)

            return show

        yield stages


def _update(bars: Progress, task: TaskID, done: int, total: int, numbers: dict[str, float]) -> None:
    shown = ", ".join(f"{key} {numbers[key]:.4g}" for key in SHOWN if key in numbers)
    bars.update(task, completed=done, total=total or None, numbers=shown)
