"""Documents to training blocks: a byte-level BPE tokenizer, tokens in a file, and blocks of T + 1 tokens.

A text is one stream of tokens; every document is followed by the end-of-text token, which is the boundary
that a model sees. Blocks cut it without regard to documents, as the paper does.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gaincell.errors import InputError, RunError
from gaincell.files import check_file, flush, is_count, read_object, write_json
from gaincell.progress import Progress, silent
from gaincell.text import BEGINNING, END_OF_TEXT, Source, token_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

NOTED_EVERY = 256
"""Documents after which it is noted how far the tokens in a file reach."""
OTHER = {
    "sources": "another text, or of one whose files have changed",
    "tokens": "a text of another length",
    "tokenizer": "another tokenizer",
}
"""What a file of tokens is refused for, by what is noted of it."""
PIECE = 2**22
"""Tokens that are looked at together."""
AHEAD = 2**18
"""Characters that are read before they are tokenised together, on all cores."""


def train_tokenizer(documents: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer (GPT-2's pre-tokenisation) whose id 0 ends a document.

    Args:
        documents: Training text; the order does not matter.
        vocabulary: Number of ids, at least 257 (the bytes and the end of text).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < 257:
        raise InputError(f"a byte-level vocabulary needs at least 257 ids; {vocabulary} were asked for")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer=trainer)
    return tokenizer


def keep_tokens(
    sources: Sequence[Source],
    tokenizer: Any,
    path: Path,
    tokens: int | None = None,
    progress: Progress = silent,
) -> Tensor:
    """The documents of `sources` as one stream of ids, in a file from which they are read as they are needed.

    Interrupted, the same call goes on at the document where it stopped. Files that have changed since, and
    another tokenizer, are refused.

    Args:
        sources: A part of a text. Each gives its share of `tokens` in proportion to its size, from its
            beginning; what one lacks the next ones give.
        tokenizer: A tokenizer of transformers.
        path: Of the file; `path`.json beside it notes how far it reaches, and where every source begins.
        tokens: How many; None = all.
        progress: Called after every document with (tokens so far, tokens wanted or 0).

    Returns:
        int32 [tokens or fewer], mapped into memory.

    Raises:
        InputError: there is no text at all, or the file holds other tokens.
        RunError: the file, or the note beside it, is damaged.
    """
    noted = path.with_name(path.name + ".json")
    wanted = {
        "sources": [[source.name, source.digest()] for source in sources],
        "tokens": tokens,
        "tokenizer": _digest(tokenizer),
    }
    done, state = False, dict(BEGINNING)
    begins: dict[str, int] = {}
    for place in (noted, path):
        if os.path.lexists(place):
            with _refusing_damage(place):
                check_file(place)
    if noted.exists() and path.exists():
        with _refusing_damage(noted):
            known = read_object(noted)
        differing = next((key for key in wanted if known.get(key) != wanted[key]), None)
        if differing is not None:
            what, remedy = OTHER[differing], "" if differing == "sources" else "remove it, or "
            raise InputError(f"tokens/{path.name} holds tokens of {what}; {remedy}choose another --out")
        with _refusing_damage(noted):
            done, state = _state(known)
        begins = known.get("begins", {})
        with _refusing_damage(path):
            size, least = path.stat().st_size, 4 * state["length"]
            if size < least or (done and size != least):
                raise ValueError(f"it has {size} bytes, {least} are noted")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not done:
        with path.open("r+b" if path.exists() and state["length"] else "wb") as file:
            file.truncate(4 * state["length"])
            file.seek(4 * state["length"])
            for ids in token_ids(sources, tokenizer, tokens, state, AHEAD):
                file.write(np.asarray(ids, dtype=np.int32).tobytes())
                begins[str(state["source"])] = state["begun_at"]
                progress(state["length"], tokens or 0, {})
                if state["documents"] % NOTED_EVERY == 0:
                    flush(file)
                    write_json(noted, {**wanted, "done": False, **state, "begins": begins})
            flush(file)
        write_json(noted, {**wanted, "done": True, **state, "begins": begins})
    if not state["length"]:
        raise InputError(
            f"the text {', '.join(s.name for s in sources)} is empty; give a text with documents"
        )
    found, largest = np.memmap(path, dtype=np.int32, mode="c"), max(tokenizer.get_vocab().values())
    with _refusing_damage(path):
        for first in range(0, len(found), PIECE):
            piece = found[first : first + PIECE]
            for odd in (int(piece.min()), int(piece.max())):
                if not 0 <= odd <= largest:
                    raise ValueError(f"token id {odd}, the tokenizer has 0 to {largest}")
    return torch.from_numpy(found)


@contextmanager
def _refusing_damage(place: Path) -> Iterator[None]:
    """Within the context OSError and ValueError, which say what is wrong with a file, become RunError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RunError(
            f"tokens/{place.name} is damaged ({error}); remove it: the tokens are made again"
        ) from error


