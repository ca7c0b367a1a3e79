"""Which keys of a recipe's stage have an effect, and whether what a recipe names is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gaincell.errors import GaincellError, InputError
from gaincell.files import read_json, restored
from gaincell.integrations.hf.checkpoint import describe, is_run
from gaincell.integrations.hf.sources import SMOLLM2, TINY, find_source
from gaincell.training.settings import TrainSettings

TRAINING = tuple(field.name for field in fields(TrainSettings))


def check_use(entry: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a key of a stage that would change nothing beside its others."""
    task, loss = entry.get("task", "train"), entry.get("loss", "cross-entropy")
    of_losses = ("teacher", "weight", "states", "outputs", "attention_weights", "own_inputs")
    for idle, keys, why in (
        (task != "train", ("loss", *of_losses, "gradient", *TRAINING), f"task = {task!r}"),
        (task == "train", ("method", "neutral"), f"task = {task!r}"),
        (task == "nothing", ("method",), f"task = {task!r}"),
        (loss == "cross-entropy", of_losses, f"loss = {loss!r}"),
        (loss == "distillation", ("attention_weights", "own_inputs"), f"loss = {loss!r}"),
        (loss == "transfer", ("weight", "states", "outputs"), f"loss = {loss!r}"),
        (
            entry.get("attention") == "softmax",
            ("cell", "gradient", "initial", "initial_gains", "neutral"),
            "attention = 'softmax'",
        ),
    ):
        useless = next((key for key in keys if idle and key in entry), None)
        if useless is not None:
            raise InputError(f"{where}: {useless} has no effect with {why}; leave it out")


def check_model(model: str, where: str, *, bare: bool = True) -> None:
    """Raise InputError for a model that is not here. Nothing is downloaded: OWNER/NAME is believed to be on
    the hub, and with `bare` NAME alone, too.
    """
    here = Path(model).expanduser().exists() or model.endswith(".gguf") or model.startswith("adapters/")
    owner, _, name = model.rpartition("/")
    named = all(re.fullmatch(r"[\w-][\w.-]*", part) for part in ([owner, name] if owner else [name]))
    if model in (TINY, SMOLLM2) or is_run(model) or (named and not here and (owner or bare)):
        return
    if named and not here:
        raise InputError(f"{where}: there is no {model!r} here; a model of the hub is named OWNER/NAME")
    try:
        find_source(model)
    except GaincellError as error:
        raise InputError(f"{where}: {error}") from error


def check_adapter(run: str, where: str) -> None:
    """Raise InputError for a RUN that is not here."""
    try:
        describe(run)
    except GaincellError as error:
        raise InputError(f"{where}: {error}") from error


def check_adapter_stage(run: str, stage: str) -> None:
    """Raise InputError unless a RUN of `gaincell train` has a finished stage with softmax attention."""
    where = f"adapter = {run!r}, adapter_stage = {stage!r}"
    folder = Path(run).expanduser() / "stages"
    found = sorted(path.stem for path in folder.glob("*.safetensors"))
    if stage not in found:
        raise InputError(f"{where}: it has no such finished stage; it has {', '.join(found) or 'none'}")
    if _settings(folder, where)["stages"][stage]["attention"] != "softmax":
        raise InputError(f"{where}: this stage is in arrays; leave out adapter_stage and name a saved RUN")


def run_settings(run: str, where: str) -> dict[str, Any]:
    """What a RUN of `gaincell train` that has pretrained its model was begun with. Raises InputError."""
    folder = Path(run).expanduser()
    needed = (folder / "stages" / "settings.json", folder / "model" / "model.safetensors")
    missing = [path for path in needed if not path.is_file()]
    if missing:
        raise InputError(
            f"{where}: it lacks {missing[0].relative_to(folder)}; give a RUN of `gaincell train` whose "
            "pretraining is finished"
        )
    return _settings(folder / "stages", where)


def _settings(stages: Path, where: str) -> dict[str, Any]:
    try:
        found = restored(read_json(stages / "settings.json"))
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: settings.json cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("stages"), dict):
        raise InputError(f"{where}: settings.json holds no settings of a recipe")
    return found
