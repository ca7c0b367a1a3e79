"""What files of transformers and peft say about hardware, as every reader of JSON understands it; what is
not written, because it could not be read again.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

import gaincell
from gaincell.circuits.noise import Noise
from gaincell.devices.writing import Writing
from gaincell.errors import ModelError, RunError
from gaincell.files import parse_json
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.size import run_design

from .families import tokens
from .hardware_models import DESIGN, WARNINGS, brief_trainer, hardware, logits, lora

pytestmark = WARNINGS


@pytest.mark.slow
@pytest.mark.parametrize("wrapped", [False, True])
def test_infinite_numbers_of_a_design(wrapped: bool, softmax: dict[str, Path], tmp_path: Path) -> None:
    """Noise of a design that states none has ranges without ends."""
    design = DESIGN.replace(
        name="infinity", layers=2, noise=Noise(cell_std=0.01), writing=Writing(storage_capacitance=math.inf)
    )

    def model() -> Any:
        made = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), design)
        gaincell.calibrate(made, [tokens(2, 30, seed=3)])
        return peft.get_peft_model(made, lora("llama")) if wrapped else made

    brief_trainer(model(), 1, tmp_path).train()
    place = tmp_path / "checkpoint-1"
    file = place / ("adapter_config.json" if wrapped else "config.json")
    record = file.read_text()
    assert "-infinity" in str(parse_json(record))
    assert run_design(place) == design
    assert attached_layers(gaincell.load(place)[0])[0].design == design
    brief_trainer(model(), 2, tmp_path).train(resume_from_checkpoint=str(place))


@pytest.mark.parametrize("way", ["save_pretrained", "gaincell.save"])
def test_a_model_of_which_the_backbone_is_attached(
    way: str, softmax: dict[str, Path], tmp_path: Path
) -> None:
    """It could not be read again. What was trained is kept as the error says."""
    model: Any = AutoModelForCausalLM.from_pretrained(softmax["llama"])
    gaincell.attach(model.model, DESIGN)
    gaincell.calibrate(model, [tokens(2, 30, seed=3)])
    expected = logits(model)
    save = model.save_pretrained if way == "save_pretrained" else partial(gaincell.save, model)
    with pytest.raises(ModelError, match=r"only the LlamaModel in it is attached.*Attach the whole model"):
        save(tmp_path)
    state = model.state_dict()
    gaincell.attach(gaincell.detach(model), DESIGN)
    model.load_state_dict(state)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(gaincell.load(tmp_path)[0]), expected)


@pytest.mark.parametrize(
    ("holds", "wrapped"),
    [("hardware.safetensors", False), ("hardware.safetensors", True), ("adapter_config.json", False)],
)
def test_no_model_is_saved_beside_another(
    holds: str, wrapped: bool, softmax: dict[str, Path], tmp_path: Path
) -> None:
    model: Any = hardware(softmax["llama"])
    if wrapped:
        model = peft.get_peft_model(model, lora("llama"))
    (tmp_path / holds).touch()
    with pytest.raises(RunError, match=rf"\({holds}\): choose another directory"):
        model.save_pretrained(save_directory=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
