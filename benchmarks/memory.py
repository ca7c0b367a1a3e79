"""Peak memory of loading, fitting, evaluating and writing with a large model: a random Llama of 1.1 billion
weights in bfloat16, on the paper's chip.

    python -m benchmarks.memory [--folder DIRECTORY] [--tokens 512] [--out FILE]

Every step runs in a process of its own, whose largest resident size is what the kernel says of it; pages of
the mapped weight file count. Steps: `load` the model; `fit` the first gains and offsets from statistics, then
adapt to the nonlinear cells in closed form, as `gaincell map` does; `map` the model with low-rank adapters,
all stages on a few short blocks; `evaluate` a perplexity; `generate` on the ring. The limit is 1.25 times the
weights and 1.5 GiB, of which Python, torch and transformers take a share (`nothing`). The model is written
once into DIRECTORY (2.2 GB) and used again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from benchmarks.report import write_report
from transformers import LlamaConfig, LlamaForCausalLM

import gaincell
from gaincell.results.provenance import made

CONFIG = {
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
"""Sizes of TinyLlama-1.1B."""
FACTOR, REST = 1.25, 1.5 * 2**30
"""The limit: so many times the weights, and so many bytes."""


def write_model(folder: Path) -> None:
    """Random weights in bfloat16, with the tokenizer of the embedded model."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(folder, max_shard_size="1GB")
    for file in (Path(gaincell.__file__).parent / "assets" / "tiny").glob("tokenizer*"):
        shutil.copy(file, folder)


def nothing(folder: Path, tokens: int) -> None:
    """What the libraries take."""
    import gaincell.mapping.load_hardware  # noqa: F401


def load(folder: Path, tokens: int) -> None:
    """The model alone."""
    from gaincell.integrations.hf.models import load_model

    load_model(folder, torch.bfloat16)


def fit(folder: Path, tokens: int) -> None:
    """First gains and offsets with the linear cell; statistics; the closed form for the chip's cell."""
    from gaincell.integrations.hf.models import load_model
    from gaincell.mapping.initial_gains import initial_scaling

    chip = gaincell.load_design("leroux2025")
    model = load_model(folder, torch.bfloat16).model
    gaincell.attach(model, chip.replace(cell="linear"))
    ids = _ids(tokens)
    initial_scaling(model, ids)
    target = gaincell.collect_statistics(model, [ids])
    gaincell.set_design(model, chip)
    result = gaincell.adapt(model, [ids], target)
    if not result.converged:
        raise SystemExit(f"the closed form did not converge: {result}")


def map_(folder: Path, tokens: int) -> None:
    """`gaincell map --lora 4`, on blocks of a quarter of the tokens."""
    from gaincell.mapping.pipeline import map_model
    from gaincell.mapping.settings import MapSettings

    block = tokens // 4
    settings = MapSettings(
        model=str(folder),
        design=gaincell.load_design("leroux2025"),
        block=block,
        budget=8 * block,
        evaluation_tokens=tokens,
        calibration_tokens=tokens,
        lora=4,
        published=False,
    )
    with tempfile.TemporaryDirectory() as out:
        map_model(settings, Path(out) / "run")


def evaluate(folder: Path, tokens: int) -> None:
    """A perplexity of the attached model."""
    from gaincell.evaluation.perplexity import perplexity
    from gaincell.integrations.hf.models import load_model

    model = load_model(folder, torch.bfloat16).model
    gaincell.attach(model, "leroux2025")
    perplexity(model, _ids(tokens).flatten(), f"blocks-{tokens}")


def generate(folder: Path, tokens: int) -> None:
    """A few tokens on the ring."""
    from gaincell.integrations.hf.models import load_model
    from gaincell.integrations.hf.ring_cache import RingCache, feed

    model = load_model(folder, torch.bfloat16).model
    gaincell.attach(model, "leroux2025")
    cache, ids = RingCache(model), _ids(32)
    with torch.no_grad():
        for _ in range(4):
            ids = feed(model, cache, ids, last=True)[:, -1].argmax(-1, keepdim=True)


STEPS: dict[str, Callable[[Path, int], None]] = {
    step.__name__.rstrip("_"): step for step in (nothing, load, fit, map_, evaluate, generate)
}


def peak_bytes() -> int:
    """Largest resident size of this process so far (Linux); getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _ids(tokens: int) -> torch.Tensor:
    return torch.randint(CONFIG["vocab_size"], (1, tokens), generator=torch.Generator().manual_seed(1))


def measured(folder: Path, step: str, tokens: int) -> dict[str, float]:
    """Peak resident bytes and seconds of one step in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.memory",
        "--folder",
        str(folder),
        "--tokens",
        str(tokens),
        "--step",
        step,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{step:10s} {found['peak_bytes'] / 2**30:.2f} GiB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "gaincell-llama-1b")
    parser.add_argument("--tokens", type=int, default=512, help="of calibration and evaluation")
    parser.add_argument("--step", choices=STEPS, help="carry out one step in this process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.json"))
    options = parser.parse_args()
    if options.step:
        STEPS[options.step](options.folder, options.tokens)
        print(json.dumps({"peak_bytes": peak_bytes(), "seconds": time.process_time()}))
        return
    if not (options.folder / "model.safetensors.index.json").is_file():  # which is written last
        write_model(options.folder)
    weights = sum(file.stat().st_size for file in options.folder.glob("*.safetensors"))
    result = {
        "kind": "measured",
        "weights_bytes": weights,
        "limit_bytes": FACTOR * weights + REST,
        "hidden": CONFIG["hidden_size"],
        "tokens": options.tokens,
        "steps": {step: measured(options.folder, step, options.tokens) for step in STEPS},
        "provenance": made(
            command=["python", "-m", "benchmarks.memory", *sys.argv[1:]],
            seed=0,
            protocol="every step in a process of its own, whose peak the kernel reports",
        ),
    }
    write_report(options.out, result)


if __name__ == "__main__":
    main()
