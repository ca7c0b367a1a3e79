"""GainCellCallback in a training of transformers, and the trackers of our own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate.tracking
import peft
import pytest
import torch
from tests.integrations.families import build, tokens
from tests.integrations.hardware_models import WARNINGS, logits, lora
from tests.tiers import slow_after
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

import gaincell
from gaincell.errors import InputError, ModelError, RunError
from gaincell.integrations.hf.attach import attached_layers
from gaincell.training.log import TrainingLog, read_log, tracking

pytestmark = WARNINGS
DESIGN = gaincell.load_design("leroux2025").replace(
    tile=8, window=16, noise=gaincell.Noise(score_std=0.02), mismatch=gaincell.Mismatch(gain_std=0.02)
)


def trainer(model: Any, out: Path, *callbacks: Any, **settings: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=3,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        learning_rate=10.0,
        max_grad_norm=0.0,
        optim="sgd",
        logging_steps=1,
        save_steps=3,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    data = [{"input_ids": row, "labels": row} for row in tokens(8, 12)]
    return Trainer(model=model, args=arguments, train_dataset=data, callbacks=[*callbacks])


def test_gains_draws_and_fidelity(tmp_path: Path) -> None:
    model = gaincell.attach(build("llama"), DESIGN)
    gaincell.calibrate(model, [tokens(2, 30)])
    designs: list[Any] = []
    for cell in attached_layers(model)[:1]:
        cell.register_forward_pre_hook(lambda cell, _: designs.append(cell.design) if cell.training else None)
    own = attached_layers(model)[0].design
    callback = gaincell.GainCellCallback("chip", base=build("llama"), text=tokens(1, 12))
    run = trainer(model, tmp_path, callback)
    run.train()
    assert len({design.noise.seed for design in designs}) == len({d.mismatch.chip for d in designs}) == 6
    assert all(cell.design == own for cell in attached_layers(model))
    logged = [line["fidelity_error"] for line in run.state.log_history if "loss" in line]
    assert len(logged) == 3
    assert all(error > 0 for error in logged)
    assert model.training
    saved, _ = gaincell.load(tmp_path / "checkpoint-3")
    assert attached_layers(saved)[0].design == own


def test_an_interruption_leaves_the_model_on_its_chip(tmp_path: Path) -> None:
    """Between two micro-batches."""
    model = gaincell.attach(build("llama"), DESIGN)
    gaincell.calibrate(model, [tokens(2, 30)])

    class Interrupted(TrainerCallback):
        def on_substep_end(self, *_: Any, **__: Any) -> None:
            assert all(cell.design != DESIGN for cell in attached_layers(model))
            raise KeyboardInterrupt

    own = attached_layers(model)[0].design
    run = trainer(model, tmp_path, gaincell.GainCellCallback("chip"), Interrupted())
    with pytest.raises(KeyboardInterrupt):
        run.train()
    assert all(cell.design == own for cell in attached_layers(model))
    gaincell.set_design(model, "ideal")  # what a later training leaves alone where it does not begin
    with pytest.raises(ValueError, match="checkpoint"):
        run.train(resume_from_checkpoint=True)
    assert {cell.design.name for cell in attached_layers(model)} == {"ideal"}


def test_processes_and_steps_have_draws_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after a step with fewer micro-batches, as at the end of an epoch: resumed or not, the same."""
    draws: list[int] = []
    monkeypatch.setattr("gaincell.training.callback.redraw", lambda _, __, draw: draws.append(draw))
    model = gaincell.attach(build("llama"), DESIGN)
    for process in range(3):
        callback = gaincell.GainCellCallback("chip")
        args = SimpleNamespace(world_size=3, process_index=process, gradient_accumulation_steps=2)
        callback.on_train_begin(args, SimpleNamespace(global_step=1), None, model=model)
        callback.on_step_begin(args, SimpleNamespace(global_step=1), None)
        callback.on_step_begin(args, SimpleNamespace(global_step=2), None)
        callback.on_substep_end()
    assert sorted(draws) == [7, 8, 9, *range(13, 19)]


def gains_of(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for n, p in model.named_parameters() if n.endswith(".gain")])


@pytest.mark.parametrize("wrapped", slow_after(1, [False, True]))
def test_gains_stay_above_zero_without_the_callback(wrapped: bool, tmp_path: Path) -> None:
    model: Any = gaincell.attach(build("llama"), DESIGN)
    gaincell.calibrate(model, [tokens(2, 30)])
    if wrapped:
        model = peft.get_peft_model(model, lora("llama"))
    run = trainer(model, tmp_path)
    for _ in range(2):  # its callback is not added twice
        run.train()
    assert gains_of(model).min() == 1e-20  # so large a rate takes some below zero
    assert len([c for c in run.callback_handler.callbacks if "Gains" in type(c).__name__]) == 1


def test_a_loop_that_lets_gains_fall_is_warned(tmp_path: Path) -> None:
    """Once they are saved, whose values come back as they are: nothing is lost."""
    model = gaincell.attach(build("llama"), DESIGN)
    with torch.no_grad():
        attached_layers(model)[1].k.gain.neg_()
    with pytest.warns(UserWarning, match=r"gains are not above 0 \(layer 1, k\.gain; 1 in all\).*clamp"):
        model.save_pretrained(tmp_path)
    assert torch.equal(gains_of(AutoModelForCausalLM.from_pretrained(tmp_path)), gains_of(model))
    with pytest.raises(RunError, match="is not above 0"):
        gaincell.save(model, tmp_path / "run", base=build_base(tmp_path / "base"))
    for name, value in (("k.gain", float("nan")), ("v.offset", float("inf"))):
        model = gaincell.attach(build("llama"), DESIGN)
        with torch.no_grad():
            attached_layers(model)[1].get_parameter(name).fill_(value)
        with pytest.warns(UserWarning, match=rf"NaN or infinite \(layer 1, {name}; 1 in all\).* not be read"):
            model.save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=f"{name} has 2 of 2 values"):
            gaincell.load(tmp_path)


