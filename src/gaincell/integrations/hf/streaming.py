"""Text as it comes, token by token, and how long it may become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

UNFINISHED = "�"
"""What a tokenizer shows for a character whose bytes are not all there yet."""
BEFORE = 8
"""Tokens that are decoded together: a token's text can depend on those before it."""


def new_text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """What the last of some tokens adds to their text; nothing while it leaves a character unfinished."""
    recent = list(tokens[-BEFORE:])
    before, now = (
        str(tokenizer.decode(part, clean_up_tokenization_spaces=False)) for part in (recent[:-1], recent)
    )
    if now.endswith(UNFINISHED):
        return ""
    common = before.rstrip(UNFINISHED)
    return now[len(common) :] if now.startswith(common) else now


def learned_positions(model: PreTrainedModel) -> int | None:
    """Tokens that a table of learned positions has places for; None for a model without one."""
    names = ("wpe", "embed_positions", "position_embeddings")
    found = [
        module.num_embeddings
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in names and isinstance(module, nn.Embedding)
    ]
    return min(found, default=None)
