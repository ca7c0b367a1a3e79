"""Perplexity after a pause: what a chip that idled still knows of the text before.

Protocol `pause-T`: the text is one stream of tokens, cut into blocks of T that do not overlap. The first half
of a block is written into the ring of columns; the chip idles; then the second half is read on, and every
token of it but the first is predicted: T/2 - 1 predictions a block. Nothing of a block but its own first half
and what went before in its second helps a prediction.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.errors import InputError, ModelError
from gaincell.evaluation.perplexity import Perplexity, cut_blocks, next_token_nll
from gaincell.integrations.hf.cache import RingCache
from gaincell.progress import Progress, silent
from gaincell.units import Second


@torch.no_grad()
def perplexity_after_pause(
    model: PreTrainedModel,
    tokens: Int[Tensor, " n"],
    seconds: Second,
    length: int = 1024,
    *,
    progress: Progress = silent,
) -> Perplexity:
    """Perplexity of an attached model by the protocol `pause-length` with a pause of `seconds`.

    Args:
        model: attached, with a ring of at least one column.
        tokens: the evaluation text.
        seconds: of idle time, 0 or more; the cells leak with the design's retention time.
        length: T, even, at least 4.
        progress: called after every block with (blocks done, blocks).

    Raises:
        InputError: a pause or a length that cannot be; the text is shorter than one block.
        ModelError: the model is not attached, or a log-likelihood is not finite.
    """
    if length < 4 or length % 2:
        raise InputError(
            f"blocks of {length} tokens cannot be halved by a pause; give an even number from 4 on"
        )
    blocks = cut_blocks(tokens, length)
    device = next(model.parameters()).device
    model.eval()
    sums = torch.zeros(len(blocks), dtype=torch.float64)
    for n, block in enumerate(blocks):
        ids = block[None].to(device, torch.long)
        cache = RingCache(model)
        half = length // 2
        model.base_model(input_ids=ids[:, :half], **cache.argument)
        cache.idle(seconds)
        logits = model(input_ids=ids[:, half:], **cache.argument).logits
        sums[n] = next_token_nll(logits, ids[:, half:]).sum()
        if not math.isfinite(float(sums[n])):
            raise ModelError("the model's log-likelihood is not a finite number")
        progress(n + 1, len(blocks), {})
    predictions = length // 2 - 1
    return Perplexity(
        nll=float(sums.sum()),
        tokens=len(blocks) * predictions,
        blocks=len(blocks),
        bytes=None,
        standard_error=float(sums.std() / predictions / math.sqrt(len(blocks))) if len(blocks) > 1 else None,
        protocol=(
            f"pause-{length}: {len(blocks)} blocks of {length} tokens, a pause after the first half of each, "
            "every token after the first of the second half predicted"
        ),
    )
