"""A training run on disk: parameters, optimiser states, the step, and what run it is; and whether it is worth
going on with.

The newest checkpoint has the name it was given, older ones have .1, .2 ... behind it. Each is written beside
its place and renamed, so that at every moment a complete one is there.
"""

from __future__ import annotations

import glob
import json
import math
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from gaincell.errors import RunError
from gaincell.files import check_file, is_count, remove_leftovers, restored, to_json, write_tensors
from gaincell.training.loss import LossName
from gaincell.training.settings import TrainSettings

PARAMETER = "parameter."
MOMENTS = ("exp_avg", "exp_avg_sq")
AVERAGED = 10
"""Steps whose mean loss tells whether a run diverges."""

Identity = Mapping[str, Any]
Parameters = Mapping[str, nn.Parameter]


def store(
    path: Path,
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    identity: Identity,
    progress: Mapping[str, Any],
    *,
    keep: int = 1,
    write: bool = True,
) -> None:
    """Write a checkpoint and remove the oldest beyond `keep`.

    Args:
        path: Of the newest checkpoint.
        parameters: What is trained; all processes help to put sharded ones together.
        optimizer: What trains it; its states are put together likewise.
        identity: Plain data that says what the run is.
        progress: Plain data that says where it stands.
        keep: How many checkpoints there are at the most.
        write: Whether this process writes.
    """
    contents: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        moments = {key: optimizer.state[parameter].get(key) for key in MOMENTS}
        for key, tensor in {PARAMETER.removesuffix("."): parameter.detach(), **moments}.items():
            if tensor is not None:
                together = whole(tensor)  # one at a time: all of them may not fit beside a share
                if write:
                    contents[f"{key}.{name}"] = together.to("cpu").contiguous()
    if not write:
        return
    metadata = {"progress": to_json(progress), "identity": to_json(identity)}
    fresh = path.with_name(path.name + ".new")
    write_tensors(fresh, contents, metadata)
    for age in range(keep - 1, 0, -1):
        younger = older(path, age - 1)
        if younger.exists():
            os.replace(younger, older(path, age))
    os.replace(fresh, path)


def older(path: Path, age: int) -> Path:
    """Name of the checkpoint before `age` others."""
    return path.with_name(f"{path.name}.{age}") if age else path


def checkpoints(path: Path) -> list[Path]:
    """The checkpoints there are, newest first."""
    numbered = [p for p in path.parent.glob(f"{glob.escape(path.name)}.*") if p.suffix[1:].isdigit()]
    found = [path.with_name(path.name + ".new"), path, *sorted(numbered, key=lambda p: int(p.suffix[1:]))]
    return [place for place in found if place.exists()]


def best_of(path: Path) -> Path:
    """Name of the file with the best parameters of the run whose checkpoint is `path`."""
    return path.with_name(path.name + ".best")


def sweep(path: Path) -> None:
    """Remove what killed writers of a run's files left."""
    for place in (path.with_name(path.name + ".new"), best_of(path)):
        remove_leftovers(place)


def remove(path: Path) -> None:
    """Remove all checkpoints of a run, and what killed writers left."""
    sweep(path)
    for place in [best_of(path), *checkpoints(path)]:
        place.unlink(missing_ok=True)


def settings_of(path: Path) -> dict[str, Any]:
    """Settings of the run that the newest checkpoint is of; none where `restore` finds none or refuses it."""
    try:
        check_file(checkpoints(path)[0])
        with safe_open(checkpoints(path)[0], framework="pt") as file:
            return dict(json.loads(file.metadata()["identity"])["settings"])
    except Exception:  # safetensors raises its own type for a torn file
        return {}


