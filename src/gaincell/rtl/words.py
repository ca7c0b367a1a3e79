"""What a generated head is tried with: gains, offsets and words, random, and at the ends of their ranges."""

from __future__ import annotations

import torch
from torch import Tensor

from gaincell.errors import InputError
from gaincell.rtl.fixed_point import (
    Scales,
    Stage,
    output_stage,
    query_stage,
    scaled,
    storage_stage,
    words,
)
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


def words_of_codes(query: Tensor, key: Tensor, value: Tensor, scales: Scales, p: Parameters) -> Words:
    """Words whose codes are given: of those that a stage makes a code of, the one in the middle.

    query: [T, g, D].  key, value: [T, D], codes that a chip was seen to use.

    Raises InputError: no word of a stage gives one of the codes.
    """
    limits = p.code_limits
    queries = [_words_of(query[:, h], stage, limits[0], p) for h, stage in enumerate(scales.queries)]
    stored = [
        _words_of(codes, stage, limits[1], p) for codes, stage in ((key, scales.key), (value, scales.value))
    ]
    return Words(torch.stack(queries, 1), *stored)


def _words_of(codes: Tensor, stage: Stage, limits: tuple[int, int], p: Parameters) -> Tensor:
    limit = 2 ** (p.word_bits - 1)
    every = torch.arange(-limit, limit)
    given = torch.floor(scaled(every, stage, p)).long().clamp(*limits)
    low, high = limits
    table = torch.zeros(high - low + 1, dtype=torch.int64)
    for code in codes.unique().tolist():
        found = every[given == code]
        if not len(found):
            raise InputError(f"no word of {p.word_bits} bits gives the code {code}; give more guard bits")
        table[code - low] = found[len(found) // 2]
    return table[codes.long() - low]
