"""One training loop: AdamW, warm-up and cosine, clipping, accumulation, bf16 autocast, evaluation, resume.

It trains whatever parameters of the model require a gradient. Quantisation-aware training needs nothing
special here: the attached hardware attention rounds in its forward pass and passes the gradient straight
through. One process, or several (see `parallel.py`): each takes its share of the micro-batches of a step, and
all make the same step. Noise-aware training needs a design with noise (its tables [noise] and [writing]), of
which every forward pass sees another draw, or a design with mismatch, of which it can see another chip.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from gaincell.config import Design
from gaincell.errors import InputError, RunError
from gaincell.files import remove_leftovers, write_atomic
from gaincell.integrations.hf.paired import kept_components
from gaincell.nn.attention import GainCellAttention
from gaincell.progress import Progress, silent
from gaincell.training import checkpoint as disk
from gaincell.training.log import TrainingLog
from gaincell.training.parallel import Loss, Parallel, clip_gradients
from gaincell.training.settings import TrainSettings, learning_rate_at

__all__ = ["Blocks", "Loss", "TrainResult", "TrainSettings", "next_token_loss", "redraw", "train"]

SMALLEST_GAIN = 1e-20  # gains are kept at or above this value, as in the authors' released code [R]
AVERAGED = 10
"""Steps whose mean loss tells whether a run diverges."""

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
    """Mean loss (nats per token) over the last tenth of the steps of this process."""
    seconds: float
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
) -> TrainResult:
    """Train the parameters that require a gradient on `blocks`, once, in the order given.

    Args:
        model: a causal language model of transformers, attached or not.
        blocks: [n, T + 1] token ids; inputs are columns 0..T-1, targets columns 1..T. Incomplete last batches
            are dropped.
        settings: see `TrainSettings`.
        progress: called after every step with (steps done, steps in all, {"loss", "learning_rate",
            "tokens_per_second"}).
        checkpoint: file written every `checkpoint_every` steps and resumed from when it exists; removed by
            the caller (`checkpoint.remove`).
        log: receives a line a step.
        loss_of: what is minimised; by default the cross-entropy of the next token.
        evaluate: called every `evaluate_every` steps and at the end.
        rates: peak learning rates of parameters whose names begin so, in place of those of the settings.

    Raises:
        InputError: too few blocks for one step, or more processes than a step has micro-batches.
        RunError: the loss is not finite or diverges (good parameters are on disk), or the checkpoint is torn
            or belongs to another run.
    """
    total = len(blocks) // settings.batch
    if total == 0:
        raise InputError(
            f"{len(blocks)} blocks of text are fewer than one batch of {settings.batch}; give more text"
        )
    if settings.sharded and settings.evaluate_every:
        raise InputError("a sharded model is not evaluated while it is trained; set evaluate_every = 0")
    run = Parallel(model, loss_of or next_token_loss, sharded=settings.sharded)
    _check_share(run, settings)
    _set_checkpointing(model, settings, "enable", {"use_reentrant": False})
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = _optimizer(parameters, settings, rates or {})
    first_block = blocks[0:1]
    identity: dict[str, Any] = {
        "settings": asdict(settings),
        "blocks": [len(blocks), first_block.shape[1]],
        "first": first_block[0, :8].tolist(),
    }
    if rows := {name: kept.tolist() for name, kept in kept_components(model).items()}:
        identity["paired rows"] = rows
    main = run.processes.is_main_process
    if checkpoint is not None and main:
        remove_leftovers(checkpoint)
    state = disk.restore(checkpoint, parameters, optimizer, identity) if checkpoint is not None else {}
    run.processes.wait_for_everyone()  # nobody writes while others read
    writer = TrainingLog(log) if isinstance(log, Path) else log
    best = checkpoint.with_name(checkpoint.name + ".best") if checkpoint is not None else None
    first, watch = int(state.get("step", 0)), _Watch(settings, state.get("watch"), best if main else None)
    if writer is not None and main:
        writer.rewind(first)

    def keep(step: int) -> None:
        if checkpoint is not None:
            place = {"step": step, "watch": watch.state()}
            kept = settings.keep_checkpoints
            disk.store(checkpoint, parameters, optimizer, identity, place, keep=kept, write=main)

    losses: list[float] = []
    arrays = {m: m.design for m in model.modules() if isinstance(m, GainCellAttention)}
    tokens_a_step = settings.batch * (first_block.shape[1] - 1)
    start, step = time.perf_counter(), first
    model.train()
    try:
        while step < total and not watch.finished:
            factor = learning_rate_at(step, total, settings)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            batch = blocks[step * settings.batch : (step + 1) * settings.batch]
            loss = _accumulate(run, batch, settings, step, arrays)
            watch.see(loss, step, checkpoint)
            norm = clip_gradients(parameters.values(), settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            _keep_gains_positive(parameters)
            step += 1
            losses.append(loss)
            record = {
                "loss": loss,
                "learning_rate": settings.learning_rate * factor,
                "tokens_per_second": (step - first) * tokens_a_step / (time.perf_counter() - start),
            }
            details = {**record, "gradient_norm": norm, "tokens": step * tokens_a_step}
            if evaluate is not None and _due(step, total, settings.evaluate_every):
                with _at_rest(model, arrays):
                    details["evaluation"] = run.mean(evaluate(model))
                watch.judge(details["evaluation"], parameters)
            if writer is not None and main:
                writer.line(step - 1, details)
            if step % settings.checkpoint_every == 0:
                keep(step)
            if main:
                progress(step, total, record)
        watch.return_to_best(parameters)
    finally:
        _leave(model, arrays)
        _set_checkpointing(model, settings, "disable")
    keep(step)
    if writer is not None and main:
        writer.draw()
    run.processes.wait_for_everyone()
    tail = losses[-max(1, len(losses) // 10) :]
    return TrainResult(
        steps=step,
        tokens=step * tokens_a_step,
        final_loss=sum(tail) / len(tail) if tail else math.nan,
        seconds=time.perf_counter() - start,
        best=watch.best,
    )


def next_token_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of columns 1..T given those before, in nats per token."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


class _Watch:
    """Stops a run that diverges, and one that no longer gets better.

    With patience the best parameters are kept: in memory, on the CPU, and in the file `best`.
    """

    def __init__(self, settings: TrainSettings, before: Mapping[str, Any] | None, best: Path | None) -> None:
        self._settings = settings
        self._file = best
        known = before or {}
        self._recent: deque[float] = deque(known.get("recent", ()), maxlen=AVERAGED)
        self._lowest: float = known.get("lowest", math.inf)
        self.best: float | None = known.get("best")
        self._worse: int = known.get("worse", 0)
        self._kept: dict[str, Tensor] = {}
        if self.best is not None and settings.patience and best is not None and best.exists():
            self._kept = load_file(best)

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        lowest = self._lowest if math.isfinite(self._lowest) else None
        known: dict[str, Any] = {"recent": list(self._recent), "best": self.best, "worse": self._worse}
        return known | ({} if lowest is None else {"lowest": lowest})

    def see(self, loss: float, step: int, checkpoint: Path | None) -> None:
        """Raise RunError where the loss is not a number, or has risen far above what it was."""
        self._recent.append(loss)
        mean = sum(self._recent) / len(self._recent)
        kept = f"; the last good state is in {checkpoint.name}" if checkpoint is not None else ""
        hint = f"lower the learning rate, or warm up for longer{kept}"
        if not math.isfinite(loss):
            raise RunError(f"the loss became {loss} at step {step}; {hint}")
        if len(self._recent) < AVERAGED or step < self._settings.warmup_steps:
            return
        self._lowest = min(self._lowest, mean)
        if mean > self._settings.divergence * self._lowest > 0:
            raise RunError(
                f"the loss diverges: {mean:.4g} over the last {AVERAGED} steps at step {step}, "
                f"{self._lowest:.4g} at its lowest; {hint}"
            )

    def judge(self, evaluation: float, parameters: Mapping[str, nn.Parameter]) -> None:
        """Compare an evaluation with the best."""
        if self.best is None or evaluation < self.best:
            self.best, self._worse = evaluation, 0
            if self._settings.patience:
                self._kept = {n: p.detach().to("cpu", copy=True) for n, p in parameters.items()}
                if self._file is not None:
                    write_atomic(self._file, partial(save_file, self._kept))
        else:
            self._worse += 1

    @property
    def finished(self) -> bool:
        """Whether enough evaluations in a row were no better."""
        return 0 < self._settings.patience <= self._worse

    @torch.no_grad()
    def return_to_best(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Put the parameters of the best evaluation back, where there is one with patience."""
        for name, value in self._kept.items():
            parameters[name].copy_(value)


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
        redraw(arrays, settings.redraw, step * len(pieces) + number + 1)
        tokens = piece.to(device=device, dtype=torch.long)
        with run.accumulating(last=count == len(own)):
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
                loss = run.module(tokens)
            (loss / len(own)).backward()
        total += loss.item()
    run.finish_gradients()
    return run.mean(total / len(own))


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
        self._model.train()


