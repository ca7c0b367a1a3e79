"""What heads can have beside gains and offsets: bias vectors, which are biases of v_proj and o_proj, and
gains that follow the columns read; fitted, kept in files, gone when detached.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.micro import micro_design, micro_llama, write_micro
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from gaincell.adaptation import adapt, collect_statistics
from gaincell.arrays import HeadArray
from gaincell.chips.design_file import load_design
from gaincell.errors import ModelError, RunError
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_attention, set_design
from gaincell.integrations.hf.checkpoint import (
    HARDWARE,
    load_for_training,
    load_run,
    read_state,
    save,
    trained_parameters,
    write_state,
)
from gaincell.integrations.hf.lora import add_lora
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.paired import pair_rows
from gaincell.integrations.hf.reparametrisation import add_part
from gaincell.integrations.hf.ring_cache import RingCache, feed
from gaincell.integrations.hf.softmax_passthrough import softmax_passthrough
from gaincell.mapping.initial_gains import FIRST, WIDE, initial_scaling
from gaincell.nn.attention import GainCellAttention


def some_ids(count: int = 2, length: int = 32) -> Tensor:
    return torch.randint(1, 97, (count, length), generator=torch.Generator().manual_seed(0))


def test_first_gains_of_a_broken_model_are_refused() -> None:
    """Its heads would be named silent, and their offsets NaN."""
    model = attach(micro_llama(), micro_design())
    model.model.layers[0].mlp.up_proj.weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match="stage q of layer 1 is not finite; look for NaN"):
        initial_scaling(model, some_ids())


def fill(model: nn.Module, scale: float = 0.1) -> None:
    """Random numbers for what is added to an attached model."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for cell in attached_layers(model):
            cell.q.gain.fill_(0.3)
            cell.q.offset.fill_(0.2)
            cell.k.gain.fill_(0.3)
            cell.v.gain.fill_(0.3)
            for number in cell.extras():
                number.copy_(scale * torch.randn(number.shape, generator=draw))


def biased(dtype: torch.dtype = torch.float64, **changes: object) -> LlamaForCausalLM:
    model = attach(micro_llama(dtype), micro_design(**changes))
    add_part(model, "biases")
    fill(model)
    return model


def extended(**changes: object) -> LlamaForCausalLM:
    """With exponents too."""
    model = biased(**changes)
    add_part(model, "exponents")
    fill(model)
    return model


@torch.no_grad()
def test_biases_are_those_of_v_proj_and_o_proj() -> None:
    model = biased()
    config = model.config.to_dict() | {"attention_bias": True}
    config.pop("attn_implementation", None)
    other = attach(LlamaForCausalLM(type(model.config)(**config)).double().eval(), micro_design())
    other.load_state_dict(model.state_dict(), strict=False)
    plain = other(input_ids=some_ids()).logits
    for layer in other.model.layers:
        attention, cell = layer.self_attn, model.get_submodule(f"model.layers.{layer.self_attn.layer_idx}")
        cell = cell.self_attn.gain_cell
        for projection in (attention.q_proj, attention.k_proj):
            projection.bias.zero_()
        attention.v_proj.bias.copy_(cell.value_bias.flatten())
        attention.o_proj.bias.copy_(attention.o_proj.weight @ cell.output_bias.flatten())
    wanted = other(input_ids=some_ids()).logits
    assert float((wanted - plain).abs().max()) > 0.1
    torch.testing.assert_close(model(input_ids=some_ids()).logits, wanted, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_biases_are_the_arrays_own() -> None:
    """Softmax attention has none of them, nor exponents, and what is detached neither."""
    model, ids = extended(), some_ids()
    wanted = micro_llama(torch.float64)(input_ids=ids).logits
    assert not torch.allclose(model(input_ids=ids).logits, wanted)
    set_attention(model, "softmax")
    torch.testing.assert_close(model(input_ids=ids).logits, wanted)
    assert torch.equal(detach(model)(input_ids=ids).logits, wanted)


@pytest.mark.slow
@torch.no_grad()
def test_the_ring_computes_what_the_whole_sequence_does() -> None:
    model, ids = extended(token_period=30e-6), some_ids(2, 50)
    wanted = model(input_ids=ids, use_cache=False).logits
    cache = RingCache(model)
    found = [feed(model, cache, ids[:, :20])] + [feed(model, cache, ids[:, n : n + 1]) for n in range(20, 50)]
    torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=1e-6, atol=1e-6)


