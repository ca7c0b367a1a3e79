"""Values rotated by a Walsh-Hadamard matrix, and outputs back: a symmetry, part of the weights, saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scipy.linalg import hadamard
from tests.micro import micro_design, micro_llama, write_micro
from tests.nn.test_digital_scaling import some_ids
from torch import Tensor
from transformers import LlamaForCausalLM

from gaincell.chips.design_file import load_design
from gaincell.errors import ModelError, RunError
from gaincell.evaluation.dump import dump_layer
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_attention
from gaincell.integrations.hf.checkpoint import load_for_training, load_run, save
from gaincell.integrations.hf.lora import add_lora
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.reparametrisation import add_part
from gaincell.integrations.hf.ring_cache import RingCache, feed
from gaincell.mapping.initial_gains import FIRST, initial_scaling
from gaincell.nn.attention import GainCellAttention

H = torch.from_numpy(hadamard(16)).double() / 4


def rotated(normaliser: bool) -> LlamaForCausalLM:
    """With biases that are not zero."""
    model = attach(micro_llama(torch.float64), micro_design())
    add_part(model, "biases")
    add_part(model, "rotated values")
    if normaliser:
        add_part(model, "array normalisers", some_ids())
    initial_scaling(model, some_ids(), (FIRST,))
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for cell in attached_layers(model):
            for bias in (cell.value_bias, cell.output_bias):
                bias.add_(torch.randn(bias.shape, generator=draw, dtype=bias.dtype), alpha=0.02)
    return model


def turn(module: torch.nn.Module, dim: int) -> None:
    """The weight of a projection, with the components of every head turned by H."""
    heads = module.weight.data.unflatten(dim, (-1, 16))
    module.weight.data = (
        torch.tensordot(heads, H, ([dim + 1], [0])).movedim(-1, dim + 1).flatten(dim, dim + 1)
    )


@torch.no_grad()
@pytest.mark.parametrize("normaliser", [False, True])
def test_the_rotation_is_folded_into_v_proj_and_o_proj(normaliser: bool) -> None:
    """Weights that hold it give the same softmax model, and the same arrays without a rotation."""
    model, ids = rotated(normaliser), some_ids()
    plain = micro_llama(torch.float64)(input_ids=ids).logits
    other = micro_llama(torch.float64)
    for layer in other.model.layers:
        turn(layer.self_attn.v_proj, 0)
        turn(layer.self_attn.o_proj, 1)
    torch.testing.assert_close(other(input_ids=ids).logits, plain, rtol=1e-9, atol=1e-9)
    attach(other, micro_design())
    add_part(other, "biases")
    if normaliser:
        add_part(other, "array normalisers", ids)
    initial_scaling(other, ids, (FIRST,))
    for cell, folded in zip(attached_layers(model), attached_layers(other), strict=True):
        for stage in ("q", "k", "v", "out"):
            for number in ("gain", "offset"):
                found, wanted = (getattr(getattr(of, stage), number) for of in (cell, folded))
                torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)
        if normaliser:
            torch.testing.assert_close(cell.normaliser.log_floor, folded.normaliser.log_floor)
            torch.testing.assert_close(
                *(of.normaliser.reflected(torch.eye(16)[None, None].double()) for of in (cell, folded)),
                rtol=1e-6, atol=1e-8,
            )  # fmt: skip
        folded.value_bias.copy_(cell.value_bias @ H.to(cell.value_bias.dtype))
        folded.output_bias.copy_(cell.output_bias @ H.to(cell.output_bias.dtype))
    wanted = other(input_ids=ids).logits
    assert float((wanted - plain).abs().max()) > 0.01
    torch.testing.assert_close(model(input_ids=ids).logits, wanted, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_softmax_and_what_is_detached_know_nothing_of_it() -> None:
    model, ids = rotated(True), some_ids()
    plain = micro_llama(torch.float64)(input_ids=ids).logits
    assert not torch.allclose(model(input_ids=ids).logits, plain)
    set_attention(model, "softmax")
    torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(detach(model)(input_ids=ids).logits, plain, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_ring_computes_what_the_whole_sequence_does() -> None:
    model, ids = rotated(True).float(), some_ids()[:1]
    whole: Tensor = model(input_ids=ids, use_cache=False).logits
    cache = RingCache(model)
    steps = [feed(model, cache, ids[:, n : n + 1]) for n in range(ids.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_run_comes_back_or_says_what_is_missing(tmp_path: Path) -> None:
    source, _ = write_micro(tmp_path)

    def begun(part: bool) -> LlamaForCausalLM:
        model = attach(load_model(str(source)).model, micro_design())
        add_part(model, "biases")
        if part:
            add_part(model, "rotated values")
        add_lora(model, 2)
        return model

    model, ids = begun(True), some_ids()
    initial_scaling(model, ids, (FIRST,))
    run = save(model, tmp_path / "run")
    wanted = model(input_ids=ids).logits
    torch.testing.assert_close(load_run(run).model(input_ids=ids).logits, wanted, rtol=1e-3, atol=1e-3)
    again = begun(True)
    load_for_training(again, run)
    torch.testing.assert_close(again(input_ids=ids).logits, wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(RunError, match=r"rotation.size.*balanced and rotated_values where it has"):
        load_for_training(begun(False), run)


@torch.no_grad()
def test_what_was_made_without_memory_computes_the_same_once_loaded() -> None:
    model = rotated(False)
    for cell in attached_layers(model):
        cell.balance_rows()
    wanted = model(input_ids=some_ids()).logits
    with torch.device("meta"):
        other = attach(micro_llama(torch.float64), micro_design())
        for part in ("biases", "rotated values", "balanced rows"):
            add_part(other, part)
    other.to_empty(device="cpu")
    for name, buffer in micro_llama(torch.float64).named_buffers():  # angles of positions: in no file
        other.get_buffer(name).copy_(buffer)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(input_ids=some_ids()).logits, wanted)


@torch.no_grad()
def test_what_is_dumped_is_what_the_model_goes_on_with(tmp_path: Path) -> None:
    model, given = rotated(False), list[Tensor]()
    projection = model.model.layers[0].self_attn.o_proj
    projection.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    found = load_file(dump_layer(model, some_ids(), 0, tmp_path / "layer.safetensors"))
    scaled = found["scaled"].transpose(1, 2).flatten(2)
    torch.testing.assert_close(scaled, given[0].float())


def test_it_needs_biases_before_normalisers_and_a_power_of_two() -> None:
    model = attach(micro_llama(), micro_design())
    with pytest.raises(ModelError, match="need biases of the output"):
        add_part(model, "rotated values")
    add_part(model, "biases")
    add_part(model, "array normalisers")
    with pytest.raises(ModelError, match="normalisers last"):
        add_part(model, "rotated values")
    model = rotated(False)
    with pytest.raises(ModelError, match="has rotated values already"):
        add_part(model, "rotated values")
    cell = GainCellAttention(load_design("leroux2025"), heads=1, kv_heads=1, head_dim=12)
    cell.add_biases()
    with pytest.raises(ModelError, match="a power of two components a head, not 12"):
        cell.rotate_values()
