"""The text of a recipe: which files, their tokens, and which blocks a stage sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gaincell.errors import InputError, ModelError
from gaincell.files import read_json
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.context import check_ids, check_length
from gaincell.integrations.hf.models import load_model
from gaincell.mapping.pretrain import make_tokenizer
from gaincell.mapping.recipe import ModelRecipe, Recipe, StageRecipe
from gaincell.progress import StageProgress
from gaincell.text import Source, Text, sha256
from gaincell.training.data import RandomBlocks, keep_tokens, pack_blocks, repeat_passages
from gaincell.training.loop import Blocks

MOST_PACKED = 1032
"""Bytes that one byte of a .gz file can stand for (zlib's documentation)."""


class RecipeText:
    """The blocks that a recipe trains on, and what it evaluates on.

    Args:
        recipe: the recipe.
        text: the text as the user names it.
        out: the recipe's directory; tokens are kept there.
        progress: opens the progress of reading.

    `loaded`: the recipe's model, None where it is made first.  `tokenizer`: its tokenizer.
    `blocks`: all blocks that the recipe needs.  `evaluation_tokens`: what every stage is evaluated on.

    Raises:
        GaincellError: the model cannot be loaded, the text lacks what the recipe names, or is too short.
    """

    def __init__(self, recipe: Recipe, text: Text, out: Path, progress: StageProgress) -> None:
        self._recipe, self._out, self._name = recipe, out, text.name
        training = _skipped(_named(text.training, recipe.files), recipe.skip_documents)
        self._evaluation = _named(text.evaluation, recipe.files)
        self.loaded: LoadedModel | None = None
        if isinstance(recipe.model, ModelRecipe):
            made: PreTrainedTokenizerBase = make_tokenizer(
                recipe.model, recipe.block, training, out / "model"
            )
            self.tokenizer = made
        else:
            self.loaded = load_model(recipe.model)
            if attached_layers(self.loaded.model):
                raise ModelError(f"{recipe.model} is a RUN; a recipe starts from the model it was made from")
            check_length(self.loaded.model, recipe.block)
            self.tokenizer = self.loaded.tokenizer
        self.blocks = self._all_blocks(training, progress)
        self.evaluation_tokens = self._evaluation_tokens()
        if self.loaded is not None:
            check_ids(self.loaded.model, self.evaluation_tokens)
        if (held := len(self.evaluation_tokens)) <= recipe.block:
            raise InputError(
                f"the evaluation text of {self._name} has {held} tokens, fewer than one block of "
                f"{recipe.block + 1}; "
                "give more text, or more evaluation_tokens"
            )

    def _all_blocks(self, training: Sequence[Source], progress: StageProgress) -> Blocks:
        recipe = self._recipe
        wanted = max(recipe.blocks, 1) * recipe.block + 1
        reading = progress("read and tokenise the text")
        path = self._place("training")
        everything = recipe.order == "random" or isinstance(
            recipe.model, ModelRecipe
        )  # as its tokenizer does
        tokens = keep_tokens(training, self.tokenizer, path, None if everything else wanted, reading)
        if self.loaded is not None:
            check_ids(self.loaded.model, tokens)
        if len(tokens) <= recipe.block:
            raise InputError(
                f"the training text of {self._name} has {len(tokens)} tokens, fewer than one block of "
                f"{recipe.block + 1}; give more text"
            )
        if recipe.order == "random":
            return RandomBlocks(tokens, recipe.block, recipe.seed, recipe.blocks)
        blocks = self._packed(tokens, path)
        if len(blocks) < recipe.blocks:
            raise InputError(
                f"the recipe trains on {recipe.blocks} blocks of {recipe.block} tokens, the text has "
                f"{len(blocks)}; give more text, or fewer steps"
            )
        if recipe.repeated:
            blocks = repeat_passages(blocks[: recipe.blocks], recipe.repeated, recipe.seed)
        return blocks

    def _packed(self, tokens: Tensor, path: Path) -> Tensor:
        """All blocks in the order of the seed; where a model is taken from another RUN, those that it was
        pretrained on stay in front.
        """
        recipe = self._recipe
        if not isinstance(recipe.model, ModelRecipe) or recipe.model.seed is None:
            return pack_blocks(tokens, recipe.block, recipe.seed)
        noted = f"{path.name}.json"
        other = Path(str(recipe.model.run)).expanduser() / "tokens" / noted
        if not other.is_file() or read_json(other) != read_json(path.with_name(noted)):
            raise InputError(f"model.run = {recipe.model.run!r}: its model was pretrained on another text")
        blocks = pack_blocks(tokens, recipe.block, recipe.model.seed)
        if recipe.seed == recipe.model.seed:
            return blocks
        seen = recipe.model.steps * recipe.model.training.batch
        order = np.random.default_rng(recipe.seed).permutation(max(0, len(blocks) - seen))
        return torch.cat([blocks[:seen], blocks[seen:][torch.from_numpy(order)]])

    def share(self, stage: StageRecipe) -> Blocks:
        """The blocks of a stage."""
        first = self._recipe.first_block(stage)
        if isinstance(self.blocks, RandomBlocks):
            return self.blocks.after(first, stage.blocks)
        return self.blocks[first : first + stage.blocks]

    def some(self, first: int, count: int) -> Int[Tensor, "count T"]:
        """Token ids of a few blocks, without the last one's target."""
        first = max(0, min(first, len(self.blocks) - count))
        return self.blocks[first : first + count][:, :-1].long()

    def _evaluation_tokens(self) -> Int[Tensor, " n"]:
        wanted = self._recipe.evaluation_tokens
        return keep_tokens(self._evaluation, self.tokenizer, self._place("evaluation"), wanted)

    def digests(self) -> dict[str, str]:
        """12 hexadecimal digits of the SHA-256 of the tokens that are trained and evaluated on."""
        return {f"{part} text": sha256(self._place(part))[:12] for part in ("training", "evaluation")}

    def _place(self, part: str) -> Path:
        return self._out / "tokens" / part


def check_recipe_text(recipe: Recipe, text: Text) -> None:
    """Raise InputError, without reading a text, where it lacks files that a recipe names, or has fewer bytes
    than the recipe takes tokens.
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
    by_name = {source.name.split(".")[0]: source for source in sources}
    missing = [name for name in shares if name not in by_name]
    if missing:
        raise InputError(f"the text lacks {missing[0]}, which the recipe names; it has {', '.join(by_name)}")
    if not shares:
        return tuple(sources)
    return tuple(
        replace(by_name[name], size=by_name[name].size if share is None else round(1e6 * share))
        for name, share in shares.items()
    )


def _skipped(sources: Sequence[Source], documents: Mapping[str, int]) -> tuple[Source, ...]:
    """The same sources without so many documents at the beginning of each; their names say so."""

    def rest(source: Source, first: int) -> Source:
        name = f"{source.name} from document {first + 1} on"
        return replace(source, name=name, documents=lambda: islice(source.documents(), first, None))

    skipped = {source: documents.get(source.name.split(".")[0], 0) for source in sources}
    return tuple(rest(source, first) if first else source for source, first in skipped.items())
