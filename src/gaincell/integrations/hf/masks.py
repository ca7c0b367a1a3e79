"""What transformers calls a mask, as the gain-cell arrays need it: the number of the token in each slot.

transformers asks a mask function, once per forward pass, for whatever its attention function wants to
see as ``attention_mask``. Ours gives the *key index*: for each slot of the key/value cache the number j of
the real token in it, counted over the whole sequence, and -1 for padding, which is never written into an
array. Ages (i - j), physical columns (j mod M), causality and windows all follow from it, also when a
sliding-window cache has already dropped the oldest slots.

It travels as int64 of shape [B, 1, 1, slots]: transformers hands a mask of four dimensions through
untouched, also where ``generate`` prepares it ahead of time.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers.masking_utils import causal_mask_function

from gaincell.errors import ModelError

PADDING = -1
"""The key index of a slot that holds no real token."""

_SEQUENCES = "packed_sequence_mask_function"
_POSITIONS = "remap_positions_for_packed_sequence"
"""Factories of the mask of packed sequences: they hold every token's sequence, and its position in that.

Where every row is one sequence, transformers 4 still calls the first, and transformers 5 both while
torch.compile traces: it cannot look at the numbers then. `_refuse_patterns` can: it is not traced.
"""


def key_index_mask(
    batch_size: int,
    kv_length: int,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Bool[Tensor, "B T"] | None = None,
    local_size: int | None = None,
    *,
    q_length: int | None = None,
    q_offset: int | Tensor = 0,
    cache_position: Int[Tensor, " Tq"] | None = None,
    device: torch.device | str | None = None,
    **unused: Any,
) -> Int[Tensor, "B 1 1 Tk"]:
    """The key index of every slot of the cache; the function registered with transformers.

    j = cumsum(attention_mask) - 1 over the whole sequence where the mask is 1, else -1; then the slots
    ``kv_offset`` to ``kv_offset + kv_length``, which are those the cache still holds.

    Args:
        batch_size: B.
        kv_length: number of slots Tk.
        kv_offset: number of the first slot in the sequence (above 0 once a sliding cache drops slots).
        mask_function: transformers' description of who sees whom; anything but causal, with or without
            a sliding window, is refused.
        attention_mask: 1 for real tokens, 0 for padding, over the whole sequence; None: no padding.
        local_size: the sliding window, for the layers that have one.
        q_length: number of query tokens (transformers 5).
        q_offset: slots before the first query token (transformers 5).
        cache_position: slots of the query tokens (transformers 4).
        device: where the result lives.
        unused: what other mask functions need (dtype, config, ...).

    Raises:
        ModelError: a pattern, a cache or a padding that is not modelled.
    """
    _refuse_patterns(mask_function)
    if cache_position is not None:
        device, queries_end = cache_position.device, int(cache_position[-1]) + 1
    else:
        queries_end = int(q_offset) + (kv_length if q_length is None else q_length)
    slots_end = kv_offset + kv_length
    if slots_end > queries_end:
        raise ModelError(
            f"the cache has {slots_end} slots for {queries_end} tokens: static (compileable) caches are not "
            "modelled by gain-cell attention; leave cache_implementation at its default (dynamic)"
        )
    if attention_mask is None:
        index = torch.arange(kv_offset, slots_end, device=device).expand(batch_size, -1)
        return index[:, None, None, :]
    if attention_mask.shape[-1] != slots_end:
        raise ModelError(
            f"attention_mask covers {attention_mask.shape[-1]} tokens but the cache and the input together "
            f"have {slots_end}: give the mask of the whole sequence, past tokens included"
        )
    real = attention_mask.bool()
    index = torch.where(real, real.cumsum(-1) - 1, PADDING)
    if local_size is not None:
        queries = queries_end - (len(cache_position) if cache_position is not None else q_length or kv_length)
        if kv_offset < queries:  # a ring gives out the new tokens alone, and keeps what it needs
            _refuse_dropped(index, kv_offset, queries, local_size)
    return index[:, None, None, kv_offset:]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _refuse_patterns(mask_function: Callable[..., Any]) -> None:
    """Refuse every mask that is not made of "causal" and "sliding window" alone.

    Never traced: what a mask is made of is asked of its closures, numbers in tensors among it.
    """
    patterns = _patterns(mask_function)
    known = {"causal_mask_function", "sliding_window_overlay"}
    if "causal_mask_function" in patterns and patterns <= known:
        return
    named = ", ".join(sorted(patterns - known)) or "no causal part"
    hint = ""
    if any("packed" in name for name in patterns):
        hint = "; give packed sequences as separate rows of a padded batch, with attention_mask"
    raise ModelError(
        f"attention pattern not modelled by gain-cell attention: {named} (allowed: causal, causal with a "
        f"sliding window){hint}"
    )


def _patterns(mask_function: Callable[..., Any]) -> set[str]:
    """Names of the elementary patterns a mask function of transformers is an intersection of.

    transformers composes masks as closures (``and_masks(a, b)``); the qualified name of a closure tells
    which factory made it, its cells hold the parts.
    """
    factory = mask_function.__qualname__.split(".")[0]
    parts = [cell.cell_contents for cell in mask_function.__closure__ or ()]
    if factory == "and_masks":
        functions = [part for group in parts if isinstance(group, tuple) for part in group]
        return set().union(*(_patterns(function) for function in functions))
    if factory == _SEQUENCES and not any(bool(part.any()) for part in parts):
        return set()
    if factory == _POSITIONS and all(bool((p.diff() == 1).all()) for p in parts if isinstance(p, Tensor)):
        return set().union(*(_patterns(part) for part in parts if callable(part)))
    return {factory}


def _refuse_dropped(index: Int[Tensor, "B T"], dropped: int, queries: int, window: int) -> None:
    """Refuse padding for which a sliding cache has dropped tokens that the window still reaches.

    The cache counts slots, the window counts tokens; its first `dropped` slots are gone.
    """
    if dropped == 0:
        return
    newest = index[:, :dropped].amax(1)
    later = index[:, queries:]
    first = later.masked_fill(later == PADDING, torch.iinfo(index.dtype).max).amin(1)
    if bool(((newest != PADDING) & (newest > first - window)).any()):
        raise ModelError(
            "attention_mask has padding between real tokens, and the model's sliding cache dropped tokens "
            "that its window still reaches: pad on the left, give a RingCache(model), or use_cache=False; "
            "generate without an attention_mask, also that of an assistant, takes every pad_token_id in the "
            "text for padding: give it one that the text does not use"
        )
