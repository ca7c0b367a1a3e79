"""The directory RUN of a command that works in stages, while it is being made.

    RUN/stages/settings.json         what the run is: it goes on only with the same settings, model and text
    RUN/stages/STAGE.json            the result of a finished stage
    RUN/stages/STAGE.safetensors     its trained weights, gains, offsets; finally the linear model's only
    RUN/stages/STAGE.toml            the chip it is on, of `gaincell adapt` and `gaincell codesign`
    RUN/stages/STAGE.*.checkpoint    of an unfinished training; removed with its stage
    RUN/log.jsonl                    a line a training step

Every file is written completely or not at all, so that a run that was interrupted anywhere goes on from
there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gaincell.errors import RunError
from gaincell.files import read_object, remove_leftovers, remove_leftovers_in, restored, write_json
from gaincell.integrations.hf.checkpoint import trained_parameters, write_state
from gaincell.integrations.hf.run import DESIGN, HARDWARE
from gaincell.results import read_stages
from gaincell.results import run as results
from gaincell.results.codec import Numbers, from_json, to_json
from gaincell.results.common import CountedTokens, Number
from gaincell.results.evaluation import BitPerByte, Nat, check_perplexity
from gaincell.training.checkpoint import difference, same
from gaincell.training.log import Tracker, TrainingLog
from gaincell.training.settings import Precision


@contextmanager
def run_lock(path: Path | None, command: str | None = None) -> Iterator[None]:
    """Within the context no other process may work on a RUN directory, where its file system can lock one. It
    is made if it is missing, with those above it, and they are removed again if it stays empty; what killed
    writers left there goes. A process that ends, however it does, lets it go.

    Args:
        path: The directory; None: nothing is locked.
        command: Which `gaincell` command makes the RUN.

    Raises:
        RunError: another process works on it, it cannot be made, or it holds a finished run of another
            command.
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
        for name in (HARDWARE, DESIGN, results.FILE, "log.jsonl"):
            remove_leftovers(path / name)
        for part in ("stages", "figures", "tokens", "model"):
            remove_leftovers_in(path / part)
        if command is not None:
            _check_kind(path, command)
        yield
    finally:
        if held is not None:
            os.close(held)
        with suppress(OSError):
            for place in made:
                place.rmdir()


def _check_kind(path: Path, command: str) -> None:
    """Raise RunError where a directory holds a finished run of another command."""
    try:
        made = read_object(path / results.FILE).get("command") if (path / results.FILE).exists() else command
    except (OSError, ValueError):
        made = command  # it is made again from its stages
    if made != command:
        raise RunError(f"{path.name} holds a run of another kind; choose another --out, or remove it")


def run_log(run: Path, labels: Mapping[str, str], tracker: Tracker | None) -> TrainingLog:
    """The log of a training in a RUN, with its figure."""
    return TrainingLog(run / "log.jsonl", labels, run / "figures" / "loss.png", tracker)


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


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a stage tells beside its evaluation: see StageResult, MappedResult and CodesignResult."""

    training_tokens: CountedTokens = 0
    curve: results.TrainingCurve | None = None
    step_time: Mapping[str, results.Measured] | None = None
    adaptation: results.Adaptation | None = None
    adaptations: Mapping[str, results.Adaptation] | None = None
    mismatch: results.Mismatch | None = None
    codes: Mapping[str, Mapping[str, results.CodeShares]] | None = None
    silent: tuple[str, ...] = ()
    training: results.JointTraining | None = None


@dataclass(frozen=True, kw_only=True)
class StageRecord(Told):
    numbers: Numbers
    perplexity: Number
    nll: Nat
    predictions: CountedTokens
    seconds: results.MeasuredSeconds
    blocks: results.BlockLosses
    precision: Precision | None = None
    perplexity_error: Number | None = None
    bits_per_byte: BitPerByte | None = None


def check_settings(path: Path, identity: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a directory says of the run that it holds, if it holds one.

    Raises:
        RunError: that is another one than the identity, or a part of it, says.
    """
    known = path / "stages" / "settings.json"
    if not (known.exists() or (path / results.FILE).exists()):
        if any(known.parent.glob("*.json")):
            raise RunError(
                f"{path.name} has stages, but lacks stages/{known.name}, which says what they are of; choose "
                "another --out, or remove it"
            )
        for name in (HARDWARE, DESIGN):
            if (path / name).exists():
                raise RunError(f"{path.name} holds a {name} of no run that began there; choose another --out")
        return {}
    # earlier versions of `gaincell adapt` kept its settings in run.json alone
    before: Mapping[str, Any] = (
        _read_json(known, f"choose another --out, or remove {path.name}")
        if known.exists()
        else getattr(read_stages(path), "settings", {})
    )
    if not same({key: before[key] for key in identity if key in before}, dict(identity)):
        where = difference(before, {**before, **identity})
        raise RunError(
            f"{path.name} holds a run with other settings{where}; choose another --out, or remove it"
        )
    return before


class RunFolder:
    """One RUN directory.

    Args:
        path: The directory; made if it is missing.
        identity: Plain data that says what the run is.
        text: Digests of what it is trained and evaluated on; asked for where the directory has them.
        keeps: The stages whose parameters a finished run keeps; None: all.

    Raises:
        RunError: the directory holds another run, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        text: Mapping[str, str] | None = None,
        *,
        keeps: Collection[str] | None = (),
    ) -> None:
        self.path, self.stages, self._keeps = path, path / "stages", keeps
        before = check_settings(path, identity)
        text = text or before.get("text")
        if before.get("text", text) != text:
            raise RunError(f"{path.name} holds a run on another text; choose another --out, or remove it")
        settings = {**identity, **({} if text is None else {"text": text})}
        write_json(self.stages / "settings.json", settings, indent=1)
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
            odd = _oddity(record)
        except RunError as error:
            odd = str(error)
        if odd is not None:
            raise RunError(f"{path.name} is damaged: {odd}; remove it to do its stage again")
        return record

    def state(self, stage: str) -> Path:
        """Where the parameters of a stage are."""
        return self.stages / f"{stage}.safetensors"

    def chip(self, stage: str) -> Path:
        """Where the chip of a stage is that changes the chip or the model in place."""
        return self.stages / f"{stage}.toml"

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

    def forget(self) -> None:
        """Remove the parameters that a finished run does not need."""
        for path in self.stages.glob("*.safetensors"):
            if self._keeps is not None and path.stem not in self._keeps:
                path.unlink()


def _oddity(record: StageRecord) -> str | None:
    """What makes a record none of a stage with its evaluation, in words; None for a good one.

    Raises:
        RunError: its perplexity is not that of its loss.
    """
    for key in ("training_tokens", "predictions", "nll", "perplexity", "seconds"):
        if not getattr(record, key) >= 0:
            return f"{key} = {getattr(record, key)!r}"
    check_perplexity(record)
    losses, counts = record.blocks.nll, record.blocks.predictions
    if len(losses) != len(counts) or min(counts, default=0) < 0 or sum(counts) != record.predictions:
        return f"blocks has not {record.predictions} predictions"
    total = math.fsum(losses)
    if record.nll != total and not abs(record.nll - total) <= 1e-6 * (len(losses) + abs(record.nll)):
        return f"blocks does not add up to nll = {record.nll!r}"
    return None


def _read_json(path: Path, advice: str = "remove it to do its stage again") -> dict[str, Any]:
    try:
        content: dict[str, Any] = restored(read_object(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path.name} cannot be read ({error}); {advice}") from error
    return content
