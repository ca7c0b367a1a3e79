"""Perplexity of a stream of tokens by a named protocol.

Protocol `blocks-T`: the stream is cut into blocks of T tokens that do not overlap (a rest shorter than T is
dropped). Every token but the first of a block is predicted from those before it in its block: T - 1
predictions a block.

Protocol `strided-T-S`: windows of T tokens, each S tokens (fewer than T) further on. Every token is predicted
once: in the first window all but the first, in every other the last S, which have T - S tokens or more before
them. It costs T / S times as much and gives lower numbers; S = T / 2 is usual.

With the natural logarithm,

    nll = - sum log p(token | block so far),    perplexity = exp(nll / predictions),
    bits per byte = nll / (ln 2 * bytes of the predicted tokens).

Of whole documents, by words: rolling.py.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gaincell.errors import InputError, ModelError
from gaincell.evaluation.noise import noise_remark, redrawn
from gaincell.integrations.hf.context import check_ids, check_length, default_length
from gaincell.progress import Progress, silent
from gaincell.quantity import whole_number
from gaincell.standard_error import exp_or_infinity, ratio_error

LOGIT_BYTES = 256 * 2**20
"""Largest size of the logits of one forward pass; it sets the number of blocks a pass."""
LARGEST_BATCH = 8
ROWS_AT_ONCE = 512


@dataclass(frozen=True)
class Perplexity:
    """The result of one evaluation.

    Attributes:
        nll: Sum of negative log-likelihoods, nats.
        tokens: Predictions made.
        blocks: Evaluated.
        bytes: UTF-8 bytes of the predicted tokens, None without a tokenizer.
        standard_error: Of the mean nll a token, over blocks, nats; None for a single block.
        protocol: In words; also that no arrays computed, where an attached model is set to softmax attention.
        per_block: Nll and predictions of every block.
    """

    nll: float
    tokens: int
    blocks: int
    bytes: int | None
    standard_error: float | None
    protocol: str
    per_block: tuple[tuple[float, int], ...] = ()

    @property
    def perplexity(self) -> float:
        """exp(nll / tokens); infinity beyond the range of a float."""
        return exp_or_infinity(self.nll / self.tokens)

    @property
    def perplexity_error(self) -> float | None:
        """Standard error of the perplexity (first order)."""
        return None if self.standard_error is None else self.perplexity * self.standard_error

    @property
    def bits_per_byte(self) -> float | None:
        """nll / (ln 2 * bytes)."""
        return self.nll / (math.log(2) * self.bytes) if self.bytes else None


def window_and_stride(protocol: str) -> tuple[int, int]:
    """T and S of `strided-T-S`; T and T of `blocks-T`.

    Raises:
        InputError: another protocol, T < 2, or S not from 1 to T - 1.
    """
    kind, *numbers = protocol.split("-")
    match kind, [whole_number(number) for number in numbers]:
        case "blocks", [int(length)] if length >= 2:
            return length, length
        case "strided", [int(length), int(stride)]:
            if 1 <= stride < length:
                return length, stride
            raise InputError(f"protocol {protocol!r}: give strided-T-S with S from 1 to T - 1")
    raise InputError(
        f"unknown protocol {protocol!r}; give blocks-T or strided-T-S with T >= 2, such as blocks-1024 "
        "(gaincell evaluate also takes rolling-T)"
    )


def default_protocol(model: nn.Module) -> str:
    """blocks-T with the model's context, at most 1024: see integrations/hf/context.py."""
    return f"blocks-{default_length(model)}"


def describe(protocol: str, blocks: int) -> str:
    """The protocol in words, for tables and reports."""
    length, stride = window_and_stride(protocol)
    words = (
        f"windows of {length} tokens, each {stride} further on, every token predicted once"
        if stride < length
        else f"non-overlapping blocks of {length} tokens, every token after the first of a block predicted"
    )
    return f"{protocol}: {blocks} {words}"


