"""Time and memory of gain-cell attention against torch's softmax attention on a CPU.

    python -m benchmarks.attention [--rounds 9] [--quick] [--out benchmarks/results/attention.json]

B = 1 (8 where a table says so), H = 12, D = 64, window 1024, the decay of twelve layers: the paper's GPT-2.
Reference: torch's float32 causal scaled_dot_product_attention over all tokens. Every round of a table times
every contender once, in one process, so that what the machine does meanwhile hits all of them; medians of the
rounds after one that warms up. Decoding: one token of every head, against a cache of T tokens or the ring of
min(T, 1024) columns. Extra memory is the growth of the peak resident set during the first call of a fresh
process (Linux).
Everything takes about an hour.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.published_eager import published_eager
from benchmarks.report import write_report
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gaincell.chips.design_file import load_design
from gaincell.devices.variability import Mismatch
from gaincell.ops.gain_cell_attention import (
    Scaling,
    gain_cell_attention,
    native_decode,
    native_library,
)
from gaincell.results.provenance import made

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
SOFTMAX = "softmax, float32"
PROTOCOL = "paired and interleaved in one process, medians, after one warming round"
FORWARD, BOTH, DECODE = "forward", "forward and backward", "decode"
MEMORY_T = (1024, 4096, 16384)
BATCH = 8
"""Of the tables that show what several sequences at once cost."""
LIMITS = {  # times SDPA, one thread
    (FORWARD, "blocked", 1024): 4.5,
    (FORWARD, "blocked", 4096): 3.0,
    (FORWARD, "native portable", 1024): 12.0,
    (FORWARD, "native avx2", 1024): 4.0,
    (FORWARD, "native avx512", 1024): 1.35,
    (FORWARD, "native avx512", 4096): 0.75,
    (BOTH, "native avx512", 1024): 1.5,
    (BOTH, "native avx512, linear surrogate", 1024): 0.95,
    (BOTH, "native avx512, gradient in bf16", 1024): 0.8,
    (FORWARD, "native amx", 1024): 0.62,
    (FORWARD, "native amx", 4096): 0.35,
    (BOTH, "native amx", 1024): 1.2,
    (BOTH, "native amx, linear surrogate", 1024): 0.9,
    (BOTH, "native amx, gradient in bf16", 1024): 0.8,
    (DECODE, "ring of codes", 1024): 0.55,
}
SCALED = "gains and offsets"
MOST_OF_SCALING = 0.05
"""Times SDPA, that gains and offsets in the kernel may add at T = 1024, one thread."""
MEMORY_LIMITS_MIB = {("native", 1024): 16.0, ("blocked", 1024): 32.0}


def inputs(tokens: int, gradients: bool, batch: int = 1) -> list[Tensor]:
    """Queries in pulse widths, keys and values in volts."""
    generator = torch.Generator().manual_seed(0)
    q = torch.rand(batch, 12, tokens, 64, generator=generator)
    k, v = (0.9 * torch.rand(batch, 12, tokens, 64, generator=generator) for _ in range(2))
    return [t.requires_grad_(gradients) for t in (q, k, v)]


def at_level(level: str, **options: Any) -> Attention:
    """The compiled kernel at one instruction level."""
    design = load_design("leroux2025").replace(**options.pop("chip", {}))

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with native_library.instructions(level):
            return gain_cell_attention(q, k, v, design, backend="native", **options)

    return attention


def scaled_at_level(level: str, gradients: bool) -> Attention:
    """The compiled kernel with gains and offsets, which it applies and which may have gradients, too."""
    ones, zeros = (torch.full((12,), x, requires_grad=gradients) for x in (1.0, 0.0))
    return at_level(level, scaling=Scaling(*(ones, zeros) * 4))


def plain(backend: str, **options: Any) -> Attention:
    """An implementation by its name."""
    design = load_design("leroux2025").replace(**options.pop("chip", {}))
    return lambda q, k, v: gain_cell_attention(q, k, v, design, None, backend, **options)  # type: ignore[arg-type]


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The reference."""
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def softmax_bf16(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The reference in bfloat16, conversion included."""
    return softmax(*(t.bfloat16() for t in (q, k, v))).float()


def contenders(tokens: int, part: str, threads: int, batch: int) -> dict[str, Attention]:
    """Name -> attention of (q, k, v); fewer, the longer it takes."""
    design, levels = load_design("leroux2025"), native_library.levels()
    found: dict[str, Attention] = {SOFTMAX: softmax, "softmax, bfloat16": softmax_bf16}
    if batch * tokens <= 1024:
        found["published eager"] = lambda q, k, v: published_eager(q, k, v, design)
    if tokens == 256 and part == FORWARD:
        found["naive"] = plain("naive")
    found["blocked"] = plain("blocked")
    shown = levels if batch * tokens <= 4096 and threads == 1 else levels[-1:]
    found |= {f"native {level}": at_level(level) for level in shown}
    if levels and batch * tokens <= 1024:
        best = levels[-1]
        for cell in ("linear", "x3", "sigmoid"):
            found[f"native {best}, {cell}"] = at_level(best, chip={"cell": cell})
        found[f"native {best}, {SCALED}"] = scaled_at_level(best, part == BOTH)
        found[f"native {best}, mismatch"] = at_level(best, chip={"mismatch": Mismatch(gain_std=0.05)})
        if part == BOTH:
            found[f"native {best}, linear surrogate"] = at_level(best, gradient="surrogate")
            found[f"native {best}, gradient in bf16"] = at_level(best, gradient="bf16")
    return found


def compare(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of every call, and the median of its ratios to the first one's."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(rounds + 1):  # one to warm up
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if n:
                times[name].append(time.perf_counter() - start)
    first = next(iter(times.values()))
    return {
        name: {
            "seconds": statistics.median(values),
            "times_sdpa": statistics.median(t / s for t, s in zip(values, first, strict=True)),
        }
        for name, values in times.items()
    }


def attention_table(
    tokens: int, part: str, rounds: int, threads: int, batch: int = 1
) -> dict[str, dict[str, float]]:
    """One table: forward, or forward and backward."""
    qkv = inputs(tokens, part == BOTH, batch)
    grad = torch.ones_like(qkv[0])

    def call(attention: Attention) -> Callable[[], object]:
        if part == BOTH:
            return lambda: torch.autograd.grad(attention(*qkv), qkv, grad)
        return torch.no_grad()(lambda: attention(*qkv))

    return compare({name: call(a) for name, a in contenders(tokens, part, threads, batch).items()}, rounds)


def decode_table(tokens: int, rounds: int) -> dict[str, dict[str, float]]:
    """One query of every head against so many tokens: a float32 cache, a ring of codes, plain torch.

    Which columns are seen, and how old they are, is worked out once a token for all layers, as in a model.
    Plain torch moves so much memory that it is timed beside a softmax of its own.
    """
    design = load_design("leroux2025")
    held = min(tokens, design.window)
    generator = torch.Generator().manual_seed(0)
    q = torch.rand(1, 12, 1, 64, generator=generator)
    k, v = (torch.rand(1, 12, tokens, 64, generator=generator) * 0.9 for _ in range(2))
    keys, values = torch.randint(0, 8, (2, 1, 12, held, 64), generator=generator, dtype=torch.uint8)
    age = torch.arange(held, 0, -1).double() * design.token_period
    columns = torch.arange(held)
    halves = [t.bfloat16() for t in (q, k, v)]
    calls: dict[str, Callable[[], object]] = {
        SOFTMAX: lambda: scaled_dot_product_attention(q, k, v),
        "softmax, bfloat16": lambda: scaled_dot_product_attention(*halves),
    }
    if native_library.levels():
        left = torch.exp(-age / design.retention_time)[None]
        slots = native_decode.make_slots(
            columns, (columns // design.tile)[None], left, torch.tensor([tokens - 1]), design
        )
        decode = native_decode.RingDecoder(design, 12, 12, 64, 0)
        calls["ring of codes"] = lambda: decode(q, keys, values, slots)
    found = compare(calls, rounds)
    recent = [t[:, :, -held:] for t in (k, v)]
    plainly = torch.no_grad()(lambda: gain_cell_attention(q, *recent, design, None, "decode"))
    beside = compare({SOFTMAX: calls[SOFTMAX], "plain torch": plainly}, max(3, rounds // 5))
    return found | {"plain torch": beside["plain torch"]}


def extra_memory(name: str, tokens: int, part: str) -> float | None:
    """MiB by which the resident set peaks above its size before the first call; None where unknown."""
    attention = {"softmax": softmax, "blocked": plain("blocked"), "native": plain("native")}[name]
    qkv = inputs(tokens, part == BOTH)

    def call(leaves: list[Tensor]) -> None:
        out = attention(*leaves)
        if part == BOTH:
            torch.autograd.grad(out, leaves, torch.ones_like(out))

    with torch.set_grad_enabled(part == BOTH):
        call([t[:, :, :64].contiguous() for t in qkv])  # code and small caches
        gc.collect()
        if sys.platform == "linux":  # what was freed would be counted as held before
            ctypes.CDLL(None).malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak
            before = _status("VmRSS")
            call(qkv)
            found = (_status("VmHWM") - before) * 1024
        except (OSError, AttributeError):
            return None
    return None if found < qkv[0].nbytes else found / 2**20  # less than the output is none


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1])


def memory_table(part: str) -> dict[str, dict[str, float | None]]:
    """Extra memory of every name and length, each in a process of its own.

    The output takes T * 3 KiB of it, the gradients of q, k and v three times as much.
    """
    found: dict[str, dict[str, float | None]] = {}
    for name in ("softmax", "blocked", *(["native"] if native_library.levels() else [])):
        found[name] = {}
        for tokens in MEMORY_T:
            command = [sys.executable, "-m", "benchmarks.attention", "--memory", name, str(tokens), part]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name][str(tokens)] = json.loads(printed.splitlines()[-1])
    return found


def exponent(results: dict[str, Any], name: str) -> float:
    """Of T in the time of the forward pass, from 4096 to 16384 tokens."""
    seconds = [results[f"{FORWARD}, T = {tokens}, 1 thread"][name]["seconds"] for tokens in (4096, 16384)]
    return math.log(seconds[1] / seconds[0]) / math.log(4)


def show(label: str, table: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    print(label)
    for name, row in table.items():
        print(f"  {name:34s} {1e3 * row['seconds']:9.3f} ms  {row['times_sdpa']:6.2f} x SDPA", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="T = 256 only, no memory")
    parser.add_argument(
        "--out", type=Path, help="by default benchmarks/results/attention.json; with --quick build/"
    )
    parser.add_argument("--memory", nargs=3, metavar=("NAME", "T", "PART"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = options.out or Path("build" if options.quick else "benchmarks/results", "attention.json")
    torch.set_num_threads(1)
    if options.memory:
        print(json.dumps(extra_memory(options.memory[0], int(options.memory[1]), options.memory[2])))
        return
    results: dict[str, Any] = {}

    def table(label: str, make: Callable[[], dict[str, dict[str, float]]]) -> None:
        results[label] = make()
        show(label, results[label])

    lengths = (256,) if options.quick else (256, 1024, 4096, 16384)
    for threads in (1, 2) if (os.cpu_count() or 1) > 1 and not options.quick else (1,):
        torch.set_num_threads(threads)
        for tokens in lengths:
            unit = f"T = {tokens}, {threads} thread{'s' if threads > 1 else ''}"
            rounds = options.rounds if tokens <= 1024 else max(3, options.rounds // 3)
            for part in (FORWARD, BOTH):
                table(
                    f"{part}, {unit}",
                    lambda t=tokens, p=part, n=rounds, c=threads: attention_table(t, p, n, c),
                )
            table(f"{DECODE}, {unit}", lambda t=tokens: decode_table(t, 20 * options.rounds))
        for part in (FORWARD, BOTH) if not options.quick else ():
            label = f"{part}, T = 1024 (batch {BATCH}), {threads} thread{'s' if threads > 1 else ''}"
            table(
                label,
                lambda p=part, c=threads: attention_table(1024, p, max(3, options.rounds // 3), c, BATCH),
            )
    torch.set_num_threads(1)
    report: dict[str, Any] = {"kind": "measured", "results": results}
    verdict = {}
    for (part, name, tokens), limit in LIMITS.items():
        found = results.get(f"{part}, T = {tokens}, 1 thread", {}).get(name)
        if found is not None:
            verdict[f"{part}, T = {tokens}: {name} <= {limit} x SDPA"] = bool(found["times_sdpa"] <= limit)
    for part in (FORWARD, BOTH):
        rows = results.get(f"{part}, T = 1024, 1 thread", {})
        for name in [name for name in rows if name.endswith(SCALED)]:
            more = rows[name]["times_sdpa"] - rows[name.removesuffix(f", {SCALED}")]["times_sdpa"]
            verdict[f"{part}, T = 1024: {name} add <= {MOST_OF_SCALING} x SDPA"] = more <= MOST_OF_SCALING
    if not options.quick:
        report["extra_memory_MiB"] = {part: memory_table(part) for part in (FORWARD, BOTH)}
        report["exponent_in_T"] = {
            name: exponent(results, name) for name in results[f"{FORWARD}, T = 16384, 1 thread"]
        }
        print(json.dumps({key: report[key] for key in ("extra_memory_MiB", "exponent_in_T")}, indent=1))
        for (name, tokens), limit in MEMORY_LIMITS_MIB.items():
            used = report["extra_memory_MiB"][FORWARD].get(name, {}).get(str(tokens))
            if used is not None:
                verdict[f"extra memory, T = {tokens}: {name} <= {limit} MiB"] = bool(used <= limit)
    for what, met in verdict.items():
        print(("met   " if met else "MISSED"), what)
    report |= {
        "limits": verdict,
        "instructions": list(native_library.levels()),
        "provenance": made(command=sys.argv, seed=0, protocol=PROTOCOL),
    }
    write_report(out, report)


if __name__ == "__main__":
    main()
