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
from gaincell.training.optimizer import (
    as_logarithms,
    check_positive,
    is_gain,
    make_optimizer,
)
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
    given = _fingerprint(model, blocks) if checkpoint is not None else {}
    loss_of = loss_of or next_token_loss
    named = name_of(loss_of)
    run = Parallel(model, loss_of, sharded=settings.sharded)
    _check_share(run, settings)
    device = next(model.parameters()).device
    if settings.bf16 is None:  # all processes do what most have found
        pays = bf16_pays(str(device))
        settings = replace(settings, bf16=run.mean(float(pays)) > 0.5)
    first_block = blocks[0:1]
    recompute = settings.gradient_checkpointing
    if recompute is None:
        model.eval()
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(settings.bf16)):
            fit = settings.sharded or activations_fit(model, loss_of, first_block, settings.micro_batch)
        recompute = not fit
    switch_checkpointing(model, recompute, "enable", {"use_reentrant": False})
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = make_optimizer(parameters, settings, rates or {})
    gains = {n: p for n, p in parameters.items() if is_gain(n)} if settings.log_gains else {}
    check_positive(gains)
    identity: dict[str, Any] = {"settings": asdict(settings), "blocks": [len(blocks), first_block.shape[1]]}
    identity |= given | reparametrisation.identity(model)
    main = run.processes.is_main_process
    if checkpoint is not None and main:
        disk.sweep(checkpoint)
    state = disk.restore(checkpoint, parameters, optimizer, identity) if checkpoint is not None else {}
    if state and "losses" not in state:
        raise RunError(f"the checkpoint {checkpoint} is of an older gaincell; remove it to start again")
    run.processes.wait_for_everyone()  # nobody writes while others read
    writer = TrainingLog(log) if isinstance(log, Path) else log
    first, before = int(state.get("step", 0)), float(state.get("seconds", 0.0))
    watch = Watch(settings, named, state.get("watch"), checkpoint, done=first, write=main)
    if writer is not None and main:
        writer.rewind(first)

    def seconds() -> float:
        return before + time.perf_counter() - start

    def keep(step: int) -> None:
        if checkpoint is not None:
            place = {"step": step, "watch": watch.state(), "seconds": seconds(), "losses": list(losses)}
            place |= {"norms": norms} if norms else {}
            kept = settings.keep_checkpoints
            disk.store(checkpoint, parameters, optimizer, identity, place, keep=kept, write=main)
            watch.stored = step

    norms: dict[str, float] = dict(state.get("norms", {}))
    losses: deque[float] = deque(state.get("losses", ()), maxlen=max(1, total // 10))
    arrays = {m: m.design for m in model.modules() if isinstance(m, GainCellAttention)}
    tokens_a_step = settings.batch * (first_block.shape[1] - 1)
    start, step = time.perf_counter(), first
    _begin(model)
    try:
        while step < total and not watch.finished:
            factor = learning_rate_at(step, total, settings)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            batch = blocks[step * settings.batch : (step + 1) * settings.batch]
            profiled = None if step != first + PROFILED else shares
            with nullcontext() if profiled is None else measured_shares(profiled, device):
                loss = _accumulate(run, batch, settings, step, arrays)
            watch.see(loss, step)
            for gain in gains.values():
                gain.grad = None if gain.grad is None else gain.grad * gain.detach()
            clip_each_gradient(parameters, settings.clip_tensors, norms)
            norm = clip_gradients(parameters.values(), settings.clip)
            watch.require(math.isfinite(norm), f"the gradient's norm became {norm}", step)
            with as_logarithms(gains.values()):
                optimizer.step()
            optimizer.zero_grad()
            watch.require(_finite(run, parameters.values()), "a parameter became infinite or no number", step)
            keep_gains_positive(model)
            step += 1
            losses.append(loss)
            record = {
                "learning_rate": settings.learning_rate * factor,
                "tokens_per_second": (step - first) * tokens_a_step / (time.perf_counter() - start),
            }
            details: dict[str, Any] = {
                "loss": loss,
                "loss_name": named.name,
                "loss_unit": named.unit,
                **record,
            }
            details |= {"gradient_norm": norm, "tokens": step * tokens_a_step}
            if evaluate is not None and _due(step, total, settings.evaluate_every):
                with _at_rest(model, arrays):
                    details["evaluation"] = run.mean(evaluate(model))
                watch.judge(details["evaluation"], step - 1, parameters)
            if writer is not None and main:
                writer.line(step - 1, details)
            if step % settings.checkpoint_every == 0:
                keep(step)
            if main:
                progress(step, total, {str(named): loss, **record})
        watch.return_to_best(parameters)
    finally:
        _leave(model, arrays)
        switch_checkpointing(model, recompute, "disable")
    keep(step)
    if writer is not None and main:
        writer.draw()
    run.processes.wait_for_everyone()
    tail = list(losses)[-max(1, step // 10) :]
    return TrainResult(
        steps=step,
        tokens=step * tokens_a_step,
        final_loss=sum(tail) / len(tail),
        seconds=seconds(),
        best=watch.best,
    )


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


class _at_rest:
    """Within the context the model evaluates, on the chip it has outside training."""

    def __init__(self, model: nn.Module, arrays: Mapping[GainCellAttention, Design]) -> None:
        self._model, self._arrays = model, arrays

    def __enter__(self) -> None:
        _leave(self._model, self._arrays)

    def __exit__(self, *_: object) -> None:
        _begin(self._model)


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