def test_the_closed_form_is_exact_with_biases_and_exponents() -> None:
    model = extended(cell="linear")
    target = collect_statistics(model, [some_ids()])
    set_design(model, micro_design())
    result = adapt(model, [some_ids()], target)
    assert result.converged
    assert result.residual <= 1e-6


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 20])
def test_gains_follow_the_columns_that_a_query_reads(window: int | None) -> None:
    """As an operator of plain gains on queries scaled one by one; n ends at the ring, or the model's own
    window, and counts no padding; the token-serial hardware makes the same of what it is given.
    """
    design = load_design("leroux2025").replace(window=32, tile=8)
    cell, plain = (GainCellAttention(design, heads=4, kv_heads=2, head_dim=8) for _ in range(2))
    cell.add_exponents()
    draw = torch.Generator().manual_seed(3)
    q, k, v = (torch.rand(1, h, 50, 8, dtype=torch.float64, generator=draw) for h in (4, 2, 2))
    cell.q.exponent.copy_(torch.tensor([0.2, -0.1, 0.0, 0.05]))
    cell.out.exponent.copy_(torch.tensor([0.3, -0.2, 0.0, 0.1]))
    for attention in (cell, plain):
        attention.q.gain.copy_(torch.tensor([0.5, 0.3, 0.4, 0.6]))
        attention.k.gain.fill_(0.2)
        attention.v.gain.fill_(0.4)
        attention.out.gain.fill_(1.5)
        attention.out.offset.fill_(0.1)
    n = torch.arange(1, 51, dtype=torch.float64).clamp(max=window or 32)
    scales = [(n / 1024) ** stage.exponent[:, None] for stage in (cell.q, cell.out)]  # [H, T]
    alone = plain(q * scales[0][..., None], k, v, sliding_window=window)
    wanted = (alone - 0.1) * scales[1][..., None] + 0.1
    assert float((wanted - plain(q, k, v, sliding_window=window)).abs().max()) > 0.1
    torch.testing.assert_close(cell(q, k, v, sliding_window=window), wanted, rtol=1e-9, atol=1e-12)
    padded = [torch.nn.functional.pad(t, (0, 0, 7, 0), value=0.5) for t in (q, k, v)]
    index = torch.cat([torch.full((1, 7), -1), torch.arange(50)[None]], 1)
    found = cell(*padded, key_index=index, sliding_window=window)
    torch.testing.assert_close(found[:, :, 7:], wanted, rtol=1e-9, atol=1e-12)
    last = cell(q[:, :, 47:], k, v, sliding_window=window)
    torch.testing.assert_close(last, wanted[:, :, 47:], rtol=1e-9, atol=1e-12)
    head = HeadArray(design, 8, heads=4, kv_heads=2, sliding_window=window, dtype=torch.float64)
    columns = cell.columns(q, k, v, sliding_window=window)
    pulses, volts = cell.q(q, columns), cell.volts(k, v)
    sums = torch.stack([head.step(*(t[:, :, j] for t in (pulses, *volts))) for j in range(50)], 2)
    torch.testing.assert_close(cell.output(sums, columns), wanted, rtol=1e-6, atol=1e-6)


def test_first_tokens_of_their_own_are_not_counted() -> None:
    model = extended()
    sinks = dataclasses.replace(micro_design().sinks, tokens=4)
    set_design(model, micro_design(sinks=sinks))
    with pytest.raises(ModelError, match=r"leroux2025 holds first tokens .* without exponents"):
        model(input_ids=some_ids())


def test_a_run_with_extras_comes_back_or_says_what_is_missing(tmp_path: Path) -> None:
    folder, _ = write_micro(tmp_path)
    model = attach(load_model(str(folder)).model, micro_design())
    plain = {name for name, _ in model.named_parameters()}
    add_part(model, "biases")
    add_part(model, "exponents")
    fill(model)
    ids = some_ids()
    run = save(model, tmp_path / "run")
    again = load_run(run).model
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    base = load_model(str(folder)).model(input_ids=ids).logits
    assert torch.equal(detach(load_run(run).model)(input_ids=ids).logits, base)
    state = tmp_path / "state.safetensors"
    write_state(trained_parameters(model), state)
    other = attach(load_model(str(folder)).model, micro_design())
    read_state(other, state)
    assert torch.equal(other(input_ids=ids).logits, model(input_ids=ids).logits)
    name = "model.layers.1.self_attn.gain_cell.output_bias"
    for path, read in (
        (run / HARDWARE, lambda: load_run(run).model),
        (state, lambda: read_state(attach(load_model(str(folder)).model, micro_design()), state)),
    ):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(path)
        assert {n for n in tensors if n not in plain} == {
            f"model.layers.{layer}.self_attn.gain_cell.{extra}"
            for layer in (0, 1)
            for extra in ("value_bias", "output_bias", "q.exponent", "out.exponent")
        }
        for changed, message in (
            ({n: t for n, t in tensors.items() if n != name}, "layers.1.*output_bias is in one only"),
            (
                {n: t for n, t in tensors.items() if "0.self_attn.gain_cell.q.exp" not in n},
                "q.exponent is in",
            ),
            (tensors | {name: torch.zeros(2, 15)}, "does not fit .*layers.1.*output_bias"),
        ):
            save_file(changed, path, metadata=metadata)
            with pytest.raises(RunError, match=message):
                read()


