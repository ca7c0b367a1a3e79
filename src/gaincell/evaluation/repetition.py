"""What a model finds again in its context: its loss on tokens that can be found there, and on others.

Protocol `repetition-T`, on blocks of T tokens that do not overlap:

    seen      tokens that followed the token before them earlier in the block, too
    new       all others
    repeated  tokens of the second half of blocks whose second half repeats the first, but for its first
              token; attention that finds what followed predicts them all but surely

Attention that spreads over many tokens loses on `seen` and `repeated`, and hardly on `new`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from gaincell.errors import InputError
from gaincell.evaluation.perplexity import LARGEST_BATCH, blocks_at_once, cut_blocks, token_nll
from gaincell.integrations.hf.context import check_length
from gaincell.progress import Progress, silent
from gaincell.results.evaluation import RepetitionPoint
from gaincell.standard_error import exp_or_infinity

KINDS = ("seen", "new", "repeated")


def describe_repetition(length: int, blocks: int) -> str:
    """The protocol in words, for tables and reports."""
    return (
        f"repetition-{length}: {blocks} blocks of {length} tokens; repeated: the second half of the same "
        "blocks with their first half twice"
    )


@torch.no_grad()
def loss_by_repetition(
    model: nn.Module, tokens: Int[Tensor, " n"], length: int = 1024, *, progress: Progress = silent
) -> list[RepetitionPoint]:
    """Losses by the protocol `repetition-length`, of every kind that the text has.

    Args:
        model: Any causal language model of transformers, attached or not.
        tokens: Of the text.
        length: T, even, 4 or more.
        progress: Called after every forward pass with (passes done, passes).

    Raises:
        InputError: another length, or one beyond the model's context or the text.
        ModelError: a log-likelihood is not finite.
    """
    if length < 4 or length % 2:
        raise InputError(f"blocks of {length} tokens have no two halves; give an even number of 4 or more")
    check_length(model, length)
    blocks = cut_blocks(tokens, length).long()
    half = length // 2
    repeated = blocks[:, :half].repeat(1, 2)
    model.eval()
    size = min(LARGEST_BATCH // 2, blocks_at_once(model, length))
    groups = [*blocks.split(size), *repeated.split(size)]
    losses = []
    for done, ids in enumerate(groups, start=1):
        losses.append(token_nll(model, ids))
        progress(done, len(groups), {})
    of_text, of_repeated = torch.cat(losses).split(len(blocks))
    seen = seen_before(blocks)
    second = torch.zeros_like(seen)
    second[:, half:] = True  # the prediction at place t is of token t + 1
    points = []
    for kind, nll, which in zip(KINDS, (of_text, of_text, of_repeated), (seen, ~seen, second), strict=True):
        sums, counts = (nll * which).sum(1), which.sum(1)
        total = int(counts.sum())
        if total:
            mean = float(sums.sum()) / total
            of_blocks = tuple(sums.tolist()), tuple(counts.tolist())
            points.append(RepetitionPoint(kind, total, mean, exp_or_infinity(mean), *of_blocks))
    return points


def seen_before(blocks: Int[Tensor, "n T"]) -> Bool[Tensor, "n T_less_1"]:
    """Whether the pair of tokens t and t + 1 stands earlier in the block."""
    pairs = blocks[:, :-1] * (int(blocks.max()) + 1) + blocks[:, 1:]
    found = torch.zeros_like(pairs, dtype=torch.bool)
    for row, own in zip(pairs, found, strict=True):
        _, number = row.unique(return_inverse=True)
        first = torch.full((int(number.max()) + 1,), len(row)).scatter_reduce_(
            0, number, torch.arange(len(row)), "amin"
        )
        own.copy_(first[number] < torch.arange(len(row)))
    return found
