"""Noise-aware training: every forward pass meets another draw, and a repeated run the same ones."""

from __future__ import annotations

import pytest
import torch
from tests.micro import micro_llama
from torch import Tensor, nn

from gaincell.chips.design_file import Design, load_design
from gaincell.circuits.noise import Noise
from gaincell.devices.variability import Mismatch
from gaincell.devices.writing import Writing
from gaincell.errors import InputError
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.training.loop import TRAINED_ON, TrainSettings, next_token_loss, train

BLOCKS = torch.randint(1, 97, (4, 33), generator=torch.Generator().manual_seed(0))
TRAINED = range(TRAINED_ON + 1, TRAINED_ON + 5)
"""Draws of four micro-batches: far from the small numbers of the chips that are evaluated."""


def noisy() -> Design:
    return load_design("leroux2025").replace(
        window=32,
        tile=8,
        mismatch=Mismatch(0.05, seed=3, chip=2),
        noise=Noise(cell_std=0.02, seed=7),
        writing=Writing(error_std=2e-3, seed=8),
    )


def trained(redraw: str) -> tuple[list[tuple[int, int, int]], list[float], nn.Module]:
    torch.manual_seed(0)
    model = attach(micro_llama(torch.float32), noisy())
    seen, losses = [], []

    def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
        designs = {layer.design for layer in attached_layers(model)}
        assert len(designs) == 1
        design = designs.pop()
        seen.append((design.noise.seed, design.writing.seed, design.mismatch.chip))
        loss = next_token_loss(model, tokens)
        losses.append(float(loss.detach()))
        return loss

    settings = TrainSettings(batch=2, micro_batch=1, bf16=False, redraw=redraw)
    train(model, BLOCKS, settings, loss_of=loss_of)
    return seen, losses, model


@pytest.mark.parametrize(
    ("redraw", "expected"),
    [
        ("nothing", [(7, 8, 2)] * 4),
        ("noise", [(7 + n, 8 + n, 2) for n in TRAINED]),
        ("chip", [(7 + n, 8 + n, 2 + n) for n in TRAINED]),
    ],
)
def test_every_forward_pass_meets_another_draw(redraw: str, expected: list[tuple[int, int, int]]) -> None:
    seen, losses, model = trained(redraw)
    assert seen == expected
    assert {layer.design for layer in attached_layers(model)} == {noisy().replace(layers=2)}
    assert trained(redraw)[1] == losses


def test_nominal_designs_and_unknown_words() -> None:
    design = load_design("leroux2025")
    assert design.redrawn(5, chip=True) is design
    with pytest.raises(InputError, match="redraw = 'dice'; allowed: nothing, noise or chip"):
        TrainSettings(redraw="dice")
