"""One training loop: AdamW, warm-up and cosine, clipping, accumulation, bf16 autocast, evaluation, resume.

It trains whatever parameters of the model require a gradient. Quantisation-aware training needs nothing
special here: the attached hardware attention rounds in its forward pass and passes the gradient straight
through. Gains can be learnt as logarithms: AdamW then sees l = ln a and dL/dl = a dL/da.
One process, or several (see `parallel.py`): each takes its share of the micro-batches of a step, and
all make the same step. Noise-aware training needs a design with noise (its tables [noise] and [writing]), of
which every forward pass sees another draw, or a design with mismatch, of which it can see another chip.

There is no dropout, whatever the model's configuration says: arrays have none, and softmax is trained alike.
What a model draws all the same is a function of the step and the micro-batch, as are draws of noise: a run
that was interrupted repeats the one that was not.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gaincell.chips.design_file import Design
from gaincell.errors import InputError
from gaincell.integrations.hf import reparametrisation
from gaincell.integrations.hf.attach import attached_layers
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.scaler import keep_gains_positive
from gaincell.progress import Progress, silent
from gaincell.training import checkpoint as disk
from gaincell.training.log import TrainingLog
from gaincell.training.loss import Loss, name_of, next_token_loss
from gaincell.training.machine import activations_fit, bf16_pays, memory_kept
from gaincell.training.optimizer import as_logarithms, check_positive, is_gain, make_optimizer
from gaincell.training.parallel import Parallel, check_share, clip_each_gradient, clip_gradients
from gaincell.training.settings import Precision, TrainSettings, learning_rate_at
from gaincell.training.shares import measured_shares

__all__ = ["Blocks", "Loss", "TrainResult", "TrainSettings", "next_token_loss", "redraw", "train"]

PROFILED = 2
"""Steps before the one that is profiled."""
TRAINED_ON = 2**31
"""How far the noise and the chips that a training meets lie from those that are evaluated."""
Evaluation = Callable[[nn.Module], float]
"""A number that is better when it is lower; called with the model in evaluation mode."""


class Blocks(Protocol):
    """Blocks of T + 1 token ids in a fixed order, such as a tensor [n, T + 1]."""

    def __len__(self) -> int: ...
    def __getitem__(self, which: slice, /) -> Tensor: ...


@dataclass(frozen=True)
class TrainResult:
    """What a run did."""

    steps: int
    """Fewer than there are blocks for where it stopped early."""
    tokens: int
    final_loss: float
    """Mean loss, in its unit, over the last tenth of the steps, over interruptions."""
    seconds: float
    """Of the whole run, over interruptions: without what a killed process did after its last checkpoint."""
    seconds_before: float
    """Of these, before the last interruption."""
    precision: Precision
    """Of its matrix products; the hardware attention computes in float32 whatever it is."""
    best: float | None = None
    """The best evaluation, if there was any."""


@memory_kept()
def train(
    model: nn.Module,
    blocks: Blocks,
    settings: TrainSettings,
    *,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    log: TrainingLog | Path | None = None,
    loss_of: Loss | None = None,
    evaluate: Evaluation | None = None,
    rates: Mapping[str, float] | None = None,
    shares: dict[str, float] | None = None,
) -> TrainResult:
    """Train the parameters that require a gradient on `blocks`, once, in the order given.

    Args:
        model: A causal language model of transformers, attached or not.
        blocks: [n, T + 1] token ids; inputs are columns 0..T-1, targets columns 1..T. Incomplete last batches
            are dropped.
        settings: Rates, batches, clipping and the like.
        progress: Called after every step with (steps done, steps in all, {NAME OF THE LOSS: its value,
            "learning_rate": ..., "tokens_per_second": ...}).
        checkpoint: File written every `checkpoint_every` steps and resumed from when it exists; removed by
            the caller (`checkpoint.remove`).
        log: Receives a line a step, with the name and the unit of the loss.
        loss_of: What is minimised; by default the cross-entropy of the next token.
        evaluate: Called every `evaluate_every` steps and at the end; never where that is 0.
        rates: Peak learning rates of parameters whose names begin so, in place of those of the settings.
        shares: Receives where the time of the third step goes (shares.py), where there is one.

    Raises:
        InputError: too few blocks for one step; a number of processes that does not divide a step's
            micro-batches; patience without `evaluate`; a redraw of chips that are all alike; gains without a
            logarithm; no gradient checkpointing where it is asked for.
        ModelError: a model that does not name its layers, sharded.
        RunError: the loss diverges, or it, the gradient or a parameter is not finite (what is on disk is
            finite); or the checkpoint is torn or belongs to another run (its settings, text, loss, chip or
            gradient) or model.
    """
    if len(blocks) < settings.batch:
        raise InputError(
            f"{len(blocks)} blocks of text are fewer than one batch of {settings.batch}; give more text"
        )
    if settings.patience and evaluate is None:
        raise InputError(f"patience = {settings.patience}: give evaluate, which tells when to stop")
    here = _Training(model, blocks, settings, loss_of or next_token_loss, checkpoint, rates or {})
    writer = TrainingLog(log) if isinstance(log, Path) else log
    writer = writer if here.main else None
    if writer is not None:
        writer.rewind(here.step)
    here.start = time.perf_counter()
    here.begin()
    try:
        while here.step < here.total and not here.watch.finished:
            measured = shares is not None and here.step == here.first + PROFILED
            details = here.update(here.shares if measured else None)
            every = settings.evaluate_every
            if evaluate is not None and every and (here.step % every == 0 or here.step == here.total):
                details["evaluation"] = here.evaluated(evaluate)
            if writer is not None:
                writer.line(here.step - 1, details)
            if here.step % settings.checkpoint_every == 0:
                here.keep()
            if here.main:
                shown = {key: details[key] for key in ("learning_rate", "tokens_per_second")}
                progress(here.step, here.total, {str(here.named): details["loss"], **shown})
        here.watch.return_to_best(here.parameters)
    finally:
        here.leave()
        switch_checkpointing(model, here.recompute, "disable")
    here.keep()
    if shares is not None:
        shares.update(here.shares)
    if writer is not None:
        writer.draw()
    here.run.processes.wait_for_everyone()
    return here.result()


class _Training:
    """A model, what trains it, and how far it has come: begun, or restored from its checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Blocks,
        settings: TrainSettings,
        loss_of: Loss,
        checkpoint: Path | None,
        rates: Mapping[str, float],
    ) -> None:
        given = _fingerprint(model, blocks) if checkpoint is not None else {}
        self.model, self.blocks, self.checkpoint = model, blocks, checkpoint
        self.named, self.start = name_of(loss_of), 0.0
        self.run = run = Parallel(model, loss_of, sharded=settings.sharded)
        check_share(run.processes.num_processes, settings.batch, settings.micro_batch)
        self.main = run.processes.is_main_process
        self.device = next(model.parameters()).device
        if settings.bf16 is None:  # all processes do what most have found, or what the run began with
            begun = disk.settings_of(checkpoint).get("bf16") if checkpoint is not None else None
            pays = bf16_pays(str(self.device)) if begun is None else begun
            settings = replace(settings, bf16=run.mean(float(pays)) > 0.5)
        self.settings, first_block = settings, blocks[0:1]
        self.total = len(blocks) // settings.batch
        self.tokens_a_step = settings.batch * (first_block.shape[1] - 1)
        self.recompute = _recomputes(model, settings, loss_of, first_block)
        switch_checkpointing(model, self.recompute, "enable", {"use_reentrant": False})
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(self.parameters, settings, rates)
        self.gains = {n: p for n, p in self.parameters.items() if is_gain(n)} if settings.log_gains else {}
        check_positive(self.gains)
        self.identity: dict[str, Any] = {
            "settings": asdict(settings),
            "blocks": [len(blocks), first_block.shape[1]],
            **given,
            **({"rates": dict(rates)} if rates else {}),
            "loss": str(self.named),
            "arrays": [[cell.design.hash, cell.gradient] for cell in attached_layers(model)],
            **reparametrisation.identity(model),
        }
        state: dict[str, Any] = {}
        if checkpoint is not None:
            if self.main:
                disk.sweep(checkpoint)
            state = disk.restore(checkpoint, self.parameters, self.optimizer, self.identity)
        run.processes.wait_for_everyone()  # nobody writes while others read
        self.step = self.first = int(state.get("step", 0))
        self.before = float(state.get("seconds", 0.0))
        self.watch = disk.Watch(
            settings, self.named, state.get("watch", {}), checkpoint, stored=self.first, write=self.main
        )
        self.norms: dict[str, float] = dict(state.get("norms", {}))
        self.shares: dict[str, float] = dict(state.get("shares", {}))
        self.losses: deque[float] = deque(state.get("losses", ()), maxlen=max(1, self.total // 10))
        self.arrays = {m: m.design for m in model.modules() if isinstance(m, GainCellAttention)}
        check_redraw(settings.redraw, self.arrays.values())
        self.dropouts: list[tuple[nn.Module, str, float]] = []

    def update(self, shares: dict[str, float] | None) -> dict[str, Any]:
        """One step; what the log says of it.

        Args:
            shares: Receives where its time goes.
        """
        settings, watch, gains = self.settings, self.watch, self.gains.values()
        factor = learning_rate_at(self.step, self.total, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        with nullcontext() if shares is None else measured_shares(shares, self.device):
            loss = self._accumulate()
        watch.see(loss, self.step)
        for gain in gains:
            gain.grad = None if gain.grad is None else gain.grad * gain.detach()
        clip_each_gradient(self.parameters, settings.clip_tensors, self.norms)
        norm = clip_gradients(self.parameters.values(), settings.clip)
        watch.require(math.isfinite(norm), f"the gradient's norm became {norm}", self.step)
        with as_logarithms(gains):
            self.optimizer.step()
        self.optimizer.zero_grad()
        watch.require(self._is_finite(), "a parameter became infinite or no number", self.step)
        keep_gains_positive(self.model)
        self.step += 1
        self.losses.append(loss)
        done, seconds = (self.step - self.first) * self.tokens_a_step, time.perf_counter() - self.start
        return {
            "loss": loss,
            "loss_name": self.named.name,
            "loss_unit": self.named.unit,
            "learning_rate": settings.learning_rate * factor,
            "tokens_per_second": done / seconds,
            "gradient_norm": norm,
            "tokens": self.step * self.tokens_a_step,
        }

    def _accumulate(self) -> float:
        """Forward and backward over the micro-batches of a step, of all processes; their mean loss."""
        settings, run, first = self.settings, self.run, self.step * self.settings.batch
        pieces = self.blocks[first : first + settings.batch].split(settings.micro_batch)
        own = run.share_of(pieces)
        total = 0.0
        for count, (number, piece) in enumerate(own, start=1):
            draw = self.step * len(pieces) + number + 1
            redraw(self.arrays, settings.redraw, draw)
            tokens = piece.to(device=self.device, dtype=torch.long)
            with _generators_of(draw, self.device), run.accumulating(last=count == len(own)):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bool(settings.bf16)):
                    loss = run.module(tokens)
                (loss / len(own)).backward()
            total += loss.item()
        run.finish_gradients()
        return run.mean(total / len(own))

    def _is_finite(self) -> bool:
        """Whether all parameters are finite, in all processes."""
        shares = (p.to_local() if isinstance(p, DTensor) else p for p in self.parameters.values())
        own = torch.stack([share.isfinite().all() for share in shares]).all()
        return self.run.mean(float(own)) == 1.0

    def evaluated(self, evaluate: Evaluation) -> float:
        """The model's evaluation, on the chip that it has outside training."""
        self.leave()
        try:
            found = self.run.mean(evaluate(self.model))
        finally:
            self.begin()
        self.watch.judge(found, self.step - 1, self.parameters)
        return found

    def begin(self) -> None:
        """Evaluation mode, in which nothing is dropped, except for modules that compute something again in
        the backward pass: they do so in training mode only. Dropout that they apply without a module for it,
        as OPT's layers do, has probability 0 until `leave`.
        """
        self.model.eval()
        for module in self.model.modules():
            module.training = bool(getattr(module, "gradient_checkpointing", False))
            for name, value in vars(module).items() if module.training else ():
                if "drop" in name and isinstance(value, float):
                    self.dropouts.append((module, name, value))
                    setattr(module, name, 0.0)

    def leave(self) -> None:
        """Evaluation mode, with the dropout and on the chip that the model has outside training."""
        self.model.eval()
        while self.dropouts:
            setattr(*self.dropouts.pop())
        redraw(self.arrays, "nothing", 0)

    def keep(self) -> None:
        """Write the checkpoint, if there is to be one."""
        if self.checkpoint is not None:
            place = {"step": self.step, "watch": self.watch.state(), "seconds": self._seconds()}
            place |= {"losses": list(self.losses)} | ({"norms": self.norms} if self.norms else {})
            place |= {"shares": self.shares} if self.shares else {}
            disk.store(
                self.checkpoint, self.parameters, self.optimizer, self.identity, place,
                keep=self.settings.keep_checkpoints, write=self.main,
            )  # fmt: skip
            self.watch.stored = self.step

    def _seconds(self) -> float:
        return self.before + time.perf_counter() - self.start

    def result(self) -> TrainResult:
        tail = list(self.losses)[-max(1, self.step // 10) :]
        loss, tokens = sum(tail) / len(tail), self.step * self.tokens_a_step
        precision: Precision = "bfloat16" if self.settings.bf16 else "float32"
        return TrainResult(self.step, tokens, loss, self._seconds(), self.before, precision, self.watch.best)


def _recomputes(model: nn.Module, settings: TrainSettings, loss_of: Loss, block: Tensor) -> bool:
    """Whether activations are computed again in the backward pass: where they are too large to be kept."""
    if settings.gradient_checkpointing is not None:
        return settings.gradient_checkpointing
    model.eval()
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bool(settings.bf16)):
        return not (settings.sharded or activations_fit(model, loss_of, block, settings.micro_batch))


@contextmanager
def _generators_of(draw: int, device: torch.device) -> Iterator[None]:
    """Within the context torch draws what belongs to `draw`; after it, what it would have drawn without."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(draw)
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(draw)
        yield


def check_redraw(what: str, designs: Iterable[Design]) -> None:
    """Raise InputError where other chips are asked for of a design whose chips are all alike."""
    for alike in (design for design in designs if what == "chip" and not design.drawn("chip")):
        raise InputError(
            f'redraw = "chip": all chips of {alike.name} are alike; give it [mismatch], or redraw = "noise"'
        )


def redraw(arrays: Mapping[GainCellAttention, Design], what: str, draw: int) -> None:
    """Let attentions compute with draw number `draw` of what REDRAWS says of their designs."""
    redrawn: dict[Design, Design] = {}
    for attention, design in arrays.items():
        if design not in redrawn:
            number = TRAINED_ON + draw
            redrawn[design] = design.redrawn(number, chip=what == "chip") if what != "nothing" else design
        attention.design = redrawn[design]


def _fingerprint(model: nn.Module, blocks: Blocks) -> dict[str, str]:
    """Digests of the text (of a stream: its first and last block) and of the beginning of frozen weights."""
    some = [blocks] if isinstance(blocks, Tensor) else [blocks[0:1], blocks[len(blocks) - 1 : len(blocks)]]
    frozen = [p.detach().flatten()[:64] for p in model.parameters() if not p.requires_grad]
    return {"text": digest(some), "frozen weights": digest(frozen)}


def digest(tensors: Iterable[Tensor]) -> str:
    """12 hexadecimal digits of the SHA-256 of the bytes of tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.flatten().cpu().view(torch.uint8).numpy().data)
    return found.hexdigest()[:12]


def switch_checkpointing(model: nn.Module, recompute: bool, what: str, *arguments: Any) -> None:
    """Switch gradient checkpointing on or off; transformers 5 calls it activation checkpointing."""
    if recompute:
        names = (f"{kind}_checkpointing_{what}" for kind in ("activation", "gradient"))
        switch: Any = next((getattr(model, name) for name in names if hasattr(model, name)), None)
        if switch is None:
            raise InputError(f"{type(model).__name__} has no gradient checkpointing; leave it out")
        switch(*arguments)
