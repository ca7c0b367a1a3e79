"""Tiny models in gain-cell arrays, and what tests of their files do with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

import gaincell
from gaincell.cli import main
from gaincell.integrations.hf.paired import pair_rows
from gaincell.integrations.hf.reparametrisation import add_part

from .families import tokens

WARNINGS = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
]
"""`pytestmark` of files that use Trainer or peft."""
FAMILIES = ["llama", "qwen2", "gpt2", "mistral"]
LINEAR = {
    "llama": ["q_proj", "down_proj"],
    "qwen2": ["v_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "mistral": ["q_proj"],
}
DESIGN = gaincell.load_design("leroux2025").replace(tile=8, window=16)


def hardware(directory: Path, **arguments: Any) -> PreTrainedModel:
    """A pretrained model on the chip, calibrated."""
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(directory, **arguments), DESIGN)
    gaincell.calibrate(model, [tokens(2, 30, seed=3)])
    return model


def lora(family: str) -> peft.LoraConfig:
    return peft.LoraConfig(r=2, target_modules=LINEAR[family], fan_in_fan_out=family == "gpt2")


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=tokens(2, 20), use_cache=False).logits
    return found


def trained(model: nn.Module) -> nn.Module:
    """Two steps, so that everything that is trained is something else."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for seed in range(2):
        ids = tokens(2, 12, seed)
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model


def brief_trainer(model: Any, steps: int, out: Path) -> Trainer:
    """Saves after every step; an optimizer's state would not fit another model either."""
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        save_steps=1,
        save_only_model=True,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    data = [{"input_ids": row, "labels": row} for row in tokens(2, 12)]
    return Trainer(model=model, args=arguments, train_dataset=data)


def run_python(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )


def exit_code(*words: str) -> Any:
    """Of a command."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


def add_parts(model: PreTrainedModel, part: str) -> None:
    """Give an attached model what its arrays can have beside gains and offsets."""
    ids = tokens(2, 30, seed=3)
    if part in ("biases", "normaliser", "rotated"):
        add_part(model, "biases")
    if part == "rotated":
        add_part(model, "rotated values")
    if part in ("normaliser", "rotated"):
        add_part(model, "array normalisers", ids)
    if part == "exponents":
        add_part(model, "exponents")
    if part == "paired":
        pair_rows(model, ids)
    if part == "balanced":
        add_part(model, "balanced rows")
