"""Losses on what stood in the context before: the right tokens, and every one of them once."""

from __future__ import annotations

import itertools

import pytest
import torch
from tests.micro import micro_design, micro_llama
from torch import Tensor

from gaincell.errors import InputError
from gaincell.evaluation.perplexity import perplexity
from gaincell.evaluation.repetition import RepetitionPoint, loss_by_repetition, seen_before
from gaincell.integrations.hf.attach import attach

TOKENS = torch.randint(0, 12, (330,), generator=torch.Generator().manual_seed(2))


def by_kind(found: list[RepetitionPoint]) -> dict[str, RepetitionPoint]:
    return {point.kind: point for point in found}


def losses(model: torch.nn.Module, block: Tensor) -> list[float]:
    """-ln p of tokens 1, 2, ... of a block."""
    with torch.no_grad():
        logits = model(input_ids=block[None]).logits[0].double().log_softmax(-1)
    return [-float(logits[t, block[t + 1]]) for t in range(len(block) - 1)]


def test_pairs_are_seen_only_behind_themselves() -> None:
    block = torch.tensor([[3, 4, 3, 4, 4, 3, 4, 5], [1, 1, 1, 2, 1, 2, 1, 1]])
    wanted = []
    for row in block.tolist():
        pairs = list(itertools.pairwise(row))
        wanted.append([pair in pairs[:t] for t, pair in enumerate(pairs)])
    assert seen_before(block).tolist() == wanted
    assert wanted[0] == [False, False, True, False, True, True, False]


@pytest.mark.parametrize("arrays", [True, False])
def test_every_token_is_counted_by_its_kind(arrays: bool) -> None:
    model = micro_llama()
    if arrays:
        attach(model, micro_design())
    calls: list[tuple[int, int]] = []
    found = by_kind(
        loss_by_repetition(model, TOKENS, 32, progress=lambda done, total, _: calls.append((done, total)))
    )
    blocks = TOKENS[: 10 * 32].view(10, 32)
    assert found["seen"].tokens + found["new"].tokens == 10 * 31
    assert found["repeated"].tokens == 10 * 15
    whole = perplexity(model, TOKENS[:320], "blocks-32")
    both = sum(found["seen"].sums) + sum(found["new"].sums)
    assert both == pytest.approx(whole.nll, rel=1e-6)
    for n, block in enumerate(blocks):
        seen = seen_before(block[None])[0]
        own = losses(model, block)
        assert found["seen"].sums[n] == pytest.approx(
            sum(x for x, s in zip(own, seen, strict=True) if s), rel=1e-4
        )
        assert found["seen"].counts[n] == int(seen.sum())
        twice = losses(model, block[:16].repeat(2))
        assert found["repeated"].sums[n] == pytest.approx(sum(twice[16:]), rel=1e-4)
    assert found["new"].nll == pytest.approx(sum(found["new"].sums) / found["new"].tokens)
    assert calls[-1] == (len(calls), len(calls))


def test_a_kind_that_the_text_has_not_is_left_out() -> None:
    found = by_kind(loss_by_repetition(micro_llama(), torch.arange(1, 65), 32))
    assert list(found) == ["new", "repeated"]


@pytest.mark.parametrize("length", [2, 33])
def test_blocks_need_two_halves(length: int) -> None:
    with pytest.raises(InputError, match="give an even number of 4 or more"):
        loss_by_repetition(micro_llama(), TOKENS, length)
