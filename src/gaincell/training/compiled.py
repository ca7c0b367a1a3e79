"""Layers of a model compiled by torch: norms, feed-forward networks, and the scaling around the arrays.

torch.compile fuses the operations between two matrix products into one pass over memory. Intermediate results
stay in float32 where separate operations round each to its type, and sums may be taken in another order;
otherwise nothing changes. The arrays are never compiled: their kernels are those of `ops/`.

Not modelled: by how much it is faster, which depends on the machine; a training says how fast it is.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import nn
from transformers import PreTrainedModel

from gaincell.errors import InputError
from gaincell.integrations.hf.support import attention_modules
from gaincell.nn.attention import GainCellAttention


def compile_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Compile everything in a model's layers but their attention, and of the attention the scaling before
    and after the arrays; in place, at the first use.

    Raises:
        InputError: torch cannot compile here, for want of a compiler, say.
    """
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=model.device))
    except Exception as error:  # compilers fail in ways of their own
        said = [type(error).__name__, *str(error).splitlines()][:2][-1]
        raise InputError(
            f"torch.compile does not work here ({said}): it needs a C++ compiler with Python's headers, and "
            "triton for a GPU; leave out --compile"
        ) from error
    for name, module in attention_modules(model).items():
        layer, _, attention = name.rpartition(".")
        for child, other in model.get_submodule(layer).named_children():
            if child != attention:
                other.compile()
        if isinstance(cell := getattr(module, "gain_cell", None), GainCellAttention):
            for stage in (cell.q, cell.k, cell.v):
                stage.compile()
            for method in (GainCellAttention.values, GainCellAttention.output):
                setattr(cell, method.__name__, MethodType(torch.compile(method), cell))
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether some module of a model is compiled."""
    return any(module._compiled_call_impl is not None for module in model.modules())
