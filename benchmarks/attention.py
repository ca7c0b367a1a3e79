"""Forward and forward + backward time of the blocked attention against torch's float32 causal softmax
attention.

Paired and interleaved in one process, medians, one thread: every round times SDPA and each contender once, so
that what the machine does meanwhile hits all of them. Extra peak memory is the growth of the resident set
during one call (Linux).

    python benchmarks/attention.py [--rounds 15] [--threads 1] [--out benchmarks/results/attention.json]

B = 1, H = 12, D = 64, window 1024, the decay of twelve layers: the paper's GPT-2. SDPA computes full causal
attention.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gaincell.config import load_design
from gaincell.files import write_text
from gaincell.ops.gain_cell_attention import gain_cell_attention
from gaincell.reports.results import provenance

PROTOCOL = "paired and interleaved in one process, medians, after one warming round"
LIMITS = {("cubic", 1024): 4.5, ("cubic", 4096): 3.0}  # forward, times SDPA
MEMORY_LIMIT_MIB = 32.0  # extra peak memory at T = 1024


def inputs(tokens: int, gradients: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries in pulse widths, keys and values in volts."""
    generator = torch.Generator().manual_seed(0)
    q = torch.rand(1, 12, tokens, 64, generator=generator)
    k, v = (0.9 * torch.rand(1, 12, tokens, 64, generator=generator) for _ in range(2))
    return tuple(t.requires_grad_(gradients) for t in (q, k, v))  # type: ignore[return-value]


def contenders() -> dict[str, Callable[..., Tensor]]:
    """Name -> attention of (q, k, v)."""
    design = load_design("leroux2025")
    cells = {
        "cubic": "polynomial",
        "linear": "linear",
        "x3": "x3",
        "sigmoid": "sigmoid",
        "exponential": "exponential",
    }
    designs = {name: design.replace(cell=cell) for name, cell in cells.items()}
    return {
        "sdpa": lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=True),
        **{
            n: lambda q, k, v, d=d: gain_cell_attention(q, k, v, d, impl="blocked")
            for n, d in designs.items()
        },
        "cubic, linear surrogate": lambda q, k, v: gain_cell_attention(
            q, k, v, designs["cubic"], impl="blocked", gradient="surrogate"
        ),
    }


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(tokens: int, rounds: int, backward: bool) -> dict[str, dict[str, float]]:
    """Median seconds and ratio to SDPA of every contender."""
    qkv = inputs(tokens, backward)
    some = {n: f for n, f in contenders().items() if backward or n != "cubic, linear surrogate"}

    def run(attention: Callable[..., Tensor]) -> None:
        if backward:
            attention(*qkv).sum().backward()
        else:
            with torch.no_grad():
                attention(*qkv)

    times: dict[str, list[float]] = {name: [] for name in some}
    for n in range(rounds + 1):
        for name, attention in some.items():
            seconds = timed(lambda a=attention: run(a))
            if n:  # the first round warms up
                times[name].append(seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = {
        name: statistics.median(t / s for t, s in zip(values, times["sdpa"], strict=True))
        for name, values in times.items()
    }
    return {name: {"seconds": median[name], "times_sdpa": ratio[name]} for name in some}


def extra_memory(attention: Callable[..., Tensor], tokens: int) -> float | None:
    """MiB by which the resident set peaks above its size before one call, output included; None where
    unknown.
    """
    qkv = inputs(tokens, False)
    with torch.no_grad():
        attention(*(t[:, :, :64] for t in qkv))  # code and small caches
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            before = _status("VmRSS")
            attention(*qkv)
            return (_status("VmHWM") - before) / 1024
        except OSError:
            return None


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/attention.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # these two only: later ones would reuse memory that the process holds by then, and seem to need none
    memory = {name: extra_memory(contenders()[name], 1024) for name in ("sdpa", "cubic")}
    results: dict[str, object] = {"extra_memory_MiB_T1024": memory}
    for backward in (False, True):
        for tokens in (256, 1024, 4096):
            if backward and tokens == 4096:
                continue
            label = "forward+backward" if backward else "forward"
            rounds = max(3, options.rounds // 3) if tokens == 4096 or backward else options.rounds
            table = compare(tokens, rounds, backward)
            results[f"{label} T={tokens}"] = table
            print(f"{label}, T = {tokens}, {options.threads} thread(s)")
            for name, row in table.items():
                print(f"  {name:26s} {1e3 * row['seconds']:9.2f} ms  {row['times_sdpa']:6.2f} x SDPA")
    for name, mib in memory.items():
        print(f"extra peak memory, T = 1024: {name:26s} " + ("unknown" if mib is None else f"{mib:.1f} MiB"))
    verdict = {}
    for (name, tokens), limit in LIMITS.items():
        ratio = results[f"forward T={tokens}"][name]["times_sdpa"]  # type: ignore[index]
        verdict[f"{name} forward T={tokens} <= {limit} x SDPA"] = bool(ratio <= limit)
    if memory["cubic"] is not None:
        verdict[f"cubic extra memory T=1024 <= {MEMORY_LIMIT_MIB} MiB"] = bool(
            memory["cubic"] <= MEMORY_LIMIT_MIB
        )
    for what, met in verdict.items():
        print(("met   " if met else "MISSED"), what)
    report = {
        "kind": "measured",
        "results": results,
        "limits": verdict,
        "threads": options.threads,
        "provenance": provenance(command=sys.argv, seed=0, protocol=PROTOCOL),
    }
    write_text(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
