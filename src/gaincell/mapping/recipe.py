"""The recipe of the embedded model: tokenizer, pretraining, software continued, linear hardware model,
evaluation.

Every stage leaves its result in the output directory and is skipped when that exists; a stage that was
interrupted goes on from its last checkpoint. Running the same command again therefore resumes.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gaincell.config import load_design
from gaincell.errors import InputError
from gaincell.evaluation.perplexity import describe, perplexity
from gaincell.files import write_atomic, write_text
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.integrations.hf.models import load_model
from gaincell.mapping.folder import read_state, trained_parameters, write_state
from gaincell.mapping.initial import initial_scaling
from gaincell.mapping.job import freeze_embeddings
from gaincell.progress import Progress, StageProgress, silent_stages
from gaincell.quantity import check_keys
from gaincell.reports.results import Kind, provenance, value
from gaincell.text import END_OF_TEXT, Source, open_text
from gaincell.training.data import encode_documents, pack_blocks, train_tokenizer
from gaincell.training.distillation import Distillation
from gaincell.training.loop import TrainSettings, train

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Recipe:
    """A recipe file, checked.

    seed: of initialisation and of the order of the blocks.  files: names NAME of NAME.train / NAME.valid
        texts.
    vocabulary, characters_per_document: of the tokenizer.  model: arguments of LlamaConfig.
    pretrain, convert: training settings.  pretrain_steps, convert_steps: optimiser steps.
    design: of the linear hardware model. Conversion trains everything but the embeddings.
    distillation: weight w of the continued softmax model's distribution in the linear model's loss; 0: none.
    """

    seed: int
    files: tuple[str, ...]
    vocabulary: int
    characters_per_document: int
    model: dict[str, Any]
    pretrain: TrainSettings
    pretrain_steps: int
    convert: TrainSettings
    convert_steps: int
    design: str
    distillation: float


SECTIONS = {
    "": ("seed", "files", "tokenizer", "model", "pretrain", "convert"),
    "tokenizer": ("vocabulary", "characters_per_document"),
}
TRAINING_KEYS = tuple(f.name for f in fields(TrainSettings))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises InputError for a missing file, bad TOML, and unknown or missing keys."""
    try:
        raw = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the recipe {path.name} cannot be read: {error}") from error
    try:
        check_keys(raw, SECTIONS[""], path.name)
        check_keys(raw["tokenizer"], SECTIONS["tokenizer"], f"{path.name} [tokenizer]")
        pretrain, convert = dict(raw["pretrain"]), dict(raw["convert"])
        pretrain_steps, convert_steps = pretrain.pop("steps"), convert.pop("steps")
        design, distillation = convert.pop("design"), convert.pop("distillation")
        for section, values in (("pretrain", pretrain), ("convert", convert)):
            check_keys(values, TRAINING_KEYS, f"{path.name} [{section}]")
        return Recipe(
            seed=raw["seed"],
            files=tuple(raw["files"]),
            vocabulary=raw["tokenizer"]["vocabulary"],
            characters_per_document=raw["tokenizer"]["characters_per_document"],
            model=raw["model"],
            pretrain=TrainSettings(**pretrain),
            pretrain_steps=pretrain_steps,
            convert=TrainSettings(**convert),
            convert_steps=convert_steps,
            design=design,
            distillation=distillation,
        )
    except KeyError as error:
        raise InputError(f"the recipe {path.name} lacks {error}") from error


def run_recipe(
    recipe: Recipe, text: Path, out: Path, stages: StageProgress = silent_stages
) -> dict[str, Any]:
    """Carry out a recipe (see the head of this file) and return what `out/result.json` then holds.

    Files in `out`: tokenizer.json, config.json, model.safetensors (bf16), software-continued.safetensors and
    linear.safetensors (weights that differ from the base, gains and offsets), result.json (bits per byte and
    perplexity).
    """
    out.mkdir(parents=True, exist_ok=True)
    sources = _sources(recipe, text)
    tokenizer = _tokenizer(recipe, sources["train"], out)
    blocks = pack_blocks(
        _tokens(tokenizer, sources["train"], out / "train.npy"), _context(recipe), recipe.seed
    )
    first = recipe.pretrain_steps * recipe.pretrain.batch
    last = first + recipe.convert_steps * recipe.convert.batch
    if last > len(blocks):
        raise InputError(
            f"the recipe needs {last} blocks of {_context(recipe)} tokens, the text has {len(blocks)}"
        )
    _pretrain(recipe, blocks[:first], out, stages("pretrain"))
    for kind in ("software-continued", "linear"):
        _convert(recipe, kind, blocks[first:last], out, stages(kind))
    return _evaluate(recipe, _tokens(tokenizer, sources["valid"], out / "valid.npy"), out, stages)


def _context(recipe: Recipe) -> int:
    return int(recipe.model["max_position_embeddings"])


def _sources(recipe: Recipe, text: Path) -> dict[str, list[Source]]:
    found = open_text(text)
    parts: dict[str, list[Source]] = {}
    for part, sources in (("train", found.training), ("valid", found.evaluation)):
        by_name = {source.name.split(".")[0]: source for source in sources}
        missing = [name for name in recipe.files if name not in by_name]
        if missing:
            raise InputError(f"{found.name} lacks {missing[0]}.{part}.txt.gz, which the recipe names")
        parts[part] = [by_name[name] for name in recipe.files]
    return parts


