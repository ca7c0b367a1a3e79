"""Perplexity against the length of the context: how far back a model uses what it has read.

Protocol `context-T`: the text is one stream of tokens, cut into blocks of T that do not overlap. The last
`TARGETS` tokens of every block are predicted again and again, each time from a block that is cut to its last
c + TARGETS tokens: c is the context of the first target. All lengths predict the same tokens at the same
positions (codes of q and k depend on them), so that their differences are free of what makes one
text harder than another.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gaincell.errors import InputError, ModelError
from gaincell.evaluation.perplexity import LARGEST_BATCH, cut_blocks, next_token_nll
from gaincell.integrations.hf.context import check_length
from gaincell.progress import Progress, silent
from gaincell.results.evaluation import ContextPoint
from gaincell.standard_error import exp_or_infinity

TARGETS = 32


def describe_context(length: int, blocks: int) -> str:
    """The protocol in words, for tables and reports."""
    return (
        f"context-{length}: {blocks} blocks of {length} tokens, the last {TARGETS} of each predicted from so "
        "many tokens before the first of them"
    )


@torch.no_grad()
def perplexity_by_context(
    model: nn.Module,
    tokens: Int[Tensor, " n"],
    length: int = 1024,
    *,
    progress: Progress = silent,
) -> list[ContextPoint]:
    """Perplexity by the protocol `context-length`, for context lengths 1, 2, 4, ... and the longest.

    Args:
        model: any causal language model of transformers, attached or not.
        tokens: the evaluation text.
        length: T, above `TARGETS`.
        progress: called after every forward pass with (passes done, passes).

    Raises:
        InputError: blocks that are too short, or longer than the model's context; the text is shorter than
            one block.
        ModelError: a log-likelihood is not finite.
    """
    longest = length - TARGETS
    if longest < 1:
        raise InputError(
            f"blocks of {length} tokens leave no context for {TARGETS} targets; give longer ones"
        )
    check_length(model, length)
    blocks = cut_blocks(tokens, length)
    lengths = [2**n for n in range(longest.bit_length()) if 2**n < longest] + [longest]
    device = next(model.parameters()).device
    model.eval()
    positions = torch.arange(length, device=device)[None]
    groups = blocks.split(max(1, LARGEST_BATCH // 2))
    means = torch.empty(len(lengths), len(blocks), dtype=torch.float64)
    done = 0
    for row, context in zip(means, lengths, strict=True):
        found = []
        for group in groups:
            ids = group[:, -(context + TARGETS) :].to(device, torch.long)
            logits = model(input_ids=ids, position_ids=positions[:, -ids.shape[1] :], use_cache=False).logits
            logits = logits[:, -TARGETS - 1 :]
            found.append(next_token_nll(logits, ids[:, -TARGETS - 1 :]).mean(1).cpu())
            done += 1
            progress(done, len(lengths) * len(groups), {})
        row.copy_(torch.cat(found))
    if not bool(torch.isfinite(means).all()):
        raise ModelError("the model's log-likelihood is not a finite number")
    excess = means - means[-1]
    n = len(blocks)
    return [
        ContextPoint(
            context,
            exp_or_infinity(float(mean.mean())),
            float(above.mean()),
            float(above.std()) / math.sqrt(n) if n > 1 else None,
            tuple(mean.tolist()),
        )
        for context, mean, above in zip(lengths, means, excess, strict=True)
    ]
