"""The model of one stage of a RUN that `gaincell train` made, such as its software model trained on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from gaincell.config import load_design
from gaincell.errors import ModelError, RunError
from gaincell.files import read_json
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.checkpoint import DESIGN, describe, is_run
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.sources import LoadedModel
from gaincell.mapping.folder import read_state


def load_stage(run: str | os.PathLike[str], stage: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Load a stage's model: where it is in arrays attached, on the recipe's chip with the stage's cell.

    Args:
        run: the directory.
        stage: its name, as in the recipe.
        dtype: of the weights.

    Raises:
        RunError: the directory holds no such stage, or the pretrained model is not found or has changed.
    """
    directory = Path(run)
    settings = _settings(directory)
    found = sorted(path.stem for path in (directory / "stages").glob("*.safetensors"))
    plan = settings["stages"].get(stage)
    if plan is None or stage not in found:
        raise RunError(f"{run} has no finished stage {stage!r}; it has: {', '.join(found) or 'none'}")
    made_here = not isinstance(settings["model"], str)
    base = directory / "model" if made_here else settings["model"]
    if is_run(directory):
        base = describe(directory).base  # in full; settings have only the last part of a path
    try:
        loaded = load_model(base, dtype)
    except ModelError as error:
        raise RunError(
            f"{run}: its pretrained model is needed ({error}); an unfinished run does not know where it is"
        ) from error
    if not made_here and loaded.sha256 != settings["base_sha256"]:
        raise RunError(f"{run}: its pretrained model {base} has changed since it was trained")
    if plan["attention"] == "arrays":
        chip = directory / "stages" / DESIGN
        if not chip.is_file():
            raise RunError(
                f"{run} has no stages/{DESIGN}: run the command that made it again, which writes it"
            )
        design = load_design(chip)
        attach(loaded.model, design.replace(cell=plan["cell"]) if plan["cell"] else design)
    read_state(loaded.model, directory / "stages" / f"{stage}.safetensors")
    return loaded


def _settings(run: Path) -> dict[str, Any]:
    """What the run was begun with."""
    path = run / "stages" / "settings.json"
    try:
        settings: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{run} is no directory of `gaincell train`: {path.name} cannot be read") from error
    if (
        not isinstance(settings, dict)
        or not isinstance(settings.get("stages"), dict)
        or "model" not in settings
    ):
        raise RunError(f"{run} has no stages to choose from: `gaincell train` did not make it")
    return settings
