"""What a training run tells while it goes on: a line a step in a file, and a figure of its losses."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaincell.files import append_text, restored, to_json, write_text
from gaincell.reports.training import draw_loss

REDRAW_AFTER = 60.0
"""Seconds between two versions of the figure."""


class TrainingLog:
    """A `.jsonl` file and the figure beside it.

    Args:
        path: the file; several runs may share it.
        labels: of this run's lines, {"stage": "linear"}, say.
        figure: a PNG file, drawn anew about once a minute and at the end; None = none.
    """

    def __init__(
        self, path: Path, labels: Mapping[str, str] | None = None, figure: Path | None = None
    ) -> None:
        self.path = path
        self.labels = dict(labels or {})
        self.figure = figure
        self._drawn = time.monotonic()

    def rewind(self, step: int) -> None:
        """Take back what this run logged from `step` on: it goes on from an earlier checkpoint."""
        lines = self.path.read_text(errors="replace").splitlines(keepends=True) if self.path.exists() else []
        kept = []
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # the last one of a killed process
                known = json.loads(line)
                mine = all(known.get(key) == value for key, value in self.labels.items())
                if not mine or known["step"] < step:
                    kept.append(line)
        if kept != lines:
            write_text(self.path, "".join(kept))

    def line(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Append a line; from time to time draw the figure."""
        append_text(self.path, to_json({**self.labels, "step": step, **numbers}) + "\n")
        if self.figure is not None and time.monotonic() - self._drawn > REDRAW_AFTER:
            self.draw()

    def draw(self) -> None:
        """Draw the figure now."""
        if self.figure is not None and self.path.exists():
            draw_loss(read_log(self.path), self.figure)
        self._drawn = time.monotonic()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a killed process left unfinished is left out."""
    lines = []
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(restored(json.loads(line)))
    return lines
