"""Old names of keyword arguments work for one release, with a warning."""

import pytest
import torch
from tests.micro import micro_design, micro_llama

import gaincell
from gaincell.integrations.hf.attach import attached_layers


def test_the_old_name_of_a_backend_is_taken_with_a_warning() -> None:
    q, k, v = torch.rand(3, 1, 2, 5, 64, generator=torch.Generator().manual_seed(0))
    design = gaincell.load_design("leroux2025")
    expected = gaincell.gain_cell_attention(q, k, v, design, backend="naive")
    with pytest.warns(FutureWarning, match="gain_cell_attention: impl= is called backend= now"):
        found = gaincell.gain_cell_attention(q, k, v, design, impl="naive")
    assert torch.equal(found, expected)
    with pytest.raises(TypeError, match="impl= is called backend= now; give backend= alone"):
        gaincell.gain_cell_attention(q, k, v, design, impl="naive", backend="blocked")
    model = micro_llama()
    with pytest.warns(FutureWarning, match="attach: impl= is called backend= now"):
        gaincell.attach(model, micro_design(), impl="blocked")
    assert {cell.backend for cell in attached_layers(model)} == {"blocked"}
