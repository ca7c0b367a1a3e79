"""Perplexity after a pause: what a chip that idled still knows of the text before.

Protocol `pause-T`: the text is one stream of tokens, cut into blocks of T that do not overlap. The first half
of a block is written into the ring of columns; the chip idles; then the second half is read on, and every
token of it but the first is predicted: T/2 - 1 predictions a block. Nothing of a block but its own first half
and what went before in its second helps a prediction. A refresh policy works throughout the block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.arrays.refresh import Refresh
from gaincell.errors import InputError
from gaincell.evaluation.noise import noise_remark
from gaincell.evaluation.perplexity import check_finite, cut_blocks, next_token_nll
from gaincell.integrations.hf.context import check_length
from gaincell.integrations.hf.ring_cache import RingCache, feed
from gaincell.progress import Progress, silent
from gaincell.results.evaluation import PauseRow
from gaincell.standard_error import exp_or_infinity
from gaincell.units import Second


class AfterPause(NamedTuple):
    """What a pause leaves.

    Attributes:
        row: Numbers; its times, refreshes and writes are of one block.
        protocol: In words.
    """

    row: PauseRow
    protocol: str


@torch.no_grad()
def perplexity_after_pause(
    model: PreTrainedModel,
    tokens: Int[Tensor, " n"],
    seconds: Second,
    length: int = 1024,
    *,
    refresh: Refresh | None = None,
    progress: Progress = silent,
) -> AfterPause:
    """What a pause of `seconds` leaves of an attached model, by the protocol `pause-length`.

    Args:
        model: attached.
        tokens: Ids of the text.
        seconds: Of idle time, 0 or more; the cells leak with the design's retention time.
        length: T, even, at least 4.
        refresh: Policy; None for none.
        progress: Called after every block with (blocks done, blocks).

    Raises:
        InputError: a pause, a policy or a length that cannot be; blocks longer than the model's context or
            the text.
        ModelError: the model is not attached, or a log-likelihood is not finite.
    """
    if length < 4 or length % 2:
        raise InputError(
            f"blocks of {length} tokens cannot be halved by a pause; give an even number from 4 on"
        )
    check_length(model, length)
    blocks = cut_blocks(tokens, length)
    device = next(model.parameters()).device
    model.eval()
    half = length // 2
    nll = torch.zeros(len(blocks), half - 1, dtype=torch.float64)
    for n, block in enumerate(blocks):
        ids = block[None].to(device, torch.long)
        cache = RingCache(model, refresh)
        feed(model, cache, ids[:, :half], last=True)
        cache.idle(seconds)
        nll[n] = next_token_nll(feed(model, cache, ids[:, half:]), ids[:, half:])[0]
        check_finite(nll[n])
        progress(n + 1, len(blocks), {})
    per_block = nll.sum(1)
    found = exp_or_infinity(float(per_block.sum()) / nll.numel())
    error = float(per_block.std() / (half - 1) / math.sqrt(len(blocks))) if len(blocks) > 1 else None
    clock = cache.clock
    row = PauseRow(
        idle=seconds,
        perplexity=found,
        perplexity_error=None if error is None else found * error,
        predictions=nll.numel(),
        chip_time=clock.now,
        refreshes=clock.refreshes,
        refreshing=clock.refreshing,
        writes=cache.writes,
    )
    protocol = (
        f"pause-{length}: {len(blocks)} blocks of {length} tokens, a pause after the first half of each, "
        "every token after the first of the second half predicted"
    )
    return AfterPause(row, protocol + noise_remark(model))