def _leave(model: nn.Module, arrays: Mapping[GainCellAttention, Design]) -> None:
    model.eval()
    for attention, design in arrays.items():
        attention.design = design


def _due(step: int, total: int, every: int) -> bool:
    return every > 0 and (step % every == 0 or step == total)


def _set_checkpointing(model: nn.Module, settings: TrainSettings, what: str, *arguments: Any) -> None:
    """Switch gradient checkpointing on or off; transformers 5 calls it activation checkpointing."""
    if settings.gradient_checkpointing:
        names = (f"{kind}_checkpointing_{what}" for kind in ("activation", "gradient"))
        switch: Any = next((getattr(model, name) for name in names if hasattr(model, name)), None)
        if switch is None:
            raise InputError(f"{type(model).__name__} has no gradient checkpointing; leave it out")
        switch(*arguments)


def _is_scale(name: str) -> bool:
    return ".gain_cell." in name


def _optimizer(
    parameters: dict[str, nn.Parameter], settings: TrainSettings, rates: Mapping[str, float]
) -> torch.optim.AdamW:
    scale_rate = settings.scale_learning_rate or settings.learning_rate

    def kind(name: str) -> str | bool:
        return next((start for start in rates if name.startswith(start)), _is_scale(name))

    groups: list[dict[str, Any]] = []
    for which, rate in ((False, settings.learning_rate), (True, scale_rate), *rates.items()):
        members = [p for n, p in parameters.items() if kind(n) == which]
        if members:
            groups.append({"params": members, "peak": rate, "lr": rate})
    return torch.optim.AdamW(groups, betas=settings.betas, weight_decay=settings.weight_decay)


def _keep_gains_positive(parameters: dict[str, nn.Parameter]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            if _is_scale(name) and name.endswith(".gain"):
                parameter.clamp_(min=SMALLEST_GAIN)
