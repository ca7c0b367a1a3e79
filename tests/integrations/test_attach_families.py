"""Attached models of every tested family: masks arrive intact, the cache changes nothing, detach undoes it.

Softmax passthrough proves the path (masks, windows, groups, caches); the hardware tests then prove that
prefill with cached decoding is the full forward pass.
"""

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_attention, set_design
from gaincell.integrations.hf.softmax_passthrough import softmax_passthrough
from gaincell.ops.gain_cell_attention import GRADIENTS

from .families import FAMILIES, MISTRAL_WINDOW, build, padding_mask, tokens

LENGTHS = [41, 30, 7]
"""Real tokens of three sequences; longer than every window here, and shorter."""


@pytest.fixture(scope="module")
def design() -> Design:
    """The published cell on a small head: 16 columns in two sub-tiles."""
    return load_design("leroux2025").replace(tile=8, window=16)


def attach_scaled(model: PreTrainedModel, design: Design, **options: Any) -> PreTrainedModel:
    """Attach with gains and offsets that differ per layer and head and use the whole range of codes."""
    attach(model, design, **options)
    with torch.no_grad():
        for cell in attached_layers(model):
            for stage, gain, offset in (
                ("q", 0.3, 0.5),
                ("k", 0.2, 0.45),
                ("v", 0.2, 0.45),
                ("out", 1.5, 0.1),
            ):
                scaler = getattr(cell, stage)
                ramp = torch.linspace(0.8, 1.2, scaler.gain.numel())
                scaler.gain.copy_(gain * ramp * (1 + 0.1 * cell.layer))
                scaler.offset.copy_(offset * ramp.flip(0))
    return model


