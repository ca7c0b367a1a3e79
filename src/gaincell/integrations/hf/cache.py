"""A cache for `generate` that is the hardware's: a ring of columns holding codes, and when they were written.

transformers' own cache keeps the projections k and v of all tokens and grows with them. This one keeps, per
layer, what the arrays keep: for each of the M columns the write DAC's codes of one token (one byte a cell)
and the time of the write. Memory does not grow, however long the text.

    cache = RingCache(model)
    model.generate(**inputs, **cache.argument)

With a refresh policy, tokens of one call see no refresh in between: `feed` gives them in pieces that are
short enough.

Slot s of a sequence, padding included, goes to column s mod M. (Left padding shifts a row's columns against
those of its real tokens by the number of its padding tokens; the attention numbers the real ones itself.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from gaincell.arrays.clock import Clock
from gaincell.arrays.refresh import Refresh
from gaincell.circuits import dac_code, write_dac
from gaincell.config import Design
from gaincell.errors import InputError, ModelError
from gaincell.features import (
    CELLS,
    CONVERSIONS,
    DRIVERS,
    LEVELS,
    NOMINAL,
    NORMALISER,
    PULSE_LAW,
    READ_NOISE,
    missing,
)
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.interface import RING
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.gain_cell_attention import OF_STORED, native_decode
from gaincell.ops.gain_cell_attention.native_decode import RingDecoder, Slots
from gaincell.progress import Progress, silent
from gaincell.units import Second

WITH_REFRESHES = NOMINAL | LEVELS | DRIVERS | CELLS | PULSE_LAW | CONVERSIONS | READ_NOISE | NORMALISER
"""Features of a chip (features.py) of a ring that is refreshed; without a refresh `OF_STORED`."""


class RingLayer(CacheLayerMixin):
    """The ring of one layer.

    Args:
        attention: the layer's gain-cell attention, whose gains, offsets and write DAC make the codes.
        clock: of all layers.
        shared: what one layer has worked out in a step, for the others.

    `key_codes`, `value_codes` [B, Hk, M, D]: uint8; the voltages themselves, u = V - V_offset, where the
    design does not quantise them.  `write_times` [M]: seconds, the token being written at the beginning of
    its period.
    """

    is_sliding = False
    is_compileable = False

    def __init__(self, attention: GainCellAttention, clock: Clock, shared: dict[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.attention = attention
        self.clock = clock
        self.shared = shared
        self.seen = 0
        self.codes_are_read = False
        """Whether the layer's attention reads the ring's codes itself (`attend`), one token at a time."""
        self.read: Callable[[], None] | None = None
        """Called when `attend` has read them: time may pass, and refreshes may change them."""
        self.poisoned = False
        """Whether a value that was not finite was to be written: every output is then not a number."""
        self._decode: RingDecoder | None = None
        self.pending = False
        """Whether what `update` gave out was not seen by the layer's attention yet."""
        self.key_codes: Tensor | None = None
        self.value_codes: Tensor | None = None
        self.write_times = torch.zeros(attention.design.window, dtype=torch.float64)
        self.extra_age = torch.zeros(0, dtype=torch.float64)
        """Of the voltages that `update` gave out: see `attend_to_stored`."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor | None = None) -> None:
        """Make the empty ring, for keys of this batch size, type and device."""
        batch, heads, _, dim = key_states.shape
        design = self.attention.design
        kind = torch.uint8 if self._levels else torch.promote_types(key_states.dtype, torch.float32)
        self.key_codes, self.value_codes = (
            torch.zeros(batch, heads, design.window, dim, dtype=kind, device=key_states.device)
            for _ in range(2)
        )
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    @property
    def _levels(self) -> int | None:
        levels = self.attention.design.storage_levels
        return levels if levels is not None and levels <= 256 else None

    def update(
        self,
        key_states: Float[Tensor, "B Hk T D"],
        value_states: Float[Tensor, "B Hk T D"],
        *_: Any,
        **__: Any,
    ) -> tuple[Float[Tensor, "B Hk S D"], Float[Tensor, "B Hk S D"]]:
        """Write the new tokens; the voltages that their queries see, oldest first.

        Those are the M - 1 tokens before and the new ones, as they were written. The layer's attention
        recognises them as voltages by a mark on the keys, and takes their age from `extra_age`. Where the
        compiled kernel serves a single token, what is given out has the shape only: see `attend`.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        assert self.key_codes is not None
        assert self.value_codes is not None
        if key_states.shape[0] != self.key_codes.shape[0]:
            raise InputError(
                f"the ring holds {self.key_codes.shape[0]} sequences, the input has {key_states.shape[0]}; "
                "make a new RingCache for another batch"
            )
        design, window = self.attention.design, self.attention.design.window
        if len(self.write_times) != window:
            raise InputError(
                f"the ring was made for {len(self.write_times)} columns, the model's design now has "
                f"{window}; make a new RingCache after set_design"
            )
        new = key_states.shape[2]
        self.codes_are_read = self._native_serves(key_states)
        self.pending = True
        if self.codes_are_read:
            return self._write_one(key_states, value_states)
        old = torch.arange(max(0, self.seen - window + 1), self.seen, device=self.device) % window
        self.extra_age = self._extra_age(old).to(self.device)
        held = []
        for codes, scaler, states in (
            (self.key_codes, self.attention.k, key_states),
            (self.value_codes, self.attention.v, value_states),
        ):
            volts = scaler(states)
            self.poisoned |= not bool(torch.isfinite(volts).all())
            written = self._written(volts)
            fresh = self._voltages(written)
            kept = self._voltages(codes[:, :, old]).to(fresh.dtype)
            held.append(torch.cat([kept, fresh], 2))
            last = torch.arange(max(self.seen, self.seen + new - window), self.seen + new, device=self.device)
            codes[:, :, last % window] = written[:, :, -len(last) :]
        times = self.clock.now + torch.arange(new, dtype=torch.float64) * design.token_period
        self.write_times[last.cpu() % window] = times[-len(last) :]
        self.seen += new
        if self.poisoned:
            held[0].fill_(torch.nan)
        setattr(held[0], RING, self)
        return held[0], held[1]

    def _native_serves(self, states: Tensor) -> bool:
        impl = self.attention.impl
        one = states.shape[2] == 1 and (impl in ("auto", "decode") or impl.startswith("native"))
        if not one or self._levels is None or (states.requires_grad and torch.is_grad_enabled()):
            return False
        dtype = torch.promote_types(states.dtype, torch.float32)  # of what the scaling stage gives
        like = states.new_empty((1, 1, 1, states.shape[3]), dtype=dtype)
        return native_decode.why_not(like, self.attention.design) is None

    def _write_one(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of one token; tensors of the shape that transformers expects, without content."""
        assert self.key_codes is not None
        assert self.value_codes is not None
        design = self.attention.design
        column = self.seen % design.window
        for codes, scaler, states in (
            (self.key_codes, self.attention.k, key_states),
            (self.value_codes, self.attention.v, value_states),
        ):
            self.poisoned |= not native_decode.write_ring(scaler(states), codes, column, design)
        self.write_times[column] = self.clock.now
        self.seen += 1
        step = (self.clock.now, self.seen)
        if self.shared.get("step") != step:
            self.shared.clear()
            self.shared["step"] = step
            columns = torch.arange(max(0, self.seen - design.window), self.seen) % design.window
            self.shared["columns"] = columns.to(torch.int32)
            self.shared["extra age"] = (
                self._extra_age(columns) + design.token_period
            )  # of the new one, too: 0
        slots = min(self.seen, design.window)
        keys, values = (states.expand(-1, -1, slots, -1) for states in (key_states, value_states))
        setattr(keys, RING, self)
        return keys, values

    def attend(
        self,
        query: Float[Tensor, "B H 1 D"],
        key_index: Int[Tensor, "B S"],
        query_index: Int[Tensor, "B 1"],
        sliding_window: int | None,
    ) -> Float[Tensor, "B H 1 D"]:
        """The scaled output of every head for the token that was just written, from the ring's codes."""
        assert self.key_codes is not None
        assert self.value_codes is not None
        attention = self.attention
        q = attention.q(query)
        seen = (key_index.data_ptr(), sliding_window)
        if seen not in self.shared:
            self.shared[seen] = self._slots(key_index, query_index, sliding_window)
        if self._decode is None:
            level = attention.impl.removeprefix("native-") if attention.impl.startswith("native-") else None
            self._decode = RingDecoder(attention.design, q.shape[3], level)
        out = self._decode(q, self.key_codes, self.value_codes, self.shared[seen])
        if self.read is not None:
            self.read()
        if out is None or self.poisoned:  # not finite: let it be seen
            out = torch.full_like(q, torch.nan)
        scaled: Tensor = attention.out(out)
        return scaled

    def _slots(self, key_index: Tensor, query_index: Tensor, sliding_window: int | None) -> Slots:
        """What the query of every row sees of the ring."""
        design = self.attention.design
        window = design.window if sliding_window is None else min(design.window, sliding_window)
        distance = query_index - key_index
        seen = (distance >= 0) & (distance < window) & (key_index >= 0) & (query_index >= 0)
        tile = torch.where(seen, key_index % design.window // design.tile, -1)
        age = (distance.double() * design.token_period + self.shared["extra age"]).clamp(min=0.0)
        tau = design.tau
        left = torch.ones_like(age) if tau is None else torch.exp(-age / tau)
        return native_decode.make_slots(self.shared["columns"], tile, left, design)

    def _written(self, volts: Tensor) -> Tensor:
        """What is kept of requested voltages: codes, or voltages where there is no quantisation to a byte."""
        d = self.attention.design
        if self._levels is None:
            return write_dac(volts, d.dac_levels, d.v_min, d.v_max, d.v_offset)
        levels = d.levels.storage or self._levels
        return dac_code(volts, levels, d.v_min, d.v_max, d.v_offset).to(torch.uint8)

    def _voltages(self, written: Tensor) -> Tensor:
        """u = V - V_offset of codes, the very numbers of `write_dac`."""
        if self._levels is None:
            return written
        d = self.attention.design
        dtype = torch.promote_types(self.dtype, torch.float32)
        if d.levels.storage:
            return torch.tensor(d.levels.storage, dtype=dtype, device=written.device)[written.long()]
        step = (d.v_max - d.v_min) / (self._levels - 1)
        return written.to(dtype).sub_((self._levels - 1) / 2).mul_(step)

    def held(self) -> tuple[Float[Tensor, "B Hk M D"], Float[Tensor, "B Hk M D"]]:
        """Voltages of keys and values as they were written, relative to V_offset, by column."""
        assert self.key_codes is not None
        assert self.value_codes is not None
        return self._voltages(self.key_codes), self._voltages(self.value_codes)

    def _extra_age(self, columns: Int[Tensor, " old"]) -> Float[Tensor, " old"]:
        """By how much the age of columns, oldest first, exceeds the token periods since they were written."""
        regular = torch.arange(len(columns), 0, -1, dtype=torch.float64) * self.attention.design.token_period
        return self.clock.now - self.write_times[columns.cpu()] - regular

    def rewrite(self) -> tuple[int, bool]:
        """For the clock: see `Columns`."""
        held = torch.arange(min(self.seen, self.attention.design.window))
        now = self.clock.now + held.double() * self.clock.write_slot
        tau, changed = self.attention.design.tau, False
        if self.clock.policy.kind == "reread" and tau is not None:
            left = torch.exp(-(now - self.write_times[held]) / tau)[:, None].to(self.device)
            for codes in (self.key_codes, self.value_codes):
                if codes is None:
                    continue
                before = codes[:, :, held]
                u = self._voltages(before)
                read = self._written(u * left.to(u.dtype) + self.attention.design.v_offset)
                changed |= bool((read != before).any())
                codes[:, :, held] = read
        self.write_times[held] = now
        return len(held), changed

    def postpone(self, seconds: Second) -> None:
        """For the clock: see `Columns`."""
        self.write_times[: min(self.seen, self.attention.design.window)] += seconds

    def get_seq_length(self, cache_position: Any = None) -> int:
        """Slots written so far."""
        return self.seen

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """(slots that the next tokens see, number of the first): transformers 4 gives their positions."""
        new = query_length if isinstance(query_length, int) else len(query_length)
        old = min(self.seen, self.attention.design.window - 1)
        return old + new, self.seen - old

    def get_max_length(self) -> int:
        """No maximum: the ring goes round."""
        return -1

    get_max_cache_shape = get_max_length

    def reset(self) -> None:
        """Forget all tokens; the clock goes on."""
        self.seen = 0
        self.pending = False

    def crop(self, max_length: int) -> None:
        """Forget the last tokens, to `max_length` of them, or -n: n fewer.

        Raises:
            InputError: tokens were overwritten that would have to come back.
        """
        left = max_length if max_length > 0 else self.seen + max_length
        if left >= self.seen:
            return
        if self.seen > self.attention.design.window or left < 0:
            raise InputError(
                f"the ring cannot go back from {self.seen} to {left} tokens: older ones were overwritten; "
                f"crop while it holds at most {self.attention.design.window}"
            )
        self.seen = left

    def reorder_cache(self, beam_idx: Int[Tensor, " B"]) -> None:
        """Let row n continue what row beam_idx[n] has written (beam search)."""
        self._rows(lambda codes: codes.index_select(0, beam_idx.to(codes.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._rows(lambda codes: codes.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        self._rows(lambda codes: codes[indices])

    def _rows(self, change: Any) -> None:
        if self.key_codes is not None and self.value_codes is not None:
            self.key_codes, self.value_codes = change(self.key_codes), change(self.value_codes)

    def offload(self) -> None:
        """Refused: a ring is small and stays where it is."""
        raise InputError("a RingCache is not offloaded; it does not grow")

    prefetch = offload


def _check_chip(design: Design, refresh: Refresh) -> None:
    """Raise ModelError for what a ring of codes does not know of a chip."""
    alternative = (
        "let the model use its own cache (use_cache=True), or simulate with gaincell.arrays.HeadArray"
    )
    if more := missing(design.in_use, OF_STORED):
        raise ModelError(f"RingCache does not implement {more} of design {design.name!r}; {alternative}")
    if refresh.kind != "none" and (more := missing(design.in_use, WITH_REFRESHES)):
        raise ModelError(
            "RingCache refreshes perfect writes of cells that decay alike towards v_offset; with "
            f"{more} of design {design.name!r} give no refresh policy, or {alternative}"
        )


class RingCache(Cache):
    """The arrays of an attached model as its cache; see the head of this file.

    Args:
        model: attached. The cache serves this model alone.
        refresh: policy. All arrays of the chip refresh at the same time, each its columns one after the other
            in a write slot of the design's `unstated_latency`.

    `clock`: time, tokens and refreshes since the cache was made.

    Raises:
        ModelError: the model is not attached, or its chip has effects that a ring does not model.
        InputError: a refresh would take longer than its period.

    Not modelled: the time that passes between the layers of one token; incomplete discharge; errors of writes
    and leakage of their own kind together with a refresh.
    """

    def __init__(self, model: PreTrainedModel, refresh: Refresh | None = None) -> None:
        attentions = attached_layers(model)
        if not attentions:
            raise ModelError(
                f"{type(model).__name__} is not attached: call gaincell.attach(model, design) first"
            )
        forward = inspect.signature(model.forward).parameters
        self.argument = {"cache" if "cache" in forward else "past_key_values": self}
        """How the model takes a cache: transformers renamed the argument."""
        design = attentions[0].design
        _check_chip(design, refresh or Refresh())
        self.clock = Clock(refresh or Refresh(), design.window, design.unstated_latency)
        shared: dict[Any, Any] = {}
        self.rings = [RingLayer(attention, self.clock, shared) for attention in attentions]
        self.rings[-1].read = self._passed
        super().__init__(layers=list(self.rings))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *arguments: Any, **keywords: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens of one layer; see `RingLayer.update`.

        Raises:
            ModelError: the model that uses the cache is not the one it was made for.
            InputError: there are more new tokens than until the next refresh.
        """
        if any(ring.pending for ring in self.rings):
            raise ModelError(
                "a RingCache was given to a model that does not read voltages; make one with "
                "RingCache(model) for an attached model"
            )
        tokens, left = key_states.shape[2], self.tokens_left
        if left is not None and tokens > left:
            raise InputError(
                f"{tokens} tokens at once, but the chip refreshes after {left}; give them in pieces, as "
                "gaincell.integrations.hf.cache.feed does"
            )
        found: tuple[Tensor, Tensor] = super().update(
            key_states, value_states, layer_idx, *arguments, **keywords
        )
        if layer_idx == len(self.rings) - 1 and not self.rings[-1].codes_are_read:
            self._passed(tokens)
        return found

    def _passed(self, tokens: int = 1) -> None:
        """All layers have what they need of the tokens: time passes."""
        self.clock.step(self, self.rings[0].attention.design.token_period, tokens)

    @property
    def now(self) -> Second:
        """Seconds since the cache was made."""
        return self.clock.now

    @property
    def tokens_left(self) -> int | None:
        """Tokens that can be given until the next refresh; None: any number."""
        return self.clock.tokens_left(self.rings[0].attention.design.token_period)

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
        found = [ring.rewrite() for ring in self.rings]
        return found[0][0], any(changed for _, changed in found)

    def postpone(self, seconds: Second) -> None:
        """For the clock: see `Columns`."""
        for ring in self.rings:
            ring.postpone(seconds)

    @property
    def memory(self) -> int:
        """Bytes of codes and write times."""
        return sum(
            t.numel() * t.element_size()
            for layer in self.rings
            for t in (layer.key_codes, layer.value_codes, layer.write_times)
            if t is not None
        )


def feed(
    model: PreTrainedModel,
    cache: RingCache,
    ids: Int[Tensor, "B T"],
    *,
    last: bool = False,
    progress: Progress = silent,
) -> Float[Tensor, "B T V"]:
    """Logits of the next tokens of a cache's sequences, in pieces that end at the chip's refreshes.

    Args:
        ids: without padding.
        last: only those of the last token.
        progress: called after every piece with (tokens done, tokens).
    """
    logits: list[Tensor] = []
    at, total = 0, ids.shape[1]
    while at < total:
        piece = ids[:, at : at + (cache.tokens_left or total)]
        found = model(input_ids=piece, **cache.argument, logits_to_keep=1 if last else 0).logits
        at += piece.shape[1]
        logits = [found] if last else [*logits, found]
        progress(at, total, {})
    return torch.cat(logits, 1)
