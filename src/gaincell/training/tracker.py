"""Trackers of experiments, through accelerate: the numbers of a training log go there too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gaincell.errors import InputError
from gaincell.quantity import one_of

TRACKERS = ("tensorboard", "wandb")


class Tracker:
    """One run in a tracker.

    Args:
        name: one of TRACKERS.
        folder: RUN; its name is that of the run, and `track/` in it takes the files of a local tracker.

    Raises:
        InputError: another name, or its package is not installed.
    """

    def __init__(self, name: str, folder: Path) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        if name not in TRACKERS:
            raise InputError(f"--track {name!r}; allowed: {one_of(TRACKERS)}")
        if name not in map(str, get_available_trackers()):
            raise InputError(f"--track {name} needs its package: pip install {name}")
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        place = (str(folder / "track"),) if kind.requires_logging_directory else ()
        self._tracker = kind(folder.name, *place)
        getattr(self._tracker, "start", lambda: None)()  # older versions of accelerate start at once

    def line(self, labels: Mapping[str, str], step: int, numbers: Mapping[str, Any]) -> None:
        """The numbers of one step of the run with these labels."""
        prefix = "/".join(labels.values())
        shown = {f"{prefix}/{k}": v for k, v in numbers.items() if isinstance(v, int | float)}
        self._tracker.log(shown, step=step)

    def finish(self) -> None:
        """Write what is not written yet."""
        self._tracker.finish()


@contextmanager
def tracking(name: str | None, folder: Path) -> Iterator[Tracker | None]:
    """Within the context there is a tracker; None where none is named. Raises InputError, see `Tracker`."""
    tracker = None if name is None else Tracker(name, folder)
    try:
        yield tracker
    finally:
        if tracker is not None:
            tracker.finish()
