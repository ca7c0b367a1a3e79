"""Whether what a forward pass keeps for the backward pass fits into memory, or is to be computed again.

A pass over the first `PROBED` tokens of one sequence counts the bytes that it keeps. They grow in proportion
to tokens and sequences, for attention in arrays and for torch's softmax attention too.

Not modelled: what else needs memory meanwhile, but for the share `USED`; arrays computed by "naive", which
keep more.
"""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import torch
from jaxtyping import Int
from torch import Tensor, nn

from gaincell.training.parallel import Loss

PROBED = 64
USED = 0.6
"""Share of the memory that is free now which activations may take."""


def activations_fit(
    model: nn.Module, loss_of: Loss, tokens: Int[Tensor, "1 T_plus_1"], sequences: int
) -> bool:
    """Whether activations of so many sequences fit, by the first tokens of one."""
    device = next(model.parameters()).device
    some = tokens[:, : PROBED + 1].to(device, torch.long)
    share = (some.shape[1] - 1) / (tokens.shape[1] - 1)
    return kept_bytes(model, loss_of, some) * sequences / share <= USED * free_memory(device)


def kept_bytes(model: nn.Module, loss_of: Loss, tokens: Int[Tensor, "B T_plus_1"]) -> int:
    """Bytes that the forward pass of a loss keeps for its backward pass, parameters left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # the tensors themselves, so that no place is used twice

    def see(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        loss_of(model, tokens)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(min(psutil.virtual_memory().available, left_to_container()))


def left_to_container(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that a Linux container may still take, by version 2 or 1 of cgroups; infinity without a limit."""
    for limit, used, unneeded in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (int((root / name).read_text()) for name in (limit, used))
            lines = (root / limit).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
        return most - now + int(dict(line.split() for line in lines).get(unneeded, 0))
    return math.inf
