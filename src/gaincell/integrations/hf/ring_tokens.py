"""Which tokens the columns of a ring hold, when they were written, and where the next ones go."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.arrays.clock import Clock
from gaincell.chips.design import Design
from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.masks import PADDING
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.gain_cell_attention import native_decode
from gaincell.ops.gain_cell_attention.native_decode import Slots
from gaincell.units import Second


@dataclass(frozen=True)
class Old:
    """The tokens held before a step that its queries may see, oldest first.

    Attributes:
        columns: Where they are; one row if all are alike.
        extra_age: See `attention_from_voltages`.
    """

    index: Int[Tensor, "B S"]
    columns: Int[Tensor, "#B S"]
    extra_age: Float[Tensor, "B S"]


@dataclass
class Step:
    """The tokens of one forward pass and the columns that they meet; the same in all layers.

    Attributes:
        index: Of the real token in each slot [B, T], -1 for padding.
        held: Columns held before it that its queries may see.
        alike: Whether all sequences have as many.
        rows: Of the tokens that stay.
        slots: Of the tokens that stay.
        columns: Where these tokens go.
        column: Of the first, if it is the same of every sequence and none has padding.
        decoded: What the query of one token sees of the ring, by sliding window; found when it is asked for.
        old: What is held before, by the device of the layer that asks; found when it is asked for.
    """

    index: Int[Tensor, "B T"]
    held: int
    alike: bool
    rows: Int[Tensor, " n"]
    slots: Int[Tensor, " n"]
    columns: Int[Tensor, " n"]
    column: int | None
    decoded: dict[int | None, Slots] = field(default_factory=dict)
    old: dict[torch.device, Old] = field(default_factory=dict)
    _places: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def places(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """rows, slots and columns on the device of a layer."""
        if device not in self._places:
            self._places[device] = self.rows.to(device), self.slots.to(device), self.columns.to(device)
        return self._places[device]


class RingTokens:
    """Which tokens the columns hold, and when they were written: the same in all layers.

    Attributes:
        slots: Given so far, padding included.
        count: Tokens of every sequence so far [B].
        waited: Steps that every sequence sat out, being given padding [B].
        write_times: s, in the time of the sequence [B, M], which is the clock's without those steps.
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
        self._begin(0)

    def _begin(self, sequences: int) -> None:
        self.count, self.waited = (torch.zeros(sequences, dtype=torch.int64) for _ in range(2))
        self.write_times = torch.zeros(sequences, self.columns, dtype=torch.float64)
        self._real = torch.zeros(sequences, 0, dtype=torch.bool)
        """[B, last slots, at most M] whether they hold a token."""

    @property
    def design(self) -> Design:
        """Of all layers, which `set_design` may exchange."""
        return self.attention.design

    @property
    def _now(self) -> Float[Tensor, " B"]:
        return self.clock.now - self.waited.double() * self.design.token_period

    @property
    def valid(self) -> Tensor:
        """[B, M]: columns that hold a token."""
        return torch.arange(self.columns) < self.count[:, None]

    def begin(self, index: Int[Tensor, "B T"]) -> Step:
        """The step that writes tokens of these indices, -1 for padding.

        Raises:
            ModelError: they do not follow those that the columns hold.
        """
        index = index.cpu()
        if self.slots == 0:
            self._begin(len(index))
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
        alike = bool((self.count == self.count[0]).all())
        self.step = Step(
            index=index,
            held=min(window - 1, int(self.count.max())),
            alike=alike,
            rows=rows,
            slots=slots,
            columns=columns,
            column=int(index[0, 0]) % window if alike and bool(real.all()) else None,
        )
        return self.step

    def old(self, step: Step, device: torch.device) -> Old:
        """What a step sees of the columns held before it."""
        if device not in step.old:
            old = self.count[:, None] - torch.arange(step.held, 0, -1)
            columns = old.clamp(min=0) % self.columns
            regular = (self.count[:, None] - old).double() * self.design.token_period
            extra_age = self._now[:, None] - self.write_times.gather(1, columns) - regular
            found = torch.where(old < 0, PADDING, old), columns[:1] if step.alike else columns, extra_age
            step.old[device] = Old(*(t.to(device) for t in found))
        return step.old[device]

    def decoded(self, step: Step, sliding_window: int | None) -> Slots:
        """What the query of a step of one token sees of the ring, that token included."""
        if sliding_window not in step.decoded:
            design, query = self.design, step.index
            window = min(design.window, sliding_window or design.window)
            columns = torch.arange(min(self.columns, max(1, int(query.max()) + 1)))
            age = (query - columns) % self.columns
            seen = (query != PADDING) & (age <= query) & (age < window)
            tile = torch.where(seen, columns // design.tile, -1)
            seconds = (self._now[:, None] - self.write_times[:, : len(columns)]).clamp(min=0.0)
            seconds = torch.where(age == 0, 0.0, seconds)
            left = torch.ones_like(seconds) if design.tau is None else torch.exp(-seconds / design.tau)
            tokens = query[:, -1].clamp(min=0)
            step.decoded[sliding_window] = native_decode.make_slots(columns, tile, left, tokens, design)
        return step.decoded[sliding_window]

    def finish(self) -> int:
        """All layers have written the step; how many steps of the chip it took."""
        assert self.step is not None
        index, rows, columns = self.step.index, self.step.rows, self.step.columns
        real = index != PADDING
        new, taken = real.sum(1), int(real.any(0).sum())
        since = index[rows, self.step.slots] - self.count[rows]
        self.write_times[rows, columns] = self._now[rows] + since.double() * self.design.token_period
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
                f"crop while it holds at most {self.columns}, or generate with the default cache"
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
