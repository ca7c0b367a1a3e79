"""The text of a recipe: which files, their tokens, and which blocks a stage sees."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gaincell.errors import InputError, RunError
from gaincell.evaluation.perplexity import perplexity
from gaincell.files import read_json, read_object, restored, write_json, write_text
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.context import check_ids
from gaincell.integrations.hf.models import load_model
from gaincell.mapping.recipe import ModelRecipe, Recipe, StageRecipe
from gaincell.mapping.recipe_checks import check_mapping, check_mapping_here, check_pretrained
from gaincell.progress import StageProgress
from gaincell.text import END_OF_TEXT, Source, Text, sha256
from gaincell.training.checkpoint import difference, same
from gaincell.training.data import RandomBlocks, keep_tokens, pack_blocks, repeat_passages, train_tokenizer
from gaincell.training.loop import Blocks

MOST_PACKED = 1032
"""Bytes that one byte of a .gz file can stand for (zlib's documentation)."""


class RecipeText:
    """The blocks that a recipe trains on, and what it evaluates on.

    Attributes:
        loaded: The recipe's model, None where it is made first.
        tokenizer: Its tokenizer.
        blocks: All blocks that the recipe trains on.
        evaluation_tokens: What every stage is evaluated on.

    Args:
        recipe: The recipe.
        text: The text as the user names it.
        out: The recipe's directory; tokens are kept there.
        progress: Opens the progress of reading.

    Raises:
        GaincellError: the model cannot be loaded, the text lacks what the recipe names, or is too short.
    """

    def __init__(self, recipe: Recipe, text: Text, out: Path, progress: StageProgress) -> None:
        self._recipe, self._tokens = recipe, out / "tokens"
        training = _skipped(_named(text.training, recipe.files), recipe.skip_documents)
        evaluation = _named(text.evaluation, recipe.files)
        self.loaded: LoadedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase
        if isinstance(recipe.model, ModelRecipe):
            check_mapping_here(recipe)
            self.tokenizer = _tokenizer(recipe.model, recipe.block, training, out / "model")
        else:
            self.loaded = load_model(recipe.model)
            self.tokenizer = self.loaded.tokenizer
            check_pretrained(recipe.model, in_arrays=bool(attached_layers(self.loaded.model)))
            check_mapping(recipe, self.loaded.model)
        reading = progress("read and tokenise the text")
        everything = recipe.order == "random" or self.loaded is None  # as the tokenizer that is made does
        wanted = None if everything else max(recipe.blocks, 1) * recipe.block + 1
        tokens = keep_tokens(training, self.tokenizer, self._tokens / "training", wanted, reading)
        self._check(tokens, f"training text of {text.name}", "give more text")
        self.blocks = self._cut(tokens)
        self._first = self._first_blocks(training)
        place, most = self._tokens / "evaluation", recipe.evaluation_tokens
        self.evaluation_tokens = keep_tokens(evaluation, self.tokenizer, place, most)
        advice = "give more text, or more evaluation_tokens"
        self._check(self.evaluation_tokens, f"evaluation text of {text.name}", advice)

    def _check(self, tokens: Tensor, what: str, advice: str) -> None:
        """Raise InputError for tokens that the model does not know, or fewer than a block of them."""
        if self.loaded is not None:
            check_ids(self.loaded.model, tokens)
        if (held := len(tokens)) <= (block := self._recipe.block):
            raise InputError(f"the {what} has {held} tokens, fewer than one block of {block + 1}; {advice}")

    def _cut(self, tokens: Tensor) -> Blocks:
        recipe = self._recipe
        if recipe.order == "random":
            return RandomBlocks(tokens, recipe.block, recipe.seed, max(recipe.blocks, 1))
        blocks = self._packed(tokens)
        if len(blocks) < recipe.blocks:
            raise InputError(
                f"the recipe trains on {recipe.blocks} blocks of {recipe.block} tokens, the text has "
                f"{len(blocks)}; give more text, or fewer steps"
            )
        if recipe.repeated:
            blocks = repeat_passages(blocks[: recipe.blocks], recipe.repeated, recipe.seed)
        return blocks

    def _first_blocks(self, training: Sequence[Source]) -> Blocks:
        """What stages are adapted on: the first blocks; where trainings take fewer, of a text of their own,
        so that trainings see what they see without it.
        """
        recipe, count = self._recipe, self._recipe.calibration_blocks
        if len(self.blocks) >= count:
            return self.blocks
        if isinstance(self.blocks, RandomBlocks):
            return self.blocks.after(0, count)
        place = self._tokens / "calibration"
        tokens = keep_tokens(training, self.tokenizer, place, count * recipe.block + 1)
        self._check(tokens, "calibration text", "give more text")
        blocks = pack_blocks(tokens, recipe.block, recipe.seed)
        return repeat_passages(blocks, recipe.repeated, recipe.seed) if recipe.repeated else blocks

    def _packed(self, tokens: Tensor) -> Tensor:
        """All blocks in the order of the seed; those that a model of another RUN has seen stay in front."""
        recipe = self._recipe
        if not isinstance(recipe.model, ModelRecipe) or recipe.model.seed is None:
            return pack_blocks(tokens, recipe.block, recipe.seed)
        own = self._tokens / "training.json"
        other = Path(str(recipe.model.run)).expanduser() / "tokens" / own.name
        if not other.is_file() or read_json(other) != read_json(own):
            raise InputError(f"model.run = {recipe.model.run!r}: its model was pretrained on another text")
        blocks = pack_blocks(tokens, recipe.block, recipe.model.seed)
        if recipe.seed == recipe.model.seed:
            return blocks
        seen = recipe.model.blocks
        order = np.random.default_rng(recipe.seed).permutation(max(0, len(blocks) - seen))
        return torch.cat([blocks[:seen], blocks[seen:][torch.from_numpy(order)]])

    def share(self, stage: StageRecipe) -> Blocks:
        first = self._recipe.first_block(stage)
        if isinstance(self.blocks, RandomBlocks):
            return self.blocks.after(first, stage.blocks)
        return self.blocks[first : first + stage.blocks]

    def some(self, first: int, count: int) -> Int[Tensor, "count T"]:
        """Token ids of a few blocks, without the last one's target."""
        first = max(0, min(first, len(self.blocks) - count))
        return self.blocks[first : first + count][:, :-1].long()

    def calibration(self) -> Int[Tensor, "count T"]:
        """Token ids of the blocks that stages are adapted on, without the last one's target."""
        return self._first[: self._recipe.calibration_blocks][:, :-1].long()

    def watched(self, model: nn.Module) -> float:
        """Perplexity of the part of the evaluation text that trainings are watched on."""
        tokens = self.evaluation_tokens[: self._recipe.watched_tokens]
        return perplexity(model, tokens, f"blocks-{self._recipe.block}").perplexity

    def taken(self) -> dict[str, int]:
        """Tokens of each text, by the beginning of its name."""
        noted = read_json(self._tokens / "training.json")
        begins = noted["begins"]
        ends = [*list(begins.values())[1:], noted["length"]]
        names = [noted["sources"][int(number)][0].split(".")[0] for number in begins]
        found = dict.fromkeys(names, 0)
        for name, begin, end in zip(names, begins.values(), ends, strict=True):
            found[name] += end - begin
        return found

    def digests(self) -> dict[str, str]:
        """12 hexadecimal digits of the SHA-256 of the tokens that are trained and evaluated on."""
        return {f"{part} text": sha256(self._tokens / part)[:12] for part in ("training", "evaluation")}


def _tokenizer(
    recipe: ModelRecipe, context: int, sources: Sequence[Source], out: Path
) -> PreTrainedTokenizerFast:
    """The tokenizer in the directory `out`, trained first if there is none."""
    if recipe.run is None:
        _check_made(recipe, sources, out)
    if not (out / "tokenizer.json").exists():
        beginnings = (d[: recipe.characters_per_document] for s in sources for d in s.documents())
        trained = train_tokenizer(beginnings, recipe.vocabulary)
        write_text(out / "tokenizer.json", trained.to_str())
    if not (out / "tokenizer_config.json").exists():
        # written by hand: what save_pretrained states beside these differs by the version of transformers
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "model_max_length": context,
        }
        write_json(out / "tokenizer_config.json", config, indent=1)
    return PreTrainedTokenizerFast.from_pretrained(out)  # type: ignore[no-any-return]


