"""A training run on disk: parameters, optimiser states, the step, and what run it is.

The newest checkpoint has the name it was given, older ones have .1, .2 ... behind it. Each is written beside
its place and renamed, so that at every moment a complete one is there.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from gaincell.errors import RunError
from gaincell.files import check_file, is_count, remove_leftovers, restored, to_json, write_tensors

PARAMETER = "parameter."
MOMENTS = ("exp_avg", "exp_avg_sq")

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
        path: of the newest checkpoint.
        parameters, optimizer: what is trained. Sharded ones are put together, in which all processes take
            part.
        identity: plain data that says what the run is.
        progress: plain data that says where it stands.
        keep: checkpoints on disk at the most.
        write: whether this process writes.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[PARAMETER + name] = whole(parameter.detach())
        for key in MOMENTS:
            if key in (state := optimizer.state[parameter]):
                tensors[f"{key}.{name}"] = whole(state[key])
    if not write:
        return
    metadata = {"progress": to_json(progress), "identity": to_json(identity)}
    contents = {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}
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


def restore(
    path: Path, parameters: Parameters, optimizer: torch.optim.Optimizer, identity: Identity
) -> dict[str, Any]:
    """Load the newest checkpoint if there is one.

    Returns:
        Its progress; nothing without a checkpoint.

    Raises:
        RunError: it cannot be read, is of another run or another model, or holds numbers that are not finite.
    """
    places = checkpoints(path)
    if not places:
        return {}
    name = places[0].name
    others = f", or only it: {places[1].name} is the one before" if len(places) > 1 else ""
    try:
        check_file(places[0])
        file: Any = safe_open(places[0], framework="pt")
    except Exception as error:  # safetensors raises its own type for a torn file
        raise RunError(
            f"the checkpoint {name} cannot be read ({error}); remove it to start again{others}"
        ) from error
    with file:
        metadata = file.metadata() or {}
        known = json.loads(metadata.get("identity", "null"))
        wanted = json.loads(to_json(identity))
        held = set(file.keys())
        shapes = {key: file.get_slice(key).get_shape() for key in sorted(held) if key.startswith(PARAMETER)}
        own = {PARAMETER + name: list(parameter.shape) for name, parameter in parameters.items()}
        for whose, there, here in (("run", known, wanted), ("model", shapes, own)):
            if there != here:
                raise RunError(
                    f"the checkpoint {name} belongs to another {whose}{difference(there, here)}; remove it "
                    "or choose another directory"
                )
        progress = restored(json.loads(metadata.get("progress", "null")))
        if not (isinstance(progress, dict) and is_count(progress.get("step"))):
            raise RunError(f"the checkpoint {name} does not say its step; remove it to start again{others}")
        moments = [f"{key}.{name}" for name in parameters for key in MOMENTS]
        for key in (key for key in moments if key in held):
            there, here = file.get_slice(key).get_shape(), own[PARAMETER + key.split(".", 1)[1]]
            if there != here:
                raise RunError(
                    f"{key} has shape {there} in the checkpoint {name}, its parameter {here}; remove it to "
                    f"start again{others}"
                )
        bad = next((key for key in sorted(held) if not file.get_tensor(key).isfinite().all()), None)
        if bad is not None:
            raise RunError(f"{bad} is not finite in the checkpoint {name}; remove it to start again{others}")
        _load(partial(_get, file, held), parameters, optimizer, float(progress["step"]))
    return progress


def _get(file: Any, held: set[str], name: str) -> Tensor | None:
    return file.get_tensor(name) if name in held else None


@torch.no_grad()
def _load(get: Any, parameters: Parameters, optimizer: torch.optim.Optimizer, step: float) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(like(get(PARAMETER + name), parameter))
        moments = {key: get(f"{key}.{name}") for key in MOMENTS}
        if all(moment is not None for moment in moments.values()):
            state = optimizer.state[parameter]
            state |= {key: like(moment, parameter) for key, moment in moments.items()}
            state["step"] = torch.tensor(step)


def difference(known: Any, wanted: Any, where: str = "") -> str:
    """The first entry in which two identities differ, in words."""
    if isinstance(known, dict) and isinstance(wanted, dict):
        key = next(k for k in [*wanted, *known] if known.get(k) != wanted.get(k))
        return difference(known.get(key), wanted.get(key), f"{where}.{key}".lstrip("."))
    return f" ({where} = {known!r} there, {wanted!r} here)" if where else ""


def whole(tensor: Tensor) -> Tensor:
    """A tensor, put together where processes hold shares of it (all of them take part)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the device of `other`, or this process's share where `other` is shared out."""
    moved = value.to(other.device)
    if isinstance(other, DTensor):
        return distribute_tensor(moved, other.device_mesh, other.placements)
    return moved