def _state(known: Mapping[str, Any]) -> tuple[bool, dict[str, int]]:
    """Whether all tokens are there, and how far they reach.

    Raises:
        ValueError: it does not say that.
    """
    state = {key: known.get(key) for key in BEGINNING}
    odd = next((key for key, count in state.items() if not is_count(count)), None)
    if odd is not None or not isinstance(known.get("done"), bool):
        raise ValueError(f"{odd or 'done'} is {known.get(odd or 'done')!r}")
    return known["done"], {key: int(count) for key, count in state.items() if count is not None}


def _digest(tokenizer: Any) -> str:
    """12 hexadecimal digits of the SHA-256 of what a tokenizer does, as far as it can be written out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    does = tokenizer.get_vocab() if backend is None else json.loads(backend.to_str())
    for key in ("truncation", "padding"):  # calls change them
        does.pop(key, None)
    return hashlib.sha256(json.dumps(does, sort_keys=True).encode()).hexdigest()[:12]


def pack_blocks(tokens: Tensor, length: int, seed: int) -> Tensor:
    """Cut a stream into blocks of `length` + 1 tokens that overlap by one, shuffled by `seed`; int32
    [n, length + 1]. Every token but the first is a target exactly once; a rest shorter than a block goes.

    Raises:
        InputError: the stream holds less than one block.
    """
    _check_block(tokens, length)
    n = (len(tokens) - 1) // length
    blocks = tokens[: n * length + 1].unfold(0, length + 1, length)
    return blocks[torch.from_numpy(np.random.default_rng(seed).permutation(n))].contiguous()


def repeat_passages(blocks: Tensor, share: float, seed: int) -> Tensor:
    """Blocks of which a `share` has a passage twice, so that much can be predicted by finding it again.

    In such a block a passage of an eighth to half of its tokens, from anywhere in it, also stands somewhere
    behind itself, over what was there. Which and where is a function of (seed, number of the block) alone.

    Args:
        blocks: Int [n, T + 1].
        share: Of the blocks, 0 to 1.
        seed: Of the choice.
    """
    blocks = blocks.clone()
    for number, block in enumerate(blocks):
        generator = np.random.default_rng((seed, number))
        if generator.random() >= share:
            continue
        tokens = len(block)
        length = int(generator.integers(max(1, tokens // 8), tokens // 2 + 1))
        first = int(generator.integers(0, tokens - 2 * length + 1))
        second = int(generator.integers(first + length, tokens - length + 1))
        block[second : second + length] = block[first : first + length].clone()
    return blocks


@dataclass(frozen=True, eq=False)
class RandomBlocks:
    """Blocks of `length` + 1 tokens from anywhere in a stream, with repetition: the paper's protocol.

    Block i is a function of (seed, i) alone, so that any position can be resumed exactly. There are `count`
    of them, from number `first` on.
    """

    tokens: Tensor
    length: int
    seed: int
    count: int
    first: int = 0

    def __post_init__(self) -> None:
        _check_block(self.tokens, self.length)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, which: slice, /) -> Tensor:
        begin, end, step = which.indices(self.count)
        if step != 1:
            raise IndexError("blocks are taken in their order")
        draws = (np.random.default_rng((self.seed, self.first + n)) for n in range(begin, end))
        starts = [int(draw.integers(len(self.tokens) - self.length)) for draw in draws]
        return torch.stack([self.tokens[s : s + self.length + 1] for s in starts])

    def after(self, blocks: int, count: int) -> RandomBlocks:
        """`count` blocks of the same sequence, beginning `blocks` further."""
        return replace(self, count=count, first=self.first + blocks)


def _check_block(tokens: Tensor, length: int) -> None:
    if len(tokens) <= length:
        raise InputError(
            f"the text has {len(tokens)} tokens, fewer than one block of {length + 1}; give more text"
        )
