"""The attention functions that transformers calls in place of its own.

Two names are registered, with one mask function (``masks.py``): ``gaincell`` runs the layer's ``gain_cell``
module; ``gaincell-softmax`` computes the model's own softmax attention from the very same arguments, which
proves that masks, windows, caches and groups arrive intact.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface
from transformers.utils.import_utils import is_torchdynamo_exporting

from gaincell.errors import ModelError, UncalibratedWarning
from gaincell.integrations.hf.masks import PADDING, key_index_mask
from gaincell.integrations.hf.support import own_window
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.checks import check_precision

GAIN_CELL = "gaincell"
SOFTMAX = "gaincell-softmax"
SAVED = "gaincell (pip install gaincell, then import gaincell)"
"""Name of the function in a saved ``config.json``: transformers prints it when it does not know it."""
NAMES = (GAIN_CELL, SOFTMAX, SAVED)
RING = "gaincell_ring"
"""Attribute of the key tensor that a ring gives out: the ring, which takes the new keys and values."""

_HARMLESS = {
    "cache", "cache_position", "is_causal", "layer_idx", "num_items_in_batch", "output_hidden_states",
    "output_router_logits", "past_key_value", "past_key_values", "position_embeddings", "position_ids",
    "return_dict", "sliding_window", "use_cache",
}  # fmt: skip
"""Arguments that reach an attention function without changing what it shall compute, or that it heeds.

``is_causal`` is among them because some families may pass False there with any mask; that the
model is causal is known from its mask function and, for a caller's own False, from ``refuse_call``.
"""


THREAD = threading.local()
"""``function``: that of ours which this thread called last in the attention module it is in, if any.
``scaling``: of softmax attention, as that module gave it: not every one of them has it as an attribute.
``computed``: attention modules that were called in this forward pass of a base model; None outside of one,
where gradient checkpointing computes layers again.
"""


def register() -> None:
    """Make the names known to transformers (once is enough, twice does no harm)."""
    for name in NAMES:
        function = SOFTMAX if name == SOFTMAX else GAIN_CELL
        AttentionInterface.register(name, partial(attention_forward, function))
        AttentionMaskInterface.register(name, key_index_mask)


def arrays_of(module: nn.Module) -> GainCellAttention | None:
    """The arrays of an attention module; of peft's copies for every adapter, those in use."""
    found: Any = getattr(module, "gain_cell", None)
    if isinstance(found, GainCellAttention):
        return found
    if hasattr(found, "modules_to_save"):
        active = [] if found.disable_adapters else found.active_adapter
        name = active if isinstance(active, str) else next(iter(active), None)
        found = found.original_module if name is None else found.modules_to_save[name]
    return found if isinstance(found, GainCellAttention) else None


def bare_arrays(model: nn.Module) -> list[GainCellAttention]:
    """The arrays beneath peft's copies for adapters, which are in use without the adapters."""
    wrappers = (getattr(module, "gain_cell", None) for module in model.modules())
    found = (getattr(wrapper, "original_module", None) for wrapper in wrappers)
    return [cell for cell in found if isinstance(cell, GainCellAttention)]


def refuse_bare(cells: Collection[GainCellAttention]) -> None:
    """Refuse to compute with some of `bare_arrays`, if there are any, where an adapter brought the gains.

    Raises:
        ModelError: they have the initial gains and offsets.
    """
    if cells and all(cell.is_uncalibrated() for cell in cells):
        raise ModelError(
            "the adapter cannot be disabled or unloaded: without it the arrays have no gains and offsets but "
            "the initial ones; read it on the model in arrays that it was trained on, compute softmax "
            "attention first (gaincell.set_attention(model, 'softmax')), or take the arrays out "
            "(gaincell.detach(model))"
        )


def warn_of_initial(where: str, cells: Collection[GainCellAttention]) -> None:
    """Warn if nobody set the gains and offsets of any layer."""
    if all(cell.is_uncalibrated() for cell in cells):
        warnings.warn(
            f"{where} is attached, but every gain and offset is still what attach() sets first, with which "
            "attention is noise: call gaincell.calibrate(model, batches), or load trained ones",
            UncalibratedWarning,
            stacklevel=3,
        )