def test_only_a_model_with_biases_goes_on_from_them(tmp_path: Path) -> None:
    folder, _ = write_micro(tmp_path)
    made = {}
    for name in ("with", "without"):
        model = attach(load_model(str(folder)).model, micro_design())
        if name == "with":
            add_part(model, "biases")
            fill(model)
        add_lora(model, 2)
        made[name] = model, save(model, tmp_path / name)
    for own, other in (("with", "without"), ("without", "with")):
        with pytest.raises(RunError, match=r"_bias \(4 tensors\) is in one only .*biases"):
            load_for_training(made[own][0], made[other][1])
    load_for_training(*made["with"])


@pytest.mark.parametrize("what", ["biases", "exponents"])
def test_extras_are_added_once_to_what_is_attached(what: str) -> None:
    model = micro_llama()
    with pytest.raises(ModelError, match="not attached"):
        add_part(model, what)
    add_part(attach(model, micro_design()), what)
    with pytest.raises(ModelError, match=f"{what} already"):
        add_part(model, what)


@torch.no_grad()
def heads(model: LlamaForCausalLM, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of every layer: what its arrays pass on, and softmax attention."""
    found = []

    def see(layer: int, cell: GainCellAttention, inputs: tuple, softmax: Tensor) -> None:
        found.append((cell.forward(*inputs), softmax))

    with softmax_passthrough(model, see):
        model(input_ids=ids)
    return found


@torch.no_grad()
def test_first_output_gains_are_least_squares_with_a_vector() -> None:
    """The same as solving for a gain and D constants head by head; kept within a range."""
    ids, errors = some_ids(2, 64), []
    for vectors in (False, True):
        model = attach(micro_llama(torch.float64), micro_design())
        if vectors:
            add_part(model, "biases")
            fill(model)  # is forgotten
        initial_scaling(model, ids, [FIRST], gains=(1e-6, 1e6))
        errors.append([(got - want).square().mean((0, 2, 3)) for got, want in heads(model, ids)])
        for cell in attached_layers(model):
            assert cell.value_bias is None or not cell.value_bias.any()
    assert all(bool((after < before).all()) for before, after in zip(*errors, strict=True))
    for cell, (got, want) in zip(attached_layers(model), heads(model, ids), strict=True):
        assert not cell.out.offset.any()
        for head in range(cell.heads):
            gain, bias = cell.out.gain[head], cell.output_bias[head]
            raw = ((got[:, head] - bias) / gain).flatten(0, 1)  # [tokens, D]
            table = torch.zeros(*raw.shape, 17, dtype=torch.float64)
            table[..., 0], table[..., 1:] = raw, torch.eye(16)
            solved = torch.linalg.lstsq(table.flatten(0, 1), want[:, head].reshape(-1, 1)).solution.flatten()
            assert float(solved[0]) > 1e-6
            torch.testing.assert_close(gain, solved[0], rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(bias, solved[1:], rtol=1e-5, atol=1e-6)
    low, high = 0.9 * float(cell.out.gain.min()), 0.9 * float(cell.out.gain.max())
    initial_scaling(model, ids, [FIRST], gains=(low, high))
    for cell in attached_layers(model):
        assert bool(((cell.out.gain >= low) & (cell.out.gain <= high)).all())
    assert float(cell.out.gain.max()) == high


@pytest.mark.slow
@torch.no_grad()
def test_every_head_takes_what_fits_best_of_a_wide_range() -> None:
    ids = some_ids(2, 64)
    model = attach(micro_llama(torch.float64), micro_design())
    add_part(model, "biases")
    pair_rows(model, ids[:1])
    some, alone = WIDE[3::9], []
    for several in (*([candidate] for candidate in some), some):
        initial_scaling(model, ids, several, gains=(0.02, 8.0))
        alone.append([float((got - want).square().mean((0, 2, 3)).sum()) for got, want in heads(model, ids)])
    *single, chosen = torch.tensor(alone, dtype=torch.float64)  # by layer: one key/value head each
    torch.testing.assert_close(chosen, torch.stack(single).min(0).values, rtol=1e-9, atol=0)
    assert len({float(cell.k.gain[0]) for cell in attached_layers(model)}) == 2
