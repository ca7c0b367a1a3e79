"""The training loop: what it minimises, stops for, evaluates and keeps."""

from __future__ import annotations

import copy
import itertools
import json
import math
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.integrations.families import build
from tests.micro import micro_design, micro_llama, micro_text
from tests.tiers import slow
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from gaincell.circuits import query_driver, write_dac
from gaincell.errors import InputError, ModelError, RunError
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_attention
from gaincell.integrations.hf.interface import SOFTMAX
from gaincell.integrations.hf.lora import add_lora, lora_parameters
from gaincell.integrations.hf.mixing import add_mixing, fold
from gaincell.integrations.hf.reparametrisation import MIX
from gaincell.integrations.hf.support import attention_modules
from gaincell.nn.attention import BIASES, EXPONENTS, GainCellAttention
from gaincell.ops.gain_cell_attention import BackendName
from gaincell.text import Source
from gaincell.training import checkpoint as disk
from gaincell.training.data import RandomBlocks, keep_tokens, pack_blocks, repeat_passages, train_tokenizer
from gaincell.training.distillation import Distillation, TeacherOutputs
from gaincell.training.loop import TrainSettings, next_token_loss, switch_checkpointing, train
from gaincell.training.machine import bf16_pays, expected_bytes, kept_bytes, left_to_container
from gaincell.training.optimizer import make_optimizer
from gaincell.training.parallel import clip_each_gradient, clip_gradients
from gaincell.training.settings import learning_rate_at
from gaincell.training.shares import GROUPS
from gaincell.training.transfer import QUERIES, SMOOTH, AttentionTransfer, watched_queries


def blocks(count: int = 16, length: int = 33) -> Tensor:
    return torch.randint(1, 97, (count, length), generator=torch.Generator().manual_seed(0))


def settings(**changes: object) -> TrainSettings:
    return TrainSettings(**{"batch": 2, "micro_batch": 1, "bf16": False, "learning_rate": 1e-3, **changes})  # type: ignore[arg-type]


def plain_distillation(student: nn.Module, teacher: nn.Module, tokens: Tensor, weight: float) -> Tensor:
    """The formula, on whole logits."""
    found = student(input_ids=tokens[:, :-1]).logits.flatten(0, 1).log_softmax(-1)
    expected = teacher(input_ids=tokens[:, :-1]).logits.flatten(0, 1).log_softmax(-1).detach()
    divergence = (expected.exp() * (expected - found)).sum(-1).mean()
    return weight * divergence + (1 - weight) * functional.nll_loss(found, tokens[:, 1:].flatten())


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen-head", "trained-head"])
def test_distillation_is_its_formula(weight: float, frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "gaincell.training.distillation.ROWS_AT_ONCE", 20
    )  # no multiple of those in the cache
    teacher = micro_llama(torch.float64)
    student = micro_llama(torch.float64)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    if frozen:
        student.get_output_embeddings().requires_grad_(False)
    tokens = blocks(3)
    losses, gradients = [], []
    for loss in (Distillation(teacher, weight)(student, tokens), None):
        value = loss if loss is not None else plain_distillation(student, teacher, tokens, weight)
        student.zero_grad()
        value.backward()
        losses.append(value.detach().double())
        gradients.append({n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-7)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def layer_outputs(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """What every decoder layer returns."""
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: outputs.append(output))
        for layer in model.base_model.layers
    ]
    model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize("attached", [True, False], ids=["arrays", "softmax"])
def test_hidden_states_are_learnt_by_their_formula(attached: bool) -> None:
    teacher, student = micro_llama(torch.float64), micro_llama(torch.float64)
    if attached:
        attach(student, micro_design())
    with torch.no_grad():
        for parameter in student.model.layers.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    tokens = blocks(3)
    distances = []
    for own, other in zip(*(layer_outputs(m, tokens[:, :-1]) for m in (student, teacher)), strict=True):
        own, other = (h / h.square().mean(-1, keepdim=True).sqrt() for h in (own, other.detach()))
        distances.append((own - other).square().mean())
    wanted = torch.stack(distances).mean()
    found = Distillation(teacher, 0.5, 3.0)(student, tokens) - Distillation(teacher, 0.5)(student, tokens)
    assert found > 0.01
    torch.testing.assert_close(found.double(), 3.0 * wanted, rtol=1e-5, atol=1e-6)
    weights = [p for p in student.model.layers.parameters() if p.requires_grad]
    got = torch.autograd.grad(found, weights, allow_unused=True)
    for one, other in zip(got, torch.autograd.grad(3.0 * wanted, weights, allow_unused=True), strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("what", ["states", "outputs"])
def test_what_layers_give_needs_a_teacher_of_the_same_shape(what: str) -> None:
    with pytest.raises(InputError, match="teacher of the model's own shape"):
        Distillation(micro_llama(layers=3), 1.0, **{what: 1.0})(micro_llama(), blocks(2))
    with pytest.raises(InputError, match=f"{what} = -1.0; allowed: a number from 0"):
        Distillation(micro_llama(), 1.0, **{what: -1.0})


def attention_outputs(model: nn.Module, ids: Tensor) -> list[Tensor]:
    """What every attention module returns."""
    outputs: list[Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda _, inputs, output: outputs.append(output[0]))
        for layer in model.base_model.layers
    ]
    model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return outputs


def test_attention_outputs_are_learnt_by_their_formula() -> None:
    teacher, student = micro_llama(torch.float64), attach(micro_llama(torch.float64), micro_design())
    tokens = blocks(3)
    errors = [
        (own - other).square().sum() / other.square().sum()
        for own, other in zip(
            *(attention_outputs(m, tokens[:, :-1]) for m in (student, teacher)), strict=True
        )
    ]
    found = Distillation(teacher, 0.5, outputs=3.0)(student, tokens) - Distillation(teacher, 0.5)(
        student, tokens
    )
    assert found > 0.01
    torch.testing.assert_close(found.double(), 3.0 * torch.stack(errors).mean(), rtol=1e-5, atol=1e-6)