def _check_made(recipe: ModelRecipe, sources: Sequence[Source], out: Path) -> None:
    """Note in `out` what its model is made by.

    Raises:
        RunError: it holds one that is made otherwise.
    """
    known, text = out / "recipe.json", [[source.name, source.digest()] for source in sources]
    made = json.loads(json.dumps({**recipe.made_by(), "text": text}))
    if known.exists():
        before = restored(read_object(known))
        if not same(before, made):
            odd = difference(before, made) if before.get("text") == text else " (of another text)"
            raise RunError(
                f"{out.parent.name}/{out.name} holds a model that is made otherwise{odd}; choose another "
                "--out, or remove it"
            )
    write_json(known, made, indent=1)


def check_recipe_text(recipe: Recipe, text: Text) -> None:
    """Check a text without reading it.

    Raises:
        InputError: it lacks files that a recipe names, or has fewer bytes than the recipe takes tokens.
    """
    for part in (text.training, text.evaluation):
        _named(part, recipe.files)
    held = sum(s.size * (MOST_PACKED if s.name.endswith(".gz") else 1) for s in text.part("all"))
    if recipe.order != "random" and recipe.blocks * recipe.block > held:
        raise InputError(
            f"the recipe trains on {recipe.blocks} blocks of {recipe.block} tokens, the text {text.name} has "
            f"{held} bytes at most; give more text, or fewer steps"
        )


def _named(sources: Sequence[Source], shares: Mapping[str, float | None]) -> tuple[Source, ...]:
    """The sources of these names, in this order and with these weights; all of them as they are without."""
    by_name: dict[str, Source] = {}
    for source in sources:
        name = source.name.split(".")[0]
        if (other := by_name.setdefault(name, source)) is not source and name in shares:
            raise InputError(f"{name} stands for {other.name} and for {source.name}; rename one")
    missing = [name for name in shares if name not in by_name]
    if missing:
        raise InputError(f"the text lacks {missing[0]}, which the recipe names; it has {', '.join(by_name)}")
    if not shares:
        return tuple(sources)
    return tuple(
        by_name[name] if share is None else replace(by_name[name], size=round(1e6 * share), asked=True)
        for name, share in shares.items()
    )


def _skipped(sources: Sequence[Source], documents: Mapping[str, int]) -> tuple[Source, ...]:
    """The same sources without so many documents at the beginning of each; their names say so."""

    def rest(source: Source) -> Source:
        if not (first := documents.get(source.name.split(".")[0], 0)):
            return source
        name = f"{source.name} from document {first + 1} on"
        return replace(source, name=name, documents=lambda: islice(source.documents(), first, None))

    return tuple(map(rest, sources))
