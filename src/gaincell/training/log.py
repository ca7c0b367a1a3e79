"""What a training tells on its way: a line a step, a figure of its losses, a tracker of experiments."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from gaincell.errors import InputError
from gaincell.files import append_text, to_json, write_text
from gaincell.quantity import one_of
from gaincell.reports.style import save
from gaincell.reports.training import log_lines, losses, read_log

REDRAW_AFTER = 60.0
"""Seconds between two versions of the figure."""
TRACKERS = {"tensorboard": "logging_dir", "wandb": "dir"}
"""Their names in accelerate, and what they call the directory of their files."""


class TrainingLog:
    """A `.jsonl` file and the figure beside it.

    Args:
        path: The file; several runs may share it.
        labels: Of this run's lines, {"stage": "linear"}, say.
        figure: A PNG file, drawn anew about once a minute and at the end; None = none.
        tracker: Takes every line too.
    """

    def __init__(
        self,
        path: Path,
        labels: Mapping[str, str] | None = None,
        figure: Path | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.path, self.labels, self.figure, self.tracker = path, dict(labels or {}), figure, tracker
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
        text = "".join(kept)
        if len(text.encode()) != self.path.stat().st_size:
            write_text(self.path, text)

    def line(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Append a line; from time to time draw the figure."""
        append_text(self.path, to_json({**self.labels, "step": step, **numbers}) + "\n")
        if self.tracker is not None:
            self.tracker.line(self.labels, step, numbers)
        if time.monotonic() - self._drawn > REDRAW_AFTER:
            self.draw()

    def draw(self) -> None:
        """Draw the figure now."""
        if self.figure and self.path.exists() and (drawn := losses(read_log(self.path))):
            save(drawn, self.figure)
        self._drawn = time.monotonic()


class Tracker:
    """One run in a tracker.

    Args:
        name: One of TRACKERS.
        folder: RUN; its name is that of the project, and `track/` in it takes the files of the tracker.

    Raises:
        InputError: another name; its package is not installed; it does not start (no account, say).
    """

    def __init__(self, name: str, folder: Path) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        if name not in TRACKERS:
            raise InputError(f"--track {name!r}; allowed: {one_of(TRACKERS)}")
        if name not in map(str, get_available_trackers()):
            raise InputError(f"--track {name} needs its package: pip install {name}")
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        place = folder / "track"
        place.mkdir(parents=True, exist_ok=True)
        PartialState()  # accelerate's trackers need one; that of several processes is there already
        try:
            self._tracker = kind(folder.resolve().name, **{TRACKERS[name]: str(place)})
            getattr(self._tracker, "start", lambda: None)()  # older versions of accelerate start at once
        except Exception as error:  # whatever the packages of trackers raise
            raise InputError(
                f"--track {name} does not start ({error}); follow what it says, or leave --track out"
            ) from error
        self._prefixes: set[str] = set()

    def line(self, labels: Mapping[str, str], step: int, numbers: Mapping[str, Any]) -> None:
        """The numbers of one step of the run with these labels."""
        prefix = "/".join(labels.values())
        shown = {f"{prefix}/{k}": v for k, v in numbers.items() if isinstance(v, int | float)}
        if self._tracker.name != "wandb":
            self._tracker.log(shown, step=step)
            return
        steps = f"{prefix}/step"  # wandb drops a step below an earlier one, so every stage counts its own
        if prefix not in self._prefixes:
            self._tracker.tracker.define_metric(f"{prefix}/*", step_metric=steps)
            self._prefixes.add(prefix)
        self._tracker.log({steps: step, **shown})

    def close(self) -> None:
        """Write what is not written yet."""
        self._tracker.finish()


def tracking(name: str | None, folder: Path) -> AbstractContextManager[Tracker | None]:
    """Within the context there is a tracker; None where none is named.

    Raises:
        InputError: see `Tracker`.
    """
    return nullcontext() if name is None else closing(Tracker(name, folder))