def build_base(directory: Path) -> Path:
    build("llama").save_pretrained(directory)
    return directory


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_mixed_precision_stays_on_in_the_trained_model(checkpointing: bool, tmp_path: Path) -> None:
    """accelerate leaves it on; what is read back has the same weights and, under it, the same logits."""
    model = gaincell.attach(build("llama"), DESIGN)
    gaincell.calibrate(model, [tokens(2, 30)])
    run = trainer(model, tmp_path, bf16=True, gradient_checkpointing=checkpointing)
    run.train()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-3")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    trained = logits(model)
    assert not torch.equal(logits(again), trained)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(logits(again).float(), trained)
    run.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    assert torch.equal(logits(model), logits(again))


def test_what_the_callback_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="redraw = 'chips'"):
        gaincell.GainCellCallback("chips")
    with pytest.raises(InputError, match="both base= and text="):
        gaincell.GainCellCallback(text=tokens(1, 12))
    with pytest.raises(ModelError, match=r"is not attached: call gaincell\.attach"):
        trainer(build("llama"), tmp_path, gaincell.GainCellCallback()).train()
    model = gaincell.attach(build("llama"), DESIGN)
    attached = gaincell.attach(build("llama"), DESIGN)
    for base, text, error, message in (
        (build("llama"), tokens(1, 17), InputError, "17 tokens do not fit into a ring of 16 columns"),
        (build("llama"), [[1, 2, 3]], InputError, r"is a list; give token ids as a tensor \[B, T\]"),
        (build("llama"), tokens(1, 12)[0], InputError, r"is a tensor of shape \(12,\)"),
        (build("llama"), tokens(1, 12) / 2, InputError, r"of torch.float32; give token ids"),
        (build("llama"), tokens(1, 12) + 1000, InputError, "outside the model's vocabulary"),
        (attached, tokens(1, 12), ModelError, "to compare with is attached"),
    ):
        run = trainer(model, tmp_path, gaincell.GainCellCallback(base=base, text=text))
        with pytest.raises(error, match=message):
            run.train()
        assert run.state.global_step == 0


class Recorded:
    """A tracker that remembers. Like wandb's it needs the state of accelerate and drops earlier steps."""

    requires_logging_directory = True
    calls: tuple[Any, ...] = ()

    def __init__(self, run_name: str, **place: str) -> None:
        self.name = "wandb" if "dir" in place else "tensorboard"
        self.latest = 0
        type(self).calls = ((run_name, place),)

    def start(self) -> None:
        accelerate.tracking.logger.debug("started")

    @property
    def tracker(self) -> Any:
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        type(self).calls += ((name, step_metric),)

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        if self.name == "tensorboard" or step is None or step >= self.latest:
            type(self).calls += ((step, values),)
            self.latest = step or self.latest

    def finish(self) -> None:
        type(self).calls += ("finished",)


def recorded(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """What a tracker of that name takes of two stages."""
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, name, Recorded)
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", lambda: [name])
    accelerate.PartialState._reset_state()  # as in a command that has not asked for it
    with tracking(name, folder) as tracker:
        for stage, step in (("linear", 4), ("tuned", 0), ("tuned", 1)):
            log = TrainingLog(folder / "log.jsonl", {"stage": stage, "part": "1 of 2"}, tracker=tracker)
            log.line(step, {"loss": 2.5, "loss_name": "cross-entropy"})
    assert [line["loss"] for line in read_log(folder / "log.jsonl")] == [2.5, 2.5, 2.5]
    return Recorded.calls


def test_tensorboard_takes_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recorded("tensorboard", Path(), monkeypatch) == (
        (tmp_path.name, {"logging_dir": "track"}),
        (4, {"linear/1 of 2/loss": 2.5}),
        (0, {"tuned/1 of 2/loss": 2.5}),
        (1, {"tuned/1 of 2/loss": 2.5}),
        "finished",
    )


def test_wandb_takes_every_line_of_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear, tuned = "linear/1 of 2", "tuned/1 of 2"
    assert recorded("wandb", tmp_path, monkeypatch) == (
        (tmp_path.name, {"dir": str(tmp_path / "track")}),
        (f"{linear}/*", f"{linear}/step"),
        (None, {f"{linear}/step": 4, f"{linear}/loss": 2.5}),
        (f"{tuned}/*", f"{tuned}/step"),
        (None, {f"{tuned}/step": 0, f"{tuned}/loss": 2.5}),
        (None, {f"{tuned}/step": 1, f"{tuned}/loss": 2.5}),
        "finished",
    )


def test_a_tracker_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: Recorded) -> None:
        raise RuntimeError("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(Recorded, "start", start)
    with pytest.raises(InputError, match=r"^--track wandb does not start \(No API key configured. Use "):
        recorded("wandb", tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("name", "message"),
    [("mlflow", "'mlflow'; allowed: "), ("wandb", "needs its package: pip install wandb")],
)
def test_trackers_that_are_not_there(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate.tracking, "get_available_trackers", list)
    with pytest.raises(InputError, match=message), tracking(name, tmp_path):
        pass
