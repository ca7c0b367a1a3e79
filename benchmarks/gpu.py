"""Triton against torch's flash softmax attention on a GPU: time, and a check of the codes.

    python -m benchmarks.gpu [--rounds 30] [--out benchmarks/results/gpu.json]

B = 8, H = 12, D = 64, window 1024, T = 1024 and 4096. Reference: causal scaled_dot_product_attention of
bfloat16 inputs, flash backend. Contenders alternate in one process; medians of CUDA event times after one
warming round. "codes" is the share of outputs that differ from the CPU's compiled kernel, on one sequence.
Without a GPU it only says so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gaincell.config import load_design
from gaincell.files import write_text
from gaincell.ops.gain_cell_attention import gain_cell_attention
from gaincell.reports.results import provenance

BATCH, HEADS, DIM = 8, 12, 64
REFERENCE = "softmax, flash, bfloat16"
LIMITS = {"forward": 3.0, "forward and backward": 3.5}  # Triton, times the reference
PROTOCOL = "alternating in one process, medians of CUDA event times after one warming round"
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The reference."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=True)


def inputs(tokens: int, batch: int = BATCH) -> list[Tensor]:
    """Queries in pulse widths, keys and values in volts."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.rand(3, batch, HEADS, tokens, DIM, generator=generator)
    return [q.cuda(), (0.9 * k).cuda(), (0.9 * v).cuda()]


def milliseconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of every call."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(rounds + 1):
        for name, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if n:
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def table(tokens: int, part: str, rounds: int) -> dict[str, float]:
    """Medians of one length, forward or both."""
    design = load_design("leroux2025")
    plainly = partial(gain_cell_attention, design=design, impl="blocked")
    contenders: dict[str, Attention] = {
        REFERENCE: flash,
        "triton": lambda q, k, v: gain_cell_attention(q, k, v, design, None, "triton"),
        "blocked": plainly,
    }
    qkv = inputs(tokens)
    half = [t.bfloat16() for t in qkv]
    calls: dict[str, Callable[[], object]] = {}
    for name, attention in contenders.items():
        leaves = half if name == REFERENCE else qkv
        if part == "forward":
            calls[name] = torch.no_grad()(partial(attention, *leaves))
        else:
            calls[name] = partial(both, attention, [t.requires_grad_() for t in leaves])
    return milliseconds(calls, rounds)


def both(attention: Attention, leaves: list[Tensor]) -> object:
    """Forward and backward."""
    out = attention(*leaves)
    return torch.autograd.grad(out, leaves, torch.ones_like(out))


def codes_that_differ(tokens: int) -> float:
    """Share of outputs of one sequence that the GPU reads out differently from the CPU."""
    design = load_design("leroux2025")
    q, k, v = inputs(tokens, 1)
    on_gpu = gain_cell_attention(q, k, v, design, None, "triton").cpu()
    on_cpu = gain_cell_attention(q.cpu(), k.cpu(), v.cpu(), design)
    return float(((on_gpu - on_cpu).abs() * design.readout_steps > 0.5).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    results: dict[str, Any] = {}
    for tokens in (1024, 4096):
        for part, limit in LIMITS.items():
            label = f"{part}, T = {tokens}"
            results[label] = found = table(tokens, part, options.rounds)
            print(label)
            for name, ms in found.items():
                print(f"  {name:26s} {ms:9.3f} ms  {ms / found[REFERENCE]:6.2f} x flash")
            print(
                ("  met   " if found["triton"] <= limit * found[REFERENCE] else "  MISSED"),
                f"<= {limit} x flash",
            )
        results[f"codes that differ, T = {tokens}"] = share = codes_that_differ(tokens)
        print(f"codes that differ from the CPU's, T = {tokens}: {share:.1e}", flush=True)
    report = {
        "kind": "measured",
        "gpu": torch.cuda.get_device_name(),
        "unit": "ms",
        "results": results,
        "provenance": provenance(
            command=sys.argv, seed=0, protocol="alternating, medians of CUDA event times"
        ),
    }
    write_text(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