def attention_forward(
    function: str,
    module: nn.Module,
    query: Float[Tensor, "B H Tq D"],
    key: Float[Tensor, "B Hk Tk D"],
    value: Float[Tensor, "B Hk Tk D"],
    attention_mask: Int[Tensor, "B 1 1 Tk"] | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **arguments: Any,
) -> tuple[Float[Tensor, "B Tq H D"], None]:
    """Attention of one layer: in its gain-cell arrays, or the model's own softmax from the same arguments.

    Args:
        function: GAIN_CELL or SOFTMAX.
        module: The model's attention module; its ``gain_cell`` holds gains, offsets and design.
        query: After rotary embedding and norms.
        key: The whole cache's, with the new tokens at the end.
        value: likewise.
        attention_mask: The key index from ``key_index_mask``.
        scaling: Of softmax attention. 1/sqrt(D) is absorbed in the gain of q.
        dropout: Of softmax attention.
        arguments: Whatever else the model passes; see ``_HARMLESS``.

    Returns:
        The output per token and head, and None for the attention weights, which nobody can read out.

    Raises:
        ModelError: an argument asks for something that is not modelled.

    Not modelled: dropout of attention weights, also where the model's configuration sets it (GPT-2: 0.1).
    """
    THREAD.function, THREAD.scaling = function, scaling
    where, cell = type(module).__name__, arrays_of(module)
    if cell is None:
        raise ModelError(f"{where} has no gain-cell arrays: call gaincell.attach(model, design) on its model")
    _check_arguments(where, module, arguments)
    _check_shapes(where, cell, query, key, value)
    index = _checked_index(where, cell, query, key, attention_mask)
    at = index, index[:, -query.shape[2] :], arguments.get("sliding_window")
    ring = _ring(where, cell, key, function)
    if function == SOFTMAX:
        attended = cell.softmax(query, key, value, at, scaling, dropout)
    elif ring is None:
        if cell.design.sinks.tokens or cell.design.writing.discharge_residual:
            _refuse_forgotten(where, index)
        attended = cell(query, key, value, *at).to(query.dtype)
    else:
        attended = ring.attend(query, key, value, index, at[2]).to(query.dtype)
    return attended.transpose(1, 2).contiguous(), None


def refuse_call(model: nn.Module, args: tuple[Any, ...], arguments: dict[str, Any]) -> None:
    """A forward pre-hook of the base model: refuse arguments that some families swallow on the way to the
    attention functions.

    Raises:
        ModelError: attention weights, bidirectional or cross-attention, or packed sequences are asked for, or
            the model is being exported or traced.
    """
    where = type(model).__name__
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if tracing or is_torchdynamo_exporting():
        raise ModelError(
            f"{where}: torch.export, torch.jit.trace and ONNX cannot hold gain-cell arrays: call "
            "gaincell.detach(model) to export the softmax model"
        )
    arguments = dict(zip(inspect.signature(model.forward).parameters, args, strict=False)) | arguments
    if arguments.get("output_attentions") or getattr(model.config, "output_attentions", False):
        raise ModelError(f"{where}: output_attentions=True is not modelled: arrays give no attention weights")
    if arguments.get("is_causal") is False:
        raise ModelError(f"{where}: bidirectional attention (is_causal=False) is not modelled")
    if arguments.get("encoder_hidden_states") is not None:
        raise ModelError(f"{where}: cross-attention (encoder_hidden_states) is not modelled")
    positions = arguments.get("position_ids")
    if isinstance(positions, Tensor) and positions.ndim == 2:
        _refuse_restarts(where, positions, arguments.get("attention_mask"))


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _refuse_restarts(where: str, positions: Int[Tensor, "B T"], mask: Any) -> None:
    """Refuse packed sequences by their positions, also beside a cache."""
    restarts = positions[:, 1:] <= positions[:, :-1]
    if isinstance(mask, Tensor) and mask.ndim == 2:
        real = mask[:, -positions.shape[1] :].bool().to(positions.device)
        restarts = restarts & real[:, 1:] & real[:, :-1]
    if bool(restarts.any()):
        raise ModelError(
            f"{where}: position_ids restart within a row (packed sequences), which is not modelled: "
            "give the sequences as separate rows of a padded batch, with attention_mask"
        )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _refuse_forgotten(where: str, index: Int[Tensor, "B Tk"]) -> None:
    """Refuse a cache without a sequence's first tokens: a chip reads them beside its ring, or reads what a
    write left of the token before it in its column.
    """
    oldest = index.masked_fill(index < 0, torch.iinfo(index.dtype).max).amin(1)
    if bool(((oldest > 0) & (oldest <= index.amax(1))).any()):
        raise ModelError(
            f"{where}: the model's sliding cache dropped tokens that this chip still reads ([sinks] or a "
            "discharge_residual): give the model a DynamicCache(), which keeps all, or use_cache=False"
        )


def begin_pass(*_: Any) -> None:
    """A forward pre-hook of the base model: no layer is computed yet."""
    THREAD.computed = set()


