"""What a training run tells while it goes on: a line a step in a file, and a figure of its losses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaincell.files import append_text, to_json, write_text
from gaincell.reports.training import draw_loss, log_lines, read_log
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
            for line, known in log_lines(self.path)
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
