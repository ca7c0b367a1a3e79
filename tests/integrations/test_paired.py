"""Paired rows: signed products on unsigned arrays; the most telling pairs; what is saved comes back."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.integrations.families import build
from tests.micro import micro_design, micro_llama, write_micro
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from gaincell.adaptation import adapt, collect_statistics
from gaincell.chips.design_file import load_design
from gaincell.errors import InputError, ModelError, RunError
from gaincell.integrations.hf.attach import attach, attached_layers, set_attention, set_design
from gaincell.integrations.hf.checkpoint import HARDWARE, load_run, save
from gaincell.integrations.hf.interface import SOFTMAX
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.paired import _most_varying, pair_rows
from gaincell.integrations.hf.reparametrisation import add_stored_parts, has_part, indices
from gaincell.mapping.initial_gains import Candidate, initial_scaling
from gaincell.nn.attention import GainCellAttention


def some_ids(count: int = 2, length: int = 32) -> Tensor:
    return torch.randint(1, 97, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("offset", [0.3, 0.5])
def test_paired_rows_multiply_with_a_sign(offset: float) -> None:
    """On a chip without imperfections they do what a driver with a sign does with half of the components."""
    chip = load_design("ideal").replace(window=64, tile=16)
    signed = load_design("leroux2025-signed").drivers
    arrays = GainCellAttention(chip, heads=4, kv_heads=2, head_dim=16)
    plain = GainCellAttention(chip.replace(drivers=signed), heads=4, kv_heads=2, head_dim=16)
    draw = torch.Generator().manual_seed(3)
    q, k, v = (torch.rand(1, h, 40, 16, dtype=torch.float64, generator=draw) - 0.5 for h in (4, 2, 2))
    kept = torch.tensor([[0, 3, 4, 7, 8, 11, 12, 15], [1, 2, 4, 7, 9, 10, 12, 15]])
    with torch.no_grad():
        arrays.q.gain.fill_(0.5)
        arrays.q.offset.fill_(offset)
        plain.q.gain.fill_(1.0)
        for attention in (arrays, plain):
            attention.k.gain.fill_(0.4)
            attention.v.gain.fill_(0.4)
    arrays.pair_rows(kept)
    only = torch.zeros(2, 1, 16, dtype=torch.float64).scatter(-1, kept[:, None], 1.0)
    with torch.no_grad():
        found, wanted = arrays(q, k, v), plain(q * only.repeat_interleave(2, 0), k * only, v)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)
    assert float(found.abs().max()) > 1e-3


def test_a_centre_of_keys_is_a_threshold() -> None:
    """Where both rows of a pair are driven, it adds the same to every score."""
    chip = load_design("ideal").replace(window=64, tile=16)
    attention = GainCellAttention(chip, heads=1, kv_heads=1, head_dim=16)
    kept = torch.arange(8)[None]
    attention.q.kept = attention.k.kept = kept
    draw = torch.Generator().manual_seed(3)
    q, k = (torch.rand(1, 1, 40, 16, dtype=torch.float64, generator=draw) - 0.5 for _ in "qk")
    with torch.no_grad():
        attention.q.gain.fill_(0.5)
        attention.q.offset.fill_(0.4)
        attention.k.gain.fill_(0.4)
        attention.k.offset.add_(-0.05)
        pulses, voltages = attention.q(q), attention.k(k) - chip.v_offset
    assert 0 <= float(pulses.min()) < float(pulses.max()) <= 1
    scores = pulses[0, 0] @ voltages[0, 0].T
    signed = 2 * 0.5 * 0.4 * q[0, 0, :, :8] @ k[0, 0, :, :8].T
    torch.testing.assert_close(scores, signed - 16 * 0.4 * 0.05, rtol=1e-12, atol=1e-12)


def test_the_choice_is_that_of_a_plain_loop() -> None:
    """The variance over the keys that a query sees, summed over the queries of a group."""
    draw = torch.Generator().manual_seed(4)
    q, k = (torch.randn(2, h, 30, 16, dtype=torch.float64, generator=draw) for h in (4, 2))
    k += 5 * torch.randn(2, 2, 1, 16, dtype=torch.float64, generator=draw)  # the same for every key
    q[:, :2] *= torch.linspace(0.2, 2.0, 8).repeat(2)  # the groups want other pairs
    q[:, 2:] *= torch.linspace(2.0, 0.2, 8).repeat(2)
    for window in (None, 5):
        found = torch.zeros(2, 8, dtype=torch.float64)
        for batch, head, query, pair in itertools.product(range(2), range(4), range(8, 30, 8), range(8)):
            first = 0 if window is None else query - window + 1
            part = k[batch, head // 2, first : query + 1, pair::8] @ q[batch, head, query, pair::8]
            found[head // 2, pair] += part.var(correction=0)
        wanted = [sorted(row.topk(4).indices.tolist()) for row in found]
        assert wanted[0] != wanted[1]
        assert _most_varying(q, k, window).tolist() == [[*row, *(n + 8 for n in row)] for row in wanted]


def test_first_gains_give_the_rows_their_spread() -> None:
    model = attach(micro_llama(torch.float64), micro_design())
    pair_rows(model, some_ids())
    initial_scaling(model, some_ids(), [Candidate(q=(0.4, 0.1), k=(0.15, -0.05), v=(0.4, 0.0))])
    cell, seen = attached_layers(model)[0], {}
    for stage in "qk":
        getattr(cell, stage).register_forward_hook(lambda *call, s=stage: seen.update({s: call[2].detach()}))
    model(input_ids=some_ids())
    for stage, spread in (("q", 0.4), ("k", 0.15)):
        for head in seen[stage].unbind(1):
            assert abs(float(head.std(correction=0)) - spread) < 1e-6


def test_pairs_that_tell_keys_apart_are_kept() -> None:
    model = attach(micro_llama(torch.float64), micro_design())
    wanted = [1, 2, 4, 7]
    with torch.no_grad():
        for layer in model.model.layers:
            weight = layer.self_attn.k_proj.weight.view(2, 8, -1)  # one head; components d and d + 8
            weight[:, [n for n in range(8) if n not in wanted]] *= 1e-2
    before = model(input_ids=some_ids()).logits
    pair_rows(model, some_ids())
    assert not torch.allclose(model(input_ids=some_ids()).logits, before)
    components = indices(model)
    assert len(components) == 2
    for kept in components.values():
        assert kept.tolist() == [[*wanted, *(n + 8 for n in wanted)]]
    hardly = attach(micro_llama(torch.float64), micro_design(), attention="softmax")
    hardly.load_state_dict(model.state_dict(), strict=False)
    pair_rows(hardly, some_ids())
    assert hardly.config._attn_implementation == SOFTMAX
    assert {n: kept.tolist() for n, kept in indices(hardly).items()} == {
        n: kept.tolist() for n, kept in components.items()
    }
    set_attention(model, "softmax")  # which does not care
    plain = attach(micro_llama(torch.float64), micro_design(), attention="softmax")
    plain.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(model(input_ids=some_ids()).logits, plain(input_ids=some_ids()).logits)


def test_components_of_learnt_positions_are_chosen_one_by_one() -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=97, n_positions=64, initializer_range=0.2)
    model = attach(GPT2LMHeadModel(config).double().eval(), micro_design())
    wanted = [1, 2, 3, 4, 7, 8, 13, 14]  # none with the one that rotary positions would pair it with
    with torch.no_grad():
        for layer in model.transformer.h:
            layer.attn.c_attn.bias.normal_()
            keys = layer.attn.c_attn.weight[:, 32:64].view(32, 2, 16)
            keys[..., [n for n in range(16) if n not in wanted]] *= 1e-2
    pair_rows(model, some_ids())
    components = indices(model)
    assert len(components) == 2
    for kept in components.values():
        assert [sorted(row) for row in kept.tolist()] == 2 * [wanted]


def test_statistics_are_those_of_the_rows() -> None:
    model = attach(micro_llama(torch.float64), micro_design())
    pair_rows(model, some_ids())
    cells, seen = attached_layers(model), []
    with torch.no_grad():
        for cell in cells:
            cell.k.gain.fill_(0.3)
            cell.k.offset.add_(-0.05)
    cells[1].k.register_forward_hook(lambda *call: seen.append(call[2].detach()))
    found = collect_statistics(model, [some_ids()])
    torch.testing.assert_close(found.mean["k"][1], seen[0].mean().view(1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.std["k"][1], seen[0].std(correction=0).view(1), rtol=1e-9, atol=1e-12)
    assert abs(float(found.mean["k"][1]) - (cells[1].design.v_offset - 0.05)) < 1e-9  # as much +k as -k
    adapt(set_design(model, micro_design(retention_time=2e-4)), [some_ids()], found)
    again = collect_statistics(model, [some_ids()])
    for stage in ("q", "k", "v", "out"):
        torch.testing.assert_close(again.mean[stage], found.mean[stage], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(again.std[stage], found.std[stage], rtol=1e-9, atol=1e-9)


def test_a_run_with_paired_rows_comes_back(tmp_path: Path) -> None:
    folder, _ = write_micro(tmp_path)
    model = attach(load_model(str(folder)).model, micro_design())
    pair_rows(model, some_ids())
    assert all(torch.equal(b, indices(copy.deepcopy(model))[n]) for n, b in indices(model).items())
    ids = some_ids()
    wanted = model(input_ids=ids).logits
    save(model, tmp_path / "run")
    again = load_run(tmp_path / "run").model
    assert has_part(again, "paired rows")
    torch.testing.assert_close(again(input_ids=ids).logits, wanted, rtol=0, atol=0)
    with pytest.raises(ModelError, match=r"^the queries of leroux2025-signed have a sign"):
        set_design(model, load_design("leroux2025-signed").replace(window=64, tile=16))
    with pytest.raises(ModelError, match=r"^the queries of leroux2025-signed have a sign"):
        load_run(tmp_path / "run", design=load_design("leroux2025-signed").replace(window=64, tile=16))
    path = tmp_path / "run" / HARDWARE
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith(".k.kept"))
    for tensor, message in (
        (
            torch.full((1, 8), 16),
            r"kept \(torch.int64, \(1, 8\)\) does not name 8 of 16 components for each of 1",
        ),
        (torch.zeros(1, 8, dtype=torch.int64), "does not name 8 of 16 components"),
        (torch.zeros(1, 4, dtype=torch.int64), r"kept \(torch.int64, \(1, 4\)\) does not name"),
        (tensors[name].int(), r"torch.int32, \(1, 8\)\) does not name"),
        (None, "paired rows .*kept is in one only"),
    ):
        others = {n: t for n, t in tensors.items() if n != name}
        _rewrite(path, others if tensor is None else others | {name: tensor})
        with pytest.raises(RunError, match=message):
            load_run(tmp_path / "run")


def _rewrite(path: Path, tensors: dict[str, Tensor]) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, path, metadata=metadata)


def test_rows_are_paired_once_and_where_it_makes_sense() -> None:
    model = micro_llama()
    with pytest.raises(ModelError, match="not attached"):
        pair_rows(model, some_ids())
    attach(model, micro_design()).train()
    pair_rows(model, some_ids())
    assert model.training
    with pytest.raises(ModelError, match="paired rows already"):
        pair_rows(model, some_ids())
    signed = attach(micro_llama(), load_design("leroux2025-signed").replace(window=64, tile=16))
    passes: list[nn.Module] = []
    signed.register_forward_pre_hook(lambda module, _: passes.append(module))
    with pytest.raises(ModelError, match="queries of leroux2025-signed have a sign"):
        pair_rows(signed, some_ids())
    assert not passes
    other = attach(build("opt"), micro_design())
    with pytest.raises(ModelError, match=r"families llama, mistral, qwen2, gpt2 .*, not for 'opt' with"):
        pair_rows(other, some_ids())
    with pytest.raises(InputError, match=r"shape \(2, 1\); give \[sequences, 2 or more\]"):
        pair_rows(attach(micro_llama(), micro_design()), some_ids()[:, :1])
    assert not has_part(other, "paired rows")
    add_stored_parts(other, {})
    assert not has_part(other, "paired rows")
    assert all(cell.q.kept is None for cell in attached_layers(other))
