"""What threads and processes of one machine gain, and what they cost each other.

    python -m benchmarks.threads [--rounds 40] [--tokens 1024] [--out benchmarks/results/threads.json]

H = 12, D = 64, window 1024, one sequence; decoding: of eight. The same work with 1 and 2 threads in turns,
the shortest time of each: what else shares the memory of a machine only lengthens them. Then as many
processes as there are cores compute the forward pass at once, each with one thread, then each with as many
threads as there are cores, against one that is alone: where they do not hinder each other, both take as long
as that one. Run it on a quiet machine with two cores or more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.attention import BATCH, BOTH, DECODE, FORWARD, inputs
from benchmarks.models import turns
from benchmarks.report import write_report

from gaincell.chips.design_file import load_design
from gaincell.ops.gain_cell_attention import gain_cell_attention, native_decode
from gaincell.results.provenance import made

LEAST_GAIN = 1.8
"""Of two threads."""
DECODED = 100
"""Queries of a round, so that what changes the number of threads does not count."""
MOST_COST = 1.2
"""Of processes that have a core each; of threads beyond the cores, over that of one thread a core."""


def kinds_of_work(tokens: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    design = load_design("leroux2025")
    qkv, leaves = inputs(tokens, False), inputs(tokens, True)
    grad = torch.ones_like(qkv[0])
    q = torch.rand(BATCH, 12, 1, 64)
    keys, values = torch.randint(0, design.storage_levels or 0, (2, BATCH, 12, design.window, 64)).byte()
    columns = torch.arange(design.window)
    left = torch.exp(-columns.flip(0) * design.leak_per_token).expand(BATCH, -1)
    tiles, last = (columns // design.tile).expand(BATCH, -1), torch.full((BATCH,), design.window - 1)
    slots = native_decode.make_slots(columns, tiles, left, last, design)
    decoder = native_decode.RingDecoder(design, 12, 12, 64, 0)

    def decode() -> None:
        for _ in range(DECODED):
            decoder(q, keys, values, slots)

    return {
        FORWARD: lambda: gain_cell_attention(*qkv, design, None, "native"),
        BOTH: lambda: torch.autograd.grad(gain_cell_attention(*leaves, design, None, "native"), leaves, grad),
        DECODE: decode,
    }


def gain_of_two(work: Callable[[], object], rounds: int) -> float:
    """Time of one thread over that of two."""

    def with_threads(threads: int) -> object:
        torch.set_num_threads(threads)
        return work()

    seconds = turns({str(n): lambda n=n: with_threads(n) for n in (1, 2)}, rounds)
    return min(seconds["1"]) / min(seconds["2"])


def worker(tokens: int, rounds: int, threads: int) -> None:
    """Print the mean seconds of a forward pass, once told to begin."""
    torch.set_num_threads(threads)
    work = kinds_of_work(tokens)[FORWARD]
    work()
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    print((time.perf_counter() - start) / rounds, flush=True)


def at_once(processes: int, tokens: int, rounds: int, threads: int) -> float:
    """Mean seconds of a forward pass in so many processes that begin together."""
    command = [sys.executable, "-m", "benchmarks.threads", "--worker", str(threads)]
    command += ["--tokens", str(tokens), "--rounds", str(rounds)]
    running = [
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    times = [float(process.communicate()[0]) for process in running]
    return sum(times) / len(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/threads.json"))
    parser.add_argument("--worker", type=int, metavar="THREADS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        worker(options.tokens, options.rounds, options.worker)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        print("one core here: nothing measured")
        return
    gains = {part: gain_of_two(work, options.rounds) for part, work in kinds_of_work(options.tokens).items()}
    runs = 3 * options.rounds  # long enough for all to be at work most of the time
    one = at_once(1, options.tokens, runs, 1)
    cost = at_once(cores, options.tokens, runs, 1) / one
    crowded = at_once(cores, options.tokens, runs, cores) / one
    limits = {f"two threads, {part} >= {LEAST_GAIN} x": gain >= LEAST_GAIN for part, gain in gains.items()}
    limits[f"a process on every core <= {MOST_COST} x one alone"] = cost <= MOST_COST
    limits[f"threads beyond the cores <= {MOST_COST} x one a core"] = crowded <= MOST_COST * cost
    report = {
        "kind": "measured",
        "cores": cores,
        "gain_of_two_threads": gains,
        "process_on_every_core": cost,
        "threads_beyond_the_cores": crowded,
        "limits": limits,
        "provenance": made(
            command=["python", "-m", "benchmarks.threads", *sys.argv[1:]],
            seed=0,
            protocol=f"threads in turns, shortest of {options.rounds}; processes that begin together, means",
        ),
    }
    for what in ("gain_of_two_threads", "process_on_every_core", "threads_beyond_the_cores"):
        print(what, json.dumps(report[what]))
    for what, met in limits.items():
        print(("met   " if met else "MISSED"), what)
    write_report(options.out, report)


if __name__ == "__main__":
    main()