def _tokenizer(recipe: Recipe, sources: list[Source], out: Path) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    if not (out / "tokenizer.json").exists():
        beginnings = (d[: recipe.characters_per_document] for s in sources for d in s.documents())
        trained = train_tokenizer(beginnings, recipe.vocabulary)
        write_text(out / "tokenizer.json", trained.to_str())
        # written by hand: save_pretrained of transformers 5 names a class that version 4 does not know
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "model_max_length": _context(recipe),
        }
        write_text(out / "tokenizer_config.json", json.dumps(config, indent=1) + "\n")
    return PreTrainedTokenizerFast.from_pretrained(out)  # type: ignore[no-any-return]


def _tokens(tokenizer: PreTrainedTokenizerFast, sources: list[Source], path: Path) -> Tensor:
    """All documents of `sources` as one stream of ids, kept in `path` for the next time."""
    if not path.exists():
        documents = [document for source in sources for document in source.documents()]
        ids = encode_documents(tokenizer.backend_tokenizer, documents, int(tokenizer.eos_token_id))

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.save(file, ids.numpy())

        write_atomic(path, write)
    return torch.from_numpy(np.load(path))


def _pretrain(recipe: Recipe, blocks: Tensor, out: Path, progress: Progress) -> None:
    """Train the softmax model from nothing; its weights are kept in bf16, and all later stages start from
    those.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if (out / "model.safetensors").exists():
        return
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        **recipe.model, vocab_size=recipe.vocabulary, bos_token_id=0, eos_token_id=0, pad_token_id=None
    )
    model: Any = LlamaForCausalLM(config)  # transformers' types lose `to`
    checkpoint = out / "pretrain.checkpoint"
    train(
        model, blocks, recipe.pretrain, progress=progress, checkpoint=checkpoint, log=out / "pretrain.jsonl"
    )
    model.to(torch.bfloat16).save_pretrained(out)
    checkpoint.unlink()


def _convert(recipe: Recipe, kind: str, blocks: Tensor, out: Path, progress: Progress) -> None:
    """Continue the base model on `blocks`, in software or as linear hardware model; keep what was trained,
    in bf16.
    """
    target = out / f"{kind}.safetensors"
    if target.exists():
        return
    model = load_model(str(out)).model
    loss = None
    if kind == "linear":
        if recipe.distillation:
            teacher = load_model(str(out)).model
            read_state(teacher, out / "software-continued.safetensors")
            loss = Distillation(teacher, recipe.distillation)
        attach(model, load_design(recipe.design).replace(cell="linear"))
        initial_scaling(model, blocks[: recipe.convert.batch, :-1].long())
    freeze_embeddings(model)
    checkpoint = out / f"{kind}.checkpoint"
    log = out / f"{kind}.jsonl"
    done = train(
        model, blocks, recipe.convert, progress=progress, checkpoint=checkpoint, log=log, loss_of=loss
    )
    metadata = {"tokens": str(done.tokens)}
    if kind == "linear":
        metadata["design_hash"] = attached_layers(model)[0].design.hash
    tensors = {
        n: t if ".gain_cell." in n else t.to(torch.bfloat16) for n, t in trained_parameters(model).items()
    }
    write_state(tensors, target, metadata)
    checkpoint.unlink()


def _evaluate(recipe: Recipe, tokens: Tensor, out: Path, stages: StageProgress) -> dict[str, Any]:
    """Perplexity and bits per byte of the three models on all validation text."""
    loaded = load_model(str(out))
    protocol = f"blocks-{_context(recipe)}"
    stored: dict[str, Any] = {}
    for kind in ("software", "software-continued", "linear"):
        if kind == "linear":
            attach(loaded.model, load_design(recipe.design).replace(cell="linear"))
        if kind != "software":
            read_state(loaded.model, out / f"{kind}.safetensors")
        found = perplexity(
            loaded.model, tokens, protocol, tokenizer=loaded.tokenizer, progress=stages(f"evaluate {kind}")
        )
        obtained: Kind = "simulated" if kind == "linear" else "measured"
        stored[kind] = {
            "perplexity": value(found.perplexity, "1", obtained),
            "bits_per_byte": value(found.bits_per_byte, "bit/byte", obtained),
            "predictions": found.tokens,
        }
    result = {
        "protocol": describe(protocol, len(tokens) // _context(recipe)),
        "models": stored,
        "training_tokens": {
            "pretrain": recipe.pretrain_steps * recipe.pretrain.batch * _context(recipe),
            "convert": recipe.convert_steps * recipe.convert.batch * _context(recipe),
        },
        "provenance": provenance(
            command=["gaincell", "train", "tiny.toml"],
            seed=recipe.seed,
            protocol=protocol,
            design_hash=attached_layers(loaded.model)[0].design.hash,
            inputs={"base model": loaded.sha256},
        ),
    }
    write_text(out / "result.json", json.dumps(result, indent=1) + "\n")
    return result
