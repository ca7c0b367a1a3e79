"""A training repeats itself bit for bit, goes on from what it stored, and stores only what is finite."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.micro import micro_design, micro_llama
from tests.tiers import slow_after
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)
from transformers.models.opt.modeling_opt import OPTDecoderLayer

from gaincell.errors import RunError
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.reparametrisation import add_part
from gaincell.progress import silent
from gaincell.training import checkpoint as disk
from gaincell.training.distillation import Distillation
from gaincell.training.loop import TrainResult, TrainSettings, next_token_loss, train
from gaincell.training.loss import LossName

STEPS = 8
Loss = Callable[[nn.Module, Tensor], Tensor]


def blocks(count: int = 2 * STEPS) -> Tensor:
    return torch.randint(1, 97, (count, 33), generator=torch.Generator().manual_seed(0))


def settings(**changes: object) -> TrainSettings:
    return TrainSettings(**{"batch": 2, "micro_batch": 1, "bf16": False, "learning_rate": 1e-3, **changes})  # type: ignore[arg-type]


def gpt2(dropout: float = 0.1) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    drop = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=97, n_positions=64, **drop)
    return GPT2LMHeadModel(config)


def opt(dropout: float = 0.1) -> OPTForCausalLM:
    """Its layers apply dropout without a module for it."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 48}
    more = {"vocab_size": 97, "max_position_embeddings": 64, "word_embed_proj_dim": 32}
    return OPTForCausalLM(OPTConfig(**size, **more, dropout=dropout, layerdrop=dropout))