@torch.no_grad()
def perplexity(
    model: nn.Module,
    tokens: Int[Tensor, " n"] | str,
    protocol: str | None = None,
    *,
    tokenizer: Any = None,
    redraw: bool = False,
    progress: Progress = silent,
) -> Perplexity:
    """Perplexity of a causal language model on a stream of tokens (see the head of this file).

    The model is put into evaluation mode. Sums are in float64. Memory: the logits of one forward pass, at
    most `LOGIT_BYTES` or those of one block.

    Example:

        >>> import gaincell, torch
        >>> model, tokenizer = gaincell.load("tiny")
        >>> found = gaincell.perplexity(model, torch.arange(2, 130), "blocks-64")
        >>> found.blocks, found.tokens, found.perplexity > 1
        (2, 126, True)

    Args:
        model: Any causal language model of transformers, attached or not.
        tokens: The evaluation text, as token ids, or as it is, which `tokenizer` then cuts into tokens.
        protocol: `blocks-T` or `strided-T-S`; None for `default_protocol`.
        tokenizer: Counts the bytes of the predicted tokens by decoding them (exact but for characters that a
            block's edge cuts); without it bits per byte are not given, nor is text read.
        redraw: Every block meets noise of its own, so that the standard error holds it; a block at a time.
            Else all blocks meet one draw, which the protocol in words says.
        progress: Called after every forward pass with (blocks done, blocks).

    Raises:
        InputError: blocks longer than the model's context, a text shorter than one block, or a token id
            outside the vocabulary; `redraw` without noise; a text without tokenizer.
        ModelError: a log-likelihood is not finite; `redraw` of a model that is set to softmax attention.
    """
    protocol = protocol or default_protocol(model)
    length, stride = window_and_stride(protocol)
    check_length(model, length)
    stream = _token_ids(tokens, tokenizer)
    blocks = cut_blocks(stream, length, stride)
    counted = torch.full((len(blocks),), min(stride, length - 1))
    counted[0] = length - 1
    check_ids(model, blocks)
    batch = 1 if redraw else blocks_at_once(model, length)
    model.eval()
    sums: list[Tensor] = []
    for start in range(0, len(blocks), batch):
        with redrawn(model, start) if redraw else nullcontext():
            nll = token_nll(model, blocks[start : start + batch])
        asked = torch.arange(length - 1) >= length - 1 - counted[start : start + batch, None]
        sums.append((nll * asked).sum(1))
        progress(sum(map(len, sums)), len(blocks), {})
    per_block = torch.cat(sums)
    return Perplexity(
        nll=float(per_block.sum()),
        tokens=int(counted.sum()),
        blocks=len(blocks),
        bytes=None if tokenizer is None else _bytes(blocks, counted, tokenizer),
        standard_error=ratio_error(per_block.tolist(), counted.tolist()),
        protocol=describe(protocol, len(blocks)) + noise_remark(model, redraw=redraw),
        per_block=tuple(zip(per_block.tolist(), counted.tolist(), strict=True)),
    )


def _token_ids(text: Tensor | str, tokenizer: Any) -> Int[Tensor, " n"]:
    if isinstance(text, Tensor):
        if text.dim() != 1:
            raise InputError(
                f"the text is a tensor of shape {tuple(text.shape)}; give one stream: tokens.flatten()"
            )
        return text
    if not isinstance(text, str):
        raise InputError(f"the text is a {type(text).__name__}; give a str, or token ids as a tensor")
    if tokenizer is None:
        raise InputError("perplexity of a text needs tokenizer=, the model's; or give token ids")
    return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]).long()


def cut_blocks(tokens: Int[Tensor, " n"], length: int, stride: int | None = None) -> Int[Tensor, "blocks T"]:
    """Blocks that do not overlap, or windows each `stride` further on; a rest that fills none is dropped.

    Raises:
        InputError: the text is shorter than one block.
    """
    if len(tokens) < length:
        raise InputError(
            f"the text has {len(tokens)} tokens, fewer than one block of {length}; "
            "give more text or shorter blocks"
        )
    return tokens.unfold(0, length, stride or length)


def blocks_at_once(model: nn.Module, length: int) -> int:
    """How many blocks a forward pass may have, for the size of their logits."""
    vocabulary = int(model.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    return max(1, min(LARGEST_BATCH, LOGIT_BYTES // (length * vocabulary * 4)))


def token_nll(
    model: nn.Module, ids: Int[Tensor, "B T"], targets: int | None = None, **options: Tensor
) -> Float[Tensor, "B n"]:
    """-log p of the last `targets` tokens of each row (None: all after the first), float64 nats.

    Args:
        model: A causal language model.
        ids: Token ids.
        targets: How many of each row; None for all after the first.
        **options: Of the model's forward pass.

    Raises:
        ModelError: one is not finite.
    """
    ids = ids.to(next(model.parameters()).device, torch.long)
    asked = slice(0 if targets is None else -targets - 1, None)
    logits = model(input_ids=ids, use_cache=False, **options).logits[:, asked]
    return check_finite(next_token_nll(logits, ids[:, asked]).cpu())


def check_finite(nll: Tensor) -> Tensor:
    """The same losses.

    Raises:
        ModelError: one is not finite.
    """
    if not bool(nll.isfinite().all()):
        raise ModelError(
            "the model's log-likelihood is not a finite number; look for NaN or infinite weights, gains and "
            "offsets"
        )
    return nll


def next_token_nll(logits: Float[Tensor, "B T V"], ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T_minus_1"]:
    """-log p of every token after the first of each row, float64 nats; a few rows of logits at a time."""
    rows = logits.flatten(0, 1)
    targets = ids.roll(-1, 1).reshape(-1, 1)  # the last column's target is meaningless and dropped below
    dtype = torch.promote_types(rows.dtype, torch.float32)
    nll = torch.empty(len(targets), dtype=torch.float64, device=logits.device)
    for start in range(0, len(targets), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE].to(dtype)
        chosen = some.gather(1, targets[start : start + ROWS_AT_ONCE]).squeeze(1)
        nll[start : start + ROWS_AT_ONCE] = torch.logsumexp(some, 1).double() - chosen.double()
    return nll.view(ids.shape)[:, :-1]


def _bytes(blocks: Tensor, counted: Tensor, tokenizer: Any) -> int:
    predicted = [block[-int(n) :].tolist() for block, n in zip(blocks, counted, strict=True)]
    texts = tokenizer.batch_decode(predicted, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return sum(len(text.encode()) for text in texts)
