"""One training loop: AdamW, warm-up and cosine, clipping, accumulation, bf16 autocast, resume.

It trains whatever parameters of the model require a gradient. Quantisation-aware training needs nothing
special here: the attached hardware attention rounds in its forward pass and passes the gradient straight
through. One process, or several that `torchrun` or `accelerate launch` started: each takes its share of the
micro-batches of a step, gradients are added over all of them, and every process holds the same model.
Noise-aware training needs a design with noise (its tables [noise] and [writing]), of which every forward pass
sees another draw, or a design with mismatch, of which it can see another chip.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from gaincell.config import Design
from gaincell.errors import InputError, RunError
from gaincell.files import remove_leftovers, write_atomic
from gaincell.nn.attention import GainCellAttention

Progress = Callable[[int, int, dict[str, float]], None]
"""Called after every step with (steps done, steps in all, {"loss", "learning_rate", "tokens_per_second"})."""

Loss = Callable[[nn.Module, Tensor], Tensor]
"""Loss of some sequences: called with the model and token ids [sequences, T + 1]; a scalar, the mean over
targets.
"""

REDRAWS = ("nothing", "noise", "chip")
""""noise": noise of reads and writes, where the design has any; "chip": these and the chip itself, so that
what is learnt leans on no single chip.
"""

SMALLEST_GAIN = 1e-20  # spec.md section 6 [R]: gains are kept at or above this value


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run. Defaults for betas, decay and clip are the paper's (spec.md section 6
    [R]).
    """

    learning_rate: float = 6e-4
    """Peak learning rate."""
    scale_learning_rate: float | None = None
    """Peak learning rate of gains and offsets; None = the same."""
    warmup_steps: int = 10
    """Steps of linear warm-up from zero."""
    final_fraction: float = 0.05
    """The cosine ends at this fraction of the peak."""
    batch: int = 8
    """Sequences a step."""
    micro_batch: int = 2
    """Sequences a forward pass; `batch` is a multiple of it."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    """Applied to every trained tensor, gains and offsets included, as in the paper [R]."""
    clip: float = 1.0
    """Largest global gradient norm."""
    bf16: bool = True
    """bf16 autocast of the linear layers; the hardware attention always computes in float32."""
    redraw: str = "noise"
    """What every forward pass draws anew: one of REDRAWS."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if self.batch % self.micro_batch:
            raise InputError(f"batch = {self.batch} is not a multiple of micro_batch = {self.micro_batch}")
        if self.redraw not in REDRAWS:
            raise InputError(f"redraw = {self.redraw!r} is unknown; allowed: {', '.join(REDRAWS)}")
        if self.learning_rate <= 0 or self.clip <= 0:
            raise InputError("learning_rate and clip must be positive")


@dataclass(frozen=True)
class TrainResult:
    """What a run did."""

    steps: int
    tokens: int
    final_loss: float
    """Mean loss (nats per token) over the last tenth of the steps of this process."""
    seconds: float