@torch.no_grad()
def restore(
    path: Path, parameters: Parameters, optimizer: torch.optim.Optimizer, identity: Identity
) -> dict[str, Any]:
    """Load the newest checkpoint if there is one; returns its progress, nothing without a checkpoint.

    Raises:
        RunError: it cannot be read, is of another run or another model, or holds numbers that are not finite.
    """
    places = checkpoints(path)
    if not places:
        return {}
    name = places[0].name
    advice = "remove it to start again"
    if len(places) > 1:
        advice += f", or only it: {places[1].name} is the one before"
    try:
        check_file(places[0])
        file: Any = safe_open(places[0], framework="pt")
    except Exception as error:  # safetensors raises its own type for a torn file
        raise RunError(f"the checkpoint {name} cannot be read ({error}); {advice}") from error
    with file:
        metadata = file.metadata() or {}
        known = json.loads(metadata.get("identity", "null"))
        wanted = json.loads(to_json(identity))
        held = set(file.keys())
        shapes = {key: file.get_slice(key).get_shape() for key in sorted(held) if key.startswith(PARAMETER)}
        own = {PARAMETER + name: list(parameter.shape) for name, parameter in parameters.items()}
        for whose, there, here in (("run", known, wanted), ("model", shapes, own)):
            if not same(there, here):
                raise RunError(
                    f"the checkpoint {name} belongs to another {whose}{difference(there, here)}; remove it "
                    "or choose another directory"
                )
        progress: dict[str, Any] = restored(json.loads(metadata.get("progress", "null")))
        if not (isinstance(progress, dict) and is_count(progress.get("step"))):
            raise RunError(f"the checkpoint {name} does not say its step; {advice}")
        moments = [(f"{key}.{name}", list(p.shape)) for name, p in parameters.items() for key in MOMENTS]
        for key, here in moments:
            if key in held and (there := file.get_slice(key).get_shape()) != here:
                raise RunError(
                    f"{key} has shape {there} in the checkpoint {name}, its parameter {here}; {advice}"
                )
        bad = next((key for key in sorted(held) if not file.get_tensor(key).isfinite().all()), None)
        if bad is not None:
            raise RunError(f"{bad} is not finite in the checkpoint {name}; {advice}")
        for name, parameter in parameters.items():
            parameter.copy_(like(file.get_tensor(PARAMETER + name), parameter))
            stored = {key: f"{key}.{name}" for key in MOMENTS}
            if held.issuperset(stored.values()):
                state = optimizer.state[parameter]
                state |= {key: like(file.get_tensor(place), parameter) for key, place in stored.items()}
                state["step"] = torch.tensor(float(progress["step"]))
    return progress


OPEN = ("config", "files", "skip_documents")
"""Tables of a user's own names, which are compared as they are."""
ABSENT = object()
"""In place of an entry that an identity lacks."""


def same(known: Any, wanted: Any) -> bool:
    """Whether two identities are one. An entry that only one of them has counts where it asks for something:
    a setting that came later is none or false where it is not used.
    """
    return _differing(known, wanted) is None


def difference(known: Any, wanted: Any) -> str:
    """The first entry in which two identities differ, in words."""
    where, *values = _differing(known, wanted) or ("",)
    if not where:
        return ""
    there, here = ("is not" if value is ABSENT else f"= {value!r}" for value in values)
    return f" ({where} {there} there, {here.removeprefix('= ')} here)"


def _differing(
    known: Any, wanted: Any, where: str = "", *, exact: bool = False
) -> tuple[str, Any, Any] | None:
    """Where two tables differ first, and what stands there in each; None: they are the same."""
    if isinstance(known, dict) and isinstance(wanted, dict):
        for key in {**wanted, **known}:
            there, here = (table.get(key, ABSENT) for table in (known, wanted))
            place = f"{where}.{key}".lstrip(".")
            if odd := _differing(there, here, place, exact=exact or key in OPEN):
                return odd
        return None
    if known is wanted or known == wanted:
        return None
    absent = (known is ABSENT or wanted is ABSENT) and not exact
    unused = absent and (wanted if known is ABSENT else known) in (None, False)
    return None if unused else (where, known, wanted)


