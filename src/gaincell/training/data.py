"""Documents to training blocks: a byte-level BPE tokenizer, and packing into shuffled blocks of T + 1
tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gaincell.errors import InputError
from gaincell.text import END_OF_TEXT

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def train_tokenizer(documents: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer (GPT-2's pre-tokenisation) whose id 0 ends a document.

    Args:
        documents: training text; the order does not matter.
        vocabulary: number of ids, at least 257 (the bytes and the end of text).
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


def encode_documents(
    tokenizer: Tokenizer, documents: Sequence[str], end_of_text: int, group: int = 64
) -> Tensor:
    """All documents as one stream of ids, each followed by `end_of_text`; int32 [tokens]."""
    pieces: list[np.ndarray] = []
    for start in range(0, len(documents), group):
        for encoding in tokenizer.encode_batch(documents[start : start + group], add_special_tokens=False):
            pieces.append(np.asarray([*encoding.ids, end_of_text], dtype=np.int32))
    return torch.from_numpy(np.concatenate(pieces))


def pack_blocks(tokens: Tensor, length: int, seed: int | None) -> Tensor:
    """Cut a stream into blocks of `length` + 1 tokens that overlap by one, shuffled by `seed`; int32 [n,
    length + 1].

    Every token but the first is a target exactly once. `seed=None` keeps the order of the text.

    Raises:
        InputError: the stream holds less than one block.
    """
    n = (len(tokens) - 1) // length
    if n < 1:
        raise InputError(
            f"the text has {len(tokens)} tokens, fewer than one block of {length + 1}; give more text"
        )
    blocks = tokens[: n * length + 1].unfold(0, length + 1, length).contiguous()
    if seed is None:
        return blocks
    return blocks[torch.from_numpy(np.random.default_rng(seed).permutation(n))].contiguous()
