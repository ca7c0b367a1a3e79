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

from gaincell.errors import InputError
from gaincell.evaluation.perplexity import LARGEST_BATCH, blocks_at_once, cut_blocks, token_nll
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
    model: nn.Module, tokens: Int[Tensor, " n"], length: int = 1024, *, progress: Progress = silent
) -> list[ContextPoint]:
    """Perplexity by the protocol `context-length`, for context lengths 1, 2, 4, ... and the longest.

    Args:
        model: Any causal language model of transformers, attached or not.
        tokens: Of the text.
        length: T, above `TARGETS`.
        progress: Called after every forward pass with (passes done, passes).

    Raises:
        InputError: blocks too short, or longer than the model's context or the text.
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
    model.eval()
    positions = torch.arange(length, device=next(model.parameters()).device)[None]
    size = min(LARGEST_BATCH // 2, blocks_at_once(model, length))
    groups = blocks.split(size)
    means = torch.empty(len(lengths), len(blocks), dtype=torch.float64)
    done = 0
    for row, context in zip(means, lengths, strict=True):
        found = []
        last = slice(-context - TARGETS, None)
        for group in groups:
            found.append(token_nll(model, group[:, last], TARGETS, position_ids=positions[:, last]).mean(1))
            done += 1
            progress(done, len(lengths) * len(groups), {})
        row.copy_(torch.cat(found))
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
