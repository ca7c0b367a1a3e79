"""The product of an adapter: peft's own numbers, in fewer passes."""

from __future__ import annotations

import copy

import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from gaincell.integrations.hf.lora import add_lora, lora_parameters
from gaincell.integrations.hf.lora_product import LowRankLinear

LLAMA = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=16)


def adapted(family: str, scale: float = 0.5) -> PreTrainedModel:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LLAMA) if family == "llama" else GPT2LMHeadModel(GPT2)
    add_lora(model.eval(), 3, scale=scale)
    for name, parameter in lora_parameters(model).items():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def as_in_peft(model: PreTrainedModel) -> PreTrainedModel:
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, LowRankLinear):
            module.__class__ = Linear
    return other


def outcome(model: PreTrainedModel, bf16: bool) -> list[Tensor]:
    """Logits and gradients of a few tokens."""
    ids = torch.arange(12)[None]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(ids).logits
    logits.float().square().mean().backward()
    return [logits.float(), *(p.grad for p in lora_parameters(model).values() if p.grad is not None)]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_logits_and_gradients_are_those_of_peft(family: str) -> None:
    model = adapted(family)
    other = as_in_peft(model)
    count = sum(type(module) is LowRankLinear for module in model.modules())
    assert count == (14 if family == "llama" else 8)
    found, expected = outcome(model, bf16=False), outcome(other, bf16=False)
    assert len(found) == len(expected) == 1 + len(lora_parameters(model))
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
        assert theirs.norm() > 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_in_bf16_it_is_as_near_to_float32_as_peft(family: str) -> None:
    exact = outcome(adapted(family), bf16=False)
    model = adapted(family)
    other = as_in_peft(model)
    errors = [
        [((a - b).norm() / b.norm()).item() for a, b in zip(outcome(one, bf16=True), exact, strict=True)]
        for one in (model, other)
    ]
    ours, theirs = (sum(some) / len(some) for some in errors)
    assert 0 < ours <= 1.1 * theirs < 0.1


@pytest.mark.slow
def test_what_peft_switches_off_or_adds_is_computed_by_peft() -> None:
    model = adapted("llama")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        layers = [module for module in model.modules() if isinstance(module, LowRankLinear)]
        on = model(ids).logits
        for layer in layers:
            layer.enable_adapters(False)
        off = model(ids).logits
        for layer in layers:
            layer.enable_adapters(True)
            layer.merge()
        merged = model(ids).logits
        assert not torch.allclose(on, off, atol=1e-4)
        assert torch.allclose(on, merged, atol=1e-5)
        for layer in layers:
            layer.unmerge()
            layer.set_adapter([])
        assert torch.allclose(model(ids).logits, off, atol=1e-5)


def test_weights_of_another_type_than_the_adapter() -> None:
    model = adapted("llama").bfloat16()
    for parameter in lora_parameters(model).values():
        parameter.data = parameter.data.float()
    with torch.no_grad():
        ids = torch.arange(12)[None]
        assert torch.equal(model(ids).logits, as_in_peft(model)(ids).logits)
