"""What a training run tells while it goes on: a line a step in a file, and a figure of its losses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gaincell.errors import RunError
from gaincell.files import (
    append_text,
    is_count,
    is_number,
    open_file,
    parse_json,
    restored,
    to_json,
    write_text,
)
from gaincell.reports.training import draw_loss
from gaincell.training.tracker import Tracker

REDRAW_AFTER = 60.0
"""Seconds between two versions of the figure."""


class TrainingLog:
    """A `.jsonl` file and the figure beside it.

    Args:
        path: the file; several runs may share it.
        labels: of this run's lines, {"stage": "linear"}, say.
        figure: a PNG file, drawn anew about once a minute and at the end; None = none.
        tracker: takes every line too.
    """

    def __init__(
        self,
        path: Path,
        labels: Mapping[str, str] | None = None,
        figure: Path | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.path = path
        self.tracker = tracker
        self.labels = dict(labels or {})
        self.figure = figure
        self._drawn = time.monotonic()

    def rewind(self, step: int) -> None:
        """Take back what this run logged from `step` on: it goes on from an earlier checkpoint."""
        if not self.path.exists():
            return
        kept = [
            line
            for line, known in _lines(self.path)
            if known is not None
            and (known["step"] < step or any(known.get(key) != value for key, value in self.labels.items()))
        ]
        text = "".join(kept).encode()
        if len(text) != self.path.stat().st_size:
            write_text(self.path, text.decode())

    def line(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Append a line; from time to time draw the figure."""
        append_text(self.path, to_json({**self.labels, "step": step, **numbers}) + "\n")
        if self.tracker is not None:
            self.tracker.line(self.labels, step, numbers)
        if self.figure is not None and time.monotonic() - self._drawn > REDRAW_AFTER:
            self.draw()

    def draw(self) -> None:
        """Draw the figure now."""
        if self.figure is not None and self.path.exists():
            draw_loss(read_log(self.path), self.figure)
        self._drawn = time.monotonic()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a killed process left unfinished is left out.

    Raises:
        RunError: it cannot be read, or a line is none that a training writes.
    """
    return [known for _, known in _lines(path) if known is not None]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The lines of a log, and what each says: None of one that is unfinished. Raises RunError."""
    number = 0
    try:
        with open_file(path) as file:
            for raw in file:
                number += 1
                line = raw.decode(errors="replace")
                try:
                    known = restored(parse_json(line))
                except json.JSONDecodeError:
                    yield line, None
                    continue
                if not (isinstance(known, dict) and _is_step(known)):
                    raise ValueError(f"{line.strip()[:40]!r} is no step of a training")
                yield line, known
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path.name} cannot be read (line {number}: {error}); remove the file, or the line"
        ) from error


def _is_step(known: Mapping[str, Any]) -> bool:
    """Whether a line has the form of those of `TrainingLog.line`, as far as they are read again."""
    words = ("stage", "part", "loss_name", "loss_unit")
    return (
        is_count(known.get("step"))
        and all(is_number(known.get(key, 0)) for key in ("loss", "tokens", "evaluation"))
        and all(isinstance(known.get(key, ""), str) for key in words)
    )
