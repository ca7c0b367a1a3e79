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
from torch.nn import functional

from gaincell.chips.design_file import Design
from gaincell.errors import InputError, RunError
from gaincell.integrations.hf import reparametrisation
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.scaler import keep_gains_positive
from gaincell.progress import Progress, silent
from gaincell.training import checkpoint as disk
from gaincell.training.activations import activations_fit
from gaincell.training.log import TrainingLog
from gaincell.training.loss_name import called, name_of
from gaincell.training.memory import memory_kept
from gaincell.training.optimizer import as_logarithms, check_positive, is_gain, make_optimizer
from gaincell.training.parallel import Loss, Parallel, clip_each_gradient, clip_gradients
from gaincell.training.precision import bf16_pays
from gaincell.training.settings import TrainSettings, learning_rate_at
from gaincell.training.shares import measured_shares
from gaincell.training.watch import Watch

__all__ = ["Blocks", "Loss", "TrainResult", "TrainSettings", "next_token_loss", "redraw", "train"]

PROFILED = 2
"""Steps before the one that is profiled."""
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
        model: a causal language model of transformers, attached or not.
        blocks: [n, T + 1] token ids; inputs are columns 0..T-1, targets columns 1..T. Incomplete last batches
            are dropped.
        settings: see `TrainSettings`.
        progress: called after every step with (steps done, steps in all, {NAME OF THE LOSS: its value,
            "learning_rate": ..., "tokens_per_second": ...}).
        checkpoint: file written every `checkpoint_every` steps and resumed from when it exists; removed by
            the caller (`checkpoint.remove`).
        log: receives a line a step, with the name and the unit of the loss.
        loss_of: what is minimised; by default the cross-entropy of the next token (see `loss_name`).
        evaluate: called every `evaluate_every` steps and at the end.
        rates: peak learning rates of parameters whose names begin so, in place of those of the settings.
        shares: receives where the time of the third step goes (shares.py), where there is one.

    Raises:
        InputError: too few blocks for one step, or more processes than a step has micro-batches.
        RunError: the loss diverges, or it, the gradient or a parameter is not finite (what is on disk is
            finite); or the checkpoint is torn or belongs to another run or model.
    """
    total = len(blocks) // settings.batch
    if total == 0:
        raise InputError(
            f"{len(blocks)} blocks of text are fewer than one batch of {settings.batch}; give more text"
        )
    here = _Training(model, blocks, settings, loss_of or next_token_loss, checkpoint, rates or {})
    named, watch, main = here.named, here.watch, here.run.processes.is_main_process
    writer = TrainingLog(log) if isinstance(log, Path) else log
    if writer is not None and main:
        writer.rewind(here.first)
    tokens_a_step = settings.batch * (blocks[0:1].shape[1] - 1)
    here.start, step = time.perf_counter(), here.first
    _begin(model)
    try:
        while step < total and not watch.finished:
            factor = learning_rate_at(step, total, settings)
            loss, norm = here.update(step, factor, shares if step == here.first + PROFILED else None)
            step += 1
            here.losses.append(loss)
            record = {
                "learning_rate": settings.learning_rate * factor,
                "tokens_per_second": (step - here.first) * tokens_a_step / (time.perf_counter() - here.start),
            }
            details: dict[str, Any] = {
                "loss": loss,
                "loss_name": named.name,
                "loss_unit": named.unit,
                **record,
            }
            details |= {"gradient_norm": norm, "tokens": step * tokens_a_step}
            if evaluate is not None and _due(step, total, settings.evaluate_every):
                with _at_rest(model, here.arrays):
                    details["evaluation"] = here.run.mean(evaluate(model))
                watch.judge(details["evaluation"], step - 1, here.parameters)
            if writer is not None and main:
                writer.line(step - 1, details)
            if step % settings.checkpoint_every == 0:
                here.keep(step)
            if main:
                progress(step, total, {str(named): loss, **record})
        watch.return_to_best(here.parameters)
    finally:
        _leave(model, here.arrays)
        switch_checkpointing(model, here.recompute, "disable")
    here.keep(step)
    if writer is not None and main:
        writer.draw()
    here.run.processes.wait_for_everyone()
    tail = list(here.losses)[-max(1, step // 10) :]
    return TrainResult(step, step * tokens_a_step, sum(tail) / len(tail), here.seconds(), watch.best)


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
        _check_share(run, settings)
        self.device = next(model.parameters()).device
        if settings.bf16 is None:  # all processes do what most have found, or what the run began with
            begun = disk.settings_of(checkpoint).get("bf16") if checkpoint is not None else None
            pays = bf16_pays(str(self.device)) if begun is None else begun
            settings = replace(settings, bf16=run.mean(float(pays)) > 0.5)
        self.settings, first_block = settings, blocks[0:1]
        self.recompute = _recomputes(model, settings, loss_of, first_block)
        switch_checkpointing(model, self.recompute, "enable", {"use_reentrant": False})
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.optimizer = make_optimizer(self.parameters, settings, rates)
        self.gains = {n: p for n, p in self.parameters.items() if is_gain(n)} if settings.log_gains else {}
        check_positive(self.gains)
        self.identity: dict[str, Any] = {"settings": asdict(settings)}
        self.identity |= {"blocks": [len(blocks), first_block.shape[1]]}
        self.identity |= given | reparametrisation.identity(model)
        state = self._restored()
        run.processes.wait_for_everyone()  # nobody writes while others read
        self.first, self.before = int(state.get("step", 0)), float(state.get("seconds", 0.0))
        main = run.processes.is_main_process
        self.watch = Watch(settings, self.named, state.get("watch"), checkpoint, done=self.first, write=main)
        self.norms: dict[str, float] = dict(state.get("norms", {}))
        tenth = max(1, len(blocks) // settings.batch // 10)
        self.losses: deque[float] = deque(state.get("losses", ()), maxlen=tenth)
        self.arrays = {m: m.design for m in model.modules() if isinstance(m, GainCellAttention)}

    def _restored(self) -> dict[str, Any]:
        """What the checkpoint says, if there is one. Raises RunError."""
        if self.checkpoint is None:
            return {}
        if self.run.processes.is_main_process:
            disk.sweep(self.checkpoint)
        state = disk.restore(self.checkpoint, self.parameters, self.optimizer, self.identity)
        if state and "losses" not in state:
            raise RunError(
                f"the checkpoint {self.checkpoint} is of an older gaincell; remove it to start again"
            )
        return state

    def seconds(self) -> float:
        """Of the run so far, over interruptions."""
        return self.before + time.perf_counter() - self.start

    def update(self, step: int, factor: float, shares: dict[str, float] | None) -> tuple[float, float]:
        """One step, with learning rates `factor` times their peaks; loss and norm of the gradient.

        shares: receives where its time goes.
        """
        settings, watch, gains = self.settings, self.watch, self.gains.values()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        batch = self.blocks[step * settings.batch : (step + 1) * settings.batch]
        with nullcontext() if shares is None else measured_shares(shares, self.device):
            loss = _accumulate(self.run, batch, settings, step, self.arrays)
        watch.see(loss, step)
        for gain in gains:
            gain.grad = None if gain.grad is None else gain.grad * gain.detach()
        clip_each_gradient(self.parameters, settings.clip_tensors, self.norms)
        norm = clip_gradients(self.parameters.values(), settings.clip)
        watch.require(math.isfinite(norm), f"the gradient's norm became {norm}", step)
        with as_logarithms(gains):
            self.optimizer.step()
        self.optimizer.zero_grad()
        finite = _finite(self.run, self.parameters.values())
        watch.require(finite, "a parameter became infinite or no number", step)
        keep_gains_positive(self.model)
        return loss, norm

    def keep(self, step: int) -> None:
        """Write the checkpoint, if there is to be one."""
        if self.checkpoint is not None:
            place = {"step": step, "watch": self.watch.state(), "seconds": self.seconds()}
            place |= {"losses": list(self.losses)} | ({"norms": self.norms} if self.norms else {})
            disk.store(
                self.checkpoint, self.parameters, self.optimizer, self.identity, place,
                keep=self.settings.keep_checkpoints, write=self.run.processes.is_main_process,
            )  # fmt: skip
            self.watch.stored = step


def _recomputes(model: nn.Module, settings: TrainSettings, loss_of: Loss, block: Tensor) -> bool:
    """Whether activations are computed again in the backward pass: where they are too large to be kept."""
    if settings.gradient_checkpointing is not None:
        return settings.gradient_checkpointing
    model.eval()
    device = next(model.parameters()).device
    with torch.autocast(device.type, torch.bfloat16, enabled=bool(settings.bf16)):
        return not (settings.sharded or activations_fit(model, loss_of, block, settings.micro_batch))


@called("cross-entropy", "nats per token")
def next_token_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of columns 1..T given those before, in nats per token."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def _accumulate(
    run: Parallel,
    batch: Tensor,
    settings: TrainSettings,
    step: int,
    arrays: Mapping[GainCellAttention, Design],
) -> float:
    """Forward and backward over the micro-batches of one step, of all processes; their mean loss."""
    pieces = batch.split(settings.micro_batch)
    device = next(run.module.parameters()).device
    own = run.share_of(pieces)
    total = 0.0
    for count, (number, piece) in enumerate(own, start=1):
        draw = step * len(pieces) + number + 1
        redraw(arrays, settings.redraw, draw)
        tokens = piece.to(device=device, dtype=torch.long)
        with _generators_of(draw, device), run.accumulating(last=count == len(own)):
            with torch.autocast(device.type, torch.bfloat16, enabled=bool(settings.bf16)):
                loss = run.module(tokens)
            (loss / len(own)).backward()
        total += loss.item()
    run.finish_gradients()
    return run.mean(total / len(own))


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


def _finite(run: Parallel, parameters: Iterable[nn.Parameter]) -> bool:
    """Whether all parameters are finite, in all processes."""
    shares = (p.to_local() if isinstance(p, DTensor) else p for p in parameters)
    own = torch.stack([share.isfinite().all() for share in shares]).all()
    return run.mean(float(own)) == 1.0


def _check_share(run: Parallel, settings: TrainSettings) -> None:
    processes = run.processes.num_processes
    if settings.batch // settings.micro_batch % processes:
        raise InputError(
            f"{processes} processes cannot share a step of {settings.batch} sequences in micro-batches of "
            f"{settings.micro_batch}; give a multiple of {processes} of them"
        )


def redraw(arrays: Mapping[GainCellAttention, Design], what: str, draw: int) -> None:
    """Let attentions compute with draw number `draw` of what REDRAWS says of their designs."""
    redrawn: dict[Design, Design] = {}
    for attention, design in arrays.items():
        if design not in redrawn:
            redrawn[design] = design.redrawn(draw, chip=what == "chip") if what != "nothing" else design
        attention.design = redrawn[design]


@contextmanager
def _at_rest(model: nn.Module, arrays: Mapping[GainCellAttention, Design]) -> Iterator[None]:
    """Within the context the model evaluates, on the chip it has outside training."""
    _leave(model, arrays)
    try:
        yield
    finally:
        _begin(model)


def _fingerprint(model: nn.Module, blocks: Blocks) -> dict[str, str]:
    """Digests of the text (where blocks come from a stream, of the first and the last) and of the first
    values of every parameter that is not trained.
    """
    some = (
        blocks
        if isinstance(blocks, Tensor)
        else torch.cat([blocks[0:1], blocks[len(blocks) - 1 : len(blocks)]])
    )
    frozen = [p.detach().flatten()[:64] for p in model.parameters() if not p.requires_grad]
    return {"text": _digest([some]), "frozen weights": _digest(frozen)}


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.flatten().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def _begin(model: nn.Module) -> None:
    """Evaluation mode, in which nothing is dropped, except for modules that compute something again in the
    backward pass: they do so in training mode only. (Layers of a few families, OPT among them, then apply
    dropout that they have not put into a module of its own.)
    """
    model.eval()
    for module in model.modules():
        module.training = bool(getattr(module, "gradient_checkpointing", False))


def _leave(model: nn.Module, arrays: Mapping[GainCellAttention, Design]) -> None:
    model.eval()
    for attention, design in arrays.items():
        attention.design = design


def _due(step: int, total: int, every: int) -> bool:
    return every > 0 and (step % every == 0 or step == total)


def switch_checkpointing(model: nn.Module, recompute: bool, what: str, *arguments: Any) -> None:
    """Switch gradient checkpointing on or off; transformers 5 calls it activation checkpointing."""
    if recompute:
        names = (f"{kind}_checkpointing_{what}" for kind in ("activation", "gradient"))
        switch: Any = next((getattr(model, name) for name in names if hasattr(model, name)), None)
        if switch is None:
            raise InputError(f"{type(model).__name__} has no gradient checkpointing; leave it out")
        switch(*arguments)