def learning_rate_at(step: int, total: int, settings: TrainSettings) -> float:
    """Fraction of the peak learning rate at a step: linear warm-up, then a cosine down to
    `final_fraction`.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, total - settings.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return settings.final_fraction + (1 - settings.final_fraction) * cosine


def train(
    model: nn.Module,
    blocks: Tensor,
    settings: TrainSettings,
    *,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    log: Path | None = None,
    loss_of: Loss | None = None,
) -> TrainResult:
    """Train the parameters that require a gradient on `blocks`, once, in the order given.

    Args:
        model: a causal language model of transformers, attached or not.
        blocks: [n, T + 1] token ids; inputs are columns 0..T-1, targets columns 1..T. Incomplete last batches
            are dropped.
        settings: see `TrainSettings`.
        progress: called after every step.
        checkpoint: file written every `checkpoint_every` steps and resumed from when it exists; removed by
            the caller.
        log: a `.jsonl` file that receives a line a step.
        loss_of: what is minimised; by default the cross-entropy of the next token.

    Raises:
        InputError: too few blocks for one step.
        RunError: the loss is not finite (parameters of the last checkpoint are on disk), or the checkpoint
            belongs to another run.
    """
    total = len(blocks) // settings.batch
    if total == 0:
        raise InputError(
            f"{len(blocks)} blocks of text are fewer than one batch of {settings.batch}; give more text"
        )
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = _optimizer(parameters, settings)
    identity = {"settings": asdict(settings), "blocks": list(blocks.shape), "first": blocks[0, :8].tolist()}
    processes = PartialState()
    main = processes.is_main_process
    if settings.batch // settings.micro_batch % processes.num_processes:
        raise InputError(
            f"{processes.num_processes} processes cannot share a step of {settings.batch} sequences in "
            f"micro-batches of {settings.micro_batch}; give a multiple of {processes.num_processes} of them"
        )
    if checkpoint is not None and main:
        remove_leftovers(checkpoint)
    first = _restore(checkpoint, parameters, optimizer, identity) if checkpoint is not None else 0
    processes.wait_for_everyone()  # nobody writes while others read
    losses: list[float] = []
    arrays = {m: m.design for m in model.modules() if isinstance(m, GainCellAttention)}
    start = time.perf_counter()
    model.train()
    try:
        for step in range(first, total):
            factor = learning_rate_at(step, total, settings)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            batch = blocks[step * settings.batch : (step + 1) * settings.batch]
            loss = _accumulate(model, batch, settings, loss_of or next_token_loss, step, arrays, parameters)
            if not math.isfinite(loss):
                raise RunError(
                    f"the loss became {loss} at step {step}; lower the learning rate"
                    + (f" (the last good state is in {checkpoint.name})" if checkpoint is not None else "")
                )
            norm = float(nn.utils.clip_grad_norm_(parameters.values(), settings.clip))
            optimizer.step()
            optimizer.zero_grad()
            _keep_gains_positive(parameters)
            losses.append(loss)
            elapsed = time.perf_counter() - start
            rate = (step + 1 - first) * settings.batch * (blocks.shape[1] - 1) / elapsed
            record = {
                "loss": loss,
                "learning_rate": settings.learning_rate * factor,
                "tokens_per_second": rate,
            }
            if log is not None and main:
                with log.open("a") as file:
                    file.write(json.dumps({"step": step, "gradient_norm": norm, **record}) + "\n")
            if checkpoint is not None and main and (step + 1) % settings.checkpoint_every == 0:
                _store(checkpoint, parameters, optimizer, identity, step + 1)
            if progress is not None and main:
                progress(step + 1, total, record)
    finally:
        model.eval()
        for attention, design in arrays.items():
            attention.design = design
    if checkpoint is not None and main:
        _store(checkpoint, parameters, optimizer, identity, total)
    processes.wait_for_everyone()
    tail = losses[-max(1, len(losses) // 10) :]
    return TrainResult(
        steps=total,
        tokens=total * settings.batch * (blocks.shape[1] - 1),
        final_loss=sum(tail) / len(tail) if tail else math.nan,
        seconds=time.perf_counter() - start,
    )


def next_token_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of columns 1..T given those before, in nats per token."""
    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def _accumulate(
    model: nn.Module,
    batch: Tensor,
    settings: TrainSettings,
    loss_of: Loss,
    step: int,
    arrays: Mapping[GainCellAttention, Design],
    parameters: Mapping[str, nn.Parameter],
) -> float:
    """Forward and backward over the micro-batches of one step, of all processes; their mean loss."""
    processes = PartialState()
    device = next(model.parameters()).device
    pieces = batch.split(settings.micro_batch)
    loss_sum = 0.0
    for number, piece in enumerate(pieces):
        if number % processes.num_processes != processes.process_index:
            continue
        redraw(arrays, settings.redraw, step * len(pieces) + number + 1)
        tokens = piece.to(device=device, dtype=torch.long)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            loss = loss_of(model, tokens)
        (loss / len(pieces)).backward()
        loss_sum += loss.item()
    if processes.num_processes > 1:
        _add_over_processes(parameters)
        loss_sum = float(reduce(torch.tensor(loss_sum, dtype=torch.float64, device=device), "sum"))
    return loss_sum / len(pieces)