def whole(tensor: Tensor) -> Tensor:
    """A tensor, put together where processes hold shares of it (all of them take part)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the device of `other`, or this process's share where `other` is shared out."""
    moved = value.to(other.device)
    if isinstance(other, DTensor):
        return distribute_tensor(moved, other.device_mesh, other.placements)
    return moved


class Watch:
    """Stops a run that diverges, and one that no longer gets better.

    With patience the best parameters are kept: in memory, on the CPU, and in a file beside the checkpoint.

    Args:
        settings: Of the training.
        loss: What is minimised.
        before: `state()` of the run when it was interrupted.
        checkpoint: Of the run; None: none is written.
        stored: Steps of the newest checkpoint; 0: there is none.
        write: Whether this process writes.
    """

    def __init__(
        self,
        settings: TrainSettings,
        loss: LossName,
        before: Mapping[str, Any],
        checkpoint: Path | None,
        *,
        stored: int,
        write: bool,
    ) -> None:
        self._settings, self._loss, self._checkpoint, self.stored = settings, loss, checkpoint, stored
        best = best_of(checkpoint) if checkpoint is not None else None
        self._file = best if write else None
        self._recent: deque[float] = deque(before.get("recent", ()), maxlen=AVERAGED)
        self._lowest: float = before.get("lowest", math.inf)
        self.best: float | None = before.get("best")
        self._worse: int = before.get("worse", 0)
        self._kept: dict[str, Tensor] = {}
        if self.best is not None and settings.patience and best is not None:
            try:
                check_file(best)
                self._kept = load_file(best)
            except Exception as error:  # safetensors raises its own type for a torn file
                raise RunError(
                    f"{best.name} cannot be read ({error}); remove it and the checkpoint to start again"
                ) from error

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        lowest = {"lowest": self._lowest} if math.isfinite(self._lowest) else {}
        return {"recent": list(self._recent), "best": self.best, "worse": self._worse, **lowest}

    def require(self, good: bool, otherwise: str, step: int) -> None:
        """Raise RunError, what happened `otherwise` and what to do, unless all is good."""
        if good:
            return
        hint = "lower the learning rate or warm up for longer"
        if self._checkpoint is not None:
            hint += ", in another directory (this one cannot be continued with changed settings)"
        if self._checkpoint is not None and self.stored:
            hint += f"; {self._checkpoint.name} holds the state after {self.stored} steps"
        raise RunError(f"{otherwise} at step {step}; {hint}")

    def see(self, loss: float, step: int) -> None:
        """Raise RunError where the loss is not a number, or has risen far above what it was."""
        self.require(math.isfinite(loss), f"the loss, {self._loss.name}, became {loss}", step)
        self._recent.append(loss)
        mean = sum(self._recent) / len(self._recent)
        if len(self._recent) < AVERAGED or step < self._settings.warmup_steps:
            return
        self._lowest = min(self._lowest, mean)
        risen = mean > self._settings.divergence * self._lowest > 0
        what = (
            f"the loss, {self._loss}, diverges: {mean:.4g} over {AVERAGED} steps, {self._lowest:.4g} at its "
            "lowest,"
        )
        self.require(not risen, what, step)

    def judge(self, evaluation: float, step: int, parameters: Mapping[str, nn.Parameter]) -> None:
        """Compare an evaluation with the best.

        Raises:
            RunError: it is not a number.
        """
        self.require(not math.isnan(evaluation), f"the evaluation became {evaluation}", step)
        if self.best is None or evaluation < self.best:
            self.best, self._worse = evaluation, 0
            if self._settings.patience:
                self._kept = {n: p.detach().to("cpu", copy=True) for n, p in parameters.items()}
                if self._file is not None:
                    write_tensors(self._file, self._kept)
        else:
            self._worse += 1

    @property
    def finished(self) -> bool:
        """Whether enough evaluations in a row were no better."""
        return 0 < self._settings.patience <= self._worse

    @torch.no_grad()
    def return_to_best(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put the parameters of the best evaluation back, where there is one with patience."""
        for name, value in self._kept.items():
            parameters[name].copy_(value)
