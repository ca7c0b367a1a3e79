"""The directory RUN of a mapping, while it is being made.

    RUN/stages/settings.json         what the run is: it goes on only with the same settings, model and text
    RUN/stages/STAGE.json            the result of a finished stage
    RUN/stages/STAGE.safetensors     its trained weights, gains, offsets; finally the linear model's only
    RUN/stages/STAGE.*.checkpoint    of an unfinished training; removed with its stage
    RUN/log.jsonl                    a line a training step

Every file is written completely or not at all, so that a run that was interrupted anywhere goes on from
there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import nn

from gaincell.errors import RunError
from gaincell.files import (
    read_json,
    remove_leftovers,
    remove_leftovers_in,
    restored,
    write_json,
)
from gaincell.integrations.hf.checkpoint import trained_parameters, write_state
from gaincell.integrations.hf.run import DESIGN, HARDWARE
from gaincell.mapping.records import StageRecord, oddity
from gaincell.results.codec import from_json, to_json
from gaincell.results.run import FILE
from gaincell.training.checkpoint import difference


@contextmanager
def run_lock(path: Path | None) -> Iterator[None]:
    """Within the context no other process may work on a RUN directory, where its file system can lock one. It
    is made if it is missing, with those above it, and they are removed again if it stays empty; what killed
    writers left there goes. A process that ends, however it does, lets it go. None: nothing is locked.

    Raises:
        RunError: another process works on it, or it cannot be made.
    """
    if path is None:
        yield
        return
    made = [place for place in (path, *path.parents) if not place.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path.name} cannot be written: {error}") from error
    held = _lock(path)
    try:
        for name in (HARDWARE, DESIGN, FILE, "log.jsonl"):
            remove_leftovers(path / name)
        for part in ("stages", "figures"):
            remove_leftovers_in(path / part)
        yield
    finally:
        if held is not None:
            os.close(held)
        with suppress(OSError):
            for place in made:
                place.rmdir()


def _lock(path: Path) -> int | None:
    """The descriptor of a locked directory; None where there are no such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    place = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(place)
        if isinstance(error, BlockingIOError):
            raise RunError(
                f"another process works on {path.name}; wait until it is done, or choose another --out"
            ) from error
        return None  # a file system without locks
    return place


class RunFolder:
    """One RUN directory.

    Args:
        path: the directory; made if it is missing.
        identity: plain data that says what the run is.

    Raises:
        RunError: the directory holds another run, or cannot be written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.stages = path / "stages"
        known = self.stages / "settings.json"
        if known.exists():
            before = _read_json(known)
            differing = [key for key in identity if before.get(key) != identity[key]]
            if differing:
                where = difference(before, {**before, **identity})
                raise RunError(
                    f"{path.name} holds a run with other settings{where}; choose another --out, or remove it"
                )
        elif (path / FILE).exists():
            raise RunError(f"{path.name} holds a finished run of another kind; choose another --out")
        write_json(known, identity, indent=1)
        for finished in self.stages.glob("*.json"):  # a killed process may not have come to it
            self._forget_checkpoints(finished.stem)

    def record(self, stage: str) -> StageRecord | None:
        """The result of a finished stage, None before."""
        path = self.stages / f"{stage}.json"
        if not os.path.lexists(path):
            return None
        entry = _read_json(path)
        try:
            record = from_json(StageRecord, entry, stage)
            odd = oddity(record)
        except RunError as error:
            odd = str(error)
        if odd is not None:
            raise RunError(f"{path.name} is damaged: {odd}; remove it to do its stage again")
        return record

    def state(self, stage: str) -> Path:
        """Where the parameters of a stage are."""
        return self.stages / f"{stage}.safetensors"

    def checkpoint(self, stage: str, phase: str) -> Path:
        """Where a training of an unfinished stage is kept; `phase` is "1 of 2", say."""
        return self.stages / f"{stage}.{phase.replace(' ', '-')}.checkpoint"

    def finish(self, stage: str, record: StageRecord, model: nn.Module | None) -> None:
        """Keep the result of a stage and, with `model`, its parameters; forget its checkpoints."""
        if model is not None:
            write_state(trained_parameters(model), self.state(stage))
        write_json(self.stages / f"{stage}.json", to_json(record))
        self._forget_checkpoints(stage)

    def _forget_checkpoints(self, stage: str) -> None:
        for path in self.stages.glob(f"{stage}.*.checkpoint*"):
            path.unlink(missing_ok=True)

    def forget(self, but: str) -> None:
        """Remove the parameters of all stages but one; a finished run needs no others."""
        for path in self.stages.glob("*.safetensors"):
            if path != self.state(but):
                path.unlink()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = restored(read_json(path))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name} cannot be read ({error}); remove it to do its stage again") from error
    return content
