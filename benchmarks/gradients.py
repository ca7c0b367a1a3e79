"""How far the cheaper gradients of the cells are from the exact one, layer by layer of the embedded model.

    python -m benchmarks.gradients [--tokens 1024] [--out benchmarks/results/gradients.json]

One block of the embedded text and the loss of the next token, on the paper's chip, with weights and gains
that were trained on linear cells. What a layer's gradient is off by: the norm of the difference over the norm
of the exact one, of the projections of q, k and v, and of all gains and offsets of the layer's arrays
together. It includes the errors that come from the layers behind.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.report import write_report
from torch import Tensor, nn

from gaincell.chips.design_file import load_design
from gaincell.integrations.hf.attach import attached_layers
from gaincell.mapping.load_hardware import hardware_model
from gaincell.results.provenance import made
from gaincell.text import open_text, token_stream
from gaincell.training.loop import next_token_loss

PARTS = {"q": "q_proj.", "k": "k_proj.", "v": "v_proj.", "gains and offsets": "gain_cell."}
"""What is compared, and what the names of its parameters have in them."""
CHEAPER = ("bf16", "surrogate")


def gradients(model: Any, ids: Tensor, gradient: str) -> list[dict[str, Tensor]]:
    """Of every layer, by PARTS."""
    layers = attached_layers(model)
    for cell in layers:
        cell.gradient = gradient  # type: ignore[assignment]
    model.requires_grad_(True)
    model.zero_grad()
    next_token_loss(model, ids).backward()
    blocks: list[nn.Module] = [module for module in model.modules() if hasattr(module, "gain_cell")]
    assert [block.gain_cell for block in blocks] == layers
    return [
        {
            part: torch.cat(
                [p.grad.double().flatten() for name, p in block.named_parameters() if inside in name]
            )
            for part, inside in PARTS.items()
        }
        for block in blocks
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gradients.json"))
    options = parser.parse_args()
    design = load_design("leroux2025")
    loaded = hardware_model("tiny", design, design).loaded
    ids = token_stream(open_text("sample").training, loaded.tokenizer, options.tokens + 1).long()[None]
    exact = gradients(loaded.model, ids, "exact")
    off = {}
    for gradient in CHEAPER:
        found = gradients(loaded.model, ids, gradient)
        off[gradient] = [
            {part: float((got[part] - x).norm() / x.norm()) for part, x in wanted.items()}
            for got, wanted in zip(found, exact, strict=True)
        ]
        print(gradient, json.dumps(off[gradient]), flush=True)
    result = {
        "kind": "simulated",
        "off": off,
        "provenance": made(
            command=["python", "-m", "benchmarks.gradients", *sys.argv[1:]],
            seed=0,
            protocol=f"one block of {options.tokens} tokens, loss of the next token",
            design_hash=attached_layers(loaded.model)[0].design.hash,
        ),
    }
    write_report(options.out, result)


if __name__ == "__main__":
    main()
