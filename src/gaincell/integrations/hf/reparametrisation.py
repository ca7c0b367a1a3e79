"""The one place that knows what reparametrises queries and keys: mixing.py and paired.py.

Whatever saves, loads or trains a model asks here, by the names of tensors, and knows neither of both:

* mixing holds matrices, trained parameters that go into the weights of a model without them (`put`);
* paired rows hold numbers of components, which are no parameters: a model that is trained further takes them
  up (`hold_indices`), and its checkpoints are of these rows alone (`identity`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.errors import ModelError

MIX = ".gain_cell.mix_"
"""In the name of a layer's matrices, before the q or k of their projection."""
KEPT = ".k.kept"
"""End of the name of a layer's kept components, a row for every key/value head; its queries keep the same."""
OF_QUERIES = ".q.kept"
"""End of the name of the copies that queries have; no file needs them."""


def is_trained(name: str) -> bool:
    """Whether a tensor is a trained matrix that a model without it takes into its weights."""
    return MIX in name


def is_index(name: str) -> bool:
    """Whether a tensor holds numbers of components, not numbers that are trained."""
    return name.endswith(KEPT)


def is_copy(name: str) -> bool:
    """Whether a tensor says again what another says, so that no file needs it."""
    return name.endswith(OF_QUERIES)


def hold_indices(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take up the indices among `tensors`, in place. Raises RunError where they are not of this model."""
    from gaincell.integrations.hf.paired import load_pairing

    load_pairing(model, tensors)


def hold_any_indices(model: nn.Module, cells: Mapping[str, Any]) -> None:
    """Make room for the indices of all layers, by name, whose values come later."""
    some = {n: torch.arange(c.head_dim // 2).repeat(c.kv_heads, 1) for n, c in cells.items()}
    hold_indices(model, {name + KEPT: kept for name, kept in some.items()})


def copies(tensors: Mapping[str, Tensor], group: int) -> dict[str, Tensor]:
    """The copies of indices that the state of a model has beside them, for so many query heads a group."""
    kept = {name: tensor for name, tensor in tensors.items() if is_index(name)}
    return {n.replace(KEPT, OF_QUERIES): index.repeat_interleave(group, 0) for n, index in kept.items()}


def put(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """Take up the indices among `tensors`, and the trained matrices into the weights, in place.

    Raises:
        RunError: they are not those of this model.
    """
    from gaincell.integrations.hf.mixing import fold

    hold_indices(model, tensors)
    fold(model, tensors)


def check_folded(model: nn.Module, why: str) -> None:
    """Refuse a model with matrices that are not in its weights, saying why and what to do.

    Raises:
        ModelError: it has some.
    """
    if any(is_trained(name) for name, _ in model.named_parameters()):
        raise ModelError(f"the model has mixing, which {why}")


def identity(model: nn.Module) -> dict[str, Any]:
    """What a checkpoint of a training states of the model, beside its parameters."""
    rows = {name: kept.tolist() for name, kept in model.named_buffers() if is_index(name)}
    return {"paired rows": rows} if rows else {}
