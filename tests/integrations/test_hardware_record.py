"""What files of transformers and peft say about hardware, as every reader of JSON understands it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import peft
import pytest
from transformers import AutoModelForCausalLM

import gaincell
from gaincell.circuits.noise import Noise
from gaincell.devices.writing import Writing
from gaincell.files import parse_json
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.size import run_design

from .families import tokens
from .hardware_models import DESIGN, WARNINGS, brief_trainer, lora

pytestmark = [*WARNINGS, pytest.mark.slow]


@pytest.mark.parametrize("wrapped", [False, True])
def test_infinite_numbers_of_a_design(wrapped: bool, softmax: dict[str, Path], tmp_path: Path) -> None:
    """Noise of a design that states none has ranges without ends. Read in every form of any version."""
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
    for form in (r'"\1infinity"', r'{"__float__": "\1Infinity"}', r"\1Infinity"):
        file.write_text(re.sub(r'(?<!"name": )"(-?)infinity"', form, record))
        assert run_design(place) == design
        assert attached_layers(gaincell.load(place)[0])[0].design == design
        brief_trainer(model(), 2, tmp_path).train(resume_from_checkpoint=str(place))
