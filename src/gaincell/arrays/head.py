"""The arrays of one layer's heads, token by token: the golden reference of the parallel computation.

A head is a ring of M columns in M/N sub-tiles; every column is a key column and a value column of D cells.
One step (docs/concepts/circuits.md, "From cell to code"):

    discharge   the column at the write pointer
    write       k^ and v^ into it, through the write DACs
    key read    all columns at once: S_c = sum_d x_d F(u_cd(now))          charge on the key bit lines
    convert     phi(S_c) where the column is valid                         pulse widths
    value read  all columns at once: O_td = sum_{c in tile t} phi_c F(u_cd(now))
    count       sign and counter of every sub-tile, clamp(O / O_sat, -1, 1) to a code
    add         the sub-tiles of a head, in the adder tree; divide by a normalising column, where there is one
    advance     the pointer, modulo M; the clock, by the token period

It knows columns, voltages and seconds, not which token attends to which, and shares nothing but devices and
circuits with `ops`. With a normalising column (circuits/normaliser.py) all arrays have D + 1 rows or columns.

Dimensions: B sequences (B chips alike, mismatch included), H query heads, Hk key/value heads, g = H / Hk, M
columns, N columns of a sub-tile, t sub-tiles, D rows.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from gaincell import features
from gaincell.arrays.clock import Clock
from gaincell.arrays.first_tokens import FirstTokens
from gaincell.arrays.refresh import Refresh
from gaincell.arrays.trace import HeadState, StepTrace
from gaincell.chips.design import Design
from gaincell.circuits import charge_to_pulse, query_driver, read_out, signed_charge_to_pulse, write_dac
from gaincell.circuits.converter_errors import Line, converted, converter_errors, driven
from gaincell.circuits.noise import Draws, jitter, output_noise, score_noise
from gaincell.circuits.normaliser import normalised
from gaincell.devices.random import Effect
from gaincell.devices.variability import KEY_ARRAY, VALUE_ARRAY, CellErrors, cell_errors, current_of
from gaincell.devices.writing import write_errors
from gaincell.errors import InputError
from gaincell.units import Second

IMPLEMENTS = features.ARRAYS | features.SINKS | features.NORMALISER
"""Features of a chip (features.py)."""
REFRESHES = 2**31
"""Step of the random numbers of the first refresh; each has errors of writes of its own."""


class HeadArray:
    """The arrays of the heads of one layer, with state.

    Example:

        >>> import gaincell, torch
        >>> head = gaincell.HeadArray(gaincell.load_design("leroux2025"))
        >>> head.step(*torch.full((3, 1, 1, 64), 0.5, dtype=torch.float64)).shape
        torch.Size([1, 1, 64])

    Args:
        design: the chip; its `token_period` is the time from step to step.
        head_dim: D.
        heads: query heads H.  kv_heads: key/value heads Hk; None: as many. One write serves H / Hk reads.
        batch: sequences B, each in arrays of its own on a chip alike.  layer: whose mismatch to draw.
        sliding_window: the model's own window W: columns written W steps ago or more are gated.
        refresh: policy, applied after steps and during idle time.
        write_slot: duration of one column's discharge and write, s; a refresh takes one for every column.
        dtype: float64 or float32.

    Raises:
        InputError: sizes or precisions that do not fit; a design that does what is not implemented here.

    Not modelled: see its devices and circuits; droop within one read; what other heads do meanwhile.
    """

    def __init__(
        self,
        design: Design,
        head_dim: int = 64,
        *,
        heads: int = 1,
        kv_heads: int | None = None,
        batch: int = 1,
        layer: int = 0,
        sliding_window: int | None = None,
        refresh: Refresh | None = None,
        write_slot: Second = 0.0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        kv_heads = heads if kv_heads is None else kv_heads
        _check_sizes(head_dim=head_dim, heads=heads, kv_heads=kv_heads, batch=batch)
        if heads % kv_heads:
            raise InputError(f"heads = {heads} must be a multiple of kv_heads = {kv_heads}")
        if sliding_window is not None and sliding_window < 1:
            raise InputError(f"sliding_window = {sliding_window}; give 1 or more, or None")
        if dtype not in (torch.float32, torch.float64):
            raise InputError(f"dtype = {dtype}; give torch.float64 or torch.float32")
        if more := features.missing(design.in_use, IMPLEMENTS):
            raise InputError(f"HeadArray does not implement {more} of {design.name!r}; give a design without")
        self.design = design
        self.head_dim, self.heads, self.kv_heads, self.batch = head_dim, heads, kv_heads, batch
        self.sliding_window = sliding_window
        self.clock = Clock(refresh or Refresh(), design.window, write_slot)
        """Seconds, steps and refreshes since the head was made."""
        self.trace: StepTrace | None = None
        """What happened in the last step."""
        device = torch.device(device)
        self.layer = layer
        self._rows = head_dim + design.normaliser.present
        self._lines = converter_errors(design, layer, kv_heads, self._rows, dtype, device)
        self._key_errors, self._value_errors = (
            cell_errors(design, layer, kv_heads, self._rows, array, dtype, device)
            for array in (KEY_ARRAY, VALUE_ARRAY)
        )
        cells, columns = (batch, kv_heads, design.window, self._rows), (batch, design.window)
        self._key, self._value = (torch.zeros(cells, dtype=dtype, device=device) for _ in range(2))
        self._key_copy, self._value_copy = self._key.clone(), self._value.clone()
        self._write_time = torch.zeros(columns, dtype=torch.float64, device=device)
        self._written_at = torch.zeros(columns, dtype=torch.int64, device=device)
        self._read_since = torch.zeros(columns, dtype=torch.int64, device=device)
        self._valid = torch.zeros(columns, dtype=torch.bool, device=device)
        self._pointer = torch.zeros(batch, dtype=torch.int64, device=device)
        self._first_tokens = FirstTokens(design, self._key[:, :, : design.sinks.tokens], head_dim)

    @property
    def now(self) -> Second:
        """Seconds since the head was made."""
        return self.clock.now

    @property
    def writes(self) -> int:
        """Columns written so far, refreshes included, per key/value head and sequence."""
        return self.clock.tokens + self.clock.rewrites

    @property
    def state(self) -> HeadState:
        """What the arrays hold now."""
        columns = (self._write_time, self._written_at, self._read_since, self._valid, self._pointer)
        return HeadState(self._key, self._value, *columns)

    @torch.no_grad()
    def step(
        self, q: Float[Tensor, "B H D"], k: Float[Tensor, "B Hk D"], v: Float[Tensor, "B Hk D"]
    ) -> Float[Tensor, "B H D"]:
        """Write one token and attend with its query; `trace` then holds every intermediate.

        Args:
            q: requested pulse widths, 0 to 1.
            k, v: requested voltages, volts.

        Returns:
            The digital sum over the sub-tiles, in units of one sub-tile's full scale; divided, where there is
            a normalising column.

        Raises:
            InputError: a wrong shape, or a value that is not a finite number. Nothing is written then.
        """
        q, k, v = (self._checked(name, x) for name, x in (("q", q), ("k", k), ("v", v)))
        d = self.design
        if d.normaliser.present:
            q, k, v = pad(q, (0, 1)), pad(k, (0, 1), value=d.v_offset), pad(v, (0, 1), value=d.v_max)
        column = self._pointer.clone()
        if self._first_tokens.take(self._stored(k), self._stored(v), self.now):
            column = column[:0]
        else:
            self._discharge(column)
            self._write(column, self._stored(k), self._stored(v))
        x = self._drive(q)
        key, value = self._leaked(self._key, self._key_errors), self._leaked(self._value, self._value_errors)
        key_current = current_of(d.cell, key, self._key_errors)
        value_current = current_of(d.cell, value, self._value_errors)
        scores = self._disturbed_scores(self._read_keys(x, key_current), x)
        pulses = self._convert(scores)
        tile_charge = self._disturbed_charge(self._read_values(pulses, value_current), pulses)
        signed = signed_charge_to_pulse(tile_charge, d.output_saturation, d.output_ceiling)
        tile_output = read_out(signed, d.readout, d.counter_levels)
        tile_output = torch.cat([tile_output, *self._first_tokens.read(x, self.now)], 2)
        output = tile_output.sum(2)
        if d.normaliser.present:
            output = normalised(output, d.normaliser)
        self.trace = StepTrace(
            design=d,
            time=self.now,
            column=column,
            valid=self._valid.clone(),
            key=key,
            value=value,
            key_current=key_current,
            value_current=value_current,
            query=x,
            scores=scores,
            pulses=pulses,
            tile_charge=tile_charge,
            tile_output=tile_output,
            output=output,
        )
        if len(column):
            self._pointer = (self._pointer + 1) % d.window
        self.clock.step(self, d.token_period)
        return output

    def idle(self, seconds: Second) -> None:
        """Let time pass without a step; cells leak, and the refresh policy goes on.

        Raises:
            InputError: a negative or infinite time.
        """
        self.clock.idle(self, seconds)

    def oldest_age(self, now: Second) -> Second:
        """Time since the longest unwritten of the columns that hold a token, s; 0 when none does."""
        return max(0.0, now - float(self._write_time[self._valid].min())) if bool(self._valid.any()) else 0.0

    def reset(self) -> None:
        """Forget all tokens: valid bits cleared, pointer at column 0. The clock and the counts go on."""
        self._valid.zero_()
        self._pointer.zero_()
        self._first_tokens.reset()
        self._key.zero_()
        self._value.zero_()

    def refresh(self) -> None:
        """Refresh once, now, by the policy's kind.

        Raises:
            InputError: the policy is "none".
        """
        if self.clock.policy.kind == "none":
            raise InputError("the head has no refresh policy; make it with refresh=Refresh('copy', ...)")
        self.clock.refresh(self)

    def rewrite(self) -> tuple[int, bool]:
        """For the clock: see `Columns`."""
        order = (self._valid.cumsum(1) - 1).clamp(min=0)
        when = order.double() * self.clock.write_slot
        before = (self._key, self._value)
        requested: tuple[Tensor, ...] = (self._key_copy.clone(), self._value_copy.clone())
        if self.clock.policy.kind == "reread":
            requested = tuple(
                self._stored(self._leaked(u, errors, when) + self.design.v_offset)
                for u, errors in zip(before, (self._key_errors, self._value_errors), strict=True)
            )
        draw = torch.full_like(self._written_at, REFRESHES + self.clock.refreshes)
        column = torch.arange(self.design.window, device=draw.device).expand_as(draw)
        rest = self.design.writing.discharge_residual
        rewritten = []
        for array, (u, old, errors) in enumerate(
            zip(requested, before, (self._key_errors, self._value_errors), strict=True)
        ):
            written = write_errors(u, self.design, self.layer, array, draw, column)
            rewritten.append(written + rest * self._leaked(old, errors, when) if rest else written)
        self._key, self._value = rewritten
        self._write_time = torch.where(self._valid, self.now + when, self._write_time)
        self._read_since = self._read_since.masked_fill(self._valid, self.clock.tokens)
        held = self._valid[:, None, :, None]
        changed = any(bool(((new != old) & held).any()) for new, old in zip(rewritten, before, strict=True))
        return int(self._valid.sum(1).max()), changed

    def postpone(self, seconds: Second) -> None:
        """For the clock: see `Columns`."""
        self._write_time = torch.where(self._valid, self._write_time + seconds, self._write_time)

    def _discharge(self, column: Int[Tensor, " B"]) -> None:
        rows = torch.arange(self.batch, device=column.device)
        for store, errors in ((self._key, self._key_errors), (self._value, self._value_errors)):
            left: Tensor | float = 0.0
            if self.design.writing.discharge_residual > 0:
                held = self._valid[rows, column][:, None, None] * self.design.writing.discharge_residual
                left = held * self._leaked(store, errors)[rows, :, column]
            store[rows, :, column] = left

    def _write(
        self, column: Int[Tensor, " B"], k: Float[Tensor, "B Hk D"], v: Float[Tensor, "B Hk D"]
    ) -> None:
        rows = torch.arange(self.batch, device=column.device)
        token = torch.full_like(column, self.clock.tokens)[:, None]
        stores = ((self._key, self._key_copy, k), (self._value, self._value_copy, v))
        for array, (store, copy, u) in enumerate(stores):
            copy[rows, :, column] = u
            written = write_errors(u[:, :, None], self.design, self.layer, array, token, column[:, None])
            store[rows, :, column] += written[:, :, 0]
        self._read_since[rows, column] = self.clock.tokens
        self._write_time[rows, column] = self.now
        self._written_at[rows, column] = self.clock.tokens
        self._valid[rows, column] = True

    def _stored(self, volts: Tensor) -> Tensor:
        """What the write DAC makes of requested voltages, relative to V_offset."""
        d = self.design
        return write_dac(volts, d.dac_levels, d.v_min, d.v_max, d.v_offset)

    def _leaked(
        self, u: Float[Tensor, "B Hk M D"], errors: CellErrors | None, later: Tensor | None = None
    ) -> Float[Tensor, "B Hk M D"]:
        """Voltages now, or `later` seconds from now: see devices.leakage."""
        d = self.design
        reads = (self.clock.tokens - self._read_since).double() * (self.heads // self.kv_heads)
        exponent = (reads * d.disturb_per_read)[:, None, :, None]
        if d.tau is not None:
            age = self.now - self._write_time if later is None else self.now + later - self._write_time
            leaked = (age / d.tau)[:, None, :, None]
            spread = None if errors is None else errors.leakage
            exponent = exponent + (leaked if spread is None else leaked * spread)
        left = torch.exp(-exponent).to(u.dtype)
        return u * left if d.decay_target == 0 else d.decay_target + (u - d.decay_target) * left

    def _drive(self, q: Float[Tensor, "B H D"]) -> Float[Tensor, "B H D"]:
        """Pulse widths that the query drivers make of requested ones."""
        x = query_driver(q, self.design.driver_levels, signed=self.design.drivers.signed)
        line = self._lines.driver
        if line is not None:
            x = driven(x, Line(*(e.repeat_interleave(self.heads // self.kv_heads, 0) for e in line)))
        row = torch.arange(self._rows, device=x.device)
        return jitter(self.design, x, Effect.QUERY_JITTER, self._draws(column=0, row=row))

    def _draws(self, **index: Tensor | int) -> Draws:
        """Random numbers of this step's operations, [B, H, ...]."""
        some = next(e for e in index.values() if isinstance(e, Tensor))
        head = torch.arange(self.heads, device=some.device).view(-1, *[1] * (1 if some.dim() < 2 else 2))
        return Draws(self.design, self.layer, self._key.dtype, head=head, step=self.clock.tokens, **index)

    def _disturbed_scores(
        self, scores: Float[Tensor, "B H M"], x: Float[Tensor, "B H D"]
    ) -> Float[Tensor, "B H M"]:
        """Scores as the converters of the columns see them, with noise."""
        d, saturation = self.design, self.design.score_saturation(self.head_dim)
        if (line := self._lines.score) is not None:
            line = Line(*(e.repeat_interleave(self.heads // self.kv_heads, 0) for e in line))
            scores = converted(scores, line, saturation)
        if not d.noise.present:
            return scores
        draws = self._draws(column=torch.arange(d.window, device=scores.device), row=0)
        return score_noise(d, scores, saturation, x.square().sum(-1, keepdim=True), draws)

    def _disturbed_charge(
        self, charge: Float[Tensor, "B H t D"], pulses: Float[Tensor, "B H M"]
    ) -> Float[Tensor, "B H t D"]:
        """The same of the sub-tiles' charges; those of which no column is open are not read."""
        d = self.design
        if (line := self._lines.output) is not None:
            line = Line(*(e.repeat_interleave(self.heads // self.kv_heads, 0) for e in line))
            charge = converted(charge, line, d.output_saturation)
        read = self._open_columns().unflatten(1, (d.tiles, d.tile)).any(-1)
        if not d.noise.present:
            return torch.where(read[:, None, :, None], charge, 0.0)
        tile = torch.arange(d.tiles, device=charge.device)[:, None]
        draws = self._draws(column=tile, row=torch.arange(self._rows, device=charge.device))
        squares = pulses.unflatten(2, (d.tiles, d.tile)).square().sum(-1)[..., None]
        charge = output_noise(d, charge, d.output_saturation, squares, draws)
        return torch.where(read[:, None, :, None], charge, 0.0)

    def _open_columns(self) -> Bool[Tensor, "B M"]:
        """Columns that take part in a step."""
        if self.sliding_window is None:
            return self._valid
        return self._valid & (self.clock.tokens - self._written_at < self.sliding_window)

    def _read_keys(
        self, x: Float[Tensor, "B H D"], current: Float[Tensor, "B Hk M D"]
    ) -> Float[Tensor, "B H M"]:
        groups = x.view(self.batch, self.kv_heads, -1, self._rows)  # [B, Hk, g, D]
        scores: Tensor = groups @ current.mT
        return scores.flatten(1, 2)

    def _convert(self, scores: Float[Tensor, "B H M"]) -> Float[Tensor, "B H M"]:
        d = self.design
        saturation, exponent = d.score_saturation(self.head_dim), d.charge_to_pulse.exponent
        pulses = charge_to_pulse(scores, saturation, d.score_ceiling, exponent)
        draws = self._draws(column=torch.arange(d.window, device=scores.device), row=0)
        pulses = jitter(d, pulses, Effect.PULSE_JITTER, draws)
        return torch.where(self._open_columns()[:, None], pulses, torch.zeros_like(pulses))

    def _read_values(
        self, pulses: Float[Tensor, "B H M"], current: Float[Tensor, "B Hk M D"]
    ) -> Float[Tensor, "B H t D"]:
        tiles, n = self.design.tiles, self.design.tile
        groups = pulses.view(self.batch, self.kv_heads, -1, tiles, n).transpose(2, 3)  # [B, Hk, t, g, N]
        charge: Tensor = groups @ current.unflatten(2, (tiles, n))  # [B, Hk, t, g, D]
        return charge.transpose(2, 3).flatten(1, 2)

    def _checked(self, name: str, x: Tensor) -> Tensor:
        shape = (self.batch, self.heads if name == "q" else self.kv_heads, self.head_dim)
        if tuple(x.shape) != shape:
            raise InputError(
                f"{name} has shape {tuple(x.shape)}; this head takes {shape}: batch, heads, head_dim"
            )
        if not x.is_floating_point() or not bool(torch.isfinite(x).all()):
            raise InputError(
                f"{name} must hold finite numbers; it has {x.dtype} with NaN, infinity or no fraction"
            )
        converted: Tensor = x.detach().to(self._key)
        return converted


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} = {size}; give 1 or more")
