"""What the machine that trains can do: which activations fit, whether bfloat16 pays, how memory is kept.

Activations: passes over the first `PROBED` tokens of one sequence and over twice as many count the bytes that
they keep for the backward pass. From there these grow in proportion to tokens and sequences, for arrays and
for torch's softmax attention.
Not modelled: what else needs memory meanwhile, but for the share `USED`; arrays computed by "naive", which
keep more.
"""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
from jaxtyping import Int
from torch import Tensor, nn

from gaincell.training.loss import Loss

PROBED = 64
USED = 0.6
"""Share of the memory that is free now which activations may take."""
WIDTH, ROUNDS = 1024, 5
"""Of the matrices whose products are timed, and of the timing."""
EMULATED = 0.5
"""Seconds of one such product that only a processor without instructions for bfloat16 takes."""
PAYS = 1.3
"""How many times as fast bfloat16 must be. Processors with instructions for it are about twice as fast or
more, those without about as fast or slower: so the answer does not hang on the noise.
"""
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt(3)."""
_for_good = False
"""Whether this process keeps what it frees until it ends."""


def activations_fit(
    model: nn.Module, loss_of: Loss, tokens: Int[Tensor, "1 T_plus_1"], sequences: int
) -> bool:
    """Whether activations of so many sequences fit, by the first tokens of one."""
    device = next(model.parameters()).device
    some = tokens[:, : 2 * PROBED + 1].to(device, torch.long)
    needed = expected_bytes(model, loss_of, some, (tokens.shape[1] - 1) * sequences)
    return needed <= USED * free_memory(device)


def expected_bytes(model: nn.Module, loss_of: Loss, some: Int[Tensor, "1 n_plus_1"], tokens: int) -> float:
    """Bytes that the loss of so many tokens keeps, from those of n and of half of them: what does not grow
    with tokens, such as weights cast to bfloat16, counts once.
    """
    n = some.shape[1] - 1
    less = (n + 1) // 2
    few, more = (kept_bytes(model, loss_of, some[:, : count + 1]) for count in (less, n))
    return more + (more - few) / max(n - less, 1) * (tokens - n)


def kept_bytes(model: nn.Module, loss_of: Loss, tokens: Int[Tensor, "B T_plus_1"]) -> int:
    """Bytes that the forward pass of a loss keeps for its backward pass, parameters left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no place is used twice

    def see(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        loss_of(model, tokens)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(psutil.virtual_memory().available, left_to_container()))


def left_to_container(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that a Linux container may still take, by version 2 or 1 of cgroups; infinity without a limit."""
    for limit, used, unneeded in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (int((root / name).read_text()) for name in (limit, used))
            lines = (root / limit).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
        return most - now + int(dict(line.split() for line in lines).get(unneeded, 0))
    return math.inf


@cache
def bf16_pays(device: str) -> bool:
    """Whether matrices are multiplied `PAYS` times as fast in bfloat16 as in float32, best of `ROUNDS` each.

    Takes a second or two and is measured once a process.

    Args:
        device: Such as "cpu" or "cuda:0".
    """
    draw = torch.Generator(device).manual_seed(0)  # not the draws of the process
    one, other = torch.randn(2, WIDTH, WIDTH, generator=draw, device=device)
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(ROUNDS + 1):  # the first is a warm-up for both
        for dtype, known in best.items():
            a, b = one.to(dtype), other.to(dtype)
            _wait(device)
            begun = time.perf_counter()
            a @ b
            _wait(device)
            best[dtype] = min(known, time.perf_counter() - begun)
        if best[torch.bfloat16] > EMULATED:
            break
    return best[torch.float32] > PAYS * best[torch.bfloat16]


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def keep_freed_memory() -> None:
    """As `memory_kept`, until the process ends: for commands, whose evaluations gain a fifth."""
    global _for_good
    _for_good = True
    _keep(_libc())


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within the context freed memory stays with the process, since the next step needs as much again.

    Without it glibc hands large tensors back to the system, which gives them again page by page: 3 % of a
    training step of SmolLM2-135M on one core (measured). Nothing happens where the C library is not glibc, or
    to what an accelerator allocates.
    """
    libc = _libc()
    if libc is None or _for_good:
        yield
        return
    _keep(libc)
    try:
        yield
    finally:  # the most that glibc adapts its thresholds to by itself
        libc.mallopt(MMAP_MAX, 65536)
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(TRIM_THRESHOLD, 64 << 20)
        libc.malloc_trim(0)


def _libc() -> Any:
    """glibc; None where there is another one."""
    found = ctypes.CDLL(None) if sys.platform == "linux" else None
    return found if hasattr(found, "mallopt") and hasattr(found, "malloc_trim") else None


def _keep(libc: Any) -> None:
    if libc is not None:
        libc.mallopt(MMAP_MAX, 0)  # all from the heap,
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)  # whose end stays