def test_where_arrays_look_is_compared_by_its_formula() -> None:
    design = micro_design()
    teacher = attach(micro_llama(torch.float64), design, attention="softmax")
    student = attach(micro_llama(torch.float64), design)
    for cell in attached_layers(student):
        cell.q.offset.data.fill_(0.3)
    tokens = blocks(2)
    t = tokens.shape[1] - 1
    assert t <= QUERIES  # so all queries are looked at, at the age of the middle one
    with torch.no_grad(), watched_queries(student) as own, watched_queries(teacher) as other:
        AttentionTransfer(teacher)(student, tokens)
    apart = []
    for cell in attached_layers(student):
        g = cell.heads // cell.kv_heads
        full = design.score_saturation(cell.head_dim)
        x = query_driver(cell.q(own[cell.layer].q), design.driver_levels, signed=design.drivers.signed)
        u = write_dac(
            cell.k(own[cell.layer].k), design.dac_levels, design.v_min, design.v_max, design.v_offset
        )
        for b, h, i in itertools.product(range(len(tokens)), range(cell.heads), range(t)):
            pulses, scores = [], []
            query = other[cell.layer].q[b, h, i] / math.sqrt(cell.head_dim)
            for j in range(i + 1):
                left = math.exp(-cell.design.leak_per_token * max(0.0, (t - 1) / 2 - j))
                s = (x[b, h, i] @ design.cell.current(u[b, h // g, j] * left)).item() / full
                pulses.append(min(1.0, SMOOTH * math.log1p(math.exp(s / SMOOTH))))
                scores.append(math.exp(query @ other[cell.layer].k[b, h // g, j]))
            p = [s / sum(scores) for s in scores]
            apart.append(sum(a * math.log(a * sum(pulses) / b) for a, b in zip(p, pulses, strict=True)))
    loss = AttentionTransfer(teacher, 2.0)(student, tokens) - AttentionTransfer(teacher)(student, tokens)
    assert loss.item() == pytest.approx(2.0 * sum(apart) / len(apart), rel=1e-4)
    loss.backward()
    assert all(cell.k.offset.grad.abs().sum() > 0 for cell in attached_layers(student))


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_transfer_from_own_inputs_stops_gradients_between_blocks(block: int) -> None:
    teacher = attach(micro_llama(layers=3), micro_design(), attention="softmax")
    student = attach(micro_llama(layers=3), micro_design())
    tokens = blocks(2)
    loss = AttentionTransfer(teacher, own_inputs=block)(student, tokens)
    both = (attention_outputs(model, tokens[:, :-1]) for model in (student, teacher))
    errors = [(y - wanted).square().sum() / wanted.square().sum() for y, wanted in zip(*both, strict=True)]
    torch.testing.assert_close(loss, torch.stack(errors).mean())
    first = student.model.layers[0].mlp.down_proj.weight  # only layers behind it see what it does
    assert torch.autograd.grad(loss, first, allow_unused=True, retain_graph=True)[0] is None or block > 1
    of_layers = [torch.autograd.grad(e, first, retain_graph=True)[0] for e in errors[1:block]]
    if of_layers:
        found = torch.autograd.grad(loss, first)[0]
        torch.testing.assert_close(found, sum(of_layers) / 3, rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")
def test_a_transfer_from_own_inputs_is_the_same_where_layers_are_computed_again() -> None:
    teacher, found = attach(micro_llama(layers=3), micro_design(), attention="softmax"), []
    for again in (False, True):
        student = attach(micro_llama(layers=3), micro_design()).train()
        if again:
            student.gradient_checkpointing_enable({"use_reentrant": False})
        loss = AttentionTransfer(teacher, 1.0, own_inputs=2)(student, blocks(2))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in student.parameters() if p.grad is not None)])
    assert len(found[0]) > 10
    torch.testing.assert_close(*found)


def test_kept_outputs_are_those_of_the_attention_that_a_teacher_is_set_to(tmp_path: Path) -> None:
    teacher, ids, found = attach(micro_llama(), micro_design()), blocks(1)[:, :-1], []
    for number, attention in enumerate(("gain-cell", "softmax", "gain-cell")):
        set_attention(teacher, attention)
        states = torch.full((1, 1), float(number))
        found.append(TeacherOutputs(tmp_path, teacher).hidden(ids, torch.float32, states.clone).item())
    assert found == [0.0, 1.0, 0.0]


@pytest.mark.slow
def test_a_transfer_learns_where_to_look() -> None:
    teacher = attach(micro_llama(), micro_design(), attention="softmax")
    apart = {}
    for weights in (0.0, 1.0):
        student = attach(micro_llama(), micro_design())
        train(student, blocks(40), settings(), loss_of=AttentionTransfer(teacher, weights))
        tokens = blocks(4, length=30)
        with torch.no_grad():
            both = [AttentionTransfer(teacher, w)(student, tokens).item() for w in (0.0, 1.0)]
        apart[weights] = both[1] - both[0]
    assert apart[1.0] < 0.95 * apart[0.0]


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_what_a_teacher_gives_is_kept_for_the_next_training(
    bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def student() -> nn.Module:
        made = micro_llama()
        made.model.layers[0].mlp.down_proj.weight.data.mul_(2.0)
        made.get_output_embeddings().requires_grad_(False)
        return made

    def trained(loss: Distillation) -> list[Tensor]:
        model = student()
        train(model, blocks(4), settings(bf16=bf16), loss_of=loss)
        return [p.detach() for p in model.parameters()]

    without = trained(Distillation(micro_llama(), 0.5))
    keeping = trained(Distillation(micro_llama(), 0.5, kept=tmp_path / "kept"))
    files = sorted((tmp_path / "kept").glob("*.safetensors"))
    assert len(files) == 4
    teacher = micro_llama()
    loss = Distillation(teacher, 0.5, kept=tmp_path / "kept")
    files[0].write_bytes(files[0].read_bytes()[:100])  # torn: computed anew
    passes = []
    teacher.base_model.register_forward_hook(lambda *_: passes.append(1))
    found = trained(loss)
    assert len(passes) == 2 + 1  # whether its head is a matrix was tried with two
    for one, other, third in zip(without, keeping, found, strict=True):
        assert one.equal(other)
        assert one.equal(third)
    other_weights = student()
    trained(Distillation(other_weights, 0.5, kept=tmp_path / "kept"))
    assert len(list((tmp_path / "kept").glob("*.safetensors"))) == 8


def test_another_chip_or_configuration_is_another_teacher(tmp_path: Path) -> None:
    def taught_by(teacher: nn.Module, kept: Path | None) -> float:
        with torch.no_grad():
            return Distillation(teacher, 1.0, kept=kept)(student, blocks(2)).item()

    student = micro_llama()
    student.get_output_embeddings().requires_grad_(False)
    coarse = micro_llama()
    for norm in (m for m in coarse.modules() if hasattr(m, "variance_epsilon")):
        norm.variance_epsilon = coarse.config.rms_norm_eps = 0.5
    chips = [attach(micro_llama(), micro_design(cell=cell)) for cell in ("polynomial", "sigmoid")]
    losses = [taught_by(teacher, tmp_path) for teacher in (*chips, micro_llama(), coarse)]
    assert losses == [taught_by(teacher, None) for teacher in (*chips, micro_llama(), coarse)]
    assert len(set(losses)) == 4


def test_a_trained_output_layer_keeps_no_teachers_outputs_and_says_so(tmp_path: Path) -> None:
    loss = Distillation(micro_llama(), 0.5, kept=tmp_path / "kept")
    with pytest.warns(UserWarning, match="not kept: an output layer is trained") as warned:
        train(micro_llama(), blocks(4), settings(), loss_of=loss)
    assert len(warned) == 1
    assert not (tmp_path / "kept").exists()


def test_a_training_goes_on_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    model = micro_llama()
    model.get_output_embeddings().requires_grad_(False)
    loss = Distillation(micro_llama(), 0.5, kept=tmp_path / "file" / "kept")
    with pytest.warns(UserWarning, match="the teacher's outputs are no longer kept") as warned:
        train(model, blocks(4), settings(), loss_of=loss)
    assert len(warned) == 1


def test_a_teacher_with_another_vocabulary_is_refused() -> None:
    student = micro_llama()
    student.requires_grad_(False)
    for frozen in (True, False):
        student.get_output_embeddings().requires_grad_(not frozen)
        with pytest.raises(InputError, match="knows 101 tokens, the model 97"):
            Distillation(micro_llama(vocabulary=101), 1.0)(student, blocks(2))


def merge_lora(model: Any) -> None:
    """Add every adapter to its layer's weight and take it out."""
    for name, layer in [*model.named_modules()]:
        if hasattr(layer, "lora_A"):
            layer.merge(safe_merge=True)
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.get_base_layer())


@pytest.mark.parametrize("where", ["attention", "all"])
def test_adapters_begin_at_nothing_and_merge_to_what_they_did(where: str) -> None:
    model = attach(micro_llama(torch.float64), micro_design())
    ids = blocks(2)[:, :-1]
    before = model(input_ids=ids).logits
    add_lora(model, 2, where, scale=2.0)
    assert torch.equal(model(input_ids=ids).logits, before)
    inside = [name for name in lora_parameters(model) if ".mlp." in name]
    assert bool(inside) == (where == "all")
    train(model, blocks(4), settings(learning_rate=1e-2))
    trained = model(input_ids=ids).logits
    assert not torch.equal(trained, before)
    merge_lora(model)
    assert not lora_parameters(model)
    torch.testing.assert_close(model(input_ids=ids).logits, trained, rtol=1e-9, atol=1e-9)
    assert {n for n, _ in model.named_parameters()} == {
        n for n, _ in attach(micro_llama(torch.float64), micro_design()).named_parameters()
    }


def test_adapters_are_put_in_once() -> None:
    model = micro_llama()
    add_lora(model, 2)
    with pytest.raises(ModelError, match="adapters already"):
        add_lora(model, 2)
    with pytest.raises(InputError, match="rank = 0"):
        add_lora(micro_llama(), 0)


def test_gradient_checkpointing_changes_nothing() -> None:
    results = []
    for checkpointing in (False, True):
        model = attach(micro_llama(), micro_design())
        train(model, blocks(8), settings(gradient_checkpointing=checkpointing))
        assert not any(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        results.append(dict(model.named_parameters()))
    for name, parameter in results[0].items():
        torch.testing.assert_close(results[1][name], parameter, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attached", [True, False], ids=["arrays", "softmax"])
def test_kept_bytes_grow_with_tokens_and_sequences(attached: bool) -> None:
    model = micro_llama()
    if attached:
        attach(model, micro_design(), backend="blocked")
    kept = {
        (sequences, tokens): kept_bytes(model, next_token_loss, blocks(sequences, tokens + 1))
        for sequences, tokens in ((1, 32), (2, 32), (1, 64), (4, 64))
    }
    assert kept[2, 32] == pytest.approx(2 * kept[1, 32], rel=0.2)
    assert kept[1, 64] == pytest.approx(2 * kept[1, 32], rel=0.25)
    assert kept[4, 64] == pytest.approx(4 * kept[1, 64], rel=0.2)
    switch_checkpointing(model, True, "enable", {"use_reentrant": False})
    model.train()
    assert kept_bytes(model, next_token_loss, blocks(4, 65)) < 0.6 * kept[4, 64]


def test_weights_that_are_cast_count_once() -> None:
    def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
        return model(tokens[:, :-1]).square().mean()  # type: ignore[no-any-return]

    model = nn.Sequential(nn.Embedding(97, 256), nn.Linear(256, 1024), nn.Linear(1024, 256))
    with torch.autocast("cpu", torch.bfloat16):
        expected = expected_bytes(model, loss_of, blocks(1, 33), 4 * 128)
        kept, few = (kept_bytes(model, loss_of, blocks(*size)) for size in ((4, 129), (1, 33)))
    assert expected == pytest.approx(kept, rel=0.1)
    assert few * 16 > 1.5 * kept


def test_a_container_may_take_what_its_limit_leaves(tmp_path: Path) -> None:
    assert left_to_container(tmp_path) == math.inf
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("900\n")
    (old / "memory.usage_in_bytes").write_text("500\n")
    (old / "memory.stat").write_text("cache 80\ntotal_inactive_file 60\n")
    assert left_to_container(tmp_path) == 460
    for name, content in (
        ("memory.max", "max"),
        ("memory.current", "300"),
        ("memory.stat", "inactive_file 7"),
    ):
        (tmp_path / name).write_text(f"{content}\n")
    old.rename(tmp_path / "gone")
    assert left_to_container(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    assert left_to_container(tmp_path) == 707


@pytest.mark.parametrize(("free", "recomputed"), [(10**12, False), (10**4, True)])
def test_activations_are_computed_again_where_memory_asks_for_it(
    free: int, recomputed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaincell.training.machine.free_memory", lambda device: free)
    seen = []

    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        seen.append(any(getattr(m, "gradient_checkpointing", False) for m in model.modules()))
        return next_token_loss(model, tokens)

    train(micro_llama(), blocks(4), settings(gradient_checkpointing=None), loss_of=loss)
    assert seen == [False, False, *[recomputed] * 4]  # the first two to count


def test_training_stops_early_and_returns_to_the_best(tmp_path: Path) -> None:
    model = micro_llama()
    seen: list[dict[str, Tensor]] = []
    scores = iter([5.0, 3.0, 4.0, 4.0, 1.0])

    def evaluate(tested: nn.Module) -> float:
        assert not tested.training
        seen.append({n: p.detach().clone() for n, p in tested.named_parameters()})
        return next(scores)

    wanted = settings(evaluate_every=1, patience=2)
    log = tmp_path / "log.jsonl"
    done = train(model, blocks(16), wanted, evaluate=evaluate, log=log, checkpoint=tmp_path / "c")
    assert (done.steps, done.best) == (4, 3.0)
    assert all(torch.equal(p, seen[1][n]) for n, p in model.named_parameters())
    assert [json.loads(line)["evaluation"] for line in log.read_text().splitlines()] == [5.0, 3.0, 4.0, 4.0]
    again = micro_llama()  # a finished run is finished, also after an interruption
    assert train(again, blocks(16), wanted, evaluate=evaluate, checkpoint=tmp_path / "c").steps == 4
    assert all(torch.equal(p, seen[1][n]) for n, p in again.named_parameters())


def test_patience_needs_something_that_tells_when_to_stop() -> None:
    with pytest.raises(InputError, match="patience = 2: give evaluate"):
        train(micro_llama(), blocks(16), settings(evaluate_every=1, patience=2))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    model = micro_llama()
    path = tmp_path / "checkpoint"
    count = iter(range(100))

    def loss(tested: nn.Module, tokens: Tensor) -> Tensor:
        return next_token_loss(tested, tokens) * (float("nan") if next(count) == 11 else 1.0)

    with pytest.raises(
        RunError, match=r"the loss, loss, became nan at step 5; lower.*checkpoint holds the state after 4"
    ):
        train(model, blocks(16), settings(checkpoint_every=2), loss_of=loss, checkpoint=path)
    assert path.exists()
    assert not model.training
    finite = train(micro_llama(), blocks(16), settings(checkpoint_every=2), loss_of=loss, checkpoint=path)
    assert finite.steps == 8


def test_progress_and_log_name_what_is_minimised(tmp_path: Path) -> None:
    teacher = attach(micro_llama(), micro_design(), attention="softmax")
    named = {
        "cross-entropy (nats per token)": None,
        "KL to the teacher (nats per token)": Distillation(micro_llama(), 1.0),
        "0.5 cross-entropy + 0.5 KL to the teacher (nats per token)": Distillation(micro_llama(), 0.5),
        "KL to the teacher + 2 hidden states (nats per token + relative squared error)": Distillation(
            micro_llama(), 1.0, 2.0
        ),
        "attention transfer (relative squared error)": AttentionTransfer(teacher),
        "of_ones_own": of_ones_own,
    }
    for title, loss in named.items():
        seen: list[dict[str, float]] = []
        log = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        model = attach(micro_llama(), micro_design())
        train(model, blocks(4), settings(), log=log, loss_of=loss, progress=partial(_kept, seen))
        assert [*map(set, seen)] == [{title, "learning_rate", "tokens_per_second"}] * 2
        for line in map(json.loads, log.read_text().splitlines()):
            unit = f" ({line['loss_unit']})" if line["loss_unit"] else ""
            assert line["loss_name"] + unit == title


def test_attention_transfer_holds_one_layer_at_a_time() -> None:
    """Its gradients are those of all layers at once, and a layer's output is gone when the next begins."""
    teacher = attach(micro_llama(layers=4), micro_design(), attention="softmax")
    model, transfer = attach(micro_llama(layers=4), micro_design()), AttentionTransfer(teacher)
    tokens = blocks(2)
    calls: dict[str, tuple[object, dict[str, object], Tensor]] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, a, k, out, name=name: calls.__setitem__(name, (a, k, out[0])), with_kwargs=True
        )
        for name, module in attention_modules(teacher).items()
    ]
    with torch.no_grad():
        teacher(input_ids=tokens[:, :-1], use_cache=False)
    for hook in hooks:
        hook.remove()
    losses = []
    for name, module in attention_modules(model).items():
        arguments, keywords, wanted = calls[name]
        got = module(*arguments, **keywords)[0]
        losses.append((got - wanted).square().mean() / wanted.square().mean())
    expected = torch.stack(losses).mean()
    expected.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    del losses, got

    outputs: list[weakref.ref[Tensor]] = []

    def watch(module: nn.Module, inputs: object, output: tuple[Tensor, ...]) -> None:
        assert all(output() is None for output in outputs)
        outputs.append(weakref.ref(output[0]))

    for module in attention_modules(model).values():
        module.register_forward_hook(watch)
    loss = transfer(model, tokens)
    (loss / 2).backward()
    assert len(outputs) == 4
    assert torch.allclose(loss, expected)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(2 * found[name], gradient, msg=name)
    with torch.no_grad():
        assert not transfer(model, tokens).requires_grad


def _kept(seen: list[dict[str, float]], done: int, total: int, numbers: dict[str, float]) -> None:
    seen.append(numbers)


def of_ones_own(model: nn.Module, tokens: Tensor) -> Tensor:
    """A loss that nobody named."""
    return next_token_loss(model, tokens)


@pytest.mark.parametrize("pays", [True, False])
def test_products_are_in_bf16_where_that_was_measured_to_pay(
    pays: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gaincell.training.loop.bf16_pays", lambda device: pays)
    seen = []

    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return next_token_loss(model, tokens)

    path = tmp_path / "checkpoint"
    train(micro_llama(), blocks(4), settings(bf16=None), loss_of=loss, checkpoint=path)
    assert seen == [pays] * 4
    train(micro_llama(), blocks(4), settings(bf16=pays), loss_of=loss, checkpoint=path)  # the same run
    monkeypatch.setattr("gaincell.training.loop.bf16_pays", lambda device: not pays)
    train(micro_llama(), blocks(4), settings(bf16=None), loss_of=loss, checkpoint=path)  # as it began
    with pytest.raises(RunError, match=r"settings\.bf16 = "):
        train(micro_llama(), blocks(4), settings(bf16=not pays), loss_of=loss, checkpoint=path)


@pytest.mark.parametrize(("speed", "pays"), [(1.0, False), (1.2, False), (2.0, True)])
def test_bf16_pays_from_a_stated_gain_on(speed: float, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that goes as fast as the products that were waited for."""
    monkeypatch.setattr("gaincell.training.machine.WIDTH", 8)
    durations = itertools.cycle([1e-3, 1e-3 / speed])
    clock = iter(itertools.accumulate(t for d in durations for t in (0.0, d)))
    monkeypatch.setattr("gaincell.training.machine.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    state = torch.get_rng_state()
    assert bf16_pays.__wrapped__("cpu") is pays
    assert torch.equal(torch.get_rng_state(), state)


def test_bf16_that_is_emulated_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which its products take a second; it ends after two of them."""
    monkeypatch.setattr("gaincell.training.machine.WIDTH", 8)
    clock = iter([0.0, 0.1, 0.1, 1.1])
    monkeypatch.setattr("gaincell.training.machine.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert not bf16_pays.__wrapped__("cpu")


@pytest.mark.parametrize("backend", [slow("blocked"), "auto"])
def test_the_time_of_a_step_is_told_by_what_it_is_for(backend: BackendName) -> None:
    student = attach(micro_llama(), micro_design(), backend=backend)
    student.get_output_embeddings().requires_grad_(False)
    shares: dict[str, float] = {}
    train(student, blocks(4), settings(), loss_of=Distillation(micro_llama(), 0.5), shares=shares)
    assert shares == {}  # two steps
    least, most = 1.0, 0.0
    for _ in range(3):  # a share is of time, which another process may take
        train(student, blocks(8), settings(), loss_of=Distillation(micro_llama(), 0.5), shares=shares)
        assert set(shares) == set(GROUPS)
        assert sum(shares.values()) == pytest.approx(1.0)
        assert min(shares.values()) > 0.0
        most = max(most, shares["attention"])
        softmax: dict[str, float] = {}
        train(micro_llama(), blocks(8), settings(), shares=softmax)
        assert softmax["teacher"] == softmax["head"] == 0.0
        least = min(least, softmax["attention"])
    assert 0.0 < least < most


def test_what_a_step_is_spent_on_outlives_an_interruption(tmp_path: Path) -> None:
    first: dict[str, float] = {}
    path, wanted = tmp_path / "checkpoint", settings(checkpoint_every=2)
    train(micro_llama(), blocks(16), wanted, checkpoint=path, shares=first)
    again: dict[str, float] = {}
    train(micro_llama(), blocks(16), wanted, checkpoint=path, shares=again)  # no step is left
    assert again == first != {}


def test_a_diverging_loss_stops() -> None:
    rising = iter(range(1000))

    def loss(tested: nn.Module, tokens: Tensor) -> Tensor:
        return 0 * next_token_loss(tested, tokens) + max(1.0, next(rising) - 15.0)

    with pytest.raises(RunError, match=r"the loss, loss, diverges: .* 1 at its lowest"):
        train(micro_llama(), blocks(40), settings(batch=1, warmup_steps=1), loss_of=loss)


def test_checkpoints_rotate_and_bad_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    train(micro_llama(), blocks(16), settings(checkpoint_every=1, keep_checkpoints=3), checkpoint=path)
    assert [p.name for p in disk.checkpoints(path)] == ["checkpoint", "checkpoint.1", "checkpoint.2"]
    other = settings(checkpoint_every=1, keep_checkpoints=3, clip=2.0)
    with pytest.raises(RunError, match=r"another run \(settings.clip = 1.0 there, 2.0 here\)"):
        train(micro_llama(), blocks(16), other, checkpoint=path)
    wanted = settings(checkpoint_every=1, keep_checkpoints=3)
    with pytest.raises(RunError, match=r"another run \(rates is not there, {.model"):
        train(micro_llama(), blocks(16), wanted, checkpoint=path, rates={"model.": 0.1})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"cannot be read.*checkpoint\.1 is the one before"):
        train(micro_llama(), blocks(16), wanted, checkpoint=path)
    path.unlink()
    assert train(micro_llama(), blocks(16), wanted, checkpoint=path).steps == 8
    disk.remove(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("known", "wanted", "said"),
    [
        ({"a": {"b": 1}}, {"a": {"b": 1, "later": None}, "also": False}, None),
        ({"a": [1]}, {"a": [1], "shape": []}, " (shape is not there, [] here)"),
        (
            {"config": {"n": 1}},
            {"config": {"n": 1, "tied": False}},
            " (config.tied is not there, False here)",
        ),
        ({"a": 1, "gone": None}, {"a": 1}, None),
        ({"a": {"b": 1}}, {"a": {"b": 1, "later": 2.0}}, " (a.later is not there, 2.0 here)"),
        ({"a": 1, "gone": True}, {"a": 1}, " (gone = True there, is not here)"),
        ({"a": {"b": 0}}, {"a": {"b": None}}, " (a.b = 0 there, None here)"),
    ],
)
def test_later_settings_count_where_they_are_used(known: Any, wanted: Any, said: str | None) -> None:
    assert disk.same(known, wanted) is (said is None)
    if said is not None:
        assert disk.difference(known, wanted) == said


def test_what_never_decays() -> None:
    cell = attached_layers(attach(micro_llama(), micro_design()))[0]
    cell.add_biases()
    cell.add_exponents()
    names = {f".gain_cell.{name}": p for name, p in cell.named_parameters()}
    for decayed, still in (("matrices-and-scales", BIASES + EXPONENTS), ("all", ())):
        optimizer = make_optimizer(names, settings(weight_decay=0.1, decayed=decayed), {})
        kept = {id(p) for g in optimizer.param_groups if g["weight_decay"] == 0 for p in g["params"]}
        assert {name for name, p in names.items() if id(p) in kept} == {f".gain_cell.{n}" for n in still}


@pytest.mark.parametrize("decayed", ["matrices-and-scales", "all"])
def test_weight_decay_reaches_what_it_names(decayed: str) -> None:
    """Where a gradient is zero, a step of AdamW is its decay alone: p (1 - rate x decay)."""
    model = attach(
        GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2, n_positions=64)),
        micro_design(),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    rate, decay = 0.1, 0.25
    wanted = settings(
        learning_rate=rate, weight_decay=decay, warmup_steps=0, decayed=decayed, batch=2, micro_batch=2
    )
    train(model, blocks(2), wanted, loss_of=lambda m, ids: 0.0 * sum(p.sum() for p in m.parameters()))
    for name, parameter in model.named_parameters():
        decays = decayed == "all" or parameter.ndim > 1 or ".gain_cell." in name
        left = 0.5 * (1 - rate * decay) if decays else 0.5
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, left))
    assert any("ln_1.weight" in n for n, _ in model.named_parameters())


class Arrays(nn.Module):
    """One layer's numbers, and a loss that is not theirs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        cell = GainCellAttention(micro_design(), 2, 1, 4)
        cell.add_biases()
        cell.add_exponents()
        cell.mix_q = nn.Parameter(torch.ones(2, 4, 4))
        self.layer = nn.ModuleDict({"gain_cell": cell, "mlp": nn.Linear(4, 4)})


def pulled(model: nn.Module, tokens: Tensor) -> Tensor:
    """A loss that pulls every number towards 2."""
    return torch.stack([(p.double() - 2.0).square().sum() for p in model.parameters()]).sum()


def test_every_kind_of_number_has_its_rate() -> None:
    """The first step of AdamW is the rate, whatever the gradient; of a gain the rate of its logarithm."""
    model = Arrays()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rates = {"scale": 0.05, "offset": 0.02, "bias": 0.03, "exponent": 0.04, "mixing": 0.06}
    wanted = settings(
        log_gains=True, warmup_steps=0, weight_decay=0.1, learning_rate=0.01, batch=2, micro_batch=2,
        **{f"{kind}_learning_rate": rate for kind, rate in rates.items()},
    )  # fmt: skip
    train(model, blocks(2), replace(wanted, weight_decay=0.0), loss_of=pulled)
    for name, parameter in model.named_parameters():
        kind = next((kind for kind in ("offset", "bias", "exponent") if kind in name), "scale")
        rate = rates["mixing" if "mix_" in name else kind] if ".gain_cell." in name else 0.01
        if name.endswith(".gain"):
            torch.testing.assert_close(parameter.detach(), before[name] * math.exp(rate), rtol=1e-6, atol=0)
        else:
            moved = (parameter.detach() - before[name]).double()
            torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-4, atol=1e-6)
    decayed = Arrays()
    train(decayed, blocks(2), wanted, loss_of=pulled)
    for name, parameter in decayed.named_parameters():
        same = torch.equal(parameter, dict(model.named_parameters())[name])
        assert same == (
            name.endswith(".gain") or bool((before[name] == 0).all()) or name.endswith("mlp.bias")
        )


def test_gains_are_learnt_as_logarithms() -> None:
    """As AdamW on their logarithms, with the gradient of both; they stay positive however they are pushed."""
    model, steps = Arrays(), 5
    wanted = settings(log_gains=True, warmup_steps=0, weight_decay=0.0, learning_rate=0.5, clip=math.inf)
    logs = {
        name: p.detach().log().requires_grad_()
        for name, p in model.named_parameters()
        if name.endswith(".gain")
    }

    def pushed(of: nn.Module, tokens: Tensor) -> Tensor:
        gains = {name: p for name, p in of.named_parameters() if name in logs}
        return torch.stack([(gain * (n + 1)).sum() for n, gain in enumerate(gains.values())]).sum()

    optimizer = torch.optim.AdamW(logs.values(), betas=wanted.betas, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.5 * learning_rate_at(step, steps, wanted)
        optimizer.zero_grad()
        torch.stack([(log.exp() * (n + 1)).sum() for n, log in enumerate(logs.values())]).sum().backward()
        optimizer.step()
    train(model, blocks(2 * steps), wanted, loss_of=pushed)
    for name, parameter in model.named_parameters():
        if name in logs:
            torch.testing.assert_close(parameter.detach(), logs[name].detach().exp(), rtol=1e-9, atol=0)
            assert 0 < float(parameter.detach().max()) < 0.5
    with torch.no_grad():
        model.layer["gain_cell"].out.gain[0] = -1.0
    with pytest.raises(InputError, match=r"out.gain is not above 0: .* leave out log_gains"):
        train(model, blocks(2 * steps), wanted, loss_of=pushed)


def test_each_gradient_is_clipped_by_its_own_running_norm() -> None:
    one, other, idle = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    parameters, norms = {"one": one, "other": other, "idle": idle}, {}

    def clipped(*lengths: float) -> list[float]:
        for parameter, length in zip((one, other), lengths, strict=True):
            parameter.grad = torch.tensor([0.6, 0.8]) * length
        clip_each_gradient(parameters, 2.0, norms)
        return [float(parameter.grad.norm()) for parameter in (one, other)]

    assert clipped(1.0, 0.0) == pytest.approx([1.0, 0.0])
    assert clipped(10.0, 0.0) == pytest.approx([2.0, 0.0])
    assert norms == pytest.approx({"one": 1.1})
    assert clipped(2.1, 5.0) == pytest.approx([2.1, 5.0])  # the first that is not zero is no outlier
    assert norms == pytest.approx({"one": 1.2, "other": 5.0})
    assert clipped(0.3, 11.0) == pytest.approx([0.3, 10.0])
    assert idle.grad is None
    clip_each_gradient(parameters, math.inf, norms)
    assert norms == pytest.approx({"one": 1.11, "other": 5.5})


def test_the_papers_learning_rate_is_constant_after_its_warm_up() -> None:
    paper = settings(warmup_steps=2000, decay_steps=600_000, final_fraction=0.1)
    assert learning_rate_at(999, 13_000, paper) == 0.5
    assert learning_rate_at(12_999, 13_000, paper) > 0.998


def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(micro_text().split("\n<|endoftext|>\n"), 300),
        eos_token="<|endoftext|>",
    )


def sources(stop_after: int | None = None) -> list[Source]:
    documents = micro_text().split("\n<|endoftext|>\n")

    def read() -> object:
        for number, document in enumerate(documents):
            if number == stop_after:
                raise KeyboardInterrupt
            yield document

    return [Source("one", 3, read), Source("two", 1, lambda: iter(documents))]  # type: ignore[arg-type]


def test_tokens_in_a_file_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincell.training.data.NOTED_EVERY", 4)
    monkeypatch.setattr("gaincell.training.data.AHEAD", 1)
    words = tokenizer()
    whole = keep_tokens(sources(), words, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        keep_tokens(sources(stop_after=10), words, tmp_path / "broken")
    noted = json.loads((tmp_path / "broken.json").read_text())
    assert noted["documents"] == 8
    assert torch.equal(keep_tokens(sources(), words, tmp_path / "broken"), whole)
    assert int((whole == words.eos_token_id).sum()) == 80  # every document of both sources ends
    begins = [json.loads((tmp_path / f"{name}.json").read_text())["begins"] for name in ("whole", "broken")]
    second = begins[0]["1"]
    assert begins == [{"0": 0, "1": second}] * 2
    assert second == 1 + int((whole == words.eos_token_id).nonzero()[39])
    some = keep_tokens(sources(), words, tmp_path / "some", 1000)
    assert len(some) == 1000
    assert torch.equal(some[:750], whole[:750])
    with pytest.raises(InputError, match="tokens of a text of another length"):
        keep_tokens(sources(), words, tmp_path / "some", 999)
    words.backend_tokenizer.enable_truncation(8)  # as a saved tokenizer may have it
    assert torch.equal(keep_tokens(sources(), words, tmp_path / "whole"), whole)
    changed = [replace(source, digest=lambda: "changed") for source in sources()]
    with pytest.raises(InputError, match="of another text, or of one whose files have changed"):
        keep_tokens(changed, words, tmp_path / "whole")
    words.add_tokens(["<other>"])
    with pytest.raises(InputError, match="another tokenizer"):
        keep_tokens(sources(), words, tmp_path / "whole")
    with pytest.raises(InputError, match="is empty"):
        keep_tokens([Source("none", 1, lambda: iter(()))], words, tmp_path / "none")


def test_random_blocks_are_a_function_of_their_number() -> None:
    tokens = torch.arange(1000)
    some = RandomBlocks(tokens, 10, seed=3, count=50)
    assert len(some) == 50
    assert torch.equal(some[7:9], torch.stack([some[7:8][0], some[8:9][0]]))
    assert torch.equal(some.after(20, 5)[0:5], some[20:25])
    assert all(torch.equal(block, torch.arange(int(block[0]), int(block[0]) + 11)) for block in some[0:50])
    assert len({int(block[0]) for block in some[0:50]}) > 40
    with pytest.raises(InputError, match="fewer than one block"):
        RandomBlocks(tokens[:10], 10, 0, 1)


def test_repeated_passages_stand_behind_themselves() -> None:
    plain = torch.arange(400 * 65).view(400, 65)
    repeated = repeat_passages(plain, 0.25, seed=5)
    assert torch.equal(repeated, repeat_passages(plain, 0.25, seed=5))
    assert torch.equal(repeated[:100], repeat_passages(plain[:100], 0.25, seed=5))
    assert not torch.equal(repeated, repeat_passages(plain, 0.25, seed=6))
    assert torch.equal(plain, torch.arange(400 * 65).view(400, 65))
    changed = [n for n in range(400) if not torch.equal(repeated[n], plain[n])]
    assert 70 < len(changed) < 130
    seen = set()
    for n in changed:
        (where,) = torch.nonzero(repeated[n] != plain[n], as_tuple=True)
        first, length = int(repeated[n][where[0]] - plain[n][0]), len(where)
        assert 65 // 8 <= length <= 65 // 2
        assert where.tolist() == list(range(int(where[0]), int(where[0]) + length))
        assert torch.equal(repeated[n][where], plain[n][first : first + length])
        assert first + length <= int(where[0])
        seen.add((first, int(where[0]), length))
    assert len(seen) > 60
    assert torch.equal(repeat_passages(plain, 0.0, seed=5), plain)


def test_a_copy_is_trained_not_the_teacher() -> None:
    teacher = micro_llama()
    before = copy.deepcopy(dict(teacher.named_parameters()))
    train(micro_llama(), blocks(4), settings(), loss_of=Distillation(teacher, 1.0))
    assert all(torch.equal(p, before[n]) for n, p in teacher.named_parameters())


def test_mixing_begins_at_a_symmetry_of_software_and_folds_into_weights() -> None:
    ids = blocks(2)[:, :-1]
    model = attach(micro_llama(torch.float64), micro_design(), attention="softmax")
    software = model(input_ids=ids).logits
    set_attention(model, "gain-cell")
    unmixed = model(input_ids=ids).logits
    add_mixing(model, ids)
    mixed = model(input_ids=ids).logits
    assert not torch.allclose(mixed, unmixed)
    set_attention(model, "softmax")
    torch.testing.assert_close(model(input_ids=ids).logits, software, rtol=1e-9, atol=1e-9)
    set_attention(model, "gain-cell")
    parameters = {name: p for name, p in model.named_parameters() if MIX in name}
    assert [tuple(p.shape) for p in parameters.values()] == 2 * [(2, 16, 16), (1, 16, 16)]
    begun = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for p in parameters.values():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    trained = {name: p.detach().clone() for name, p in parameters.items()}
    twin = copy.deepcopy(model)
    mixed = model(input_ids=ids).logits
    with torch.no_grad():
        for p in parameters.values():
            p.zero_()
    torch.testing.assert_close(twin(input_ids=ids).logits, mixed, rtol=0, atol=0)  # a copy has its own
    other = attach(micro_llama(torch.float64), micro_design())
    fold(other, trained | {"else": torch.zeros(1)})
    torch.testing.assert_close(other(input_ids=ids).logits, mixed, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(detach(twin)(input_ids=ids).logits, software, rtol=1e-9, atol=1e-9)
    other = attach(micro_llama(torch.float64), micro_design())
    fold(other, begun)
    set_attention(other, "softmax")
    torch.testing.assert_close(other(input_ids=ids).logits, software, rtol=1e-9, atol=1e-9)
    with torch.no_grad():  # the mean query points between both axes
        for layer in other.model.layers:
            watched: list[Tensor] = []
            layer.self_attn.q_proj.register_forward_hook(lambda *call, seen=watched: seen.append(call[2]))
            other(input_ids=ids)
            mean = watched[0].unflatten(-1, (2, 2, 8)).mean((0, 1, 2))  # both query heads of the group
            torch.testing.assert_close(mean[0], mean[1], rtol=1e-6, atol=1e-9)


def test_mixing_is_added_once_and_before_adapters() -> None:
    ids = blocks(2)[:, :-1]
    model = micro_llama(torch.float64)
    with pytest.raises(ModelError, match="not attached"):
        add_mixing(model)
    attach(model, micro_design())
    add_mixing(model, ids)
    once = model(input_ids=ids).logits
    with pytest.raises(ModelError, match="mixing or adapters already"):
        add_mixing(model)
    add_mixing(attach(detach(model), micro_design()), ids)  # the hooks of the first time sleep
    torch.testing.assert_close(model(input_ids=ids).logits, once, rtol=1e-9, atol=1e-9)
    adapted = attach(micro_llama(torch.float64), micro_design())
    add_lora(adapted, 2)
    with pytest.raises(ModelError, match="mixing or adapters already"):
        add_mixing(adapted)
    states = dict(model.named_parameters())
    name = next(n for n in states if n.endswith(".mix_q"))
    with pytest.raises(RunError, match=r"mix_k is missing"):
        fold(attach(micro_llama(torch.float64), micro_design()), {name: states[name]})
    with pytest.raises(RunError, match=r"mix_q of shape \(1, 16, 16\) does not fit 32 rows"):
        fold(
            attach(micro_llama(torch.float64), micro_design()),
            {name: states[name][:1], name.replace("_q", "_k"): states[name.replace("_q", "_k")]},
        )


def test_mixing_leaves_the_model_as_it_found_it() -> None:
    model = attach(micro_llama(torch.float64), micro_design(), attention="softmax").train()
    add_mixing(model, blocks(1)[:, :-1])
    assert model.training
    assert model.config._attn_implementation == SOFTMAX


def micro_gpt2() -> GPT2LMHeadModel:
    """Random weights and biases, D = 16."""
    torch.manual_seed(2)
    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=97, n_positions=64, initializer_range=0.2)
    model = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for layer in model.transformer.h:
            layer.attn.c_attn.bias.normal_()
    return model


def test_mixing_of_gpt2_begins_at_a_symmetry_with_biases_and_folds_into_weights() -> None:
    ids = blocks(2)[:, :-1]
    plain = micro_gpt2()
    software = plain(input_ids=ids).logits
    values = plain.transformer.h[0].attn.c_attn.weight[:, 64:].clone()
    model = attach(copy.deepcopy(plain), micro_design())
    unmixed = model(input_ids=ids).logits
    add_mixing(model, ids)
    assert not torch.allclose(model(input_ids=ids).logits, unmixed)
    set_attention(model, "softmax")
    torch.testing.assert_close(model(input_ids=ids).logits, software, rtol=1e-9, atol=1e-9)
    parameters = {name: p for name, p in model.named_parameters() if MIX in name}
    assert [tuple(p.shape) for p in parameters.values()] == 4 * [(2, 16, 16)]
    with torch.no_grad():
        for p in parameters.values():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    other = attach(copy.deepcopy(plain), micro_design())
    fold(other, {name: p.detach() for name, p in parameters.items()})
    for attention in ("softmax", "gain-cell"):
        set_attention(model, attention)
        set_attention(other, attention)
        mixed = model(input_ids=ids).logits
        assert not torch.allclose(mixed, software)
        torch.testing.assert_close(other(input_ids=ids).logits, mixed, rtol=1e-9, atol=1e-9)
    assert torch.equal(other.transformer.h[0].attn.c_attn.weight[:, 64:], values)


def test_mixing_needs_projections_that_it_knows() -> None:
    model = attach(build("opt"), micro_design())
    with pytest.raises(ModelError, match="families llama, mistral, qwen2, gpt2, not for 'opt'"):
        add_mixing(model)


@torch.no_grad()
def test_the_next_token_is_what_is_predicted() -> None:
    model, tokens = micro_llama(torch.float64), blocks(3)
    logits = model(input_ids=tokens[:, :-1]).logits.log_softmax(-1)
    expected = -logits.gather(-1, tokens[:, 1:, None]).mean()
    assert float(next_token_loss(model, tokens)) == pytest.approx(float(expected), rel=1e-6)


def test_a_gradient_is_clipped_by_the_norm_of_all_of_it() -> None:
    """Of parameters of every type together."""
    one = nn.Parameter(torch.zeros(2))
    other = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    one.grad, other.grad = torch.tensor([3.0, 4.0]), torch.tensor([12.0], dtype=torch.float64)
    assert clip_gradients([one, other, nn.Parameter(torch.zeros(1))], 20.0) == pytest.approx(13.0)
    assert one.grad.tolist() == [3.0, 4.0]
    assert clip_gradients([one, other], 1.0) == pytest.approx(13.0)
    assert one.grad.tolist() == pytest.approx([3 / 13, 4 / 13], rel=1e-6)
    assert float(other.grad) == pytest.approx(12 / 13, rel=1e-6)


def test_gains_stay_above_zero_in_the_loop() -> None:
    model = attach(micro_llama(), micro_design())
    large = settings(
        learning_rate=1.0, scale_learning_rate=10.0, clip=math.inf, warmup_steps=0, divergence=1e9
    )
    train(model, blocks(8), large)
    gains = [p for n, p in model.named_parameters() if n.endswith(".gain")]
    assert min(float(gain.detach().min()) for gain in gains) == pytest.approx(1e-20, rel=1e-6, abs=0)


def test_the_rate_falls_as_a_cosine_to_its_last_fraction() -> None:
    plain = settings(warmup_steps=0, final_fraction=0.1)
    found = [learning_rate_at(step, 100, plain) for step in (0, 25, 50, 75, 100)]
    cosines = [1.0, math.cos(math.pi / 4), 0.0, -math.cos(math.pi / 4), -1.0]
    assert found == pytest.approx([0.1 + 0.9 * 0.5 * (1 + cosine) for cosine in cosines])
    short = settings(warmup_steps=0, final_fraction=0.1, decay_steps=40)
    assert learning_rate_at(70, 100, short) == pytest.approx(0.1)


def test_blocks_have_every_token_as_a_target_once() -> None:
    found = pack_blocks(torch.arange(101, dtype=torch.int32), 8, seed=3)
    assert found.shape == (12, 9)
    assert sorted(found[:, 1:].flatten().tolist()) == list(range(1, 97))
    assert bool((found[:, 1:] - found[:, :-1] == 1).all())
    assert not torch.equal(found, pack_blocks(torch.arange(101, dtype=torch.int32), 8, seed=4))
    assert found[:, 0].tolist() != sorted(found[:, 0].tolist())
