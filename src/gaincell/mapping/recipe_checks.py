"""Which keys of a recipe's stage have an effect, and whether what a recipe names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from gaincell.errors import GaincellError, InputError
from gaincell.integrations.hf.run import Run, is_run
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
    with _refusing(where):
        find_source(model)


def check_adapter(run: str, stage: str | None = None) -> None:
    """Raise InputError for a RUN that is not here, or that lacks a finished stage with softmax attention."""
    with _refusing(f"adapter = {run!r}" + (f", adapter_stage = {stage!r}" if stage else "")):
        if stage is None:
            Run(run).hardware  # noqa: B018 (read, or refused)
        elif Run(run).plan(stage)["attention"] != "softmax":
            raise InputError("this stage is in arrays; leave out adapter_stage and name a saved RUN")


def run_settings(run: str, where: str) -> Mapping[str, Any]:
    """What a RUN of `gaincell train` that has pretrained its model was begun with. Raises InputError."""
    held = Run(run)
    with _refusing(where):
        for part in ("stages/settings.json", "model/model.safetensors"):
            if not (held.folder / part).is_file():
                raise InputError(
                    f"it lacks {part}; give a RUN of `gaincell train` whose pretraining is finished"
                )
        return held.settings


@contextmanager
def _refusing(where: str) -> Iterator[None]:
    """Within the context a refusal names what was given."""
    try:
        yield
    except GaincellError as error:
        raise InputError(f"{where}: {error}") from error
