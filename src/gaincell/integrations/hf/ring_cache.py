"""A cache for `generate` that is the hardware's: a ring of columns holding codes, and when they were written.

transformers' own cache keeps the projections k and v of all tokens and grows with them. This one keeps, per
layer, what the arrays keep: for each of the M columns the write DAC's codes of one token (one byte a cell),
and once for all layers the time of the write. Memory does not grow, however long the text.

    cache = RingCache(model)
    model.generate(**inputs, **cache.argument)

With a refresh policy, tokens of one call see no refresh in between: `feed` gives them in short enough pieces.

Token j of a sequence goes to column j mod M. Padding, wherever it stands, is not counted and never written,
and it takes a sequence no time: only the others age while one is given padding.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from gaincell import features
from gaincell.arrays.clock import Clock
from gaincell.arrays.refresh import Refresh
from gaincell.chips.design_file import Design
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.attach import required_layers
from gaincell.integrations.hf.context import check_ids
from gaincell.integrations.hf.ring_layer import RingLayer
from gaincell.integrations.hf.ring_tokens import RingTokens
from gaincell.nn.checks import common_design
from gaincell.ops.gain_cell_attention import OF_STORED
from gaincell.units import Second

WITH_REFRESHES = features.ARRAYS - features.WRITES - features.LEAKAGE | features.NORMALISER
"""Features of a chip (features.py) of a ring that is refreshed; without a refresh `OF_STORED`."""


def _check_chip(design: Design, refresh: Refresh) -> None:
    """Raise ModelError for what a ring of codes does not know of a chip."""
    alternative = (
        "give a --design without that, or in Python let the model use its own cache (use_cache=True) or "
        "simulate with gaincell.arrays.HeadArray"
    )
    if more := features.missing(design.in_use, OF_STORED):
        raise ModelError(f"RingCache does not implement {more} of design {design.name!r}; {alternative}")
    if refresh.kind != "none" and (more := features.missing(design.in_use, WITH_REFRESHES)):
        raise ModelError(
            "RingCache refreshes perfect writes of cells that decay alike towards v_offset; with "
            f"{more} of design {design.name!r} leave out --refresh (in Python give no refresh policy), or "
            f"{alternative}"
        )


class RingCache(Cache):
    """The arrays of an attached model as its cache; see the head of this file.

    Example:

        >>> import gaincell
        >>> model, tokenizer = gaincell.load("tiny")
        >>> ids = tokenizer("It was a dark night", return_tensors="pt")["input_ids"]
        >>> cache = gaincell.RingCache(model)
        >>> written = model.generate(ids, **cache.argument, max_new_tokens=4)
        >>> cache.clock.now > 0  # s, of the chip's time
        True

    Args:
        model: attached. The cache serves this model alone.
        refresh: policy. All arrays of the chip refresh at the same time, each its columns one after the other
            in a write slot of the design's `unstated_latency`.

    Attributes:
        clock: time, tokens and refreshes since the cache was made.

    `copy.deepcopy` gives another cache that goes on from here: a prompt is read once and continued many
    times.

    Slots that are taken back (`crop`; assisted decoding crops rejected drafts) took the chip their time all
    the same: what stays has leaked on meanwhile. So assisted generation can give another text than
    `use_cache=False`, except on a chip that does not leak (`retention_time=None`).

    Raises:
        ModelError: the model is not attached, its layers have several designs, or its chip has effects that
            a ring does not model.
        InputError: a refresh would take longer than its period.

    Not modelled: the time that passes between the layers of one token; incomplete discharge; errors of writes
    and leakage of their own kind together with a refresh.
    """

    def __init__(self, model: PreTrainedModel, refresh: Refresh | None = None) -> None:
        attentions = required_layers(model)
        forward = inspect.signature(model.forward).parameters
        self.argument = {"cache" if "cache" in forward else "past_key_values": self}
        """How the model takes a cache: transformers renamed the argument."""
        design = common_design(attentions)
        _check_chip(design, refresh or Refresh())
        self._checked = design
        self.clock = Clock(refresh or Refresh(), design.window, design.unstated_latency)
        self.tokens = RingTokens(attentions[0], self.clock)
        """Which tokens the columns hold, and when they were written."""
        self.rings = [RingLayer(attention, self.tokens) for attention in attentions]
        self.rings[-1].after_attend = self._advance_time
        super().__init__(layers=list(self.rings))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *arguments: Any, **keywords: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens of one layer; see `RingLayer.update`.

        Raises:
            ModelError: the model that uses the cache is not the one it was made for, a layer has got another
                design than the first, or the design has got effects that a ring does not model.
            InputError: there are more new tokens than until the next refresh, another number of sequences, or
                a design of another latency than the refreshes were planned with.
        """
        if self.rings[layer_idx - 1].pending:
            raise ModelError(
                "a RingCache was given to a model that does not read voltages; make one with "
                "RingCache(model) for an attached model"
            )
        self._check_exchanged()
        tokens, left = key_states.shape[2], self.tokens_left
        if left is not None and tokens > left:
            raise InputError(
                f"{tokens} tokens at once, but the chip refreshes after {left}; give them in pieces, as "
                "gaincell.integrations.hf.ring_cache.feed does"
            )
        if layer_idx == 0:
            self.tokens.step = None
        elif (own := self.rings[layer_idx].attention).design is not self.tokens.design:
            common_design([own, self.tokens.attention])
        found: tuple[Tensor, Tensor] = super().update(
            key_states, value_states, layer_idx, *arguments, **keywords
        )
        return found

    def _check_exchanged(self) -> None:
        """The same checks of a design that `set_design` has put in place of the one before."""
        design = self.tokens.design
        if design is self._checked:
            return
        _check_chip(design, self.clock.policy)
        refreshes = self.clock.policy.kind != "none"
        if refreshes and design.unstated_latency != self._checked.unstated_latency:
            raise InputError(
                "the ring plans its refreshes with the latency of another design than the model now has; "
                "make a new RingCache after set_design"
            )
        self._checked = design

    def _advance_time(self) -> None:
        """All layers have what they need of the tokens: time passes."""
        steps = self.tokens.finish()
        self.clock.step(self, self.tokens.design.token_period, steps)

    def __deepcopy__(self, memo: dict[int, Any]) -> RingCache:
        """Another cache of the same model that goes on from here: for texts that begin alike, say."""
        same = {id(ring.attention): ring.attention for ring in self.rings if id(ring.attention) not in memo}
        memo |= same
        other = memo[id(self)] = RingCache.__new__(RingCache)
        vars(other).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        for attention in same:  # a model that is copied later with the same memo gets modules of its own
            del memo[attention]
        return other

    def reset(self) -> None:
        """Forget all tokens, also those that were not finite; the clock goes on."""
        self.tokens.reset()
        super().reset()  # type: ignore[no-untyped-call]

    def crop(self, max_length: int) -> None:
        """Forget the last slots, to `max_length` of them, or -n: n fewer; the time they took has passed. 0 is
        none fewer, as transformers has it: `reset` forgets all.

        Raises:
            InputError: tokens were overwritten that would have to come back.
        """
        self.tokens.crop(max_length)

    def reorder_cache(self, beam_idx: Int[Tensor, " B"]) -> None:
        """Let sequence n continue what sequence beam_idx[n] has written (beam search)."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence."""
        self.batch_select_indices(torch.arange(len(self.tokens.count)).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences."""
        self.tokens.select(indices)
        for ring in self.rings:
            ring.select(indices)

    @property
    def now(self) -> Second:
        """Seconds since the cache was made."""
        return self.clock.now

    @property
    def tokens_left(self) -> int | None:
        """Tokens that can be given until the next refresh; None: any number."""
        return self.clock.tokens_left(self.tokens.design.token_period)

    @property
    def writes(self) -> int:
        """Columns written so far, refreshes included, of every key/value head and sequence."""
        return self.clock.tokens + self.clock.rewrites

    def idle(self, seconds: Second) -> None:
        """Let time pass between two tokens: all that is stored leaks on, and is refreshed.

        Raises:
            InputError: a negative or infinite time.
        """
        self.clock.idle(self, seconds)

    def rewrite(self) -> tuple[int, bool]:
        """For the clock: see `Columns`."""
        age, columns = self.tokens.rewritten()
        tau, changed = self.tokens.design.tau, False
        if self.clock.policy.kind == "reread" and tau is not None:
            left = torch.where(self.tokens.valid, torch.exp(-age / tau), 1.0)
            for ring in self.rings:
                changed |= ring.reread(left)
        return columns, changed

    def postpone(self, seconds: Second) -> None:
        """For the clock: see `Columns`."""
        self.tokens.postpone(seconds)

    @property
    def memory(self) -> int:
        """Bytes of codes and write times."""
        held = [self.tokens.write_times, *(codes for ring in self.rings for codes in ring.codes)]
        return sum(tensor.nbytes for tensor in held)


def feed(
    model: PreTrainedModel, cache: RingCache, ids: Int[Tensor, "B T"], *, last: bool = False
) -> Float[Tensor, "B T V"]:
    """Logits of the next tokens of a cache's sequences, `ids` without padding, in pieces that end at the
    chip's refreshes; with `last` only those of the last token.
    """
    check_ids(model, ids)
    logits: list[Tensor] = []
    at = 0
    while at < ids.shape[1]:
        piece = ids[:, at : at + (cache.tokens_left or ids.shape[1])]
        found = model(input_ids=piece, **cache.argument, logits_to_keep=1 if last else 0).logits
        at += piece.shape[1]
        logits = [found] if last else [*logits, found]
    return torch.cat(logits, 1)
