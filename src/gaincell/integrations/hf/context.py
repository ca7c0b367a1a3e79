"""The one rule of how many tokens a model reads at once: its context.

    by default  T = min(context, most),    asked for  T <= context, else a refusal

The columns of a chip's ring do not enter: a ring shorter than T forgets, which is what a measurement in
blocks of T sees of it. So chips with different rings are compared in one protocol.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gaincell.errors import InputError

LONGEST_BLOCK = 1024
"""Tokens that a block has at most where none are asked for."""


def context_of(model: nn.Module) -> int | None:
    """Positions that a model knows, as its configuration states them; None where it states none."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def default_length(model: nn.Module, most: int = LONGEST_BLOCK) -> int:
    """Tokens of a block: the model's context, at most `most`."""
    return min(context_of(model) or most, most)


def check_ids(model: nn.Module, ids: Tensor) -> None:
    """Refuse tokens that the model's embedding lacks. Raises InputError."""
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if ids.numel() and int(ids.max()) >= vocabulary:
        raise InputError(f"token id {int(ids.max())} lies outside the model's vocabulary of {vocabulary}")


def check_length(model: nn.Module, length: int) -> None:
    """Refuse sequences that are longer than the model's context.

    Raises:
        InputError: names the model, the tokens asked for, and its context.
    """
    context = context_of(model)
    if context is not None and length > context:
        config: Any = model.config
        name = str(getattr(config, "_name_or_path", "") or type(model).__name__).rstrip("/").split("/")[-1]
        raise InputError(
            f"{length} tokens at once: {name} has a context of {context} positions; give {context} or fewer"
        )
