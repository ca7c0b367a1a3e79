"""The one rule of how many tokens a model reads at once: its context.

    by default  T = min(context, most),    asked for  T <= context, else a refusal

The columns of a chip's ring do not enter: a ring shorter than T forgets, which is what a measurement in
blocks of T sees of it. So chips with different rings are compared in one protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from gaincell.errors import InputError
from gaincell.progress import Progress, silent
from gaincell.text import Part, Text, token_stream

if TYPE_CHECKING:
    from gaincell.integrations.hf.base_model import LoadedModel

LONGEST_BLOCK = 1024
"""Tokens that a block has at most where none are asked for."""
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer shows for a character whose bytes are not all there yet."""
_TOGETHER = 8
"""Tokens that are decoded together: a token's text can depend on those before it."""


def context_of(model: nn.Module) -> int | None:
    """Positions that a model knows, as its configuration states them; None where it states none."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    return getattr(config, "max_position_embeddings", None)


def default_length(model: nn.Module, most: int = LONGEST_BLOCK) -> int:
    """Tokens of a block: the model's context, at most `most`."""
    return min(context_of(model) or most, most)


def read_tokens(
    loaded: LoadedModel,
    text: Text,
    part: Part,
    tokens: int | None = None,
    progress: Progress = silent,
    *,
    block: int = 1,
) -> Tensor:
    """A part of a text as one stream of token ids that a model knows (`gaincell.text.token_stream`).

    At most `tokens` are read, None: all; at least a `block` of them is needed.

    Raises:
        InputError: see there; the text is shorter than a block, or the model's embedding lacks a token.
    """
    ids = token_stream(text.part(part), loaded.tokenizer, tokens, progress)
    check_ids(loaded.model, ids)
    if len(ids) < block:
        what, more = f"text {text.name} ({part} part)", "give more text"
        if tokens == len(ids):
            what, more = f"of {what} {tokens} tokens at most are read", "read more of it"
        else:
            what += f" has {len(ids)} tokens"
        raise InputError(f"{what}, fewer than one block of {block}; {more} or give shorter blocks")
    return ids


def check_ids(model: nn.Module, ids: Tensor) -> None:
    """Refuse tokens that the model's embedding lacks.

    Raises:
        InputError: there is one.
    """
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    for id in (int(ids.max()), int(ids.min())) if ids.numel() else ():
        if not 0 <= id < vocabulary:
            raise InputError(
                f"token id {id} lies outside the model's vocabulary of {vocabulary}; take the tokenizer that "
                "the model was trained with"
            )


def check_length(model: nn.Module, length: int) -> None:
    """Refuse sequences that are longer than the model's context.

    Raises:
        InputError: they are; names the model, the tokens asked for, and its context.
    """
    context = context_of(model)
    if context is not None and length > context:
        config: Any = model.config
        name = str(getattr(config, "_name_or_path", "") or type(model).__name__).rstrip("/").split("/")[-1]
        raise InputError(
            f"{length} tokens at once: {name} has a context of {context} positions; give {context} or fewer"
        )


def tabulated_positions(model: nn.Module) -> int | None:
    """Tokens that a model's table of positions, learned or computed, has places for; None without one."""
    names = ("wpe", "embed_positions", "position_embeddings", "pos_encoding")
    found = []
    for table in (getattr(module, name, None) for module in model.modules() for name in names):
        if isinstance(table, nn.Embedding):
            found.append(table.num_embeddings - int(getattr(table, "offset", 0)))  # rows without one: OPT
        elif isinstance(table, Tensor):  # GPT-J, CTRL
            found.append(len(table))
    return min(found, default=None)


def new_text(tokenizer: Any, tokens: Sequence[int]) -> str:
    """What the last of some tokens adds to their text; nothing while it leaves a character unfinished."""
    recent = list(tokens[-_TOGETHER:])
    before, now = (
        str(tokenizer.decode(part, clean_up_tokenization_spaces=False)) for part in (recent[:-1], recent)
    )
    if now.endswith(_UNFINISHED):
        return ""
    common = before.rstrip(_UNFINISHED)
    return now[len(common) :] if now.startswith(common) else now
