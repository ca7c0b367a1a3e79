"""Tokens a second of a conversion step, now and at an earlier commit, in turns on one machine.

    python -m benchmarks.conversion [--before COMMIT] [--steps 4] [--rounds 2] [--out FILE]

SmolLM2-135M on the paper's chip as an early recipe made it (paired rows, mixing, rank 14, blocks
of 1024 tokens, one a step; the embedded text): steps of attention transfer and of distillation. Every
measurement is a process of its own, whose checkout compiles its own kernel. Times are those of the processor,
so that other work on the machine matters less. The first two steps of a process, in which its memory grows
and torch compiles (`gaincell train --compile`), are left out. A kept teacher's outputs are read from disk
(`gaincell train --teacher-outputs`): every training of a text but the first. Fixed weights in bfloat16 are
those of a recipe with `weights = "bfloat16"`: not converted again in every step.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parents[1]
BEFORE = "9217be6"
MODEL, RANK, BLOCK = "smollm2-135m", 14, 1024
UNCOUNTED = 2
NOW, EARLIER = "now", "before"
COMPILED, KEPT, HELD = "compiled", "kept teacher", "fixed weights in bfloat16"
WAYS: tuple[tuple[str, bool, str | None, str], ...] = (
    (EARLIER, False, None, ""),
    (EARLIER, True, None, ""),
    (NOW, False, "exact", ""),
    (NOW, True, "exact", ""),
    (NOW, True, "bf16", ""),
    (NOW, True, "bf16", COMPILED),
    (NOW, True, "bf16", KEPT),
    (NOW, True, "bf16", f"{COMPILED}, {KEPT}"),
    (NOW, True, "bf16", f"{COMPILED}, {HELD}"),
    (NOW, True, "bf16", f"{COMPILED}, {HELD}, {KEPT}"),
)
"""Checkout, products of matrices in bfloat16 or not, gradient of the cells, what else."""


def called(checkout: str, bf16: bool, gradient: str | None, also: str) -> str:
    """What a way is called."""
    matrices = "bfloat16" if bf16 else "float32"
    return f"{checkout}, {matrices}, gradient {gradient or 'exact'}{also and f', {also}'}"


def measure(bf16: bool, gradient: str | None, also: str, steps: int) -> dict[str, float]:
    """Tokens a processor second of this process's own checkout, by the loss."""
    kept = KEPT in also
    try:
        from gaincell.chips.design_file import load_design
    except ImportError:  # of an earlier commit
        from gaincell.config import load_design
    try:
        from gaincell.training.transfer import AttentionTransfer, only_attention
    except ImportError:  # of an earlier commit
        from gaincell.mapping.transfer import AttentionTransfer, only_attention
    from gaincell.integrations.hf.attach import attach
    from gaincell.integrations.hf.lora import add_lora
    from gaincell.integrations.hf.mixing import add_mixing
    from gaincell.integrations.hf.models import load_model
    from gaincell.integrations.hf.paired import pair_rows
    from gaincell.text import open_text, token_stream
    from gaincell.training.distillation import Distillation
    from gaincell.training.loop import TrainSettings, train

    def prepared(model: Any) -> Any:
        if HELD in also:
            from gaincell.mapping.recipe_models import in_bfloat16

            in_bfloat16(model)
        if COMPILED not in also:
            return model
        from gaincell.training.compiled import compile_layers

        return compile_layers(model)

    loaded = load_model(MODEL)
    tokens = token_stream(
        open_text("sample").training, loaded.tokenizer, (steps + UNCOUNTED) * (BLOCK + 1)
    ).long()
    blocks, design = tokens.view(-1, BLOCK + 1), load_design("leroux2025")
    folder = tempfile.TemporaryDirectory()
    losses: dict[str, Any] = {
        "distillation": Distillation(
            prepared(copy.deepcopy(loaded.model)), 0.5, **({"kept": Path(folder.name)} if kept else {})
        )
    }
    if not kept:
        losses["transfer"] = AttentionTransfer(
            prepared(attach(copy.deepcopy(loaded.model), design, attention="softmax"))
        )
    model: Any = loaded.model
    attach(model, design, **({} if gradient is None else {"gradient": gradient}))
    pair_rows(model, blocks[:1, :-1])
    add_mixing(model)
    add_lora(model, RANK)
    prepared(model)
    settings = TrainSettings(batch=1, micro_batch=1, bf16=bf16, divergence=1e9)
    found = {}
    for name, loss in losses.items():
        if name == "transfer":
            only_attention(model)
        for _ in range(1 + kept):  # an earlier training of the same text kept them
            times: list[float] = []
            train(
                model,
                blocks,
                settings,
                loss_of=loss,
                progress=lambda *_, t=times: t.append(time.process_time()),
            )
        counted = times[UNCOUNTED - 1 :]
        found[name] = BLOCK * steps / (counted[-1] - counted[0])
    return found


@contextmanager
def checkouts(commit: str) -> Iterator[dict[str, Path]]:
    """Sources by the name of the checkout; the earlier one is made, with its kernel, and removed again."""
    with tempfile.TemporaryDirectory() as folder:
        place, worktree = Path(folder) / "before", ["git", "-C", HERE, "worktree"]
        subprocess.run([*worktree, "add", "--quiet", "--detach", place, commit], check=True)
        try:
            build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            subprocess.run(build, cwd=place, check=True)
            yield {EARLIER: place / "src", NOW: HERE / "src"}
        finally:
            subprocess.run([*worktree, "remove", "--force", place], check=True)


def in_process(sources: Path, *given: Any) -> dict[str, float]:
    """`measure` in a process with the package of some sources."""
    command = [sys.executable, __file__, "--measure", json.dumps(given)]
    environment = {**os.environ, "PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", default=BEFORE, help="the earlier commit")
    parser.add_argument("--steps", type=int, default=4, help="steps that count")
    parser.add_argument("--rounds", type=int, default=2, help="of all ways in turns")
    parser.add_argument("--out", type=Path, default=HERE / "benchmarks/results/conversion.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*json.loads(options.measure))))
        return
    from benchmarks.report import write_report

    from gaincell.results.provenance import made

    rates: dict[str, dict[str, list[float]]] = {called(*way): {} for way in WAYS}
    with checkouts(options.before) as sources:
        for _ in range(options.rounds):
            for way in WAYS:
                for loss, rate in in_process(sources[way[0]], *way[1:], options.steps).items():
                    rates[called(*way)].setdefault(loss, []).append(rate)
                    print(f"{called(*way):38s} {loss:14s} {rate:6.1f} tokens/s", flush=True)
    found = {way: {loss: statistics.median(some) for loss, some in by.items()} for way, by in rates.items()}
    first = found[called(*WAYS[0])]
    result = {
        "kind": "measured",
        "tokens_per_second": found,
        "times_before": {way: {loss: by[loss] / first[loss] for loss in by} for way, by in found.items()},
        "before": options.before,
        "provenance": made(
            command=["python", "-m", "benchmarks.conversion", *sys.argv[1:]],
            seed=0,
            protocol="in turns, a process each, processor time of one thread; "
            f"{options.steps} steps of one block of {BLOCK} tokens, medians of {options.rounds}",
        ),
    }
    write_report(options.out, result)


if __name__ == "__main__":
    main()
