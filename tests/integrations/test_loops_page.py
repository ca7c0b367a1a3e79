"""docs/transformers.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

import gaincell
from gaincell.training.data import train_tokenizer

from .hardware_models import WARNINGS, logits

pytestmark = WARNINGS


PAGE = Path(__file__).parents[2] / "docs" / "transformers.md"


def test_the_page_of_loops_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"vocab_size": 300, "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained("base")
    made = train_tokenizer([PAGE.read_text()], 300)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>").save_pretrained("base")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("openai-community/gpt2", "base"), names)
    assert len(blocks) == 6
    assert torch.equal(logits(names["again"]), logits(names["lora"]))
    assert torch.equal(logits(gaincell.load("gpt2-on-arrays")[0]), logits(names["model"]))
