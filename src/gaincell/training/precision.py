"""Whether products in bfloat16 are worth it where a model is trained: measured, not asked by name."""

from __future__ import annotations

import time
from functools import cache

import torch

WIDTH = 1024
"""Rows and columns of the matrices."""
ROUNDS = 5
PAYS = 1.3
"""How many times as fast they must be. Processors either have instructions for them, and are about twice as
fast or more, or have not, and are about as fast or slower: so the answer does not hang on the noise.
"""


@cache
def bf16_pays(device: str) -> bool:
    """Whether matrices are multiplied `PAYS` times as fast in bfloat16 as in float32, best of `ROUNDS` each.

    Takes about a second and is measured once a process. device: such as "cpu" or "cuda:0".
    """
    one, other = (torch.randn(WIDTH, WIDTH, device=device) for _ in range(2))
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(ROUNDS + 1):  # the first is a warm-up for both
        for dtype, known in best.items():
            a, b = one.to(dtype), other.to(dtype)
            _wait(device)
            begun = time.perf_counter()
            a @ b
            _wait(device)
            best[dtype] = min(known, time.perf_counter() - begun)
    return best[torch.float32] > PAYS * best[torch.bfloat16]


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
