"""A cache for `generate` that is the hardware's: a ring of columns holding codes, and when they were written.

transformers' own cache keeps the projections k and v of all tokens and grows with them. This one keeps, per
layer, what the arrays keep: for each of the M columns the write DAC's codes of one token (one byte a cell),
and once for all layers the time of the write. Memory does not grow, however long the text.

    cache = RingCache(model)
    model.generate(**inputs, **cache.argument)

With a refresh policy, tokens of one call see no refresh in between: `feed` gives them in pieces that are
short enough.

Token j of a sequence goes to column j mod M. Padding, wherever it stands, is not counted and never written,
and it takes a sequence no time: only the others age while one is given padding.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from gaincell import features
from gaincell.arrays.clock import Clock
from gaincell.arrays.refresh import Refresh
from gaincell.circuits import dac_code, write_dac
from gaincell.config import Design
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.context import check_ids
from gaincell.integrations.hf.interface import RING
from gaincell.integrations.hf.masks import PADDING
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.gain_cell_attention import OF_STORED, native_decode
from gaincell.ops.gain_cell_attention.native_decode import RingDecoder, Slots
from gaincell.progress import Progress, silent
from gaincell.units import Second

NOT_A_NUMBER = 255
"""The code that stands for NaN; no write DAC whose codes are kept gives it."""
WITH_REFRESHES = (
    features.NOMINAL
    | features.LEVELS
    | features.DRIVERS
    | features.CELLS
    | features.PULSE_LAW
    | features.CONVERSIONS
    | features.READ_NOISE
    | features.NORMALISER
)
"""Features of a chip (features.py) of a ring that is refreshed; without a refresh `OF_STORED`."""


@dataclass(frozen=True)
class Step:
    """The tokens of one forward pass and the columns that they meet; the same in all layers.

    index [B, T]: of the real token in each slot, -1 for padding.  old [B, S]: of the tokens held before it
    that its queries may see, oldest first.  old_columns [B, S]: where they are; one row if all are alike.
    extra_age [B, S]: see `attention_from_voltages`.  rows, slots, columns: of the tokens that stay, and where
    they go.  column: if the pass is of one token for every sequence, and goes to the same column of each.
    """

    index: Int[Tensor, "B T"]
    old: Int[Tensor, "B S"]
    old_columns: Int[Tensor, "B S"]
    extra_age: Float[Tensor, "B S"]
    rows: Int[Tensor, " n"]
    slots: Int[Tensor, " n"]
    columns: Int[Tensor, " n"]
    column: int | None
    decoded: dict[int | None, Slots]
    """What the query of one token sees of the ring, by sliding window."""


class RingTokens:
    """Which tokens the columns hold, and when they were written: the same in all layers.

    `slots`: given so far, padding included.  `count` [B]: tokens of every sequence so far.
    `write_times` [B, M]: s, in the time of the sequence.  That is the clock's without the steps that the
    sequence sat out (`waited` [B]), being given padding.
    """

    def __init__(self, attention: GainCellAttention, clock: Clock) -> None:
        self.attention, self.clock = attention, clock
        self.columns = attention.design.window
        self.step: Step | None = None
        """Of the forward pass that is going on."""
        self.reset()

    def reset(self) -> None:
        """Forget all tokens; the clock goes on."""
        self.slots, self.step = 0, None
        self.count, self.waited = (torch.zeros(0, dtype=torch.int64) for _ in range(2))
        self.write_times = torch.zeros(0, self.columns, dtype=torch.float64)
        self._real = torch.zeros(0, 0, dtype=torch.bool)
        """[B, last slots, at most M] whether they hold a token."""

    @property
    def _period(self) -> Second:
        return self.attention.design.token_period

    @property
    def _now(self) -> Float[Tensor, " B"]:
        return self.clock.now - self.waited.double() * self._period

    @property
    def valid(self) -> Tensor:
        """[B, M]: columns that hold a token."""
        return torch.arange(self.columns) < self.count[:, None]

    def begin(self, index: Int[Tensor, "B T"]) -> Step:
        """The step that writes tokens of these indices, -1 for padding.

        Raises:
            ModelError: they do not follow those that the columns hold.
        """
        device, index = index.device, index.cpu()
        if self.slots == 0:
            self.count, self.waited = (torch.zeros(len(index), dtype=torch.int64) for _ in range(2))
            self.write_times = torch.zeros(len(index), self.columns, dtype=torch.float64)
            self._real = torch.zeros(len(index), 0, dtype=torch.bool)
        real = index != PADDING
        follows = torch.where(real, self.count[:, None] + real.cumsum(1) - 1, PADDING)
        if not torch.equal(index, follows):
            row = int((index != follows).any(1).nonzero()[0])
            first = int(index[row][real[row]][0])
            raise ModelError(
                f"attention_mask counts {first} tokens of sequence {row} before the new ones, but the ring "
                f"holds {int(self.count[row])}: give the mask of the whole sequence, with the padding that "
                "earlier calls had"
            )
        window = self.columns
        end = self.count + real.sum(1)
        rows, slots = (real & (index >= end[:, None] - window)).nonzero(as_tuple=True)
        columns = index[rows, slots] % window
        held = min(window - 1, int(self.count.max()))
        old = self.count[:, None] - torch.arange(held, 0, -1)
        old_columns = old.clamp(min=0) % window
        regular = (self.count[:, None] - old).double() * self._period
        extra_age = self._now[:, None] - self.write_times.gather(1, old_columns) - regular
        alike = bool((self.count == self.count[0]).all())
        self.step = Step(
            index=index,
            old=torch.where(old < 0, PADDING, old).to(device),
            old_columns=(old_columns[:1] if alike else old_columns).to(device),
            extra_age=extra_age.to(device),
            rows=rows.to(device),
            slots=slots.to(device),
            columns=columns.to(device),
            column=int(columns[0]) if alike and index.shape[1] == 1 and bool(real.all()) else None,
            decoded={},
        )
        return self.step

    def decoded(self, step: Step, sliding_window: int | None) -> Slots:
        """What the query of a step of one token sees of the ring, that token included."""
        if sliding_window not in step.decoded:
            design = self.attention.design
            window = design.window if sliding_window is None else min(design.window, sliding_window)
            query = step.index
            columns = torch.arange(min(self.columns, max(1, int(query.max()) + 1)))
            age = (query - columns) % self.columns
            seen = (query != PADDING) & (age <= query) & (age < window)
            tile = torch.where(seen, columns // design.tile, -1)
            seconds = (self._now[:, None] - self.write_times[:, : len(columns)]).clamp(min=0.0)
            seconds = torch.where(age == 0, 0.0, seconds)
            tau = design.tau
            left = torch.ones_like(seconds) if tau is None else torch.exp(-seconds / tau)
            step.decoded[sliding_window] = native_decode.make_slots(
                columns, tile, left, query[:, -1].clamp(min=0), design
            )
        return step.decoded[sliding_window]

    def finish(self) -> int:
        """All layers have written the step; how many steps of the chip it took."""
        assert self.step is not None
        index, rows, columns = self.step.index, self.step.rows.cpu(), self.step.columns.cpu()
        real = index != PADDING
        new, taken = real.sum(1), int(real.any(0).sum())
        since = index[rows, self.step.slots.cpu()] - self.count[rows]
        self.write_times[rows, columns] = self._now[rows] + since.double() * self._period
        self.step = None
        self.slots += index.shape[1]
        self.count = self.count + new
        self.waited = self.waited + taken - new
        self._real = torch.cat([self._real, real], 1)[:, -self.columns :]
        return taken

    def crop(self, slots: int) -> None:
        """Forget the last slots, to `slots` of them, or -n: n fewer. The clock does not go back.

        Raises:
            InputError: tokens were overwritten that would have to come back.
        """
        left = slots if slots > 0 else self.slots + slots
        if left >= self.slots:
            return
        gone = self.slots - left
        if left < 0 or gone > self._real.shape[1] or bool((self.count > self.columns).any()):
            raise InputError(
                f"the ring cannot go back from {self.slots} to {left} tokens: older ones were overwritten; "
                f"crop while it holds at most {self.columns}"
            )
        self.count = self.count - self._real[:, -gone:].sum(1)
        self._real, self.slots = self._real[:, :-gone], left

    def select(self, rows: Tensor) -> None:
        """Let sequence n continue what sequence rows[n] has written."""
        rows = rows.cpu()
        self.count, self.waited, self.write_times, self._real = (
            state[rows] for state in (self.count, self.waited, self.write_times, self._real)
        )

    def rewritten(self) -> tuple[Float[Tensor, "B M"], int]:
        """Seconds since the writes at a refresh that begins now, and how many columns it rewrites."""
        when = self._now[:, None] + torch.arange(self.columns).double() * self.clock.write_slot
        age = when - self.write_times
        self.write_times = torch.where(self.valid, when, self.write_times)
        return age, int(self.count.max().clamp(max=self.columns)) if len(self.count) else 0

    def postpone(self, seconds: Second) -> None:
        """For the clock: see `Columns`."""
        self.write_times = torch.where(self.valid, self.write_times + seconds, self.write_times)


class RingLayer(CacheLayerMixin):
    """The ring of one layer.

    Args:
        attention: the layer's gain-cell attention, whose gains, offsets and write DAC make the codes.
        tokens: of all layers.

    `key_codes`, `value_codes` [B, Hk, M, D]: uint8; the voltages themselves, u = V - V_offset, where the
    design does not quantise them.
    """

    is_sliding = False
    is_compileable = False
    is_croppable = True

    def __init__(self, attention: GainCellAttention, tokens: RingTokens) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.attention = attention
        self.tokens = tokens
        self.codes_are_read = False
        """Whether the last step was read from the codes themselves, in compiled code."""
        self.finite = True
        """Whether no column holds a NaN; only then are codes read in compiled code."""
        self.passed: Callable[[], None] | None = None
        """Called when the step is over in this layer: after the last one, time passes."""
        self._decode: RingDecoder | None = None
        self.pending = False
        """Whether what `update` gave out was not seen by the layer's attention yet."""
        self.key_codes: Tensor | None = None
        self.value_codes: Tensor | None = None

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
        return levels if levels is not None and levels <= NOT_A_NUMBER else None

    def update(
        self,
        key_states: Float[Tensor, "B Hk T D"],
        value_states: Float[Tensor, "B Hk T D"],
        *_: Any,
        **__: Any,
    ) -> tuple[Float[Tensor, "B Hk T D"], Float[Tensor, "B Hk T D"]]:
        """The new keys and values themselves, marked: the layer's attention gives them to `attend`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states)
        assert self.key_codes is not None
        if key_states.shape[0] != self.key_codes.shape[0]:
            raise InputError(
                f"the ring holds {self.key_codes.shape[0]} sequences, the input has {key_states.shape[0]}; "
                "make a new RingCache for another batch"
            )
        window = self.attention.design.window
        if self.tokens.columns != window:
            raise InputError(
                f"the ring was made for {self.tokens.columns} columns, the model's design now has "
                f"{window}; make a new RingCache after set_design"
            )
        self.pending = True
        keys = key_states.view_as(key_states)
        setattr(keys, RING, self)
        return keys, value_states

    def attend(
        self,
        query: Float[Tensor, "B H T D"],
        key: Float[Tensor, "B Hk T D"],
        value: Float[Tensor, "B Hk T D"],
        index: Int[Tensor, "B T"],
        sliding_window: int | None,
    ) -> Float[Tensor, "B H T D"]:
        """Write the new tokens; the scaled output of every head for them.

        index: of the real token in each slot, -1 for padding, which is not written.
        """
        step = self.tokens.step or self.tokens.begin(index)
        volts = self.attention.volts(key, value)
        attended = self._decoded(query, volts, step, sliding_window)
        self.codes_are_read = attended is not None
        if attended is None and not step.old.shape[1] and not self.attention.design.front_differs:
            self._keep(volts, step)
            self._settle()
            attended = self.attention.attend_to_volts(query, *volts, index, sliding_window)
        elif attended is None:
            seen = torch.cat([step.old, index], 1)
            attended = self.attention(
                query, *self._write(volts, step), seen, index, sliding_window, extra_age=step.extra_age
            )
        if self.passed is not None:
            self.passed()
        return attended

    def _decoded(
        self, query: Tensor, volts: tuple[Tensor, Tensor], step: Step, sliding_window: int | None
    ) -> Tensor | None:
        """`attend` for one token in compiled code; None where that does not serve."""
        attention = self.attention
        if not self.finite or not self._native_serves(volts[0]):
            return None
        for codes, requested in zip(self._codes, volts, strict=True):
            if step.column is not None:
                finite = native_decode.write_ring(requested, codes, step.column, attention.design)
            else:
                written = torch.empty_like(codes[:, :, :1])
                finite = native_decode.write_ring(requested, written, 0, attention.design)
                codes[step.rows, :, step.columns] = written[step.rows, :, 0]
            if not finite:
                return None
        read = attention.columns(query, *volts, query_index=step.index, sliding_window=sliding_window)
        q = attention.q(query, read)
        if self._decode is None or self._decode.design is not attention.design:
            level = attention.impl.removeprefix("native-") if attention.impl.startswith("native-") else None
            heads, kv_heads = attention.heads, attention.kv_heads
            self._decode = RingDecoder(attention.design, heads, kv_heads, q.shape[3], attention.layer, level)
        out = self._decode(q, *self._codes, self.tokens.decoded(step, sliding_window))
        return None if out is None else attention.output(out, read)

    @property
    def _codes(self) -> tuple[Tensor, Tensor]:
        assert self.key_codes is not None
        assert self.value_codes is not None
        return self.key_codes, self.value_codes

    def _native_serves(self, volts: Tensor) -> bool:
        impl = self.attention.impl
        one = volts.shape[2] == 1 and (impl in ("auto", "decode") or impl.startswith("native"))
        return (
            one
            and self._levels is not None
            and native_decode.unsupported(volts, self.attention.design) is None
        )

    def _write(self, volts: tuple[Tensor, Tensor], step: Step) -> list[Float[Tensor, "B Hk S D"]]:
        """Write requested voltages; the stored ones that the queries of the step see, oldest first."""
        held = []
        for codes in self._codes:
            if len(step.old_columns) == 1:
                held.append(codes[:, :, step.old_columns[0]])
            else:
                where = step.old_columns[:, None, :, None]
                held.append(codes.gather(2, where.expand(-1, codes.shape[1], -1, codes.shape[3])))
        fresh = [self._voltages(written) for written in self._keep(volts, step)]
        seen = [torch.cat([self._voltages(h).to(f.dtype), f], 2) for h, f in zip(held, fresh, strict=True)]
        self._settle()
        return seen

    def _keep(self, volts: tuple[Tensor, Tensor], step: Step) -> list[Tensor]:
        """Write requested voltages; what was written, in the order of the tokens."""
        self.finite &= not any(bool(requested.isnan().any()) for requested in volts)
        found = [self._written(requested) for requested in volts]
        for codes, written in zip(self._codes, found, strict=True):
            codes[step.rows, :, step.columns] = written.detach()[step.rows, :, step.slots]
        return found

    def _settle(self) -> None:
        """See whether what was no number was overwritten."""
        if not self.finite and self._levels is not None:
            self.finite = not any(bool((codes == NOT_A_NUMBER).any()) for codes in self._codes)

    def _written(self, volts: Tensor) -> Tensor:
        """What is kept of requested voltages: codes, or voltages where there is no quantisation to a byte."""
        d = self.attention.design
        if self._levels is None:
            return write_dac(volts, d.dac_levels, d.v_min, d.v_max, d.v_offset)
        levels = d.levels.storage or self._levels
        codes = dac_code(volts, levels, d.v_min, d.v_max, d.v_offset).to(torch.uint8)
        return codes if self.finite else codes.masked_fill(volts.isnan(), NOT_A_NUMBER)

    def _voltages(self, written: Tensor) -> Tensor:
        """u = V - V_offset of codes, the very numbers of `write_dac`."""
        if self._levels is None:
            return written
        d = self.attention.design
        dtype = torch.promote_types(self.dtype, torch.float32)
        if d.levels.storage:
            volts = torch.tensor(d.levels.storage, dtype=dtype, device=written.device)
            u = volts[written.long().clamp(max=len(volts) - 1)]
        else:
            step = (d.v_max - d.v_min) / (self._levels - 1)
            u = written.to(dtype).sub_((self._levels - 1) / 2).mul_(step)
        return u if self.finite else u.masked_fill(written == NOT_A_NUMBER, torch.nan)

    def held(self) -> tuple[Float[Tensor, "B Hk M D"], Float[Tensor, "B Hk M D"]]:
        """Voltages of keys and values as they were written, relative to V_offset, by column."""
        keys, values = self._codes
        return self._voltages(keys), self._voltages(values)

    def reread(self, left: Float[Tensor, "B M"]) -> bool:
        """Write back what is left of the voltages, as the write DAC gives it; whether any code changed."""
        changed = False
        for codes in self._codes if self.is_initialized else ():
            u = self._voltages(codes)
            read = self._written(u * left[:, None, :, None].to(u) + self.attention.design.v_offset)
            changed |= bool((read != codes).any())
            codes.copy_(read)
        return changed

    def get_seq_length(self, cache_position: Any = None) -> int:
        """Slots written so far."""
        return self.tokens.slots

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """(slots of the next tokens alone, number of the first): transformers 4 gives their positions."""
        new = query_length if isinstance(query_length, int) else len(query_length)
        return new, self.tokens.slots

    def get_max_length(self) -> int:
        """No maximum: the ring goes round."""
        return -1

    get_max_cache_shape = get_max_length

    def reset(self) -> None:
        """Forget all tokens."""
        self.pending, self.is_initialized, self.finite = False, False, True
        self.key_codes = self.value_codes = None

    def select(self, rows: Tensor) -> None:
        """Let sequence n continue what sequence rows[n] has written."""
        if self.is_initialized:
            self.key_codes, self.value_codes = (codes[rows.to(codes.device)] for codes in self._codes)

    def offload(self) -> None:
        """Refused: a ring is small and stays where it is."""
        raise InputError("a RingCache is not offloaded; it does not grow")

    prefetch = offload


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

    Args:
        model: attached. The cache serves this model alone.
        refresh: policy. All arrays of the chip refresh at the same time, each its columns one after the other
            in a write slot of the design's `unstated_latency`.

    `clock`: time, tokens and refreshes since the cache was made.

    Slots that are taken back (`crop`; assisted decoding crops rejected drafts) took the chip their time all
    the same: what stays has leaked on meanwhile. So assisted generation can give another text than
    `use_cache=False`, except on a chip that does not leak (`retention_time=None`).

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
        self.tokens = RingTokens(attentions[0], self.clock)
        """Which tokens the columns hold, and when they were written."""
        self.rings = [RingLayer(attention, self.tokens) for attention in attentions]
        self.rings[-1].passed = self._passed
        super().__init__(layers=list(self.rings))

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *arguments: Any, **keywords: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens of one layer; see `RingLayer.update`.

        Raises:
            ModelError: the model that uses the cache is not the one it was made for.
            InputError: there are more new tokens than until the next refresh, or another number of sequences.
        """
        if self.rings[layer_idx - 1].pending:
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
        if layer_idx == 0:
            self.tokens.step = None
        found: tuple[Tensor, Tensor] = super().update(
            key_states, value_states, layer_idx, *arguments, **keywords
        )
        return found

    def _passed(self) -> None:
        """All layers have what they need of the tokens: time passes."""
        steps = self.tokens.finish()
        self.clock.step(self, self.rings[0].attention.design.token_period, steps)

    def reset(self) -> None:
        """Forget all tokens, also those that were not finite; the clock goes on."""
        self.tokens.reset()
        super().reset()  # type: ignore[no-untyped-call]

    def crop(self, max_length: int) -> None:
        """Forget the last slots, to `max_length` of them, or -n: n fewer; the time they took has passed.

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
        age, columns = self.tokens.rewritten()
        tau, changed = self.rings[0].attention.design.tau, False
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
        codes = (codes for ring in self.rings for codes in (ring.key_codes, ring.value_codes))
        return sum(t.numel() * t.element_size() for t in (*codes, self.tokens.write_times) if t is not None)


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
    check_ids(model, ids)
    logits: list[Tensor] = []
    at, total = 0, ids.shape[1]
    while at < total:
        piece = ids[:, at : at + (cache.tokens_left or total)]
        found = model(input_ids=piece, **cache.argument, logits_to_keep=1 if last else 0).logits
        at += piece.shape[1]
        logits = [found] if last else [*logits, found]
        progress(at, total, {})
    return torch.cat(logits, 1)