def logits(model: PreTrainedModel, ids: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(ids, attention_mask=mask, use_cache=False, **options).logits
    return result


def positions(mask: Tensor) -> Tensor:
    """Position of every real token, as `generate` counts them."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def cached_logits(
    model: PreTrainedModel, ids: Tensor, chunks: list[int], mask: Tensor | None = None
) -> Tensor:
    """Logits of all positions, computed piece by piece with a cache."""
    cache, done, pieces = DynamicCache(config=model.config), 0, []
    argument = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    place = positions(mask) if mask is not None else torch.arange(ids.shape[1]).expand_as(ids)
    for size in chunks:
        end = done + size
        with torch.no_grad():
            output = model(
                ids[:, done:end],
                attention_mask=None if mask is None else mask[:, :end],
                position_ids=place[:, done:end],
                use_cache=True,
                **{argument: cache},
            )
        pieces.append(output.logits)
        done = end
    assert done == ids.shape[1]
    return torch.cat(pieces, 1)


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_softmax_passthrough_reproduces_the_logits(family: str, side: str, design: Design) -> None:
    model, ids = build(family), tokens(3, 41)
    mask = None if side == "none" else padding_mask(LENGTHS, 41, side)
    real = torch.ones(3, 41, dtype=torch.bool) if mask is None else mask.bool()
    before = logits(model, ids, mask)
    attach(model, design, attention="softmax")
    torch.testing.assert_close(logits(model, ids, mask)[real], before[real], atol=1e-5, rtol=0)
    detach(model)
    assert torch.equal(logits(model, ids, mask), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_observed_softmax_reproduces_the_logits(family: str, design: Design) -> None:
    """As statistics, first gains and fidelity see it, whatever scaling a family gives its attention."""
    model, ids = build(family), tokens(1, 41)
    before = logits(model, ids, None)
    attach(model, design)
    with softmax_passthrough(model, lambda *_: None):
        torch.testing.assert_close(logits(model, ids, None), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_softmax_passthrough_reproduces_generation(family: str, design: Design) -> None:
    """Greedy tokens and their scores, left-padded, past the sliding windows."""
    model, ids, mask = build(family), tokens(3, 11), padding_mask([11, 6, 2], 11, "left")

    def generate() -> tuple[Tensor, Tensor]:
        result = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=20,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        return result.sequences, torch.stack(result.scores)

    sequences, scores = generate()
    attach(model, design, attention="softmax")
    attached_sequences, attached_scores = generate()
    assert torch.equal(attached_sequences, sequences)
    torch.testing.assert_close(attached_scores, scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "mistral", "qwen2"])
def test_cached_decoding_is_the_full_forward(family: str, design: Design) -> None:
    """float64, T = 41 over a ring of 16 columns: a prefill of 19, a chunk of 12, then token by token."""
    model, ids = build(family).double(), tokens(2, 41)
    attach_scaled(model, design)
    full = logits(model, ids)
    cached = cached_logits(model, ids, [19, 12] + [1] * 10)
    torch.testing.assert_close(cached, full, atol=1e-9, rtol=0)
    assert full.std() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_decoding_with_left_padding(family: str, design: Design) -> None:
    """The same for sequences of 41, 30 and 7 tokens in one batch."""
    model, ids, mask = build(family).double(), tokens(3, 41), padding_mask(LENGTHS, 41, "left")
    attach_scaled(model, design)
    full = logits(model, ids, mask, position_ids=positions(mask))
    cached = cached_logits(model, ids, [20, 11] + [1] * 10, mask)
    torch.testing.assert_close(cached[mask.bool()], full[mask.bool()], atol=1e-9, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_never_written(family: str, side: str, design: Design) -> None:
    """A padded sequence gives what it gives alone: ages and physical columns count real tokens."""
    model, ids, mask = build(family).double(), tokens(3, 41), padding_mask(LENGTHS, 41, side)
    attach_scaled(model, design)
    padded = logits(model, ids, mask, position_ids=positions(mask))
    for row, length in enumerate(LENGTHS):
        real = mask[row].bool()
        alone = logits(model, ids[row : row + 1, real])
        assert alone.shape[1] == length
        torch.testing.assert_close(padded[row, real], alone[0], atol=1e-9, rtol=0)


def test_the_implementations_agree_in_a_model(design: Design) -> None:
    ids, mask = tokens(3, 41), padding_mask(LENGTHS, 41, "left")
    blocked = logits(attach_scaled(build("qwen2").double(), design, backend="blocked"), ids, mask)
    naive = logits(attach_scaled(build("qwen2").double(), design, backend="naive"), ids, mask)
    torch.testing.assert_close(blocked[mask.bool()], naive[mask.bool()], atol=1e-9, rtol=0)


def test_the_sliding_window_of_the_model_is_respected(design: Design) -> None:
    """One Mistral layer: tokens of age W and more change nothing, the oldest inside the window does."""
    model = build("mistral").double()
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    attach_scaled(model, design.replace(storage_levels=None, query_levels=None, readout="none"))
    ids = tokens(1, 30)
    full = logits(model, ids)[0, -1]

    def changed_at(age: int) -> Tensor:
        other = ids.clone()
        other[0, 29 - age] = (other[0, 29 - age] + 1) % 90 + 2
        return (logits(model, other)[0, -1] - full).abs().max()

    assert changed_at(MISTRAL_WINDOW) == 0
    assert changed_at(MISTRAL_WINDOW - 1) > 1e-9


def test_a_future_token_changes_nothing(design: Design) -> None:
    model, ids = attach_scaled(build("llama").double(), design), tokens(1, 30)
    other = ids.clone()
    other[0, 20:] = 5
    before, after = logits(model, ids), logits(model, other)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


@pytest.mark.slow
def test_generation_on_the_hardware_is_the_argmax_of_full_forwards(design: Design) -> None:
    model, ids = attach_scaled(build("mistral").double(), design), tokens(1, 9)
    generated = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=15, do_sample=False)
    expected = ids
    for _ in range(15):
        expected = torch.cat([expected, logits(model, expected)[:, -1:].argmax(-1)], 1)
    assert torch.equal(generated, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_gains_and_offsets_are_parameters_of_every_layer(family: str, design: Design) -> None:
    model = build(family)
    count = sum(1 for _ in model.parameters())
    attach(model, design)
    cells = attached_layers(model)
    assert [cell.layer for cell in cells] == [0, 1]
    assert sum(1 for _ in model.parameters()) == count + 2 * 8
    for cell in cells:
        kv_heads = 4 if family in {"gpt2", "gpt_neox", "opt"} else 2
        assert (cell.heads, cell.kv_heads, cell.head_dim) == (4, kv_heads, 12 if family == "qwen3" else 8)
        assert cell.q.gain.shape == cell.out.offset.shape == (4,)
        assert cell.k.gain.shape == cell.v.offset.shape == (kv_heads,)
        initial = [
            (s.gain.unique().item(), s.offset.unique().item()) for s in (cell.q, cell.k, cell.v, cell.out)
        ]
        assert initial == [(1, 0), (1, 0.45), (1, 0.45), (1, 0)]
        assert cell.design.token_period == 2 * design.layer_latency


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "opt"])
def test_key_value_heads_are_those_of_the_modules(family: str, design: Design) -> None:
    """A num_key_value_heads that a family without grouped heads does not read changes nothing."""
    model = build(family)
    model.config.num_key_value_heads = 2
    assert attached_layers(attach(model, design))[0].kv_heads == 4
    logits(model, tokens(1, 8))


def test_a_stated_token_period_wins(design: Design) -> None:
    model = attach(build("llama"), design.replace(token_period=1e-3))
    assert attached_layers(model)[0].design.token_period == 1e-3


def test_attach_draws_no_random_numbers(design: Design) -> None:
    model = build("llama")
    state = torch.get_rng_state()
    attach(model, design)
    assert torch.equal(torch.get_rng_state(), state)


def test_detach_removes_everything(design: Design) -> None:
    model = build("qwen3")
    state, implementation = set(model.state_dict()), model.config._attn_implementation
    attach(model, design)
    assert set(model.state_dict()) > state
    detach(model)
    assert set(model.state_dict()) == state
    assert model.config._attn_implementation == implementation
    assert attached_layers(model) == []
    with pytest.raises(ModelError, match="is not attached"):
        detach(model)
    attach(model, design)
    assert len(attached_layers(model)) == 2


def test_attach_twice_is_refused(design: Design) -> None:
    model = attach(build("llama"), design)
    with pytest.raises(ModelError, match="attached already: use set_design"):
        attach(model, design)
    with pytest.raises(ModelError, match="attached already: use set_design"):
        attach(model.base_model, design)
    with pytest.raises(ModelError, match="LlamaModel is part of an attached model: give the whole"):
        detach(model.base_model)
    assert len(attached_layers(model)) == 2


def test_set_design_keeps_the_parameters(design: Design) -> None:
    model, ids = attach_scaled(build("llama"), design), tokens(1, 20)
    cubic = logits(model, ids)
    gains = [cell.q.gain for cell in attached_layers(model)]
    set_design(model, design.replace(cell="linear"))
    assert not torch.equal(logits(model, ids), cubic)
    assert all(cell.q.gain is gain for cell, gain in zip(attached_layers(model), gains, strict=True))
    assert attached_layers(model)[0].design.token_period == 2 * design.layer_latency
    set_design(model, design)
    assert torch.equal(logits(model, ids), cubic)
    with pytest.raises(ModelError, match="is not attached"):
        set_design(detach(model), design)


def test_set_attention_switches_to_softmax_and_back(design: Design) -> None:
    model, ids = build("llama"), tokens(1, 20)
    software = logits(model, ids)
    hardware = logits(attach_scaled(model, design), ids)
    torch.testing.assert_close(logits(set_attention(model, "softmax"), ids), software, atol=1e-5, rtol=0)
    assert torch.equal(logits(set_attention(model, "gain-cell"), ids), hardware)
    with pytest.raises(InputError, match="allowed: 'gain-cell', 'softmax'"):
        set_attention(model, "flash")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="allowed: 'gain-cell', 'softmax'"):
        attach(detach(model), design, attention="flash")  # type: ignore[arg-type]
    assert attached_layers(model) == []


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_training_with_gradient_checkpointing(design: Design, gradient: Any) -> None:
    """Same gradients with and without; every gain, offset and weight gets one."""
    grads = []
    for checkpointing in (False, True):
        model = attach_scaled(build("llama"), design, gradient=gradient).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        ids = tokens(2, 33)
        model(ids, labels=ids, use_cache=False).loss.backward()
        grads.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(grad is not None and grad.isfinite().all() for grad in grads[0].values())
    gain_grads = [grad for name, grad in grads[0].items() if ".gain_cell." in name]
    assert len(gain_grads) == 16
    assert all(grad.abs().sum() > 0 for grad in gain_grads)
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=lambda text, name=name: f"{name}: {text}")


def test_dropout_of_attention_weights_is_left_out(design: Design) -> None:
    """GPT-2 asks for 0.1 in training; arrays have none."""
    model, ids = build("gpt2"), tokens(1, 20)
    model.transformer.drop.p = 0.0
    for block in model.transformer.h:
        block.attn.resid_dropout.p = block.mlp.dropout.p = 0.0
        assert block.attn.attn_dropout.p == 0.1
    attach_scaled(model, design)
    assert torch.equal(logits(model.train(), ids), logits(model.eval(), ids))


def test_a_bfloat16_model_keeps_its_gains(design: Design) -> None:
    model, ids = build("llama").bfloat16(), tokens(1, 20)
    attach_scaled(model, design)
    assert attached_layers(model)[0].k.offset.dtype == torch.float64
    assert logits(model, ids).dtype == torch.bfloat16
    with pytest.raises(ModelError, match="too coarse for the write DAC"):
        logits(model.bfloat16(), ids)


def test_a_copy_is_attached_and_detached_on_its_own(design: Design) -> None:
    model, ids = attach_scaled(build("llama"), design), tokens(1, 20)
    hardware, other = logits(model, ids), copy.deepcopy(model)
    assert torch.equal(logits(other, ids), hardware)
    detach(other)
    assert torch.equal(logits(model, ids), hardware)
    assert torch.equal(logits(other, ids), logits(build("llama"), ids))
    with pytest.raises(ModelError, match="output_attentions"):
        model(ids, output_attentions=True)
    logits(other, ids, output_hidden_states=True)