def _add_over_processes(parameters: Mapping[str, nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes, a few large messages for all of them."""
    groups: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters.values():
        groups.setdefault(parameter.dtype, []).append(parameter)
    for members in groups.values():
        own = (torch.zeros_like(p) if p.grad is None else p.grad for p in members)
        total = reduce(torch.cat([gradient.flatten() for gradient in own]), "sum")
        for parameter, gradient in zip(members, total.split([p.numel() for p in members]), strict=True):
            parameter.grad = gradient.view_as(parameter)


def redraw(arrays: Mapping[GainCellAttention, Design], what: str, draw: int) -> None:
    """Let attentions compute with draw number `draw` of what REDRAWS says of their designs."""
    redrawn: dict[Design, Design] = {}
    for attention, design in arrays.items():
        if design not in redrawn:
            redrawn[design] = design.redrawn(draw, chip=what == "chip") if what != "nothing" else design
        attention.design = redrawn[design]


def _is_scale(name: str) -> bool:
    return ".gain_cell." in name


def _optimizer(parameters: dict[str, nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    scale_rate = settings.scale_learning_rate or settings.learning_rate
    groups: list[dict[str, Any]] = []
    for scale, rate in ((False, settings.learning_rate), (True, scale_rate)):
        members = [p for n, p in parameters.items() if _is_scale(n) == scale]
        if members:
            groups.append({"params": members, "peak": rate, "lr": rate})
    return torch.optim.AdamW(groups, betas=settings.betas, weight_decay=settings.weight_decay)


def _keep_gains_positive(parameters: dict[str, nn.Parameter]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            if _is_scale(name) and name.endswith(".gain"):
                parameter.clamp_(min=SMALLEST_GAIN)


def _states(
    parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> Iterator[tuple[str, nn.Parameter, dict[str, Tensor]]]:
    for name, parameter in parameters.items():
        yield name, parameter, optimizer.state[parameter]


def _store(
    path: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.AdamW,
    identity: dict[str, Any],
    step: int,
) -> None:
    """One file, written beside and renamed: parameters, both moments, the step and what the run is."""
    tensors: dict[str, Tensor] = {}
    for name, parameter, state in _states(parameters, optimizer):
        tensors["parameter." + name] = parameter.detach()
        for key in ("exp_avg", "exp_avg_sq"):
            tensors[f"{key}.{name}"] = state[key]
    metadata = {"step": str(step), "identity": json.dumps(identity)}
    write_atomic(path, lambda place: save_file(tensors, place, metadata=metadata))


def _restore(
    path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.AdamW, identity: dict[str, Any]
) -> int:
    """Load the checkpoint if there is one; the number of steps already done."""
    if not path.exists():
        return 0
    try:
        file: Any = safe_open(path, framework="pt")
    except Exception as error:  # safetensors raises its own type for a torn file
        raise RunError(
            f"the checkpoint {path.name} cannot be read ({error}); remove it to start again"
        ) from error
    with file:
        metadata = file.metadata() or {}
        if json.loads(metadata.get("identity", "null")) != json.loads(json.dumps(identity)):
            raise RunError(
                f"the checkpoint {path.name} belongs to another run; remove it or choose another directory"
            )
        step = int(metadata["step"])
        with torch.no_grad():
            for name, parameter, state in _states(parameters, optimizer):
                parameter.copy_(file.get_tensor("parameter." + name))
                state["exp_avg"] = file.get_tensor("exp_avg." + name).to(parameter.device)
                state["exp_avg_sq"] = file.get_tensor("exp_avg_sq." + name).to(parameter.device)
                state["step"] = torch.tensor(float(step))
    return step
