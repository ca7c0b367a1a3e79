"""What transformers calls a mask, as the gain-cell arrays need it: the number of the token in each slot.

Ours gives the *key index*: for each slot of the key/value cache the number j of the real token in it, counted
over the whole sequence, and -1 for padding, which is never written into an array. Ages (i - j), physical
columns (j mod M), causality and windows follow from it, also when a sliding-window cache has dropped the
oldest slots. It travels as int64 of shape [B, 1, 1, slots]: transformers hands a mask of four dimensions
through untouched, also where ``generate`` prepares it ahead of time.
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

Where every row is one sequence, transformers still calls them while torch.compile traces: it cannot look at
the numbers then. `_refuse_patterns` can: it is not traced.
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
        batch_size: Number of sequences B.
        kv_length: Number of slots Tk.
        kv_offset: Number of the first slot in the sequence (above 0 once a sliding cache drops slots).
        mask_function: Transformers' description of who sees whom: causal, with or without a sliding window.
        attention_mask: 1 for real tokens, 0 for padding, over the whole sequence; None: no padding.
        local_size: The sliding window, for the layers that have one.
        q_length: Number of query tokens (since transformers 5.5).
        q_offset: Slots before the first of them (since then, too).
        cache_position: Slots of the query tokens (before).
        device: Where the result is.
        **unused: What else transformers passes.

    Raises:
        ModelError: a pattern, a cache or a padding that is not modelled.
    """
    _refuse_patterns(mask_function)
    if cache_position is not None:
        device, q_length = cache_position.device, len(cache_position)
        queries_end = int(cache_position[-1]) + 1
    else:
        q_length = kv_length if q_length is None else q_length
        queries_end = int(q_offset) + q_length
    slots_end = kv_offset + kv_length
    if slots_end > queries_end:
        raise ModelError(
            f"the cache has {slots_end} slots for {queries_end} tokens: static (compileable) caches are not "
            "modelled by gain-cell attention; leave cache_implementation at its default (dynamic)"
        )
    queries = queries_end - q_length
    if local_size is not None and max(0, queries - local_size + 1) < kv_offset < queries:
        raise ModelError(
            f"the cache keeps fewer tokens than the model's sliding window of {local_size} reaches: give a "
            "StaticCache max_cache_len of at least that, or leave cache_implementation at its default"
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
    if local_size is not None and 0 < kv_offset < queries:  # a ring gives out the new tokens alone
        _refuse_dropped(index, kv_offset, queries, local_size)
    return index[:, None, None, kv_offset:]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _refuse_patterns(mask_function: Callable[..., Any]) -> None:
    """Refuse every mask that is not made of "causal" and "sliding window" alone. Never traced."""
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
    """Names of the elementary patterns a mask function of transformers is an intersection of: it composes
    closures (``and_masks(a, b)``), whose qualified names tell which factory made them.
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
    """Refuse padding for which a sliding cache, which counts slots, has dropped tokens that the window, which
    counts tokens, still reaches: its first `dropped` slots are gone.
    """
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
