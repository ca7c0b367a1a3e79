"""A small model from nothing: its tokenizer, and its pretraining with softmax attention."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gaincell.errors import RunError
from gaincell.files import write_atomic, write_json, write_text
from gaincell.mapping.recipe import ModelRecipe
from gaincell.progress import Progress
from gaincell.text import END_OF_TEXT, Source, sha256
from gaincell.training import checkpoint as disk
from gaincell.training.data import train_tokenizer
from gaincell.training.log import TrainingLog
from gaincell.training.loop import Blocks, train

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def make_tokenizer(
    recipe: ModelRecipe, context: int, sources: Sequence[Source], out: Path
) -> PreTrainedTokenizerFast:
    """The tokenizer in the directory `out`, trained first if there is none."""
    from transformers import PreTrainedTokenizerFast

    if not (out / "tokenizer.json").exists():
        beginnings = (d[: recipe.characters_per_document] for s in sources for d in s.documents())
        trained = train_tokenizer(beginnings, recipe.vocabulary)
        write_text(out / "tokenizer.json", trained.to_str())
    if not (out / "tokenizer_config.json").exists():
        # written by hand: save_pretrained of transformers 5 names a class that version 4 does not know
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "model_max_length": context,
        }
        write_json(out / "tokenizer_config.json", config, indent=1)
    return PreTrainedTokenizerFast.from_pretrained(out)  # type: ignore[no-any-return]


def take_model(run: Path, out: Path) -> None:
    """Copy the model of a RUN into the directory `out`, byte by byte, unless that holds it already.

    Raises:
        RunError: `out` holds another model.
    """
    weights = "model.safetensors"
    for path in sorted((run / "model").iterdir(), key=lambda path: path.name == weights):  # weights last
        place = out / "model" / path.name
        if path.is_file() and not place.exists():
            write_atomic(place, partial(shutil.copyfile, path))
    if sha256(out / "model" / weights) != sha256(run / "model" / weights):
        raise RunError(f"{out.name}/model is another model than that of {run.name}; choose another --out")


def pretrain(
    recipe: ModelRecipe, blocks: Blocks, seed: int, out: Path, log: TrainingLog, progress: Progress
) -> None:
    """Train the softmax model from nothing, unless `out` holds it; its weights are kept in bf16."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if (out / "model.safetensors").exists():
        return
    torch.manual_seed(seed)
    ids = {"vocab_size": recipe.vocabulary, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = AutoConfig.for_model(recipe.architecture, **recipe.config, **ids)
    model: Any = AutoModelForCausalLM.from_config(config)  # transformers' types lose `to`
    checkpoint = out / "pretrain.checkpoint"
    train(model, blocks, recipe.training, progress=progress, checkpoint=checkpoint, log=log)
    model.to(torch.bfloat16).save_pretrained(out)
    disk.remove(checkpoint)
