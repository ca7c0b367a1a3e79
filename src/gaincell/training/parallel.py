"""One process or many: how a model and its loss are shared out.

`torchrun` or `accelerate launch` starts the processes. Every one of them takes its share of the
micro-batches of a step.

    replicated (DDP)   every process holds the model; gradients are averaged while they are computed
    sharded (FSDP)     every process holds a share of each layer's weights, gradients and optimiser states,
                       and puts a layer together while it needs it. Gains and offsets are few, and in
                       float64: they stay whole everywhere
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gaincell.errors import InputError, ModelError
from gaincell.training.checkpoint import whole
from gaincell.training.loss import Loss

PATIENCE = timedelta(days=2)
"""How long processes wait for the one that reads and tokenises the text for all of them."""


def join_processes(device: str) -> PartialState:
    """The processes that `torchrun` or `accelerate launch` started, this one alone without them. On CPUs they
    talk over gloo. The first call in a process decides; `device` is its kind, such as "cpu".
    """
    return PartialState(cpu=device == "cpu", timeout=PATIENCE)


def check_share(processes: int, batch: int, micro_batch: int) -> None:
    """Raise InputError where processes cannot share the micro-batches of a step equally."""
    if batch // micro_batch % processes:
        raise InputError(
            f"{processes} processes cannot share a step of {batch} sequences in micro-batches of "
            f"{micro_batch}; give a multiple of {processes} of them"
        )


class LossModule(nn.Module):
    """A model whose forward pass gives the loss: so whatever wraps a forward pass wraps all of it."""

    def __init__(self, model: nn.Module, loss_of: Loss) -> None:
        super().__init__()
        self.model, self.loss_of = model, loss_of

    def forward(self, tokens: Tensor) -> Tensor:
        return self.loss_of(self.model, tokens)


class Parallel:
    """A model and its loss, shared out among the processes there are.

    Args:
        model: In place; sharding replaces its parameters.
        loss_of: What is minimised.
        sharded: FSDP instead of DDP; with one process neither does anything.

    Raises:
        ModelError: the model does not say which of its modules are layers, as sharding needs.
    """

    def __init__(self, model: nn.Module, loss_of: Loss, *, sharded: bool = False) -> None:
        self.processes = join_processes(next(model.parameters()).device.type)
        self.module: nn.Module = LossModule(model, loss_of)
        self._whole: list[nn.Parameter] = []
        if self.processes.num_processes == 1:
            return
        if sharded:
            from torch.distributed.fsdp import fully_shard

            names = set(getattr(model, "_no_split_modules", None) or ())
            layers = [m for m in model.modules() if type(m).__name__ in names]
            if not layers:
                raise ModelError(f"{type(model).__name__} does not name its layers; train it without sharded")
            self._whole = [p for n, p in model.named_parameters() if ".gain_cell." in n]
            for layer in [*layers, self.module]:
                fully_shard(layer, ignored_params={*layer.parameters()} & {*self._whole})
        else:
            on_gpu = next(model.parameters()).device.type == "cuda"
            devices = [self.processes.local_process_index] if on_gpu else None
            self.module = nn.parallel.DistributedDataParallel(self.module, device_ids=devices)

    def share_of(self, pieces: Iterable[Tensor]) -> list[tuple[int, Tensor]]:
        """The micro-batches of this process, with their numbers."""
        own, several = self.processes.process_index, self.processes.num_processes
        return [(n, piece) for n, piece in enumerate(pieces) if n % several == own]

    def accumulating(self, last: bool) -> AbstractContextManager[Any]:
        """Within the context gradients stay here, except those of the last micro-batch, which brings all."""
        if last or not isinstance(self.module, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()

    def finish_gradients(self) -> None:
        """Average what no wrapper averages: gradients of parameters that stay whole beside sharded ones."""
        with_gradient = [p for p in self._whole if p.requires_grad]
        if not with_gradient:
            return
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in with_gradient]
        mean = reduce(torch.cat([gradient.flatten() for gradient in own]), "mean")
        for parameter, part in zip(with_gradient, mean.split([p.numel() for p in own]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)  # they have several types

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.processes.num_processes == 1:
            return value
        device = self.processes.device
        return float(reduce(torch.tensor(value, dtype=torch.float64, device=device), "mean"))


REMEMBERED = 0.9
"""Share of a running norm that a step keeps."""


def clip_each_gradient(parameters: Mapping[str, nn.Parameter], most: float, norms: dict[str, float]) -> None:
    """Scale every gradient so that its norm is at most `most` times its running mean, in place.

    Args:
        parameters: By name, with their gradients.
        most: Infinite: nothing is clipped.
        norms: The running means by name, which are brought up to date: m <- 0.9 m + 0.1 (norm after
            clipping). One begins with the first gradient that is not zero (that of an adapter's A is, as long
            as B is).
    """
    if math.isinf(most):
        return
    for name, parameter in parameters.items():
        if (gradient := parameter.grad) is None:
            continue
        norm = float(whole(torch.linalg.vector_norm(gradient)))
        mean = norms.get(name, norm)
        if norm == 0.0 and mean == 0.0:
            continue
        if norm > most * mean:
            gradient.mul_(most * mean / norm)
            norm = most * mean
        norms[name] = REMEMBERED * mean + (1 - REMEMBERED) * norm


def clip_gradients(parameters: Iterable[nn.Parameter], largest: float) -> float:
    """Scale all gradients, whole and sharded, to a norm of at most `largest`; returns the norm before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = torch.zeros((), dtype=torch.float64)
    for sharded in (False, True):
        some = [g for g in gradients if isinstance(g, DTensor) == sharded]
        for dtype in {g.dtype for g in some}:
            norm = whole(nn.utils.get_total_norm([g for g in some if g.dtype == dtype]))
            squares += norm.double().cpu() ** 2
    total = float(squares.sqrt())
    factor = min(1.0, largest / (total + 1e-6))
    if factor < 1.0:
        for gradient in gradients:
            gradient.mul_(factor)
    return total
