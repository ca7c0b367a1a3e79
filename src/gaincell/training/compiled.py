"""What the layers of a model have beside their attention, compiled: norms and feed-forward networks.

torch.compile joins what stands between two products of matrices into one pass over memory. What each
operation by itself rounds to the type of its result stays in float32 there, and sums may be taken in another
order; otherwise nothing changes. The attention is never compiled: its kernels are those of `ops/`.

Not modelled: by how much it is faster, which depends on the machine; a training says how fast it is.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from gaincell.errors import InputError
from gaincell.integrations.hf.support import attention_modules


def compile_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Have everything in a model's layers compiled, at its first use, but their attention; in place.

    Raises InputError: torch cannot compile here, for want of a compiler, say.
    """
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=model.device))
    except Exception as error:  # compilers fail in ways of their own
        said = [type(error).__name__, *str(error).splitlines()][:2][-1]
        raise InputError(
            f"torch.compile does not work here ({said}): it needs a C++ compiler with Python's headers, and "
            "triton for a GPU; leave out --compile"
        ) from error
    for name in attention_modules(model):
        layer, _, attention = name.rpartition(".")
        for child, module in model.get_submodule(layer).named_children():
            if child != attention:
                module.compile()
    return model
