"""On which devices a model's weights lie, one or all that torch finds, and where a module computes."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from gaincell.errors import InputError


def place_model(model: PreTrainedModel, device: str) -> torch.device:
    """Move a model to a device, in place: cpu, cuda, cuda:1 ... or `auto`: whole layers go to the GPUs one
    after the other and, where these are full, to the main memory, by accelerate, as with transformers'
    `device_map="auto"`. Attach it before, if at all:
    what is attached later is not shared out.

    Returns:
        Where token ids go.

    Raises:
        InputError: GPUs and main memory together have no room for the model.

    Not modelled: weights on disk; training of a model that is shared out.
    """
    if device != "auto":
        model.to(device)  # type: ignore[arg-type]
        return torch.device(device)
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(model._no_split_modules or ())
    memory = get_balanced_memory(model, no_split_module_classes=whole)
    places = infer_auto_device_map(model, memory, no_split_module_classes=whole)
    if "disk" in places.values():
        raise InputError(
            "GPUs and main memory have no room for the model; give --dtype bfloat16, or more GPUs"
        )
    dispatch_model(model, places)
    return torch.device(places.get("", next(iter(places.values()))))


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes, which is not where its weights are while accelerate keeps them elsewhere."""
    for part in module.modules():
        place = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if place is not None:
            return torch.empty(0, device=place).device
    return next(module.parameters()).device
