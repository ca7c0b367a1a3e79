"""The software model's tokens: softmax attention over as many tokens as the ring has columns.

Two rows are computed together, because a CPU reads every weight once for both: the text that the software
model writes itself, and the text that the hardware model writes, read by the software model. The second
gives the probabilities that the hardware's are compared with.

The cache holds the last M - 1 tokens, so that a query sees M of them, as on a ring of M columns. A model with
sliding windows of its own keeps its own cache.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicSlidingWindowLayer

OWN, READING = 0, 1
"""Rows: the software's own text, and the hardware's."""


class SoftwareText:
    """Cache and position of the software model, which is not attached, in its two texts.

    Args:
        window: M.
        own_windows: Of the model's layers, None for full attention.
    """

    def __init__(self, model: PreTrainedModel, window: int, own_windows: list[int | None]) -> None:
        self.model, self.window = model, window
        self.seen = 0
        self._parted = False
        self._limited = not any(own_windows) and window > 1
        self.cache: Cache = (
            Cache(layers=[DynamicSlidingWindowLayer(window) for _ in own_windows])
            if self._limited
            else DynamicCache(config=model.config)
        )

        named = "cache" in inspect.signature(model.forward).parameters
        self._name = "cache" if named else "past_key_values"  # transformers renamed the argument

    def write(self, own: int, reading: int) -> Tensor:
        """The logits [2, V] after one more token of each text."""
        if self.seen and not self._parted:
            self.cache.batch_repeat_interleave(2)
        self._parted = True
        return self.read(torch.tensor([[own], [reading]]))

    def read(self, ids: Tensor) -> Tensor:
        """The last logits after a piece [1, T] of the prompt, which both share, or a token [2, 1] of each."""
        mask = None
        if self._limited and self.seen + ids.shape[1] > self.window and ids.shape[1] > 1:
            mask = self._mask(ids.shape[1])
        logits: Tensor = self.model(
            input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1, **{self._name: self.cache}
        ).logits
        self.seen += ids.shape[1]
        return logits[:, -1]

    def _mask(self, new: int) -> Tensor:
        """[1, 1, T, S]: 0 where a query sees a key, the lowest number elsewhere."""
        old = min(self.seen, self.window - 1)
        age = torch.arange(new)[:, None] + old - torch.arange(old + new)
        seen = (age >= 0) & (age < self.window)
        dtype = self.model.dtype
        hidden = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype)
        return hidden.masked_fill(seen, 0.0)[None, None]