def gpt_neo() -> GPTNeoForCausalLM:
    """Its layers are computed again by the model, not by themselves."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=97, hidden_size=32, num_layers=2, num_heads=2, attention_types=[[["global"], 2]]
    )
    return GPTNeoForCausalLM(config)


def with_extras() -> LlamaForCausalLM:
    """In arrays, with biases and exponents."""
    model = attach(micro_llama(), micro_design())
    add_part(model, "biases")
    add_part(model, "exponents")
    return model


MODELS: dict[str, tuple[Callable[[], PreTrainedModel], dict[str, object]]] = {
    "gpt2": (gpt2, {}),
    "log-gains": (with_extras, {"log_gains": True, "clip_tensors": 1.1}),
    "gpt2-attached": (lambda: attach(gpt2(), micro_design()), {}),
    "gpt2-attached-softmax": (lambda: attach(gpt2(), micro_design(), attention="softmax"), {}),
    "gpt2-checkpointing": (gpt2, {"gradient_checkpointing": True}),
    "opt-checkpointing": (opt, {"gradient_checkpointing": True}),
}


def stop_after(last: int) -> Callable[..., None]:
    """A progress that interrupts."""

    def progress(step: int, total: int, numbers: object) -> None:
        if step == last:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("name", slow_after(1, MODELS))
def test_a_training_repeats_itself(name: str, tmp_path: Path) -> None:
    make, changes = MODELS[name]
    wanted = settings(checkpoint_every=2, **changes)
    found = []
    for seed, interruptions in enumerate(((), (), (3, 6))):
        model, path = make(), tmp_path / str(seed)
        torch.manual_seed(seed)
        for last in interruptions:
            with pytest.raises(KeyboardInterrupt):
                train(model, blocks(), wanted, checkpoint=path, progress=stop_after(last))
            model = make()
            torch.manual_seed(100 + last)
        before = torch.get_rng_state()
        train(model, blocks(), wanted, checkpoint=path)
        assert torch.equal(torch.get_rng_state(), before)  # of the caller
        found.append(dict(model.named_parameters()))
    for other in found[1:]:
        assert all(torch.equal(parameter, found[0][n]) for n, parameter in other.items())


@pytest.mark.parametrize(("make", "checkpointing"), [(gpt2, False), (opt, True)])
def test_nothing_is_dropped(make: Callable[[float], PreTrainedModel], checkpointing: bool) -> None:
    found = []
    for dropout in (0.0, 0.5):
        model = make(dropout)
        layers = [m for m in model.modules() if isinstance(m, OPTDecoderLayer)]
        train(model, blocks(), settings(gradient_checkpointing=checkpointing))
        assert not model.training
        assert all(layer.dropout == dropout for layer in layers)
        found.append(dict(model.named_parameters()))
    assert all(torch.equal(parameter, found[1][n]) for n, parameter in found[0].items())


@pytest.mark.parametrize("make", [gpt2, gpt_neo])
@pytest.mark.parametrize("distilled", [False, True])
def test_layers_are_computed_again(make: Callable[[], PreTrainedModel], distilled: bool) -> None:
    counts = []
    for checkpointing in (False, True):
        model = make()
        model.get_output_embeddings().requires_grad_(False)
        loss = Distillation(make(), 1.0) if distilled else next_token_loss
        calls: list[int] = []
        layer = model.transformer.h[0].mlp
        layer.register_forward_pre_hook(lambda *call, seen=calls: seen.append(1))
        train(model, blocks(), settings(gradient_checkpointing=checkpointing), loss_of=loss)
        counts.append(len(calls))
    assert counts[1] - counts[0] == 2 * STEPS  # once more in every micro-batch


def all_finite(path: Path) -> bool:
    return all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_weights_that_go_bad_are_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    wanted = settings(learning_rate=1e6, weight_decay=10.0, warmup_steps=0, checkpoint_every=2)
    many = blocks(80)
    messages = []
    for _ in range(2):  # the second time it goes on from the file
        with pytest.raises(
            RunError, match="lower the learning rate or warm up for longer, in another"
        ) as hit:
            train(micro_llama(), many, wanted, checkpoint=path)
        messages.append(str(hit.value))
        assert all_finite(path)
    assert messages[0] == messages[1]
    stored = load_file(path)
    assert f"; {path.name} holds the state after" in messages[0]
    model = micro_llama()
    assert {n for n, _ in model.named_parameters()} == {
        n.removeprefix("parameter.") for n in stored if n.startswith("parameter.")
    }


def infinite_slope(at: int) -> Loss:
    """A finite loss whose gradient is no number in one micro-batch."""
    count = iter(range(1000))

    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        found = next_token_loss(model, tokens)
        return found + (0 * next(model.parameters())).sum().sqrt() if next(count) == at else found

    loss.loss_name = LossName("cross-entropy", "nats per token")
    return loss


@pytest.mark.parametrize("at", [11, 15])  # of 16: in the midst, and in the last step
def test_a_gradient_that_is_no_number_stops(at: int, tmp_path: Path) -> None:
    path, model = tmp_path / "checkpoint", micro_llama()
    with pytest.raises(RunError, match=r"norm became nan at step \d; .*checkpoint holds the state after \d"):
        train(model, blocks(), settings(checkpoint_every=2), loss_of=infinite_slope(at), checkpoint=path)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all_finite(path)
    assert train(micro_llama(), blocks(), settings(checkpoint_every=2), checkpoint=path).steps == STEPS


@pytest.mark.parametrize("stored", [True, False])
def test_the_last_step_is_looked_at(stored: bool, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    huge = settings(learning_rate=3e37, weight_decay=10.0, decayed="all", warmup_steps=0)
    wanted = dataclasses.replace(huge, checkpoint_every=1, evaluate_every=1, patience=1)
    model, place = micro_llama(), path if stored else None
    with torch.no_grad():
        model.model.norm.weight.fill_(2.0)  # times 3e38 after one step
    with pytest.raises(RunError, match="a parameter became infinite or no number at step 0") as hit:
        train(model, blocks(2), wanted, evaluate=lambda _: 1.0, checkpoint=place)
    assert path.name not in str(hit.value)  # there is none
    assert ("in another directory" in str(hit.value)) == stored
    assert not list(tmp_path.iterdir())


def test_an_evaluation_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    wanted = settings(evaluate_every=1, patience=1)
    with pytest.raises(RunError, match="the evaluation became nan at step 0"):
        train(micro_llama(), blocks(), wanted, evaluate=lambda _: float("nan"), checkpoint=tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_checkpoints_of_other_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    wanted = settings(checkpoint_every=2)
    train(micro_llama(layers=3), blocks(), wanted, checkpoint=path)
    for other, what in (
        (micro_llama(), r"layers\.2\S* = \[.*\] there, is not here"),
        (micro_llama(layers=4), r"layers\.3\S* is not there, \[.*\] here"),
        (micro_llama(vocabulary=101, layers=3), r"embed_tokens.weight = \[97, 32\] there, \[101, 32\] here"),
    ):
        before = {n: parameter.detach().clone() for n, parameter in other.named_parameters()}
        with pytest.raises(RunError, match=rf"belongs to another model \(\S*{what}\); remove it or choose"):
            train(other, blocks(), wanted, checkpoint=path)
        assert all(torch.equal(parameter, before[n]) for n, parameter in other.named_parameters())


def test_another_text_and_another_frozen_base_are_refused(tmp_path: Path) -> None:
    path, wanted = tmp_path / "checkpoint", settings(checkpoint_every=2)
    model = micro_llama()
    model.model.embed_tokens.requires_grad_(False)
    train(model, blocks(), wanted, checkpoint=path)
    text = blocks()
    text[len(text) // 2, -1] = (text[len(text) // 2, -1] + 1) % 97
    with pytest.raises(RunError, match=r"belongs to another run \(text = "):
        train(model, text, wanted, checkpoint=path)
    with torch.no_grad():
        model.model.embed_tokens.weight += 1
    with pytest.raises(RunError, match=r"belongs to another run \(frozen weights = "):
        train(model, blocks(), wanted, checkpoint=path)


def test_another_chip_gradient_and_loss_are_refused(tmp_path: Path) -> None:
    def other_loss(model: nn.Module, tokens: Tensor) -> Tensor:
        return next_token_loss(model, tokens)

    path, wanted, design = tmp_path / "checkpoint", settings(checkpoint_every=1), micro_design()
    train(attach(micro_llama(), design), blocks(4), wanted, checkpoint=path)
    other = attach(micro_llama(), micro_design(cell="x3"), gradient="surrogate")
    for model, loss, what in (
        (other, next_token_loss, "arrays"),
        (attach(micro_llama(), design, gradient="surrogate"), next_token_loss, "arrays"),
        (attach(micro_llama(), design), other_loss, "loss"),
    ):
        with pytest.raises(RunError, match=rf"belongs to another run \({what} = "):
            train(model, blocks(4), wanted, loss_of=loss, checkpoint=path)


def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    train(micro_llama(), blocks(), settings(checkpoint_every=2), checkpoint=path)
    tensors = load_file(path)
    with disk.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors["parameter.model.norm.weight"][3] = float("nan")
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(
        RunError, match=r"model.norm.weight is not finite in .*checkpoint.1 is the one before"
    ):
        train(micro_llama(), blocks(), settings(checkpoint_every=2), checkpoint=path)


def test_seconds_are_those_of_the_whole_run(tmp_path: Path) -> None:
    def slow(model: nn.Module, tokens: Tensor) -> Tensor:
        time.sleep(0.05)
        return next_token_loss(model, tokens)

    def go_on(progress: Callable[..., None]) -> TrainResult:
        path, wanted = tmp_path / "checkpoint", settings(checkpoint_every=2)
        return train(micro_llama(), blocks(), wanted, loss_of=slow, checkpoint=path, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        go_on(stop_after(6))
    for _ in range(2):  # the second time it is finished
        assert go_on(silent).seconds >= 0.05 * 2 * STEPS


@pytest.mark.slow
def test_the_final_loss_is_that_of_the_whole_run(tmp_path: Path) -> None:
    """Of a run in two pieces, of one that was complete and is asked for again, and of one in one piece."""
    data = blocks(2 * 40)
    straight = train(micro_llama(), data, settings()).final_loss

    def interrupt(done: int, total: int, numbers: object) -> None:
        if done == 39:
            raise KeyboardInterrupt

    place = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train(micro_llama(), data, settings(checkpoint_every=19), checkpoint=place, progress=interrupt)
    resumed = train(micro_llama(), data, settings(checkpoint_every=19), checkpoint=place)
    again = train(micro_llama(), data, settings(checkpoint_every=19), checkpoint=place)
    assert straight == resumed.final_loss == again.final_loss
