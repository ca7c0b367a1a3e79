"""Many configurations of the baseline, one after the other, and what was left out and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from gaincell.costs.baselines.attention import GPU_ONLY, PUBLISHED
from gaincell.costs.baselines.measurement import DTYPES, Measurement, check_dtype, measure
from gaincell.errors import InputError
from gaincell.progress import Progress, silent
from gaincell.results.system_cost import Measured, Skipped
from gaincell.units import Second

BATCHES = (1, 4, 16, 64, 256)
CONTEXTS = (1024, 8192)
"""The window of the paper's chip, and a full context."""
CPU_SET = (
    (PUBLISHED, "float32"), ("matmul", "float32"), ("flash", "float32"), ("matmul", "bfloat16"),
    ("flash", "bfloat16"), ("int8", "float32"),
)  # fmt: skip
GPU_SET = (
    (PUBLISHED, "float32"), ("sdpa", "float32"), ("matmul", "bfloat16"), ("flash", "bfloat16"),
    ("efficient", "bfloat16"), ("cudnn", "bfloat16"), ("flex", "bfloat16"), ("int8", "bfloat16"),
)  # fmt: skip
HERE = (("matmul", "float32"), ("matmul", "bfloat16"), ("flash", "float32"))
"""What `measure_here` tries."""
LARGEST_CACHE = {"cpu": 2**31, "cuda": 2**34}
"""Bytes of one cache in the arithmetic's type; larger ones are left out."""


@dataclass(frozen=True)
class Sweep:
    """What was measured, and what the machine refused, in the order it was tried."""

    measured: tuple[Measurement, ...]
    skipped: tuple[Skipped, ...]


def fastest(measured: Iterable[Measurement]) -> list[Measurement]:
    """Of the fair ones the fastest per token, for every context: of batch 1, and of any batch."""
    fair = [m for m in measured if m.protocol == "fair"]
    found: list[Measurement] = []
    for context in dict.fromkeys(m.context for m in fair):
        here = [m for m in fair if m.context == context]
        for some in ([m for m in here if m.batch == 1], here):
            best = min(some, key=lambda m: m.undisturbed_per_token, default=None)
            if best is not None and best not in found:
                found.append(best)
    return found


def measure_here(
    heads: int, kv_heads: int, head_dim: int, context: int, seconds: Second = 0.5
) -> list[Measured]:
    """The fastest fair softmax attention of this CPU for one sequence, within a few seconds; see `measure`.

    Nothing where its cache would exceed LARGEST_CACHE.
    """
    bytes_of_cache = 2 * kv_heads * context * head_dim * 4
    if bytes_of_cache > LARGEST_CACHE["cpu"]:
        return []
    found = [
        measure(heads, kv_heads, head_dim, context, 1, dtype, "cpu", name=name, runs=3, seconds=seconds)
        for name, dtype in HERE
    ]
    return [m.as_measured() for m in fastest(found)]


def sweep(
    chosen: Iterable[tuple[str, str]] | None = None,
    batches: Iterable[int] = BATCHES,
    contexts: Iterable[int] = CONTEXTS,
    heads: int = 12,
    kv_heads: int | None = None,
    head_dim: int = 64,
    device: str = "cpu",
    progress: Progress = silent,
    **options: Any,
) -> Sweep:
    """Measure every configuration; one that the machine refuses is skipped with its reason.

    `chosen` are pairs (implementation, dtype), by default the published one and the fair set of the device's
    kind. The published protocol is of the first context only. Sizes, device and options are those of
    `measure`; `progress` is called after every configuration.

    Raises:
        InputError: an implementation or dtype that does not exist, an empty choice, sizes below 1.
    """
    kind, batches, contexts = torch.device(device).type, list(batches), list(contexts)
    chosen = list((GPU_SET if kind == "cuda" else CPU_SET) if chosen is None else chosen)
    if not (chosen and batches and contexts):
        raise InputError("nothing to measure: give at least one implementation, one batch and one context")
    for name, dtype in chosen:
        check_dtype(dtype, name)
        if name in GPU_ONLY and kind != "cuda":
            raise InputError(f"implementation {name!r} needs a GPU; leave it out on {device}")
    cells: list[tuple[str, str, int, int]] = []
    measured: list[Measurement] = []
    skipped: list[Skipped] = []
    for (name, dtype), context, batch in product(chosen, contexts, batches):
        if name == PUBLISHED and context != contexts[0]:
            reason = f"it is measured at the first context alone, {contexts[0]}"
            skipped.append(Skipped(name, dtype, context, batch, reason))
        else:
            cells.append((name, dtype, context, batch))
    limit = LARGEST_CACHE.get(kind, 2**31)
    for n, (name, dtype, context, batch) in enumerate(cells):
        size = 2 * batch * (kv_heads or heads) * context * head_dim * DTYPES[dtype].itemsize
        if size > limit:
            reason = f"its cache of {size / 2**30:.3g} GiB exceeds {limit / 2**30:.3g} GiB"
            skipped.append(Skipped(name, dtype, context, batch, reason))
        else:
            try:
                measured.append(
                    measure(heads, kv_heads, head_dim, context, batch, dtype, device, name=name, **options)
                )
            except InputError as error:
                if not isinstance(error.__cause__, (RuntimeError, AssertionError)):
                    raise
                skipped.append(Skipped(name, dtype, context, batch, str(error)))
        progress(n + 1, len(cells), {})
    return Sweep(tuple(measured), tuple(skipped))
