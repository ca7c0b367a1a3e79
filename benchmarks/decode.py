"""Generation on the ring of columns: tokens per second and memory over 10 000 tokens of the embedded model.

The softmax model with transformers' own growing cache is timed beside it, in alternating stretches of the
same process. Memory: the resident set at the end of every stretch (Linux).

    python -m benchmarks.decode [--tokens 10000] [--threads 1] [--out benchmarks/results/decode.json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
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

STRETCH = 500
SOFTMAX_TOKENS = 1000
"""The softmax model is timed up to its context only."""


def resident() -> int | None:
    """Bytes of this process in memory; None where the system does not say."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None


@torch.inference_mode()
def stretch(model: Any, cache: Any, token: torch.Tensor, tokens: int) -> tuple[torch.Tensor, float]:
    """Generate `tokens` likeliest tokens; the last one and the seconds it took."""
    start = time.perf_counter()
    for _ in range(tokens):
        token = model(input_ids=token, **cache).logits[:, -1:].argmax(-1)
    return token, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decode.json"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    hardware: Any = hardware_model("tiny", load_design("leroux2025")).loaded.model
    software: Any = load_model("tiny").model
    ring = RingCache(hardware)
    (argument,) = ring.argument
    softmax_cache = {argument: DynamicCache()}
    tokens = {"ring": torch.tensor([[5]]), "softmax": torch.tensor([[5]])}
    rows = []
    for done in range(0, given.tokens, STRETCH):
        tokens["ring"], seconds = stretch(hardware, ring.argument, tokens["ring"], STRETCH)
        row = {
            "tokens": done + STRETCH,
            "ring_tokens_per_second": STRETCH / seconds,
            "ring_bytes": ring.memory,
        }
        row["resident_bytes"] = resident()
        if done < SOFTMAX_TOKENS:
            tokens["softmax"], seconds = stretch(software, softmax_cache, tokens["softmax"], STRETCH)
            row["softmax_tokens_per_second"] = STRETCH / seconds
        rows.append(row)
        print(json.dumps(row), flush=True)
    result = {
        "benchmark": "decode",
        "threads": given.threads,
        "rows": rows,
        "provenance": made(
            command=["python", "-m", "benchmarks.decode", *sys.argv[1:]],
            seed=0,
            protocol=f"alternating stretches of {STRETCH} tokens in one process",
            design_hash=ring.rings[0].attention.design.hash,
            inputs={},
        ),
    }
    write_report(given.out, result)


if __name__ == "__main__":
    main()
