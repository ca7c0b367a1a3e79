"""What a generated head is tried with: gains, offsets and words, random, and at the ends of their ranges."""

from __future__ import annotations

import torch

from gaincell.rtl.fixed_point import Scales, output_stage, query_stage, storage_stage, words
from gaincell.rtl.parameters import Parameters
from gaincell.rtl.simulation import Words

CORNERS = 8
"""Tokens at the end of a run that consist of extreme words and of zeros."""


def random_scales(parameters: Parameters, seed: int) -> Scales:
    """Gains from 0.7 to 1.4, with offsets about those of the released code, of every query head its own."""
    p, random = parameters, torch.Generator().manual_seed(seed)

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=random))

    middle = p.design.v_offset
    return Scales(
        storage_stage(p, "k", draw(0.7, 1.4), draw(middle - 0.05, middle + 0.05)),
        storage_stage(p, "v", draw(0.7, 1.4), draw(middle - 0.05, middle + 0.05)),
        tuple(query_stage(p, draw(0.7, 1.4), draw(-0.1, 0.1)) for _ in range(p.group)),
        tuple(output_stage(p, draw(0.7, 1.4), draw(-0.1, 0.1)) for _ in range(p.group)),
    )


def random_words(parameters: Parameters, scales: Scales, tokens: int, seed: int) -> Words:
    """Signals whose scores lie about zero, then corners: all lowest, all highest, all zero, mixed."""
    p, random = parameters, torch.Generator().manual_seed(seed)
    span = p.design.v_max - p.design.v_min
    q = torch.randn(tokens, p.group, p.rows, generator=random) * 0.4 + 0.15
    k = torch.randn(tokens, p.rows, generator=random) * span / 6
    v = torch.randn(tokens, p.rows, generator=random) * span / 3
    query = torch.stack([words(q[:, h], stage, p.word_bits) for h, stage in enumerate(scales.queries)], 1)
    found = Words(query, words(k, scales.key, p.word_bits), words(v, scales.value, p.word_bits))
    lowest, highest = -(2 ** (p.word_bits - 1)), 2 ** (p.word_bits - 1) - 1
    for n, token in enumerate(range(max(0, tokens - CORNERS), tokens)):
        ends = torch.tensor([lowest, highest, 0])
        for m, of in enumerate((found.query, found.key, found.value)):
            mixed = ends[torch.randint(3, of[token].shape, generator=random)]
            of[token] = mixed if n >= 3 else ends[(n + m) % 3]
    return found
