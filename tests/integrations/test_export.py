"""The position of docs/installation.md on torch.export and torch.jit: models are refused while attached."""

from __future__ import annotations

import pytest
import torch
from tests.micro import micro_design, micro_llama
from torch import nn

import gaincell
from gaincell.errors import ModelError

IDS = torch.arange(1, 17)[None]


class Logits(nn.Module):
    """A model as `torch.export` takes it: tensors in, tensors out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits


@pytest.mark.filterwarnings("ignore")  # of torch.export
def test_an_attached_model_is_not_exported_in_silence() -> None:
    model = gaincell.attach(micro_llama(), micro_design())
    with pytest.raises(ModelError, match=r"torch\.export, .* and ONNX cannot hold .*gaincell\.detach"):
        torch.export.export(Logits(model), (IDS,), strict=False)
    gaincell.detach(model)
    exported = torch.export.export(Logits(model), (IDS,), strict=False).module()
    with torch.no_grad():
        assert torch.allclose(exported(IDS), Logits(model)(IDS), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of torch.jit
def test_an_attached_model_is_not_traced_in_silence() -> None:
    """A trace would keep the padding and the length of its example for every other text."""
    model = gaincell.attach(micro_llama(), micro_design())
    with pytest.raises(ModelError, match=r"torch\.jit\.trace and ONNX cannot hold .*gaincell\.detach"):
        torch.jit.trace(Logits(model), (IDS,))
    gaincell.detach(model)
    traced = torch.jit.trace(Logits(model), (IDS,))
    with torch.no_grad():
        assert torch.allclose(traced(IDS), Logits(model)(IDS), atol=1e-5)