def begin_layer(module: Any) -> None:
    """No function is called yet.

    Raises:
        ModelError: the layer was computed in this forward pass already.
    """
    THREAD.function = None
    computed = getattr(THREAD, "computed", None)
    if computed is None:
        return
    if module in computed:
        raise ModelError(
            f"{type(module).__name__} of layer {module.layer_idx} is computed several times a token, but "
            "arrays are written and read once: not modelled by gain-cell attention (allowed: models that "
            "compute each layer once); call gaincell.detach(model) to do without arrays"
        )
    computed.add(module)


def end_pass(*_: Any) -> None:
    """A forward hook of the base model, also where it fails."""
    THREAD.computed = None


def refuse_saving(*_: Any, **__: Any) -> None:
    """Stands in for ``save_pretrained`` of what is inside or around an attached model.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        "save_pretrained of a part of an attached model, or of a wrapper made before attach(), would lose "
        "its gains, offsets and design: save the whole model, use gaincell.save(model, DIRECTORY), or "
        "gaincell.detach(model) first to save the weights alone"
    )


def _check_arguments(where: str, module: nn.Module, arguments: dict[str, Any]) -> None:
    """Everything a model passes is either known to be harmless, or absent, or refused; and its own sliding
    window is among it.
    """
    if arguments.get("output_attentions"):
        raise ModelError(f"{where}: output_attentions=True is not modelled: arrays give no attention weights")
    for name, given in arguments.items():
        if name not in _HARMLESS and given is not None and given is not False:
            raise ModelError(
                f"{where} passes {name!r} to its attention function, which gain-cell attention does not model"
            )
    if "sliding_window" not in arguments and (expected := own_window(module)) is not None:
        raise ModelError(
            f"{where} has a sliding window ({expected}) that it does not pass to its attention function, "
            "which is not modelled; if the model has none, set sliding_window to null in its config.json "
            "(in Python model.config.sliding_window = None)"
        )


def _check_shapes(where: str, cell: GainCellAttention, query: Tensor, key: Tensor, value: Tensor) -> None:
    heads = (query.shape[1], key.shape[1], value.shape[1])
    dims = (query.shape[3], key.shape[3], value.shape[3])
    if heads != (cell.heads, cell.kv_heads, cell.kv_heads) or dims != (cell.head_dim,) * 3:
        raise ModelError(
            f"{where}: q, k, v have {heads} heads of dimensions {dims}; modelled are {cell.heads} query "
            f"heads and {cell.kv_heads} key/value heads of one dimension {cell.head_dim}"
        )
    check_precision([cell], where)


def _checked_index(
    where: str, cell: GainCellAttention, query: Tensor, key: Tensor, mask: Tensor | None
) -> Int[Tensor, "B Tk"]:
    """Number of the real token in each slot, -1 for padding, if the mask is one of ours and of this cache."""
    if mask is None or mask.dtype != torch.int64 or mask.shape[1:3] != (1, 1):
        raise _prepared_mask(where, "none" if mask is None else f"{mask.dtype} of shape {tuple(mask.shape)}")
    if mask.shape[-1] != key.shape[2]:
        raise ModelError(
            f"{where}: the mask covers {mask.shape[-1]} slots but the cache returned {key.shape[2]}: this "
            "kind of cache is not modelled; leave cache_implementation at its default"
        )
    index = mask.flatten(1).expand(query.shape[0], -1)
    if cell.layer == 0:
        _check_index(where, index)
    return index


def _ring(where: str, cell: GainCellAttention, key: Tensor, function: str) -> Any:
    """The layer's `ring_layer.RingLayer` if it is to write the keys (it marks them so), or None."""
    ring = getattr(key, RING, None)
    if ring is None:
        return None
    ring.pending = False
    if ring.attention is not cell:
        raise ModelError(f"{where} was given the RingCache of another model; make one with RingCache(model)")
    if function == SOFTMAX:
        raise ModelError(
            f"{where}: softmax attention cannot read the voltages of a RingCache; leave the cache at its "
            "default"
        )
    return ring


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _check_index(where: str, key_index: Tensor) -> None:
    """Real tokens are numbered upwards; anything else is a user's own mask of four dimensions."""
    real = key_index != PADDING
    before = torch.cummax(key_index, 1).values[:, :-1]
    if bool((real[:, 1:] & (key_index[:, 1:] <= before)).any()) or bool((key_index < PADDING).any()):
        raise _prepared_mask(where)


def _prepared_mask(where: str, what: str = "") -> ModelError:
    return ModelError(
        f"{where} was given a prepared attention mask{what and f' ({what})'}, which gain-cell attention does "
        "not model; pass a mask of shape [batch, tokens], 1 for real tokens and 0 for padding"
    )
