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
from gaincell.circuits import quantize_output, query_driver, write_dac
from gaincell.circuits.charge_to_pulse import charge_to_pulse, signed_charge_to_pulse
from gaincell.circuits.converter_errors import Line, converted, converter_errors, driven
from gaincell.circuits.noise import Draws, jitter, output_noise, score_noise
from gaincell.circuits.normaliser import normalised
from gaincell.devices.random import Effect
from gaincell.devices.variability import KEY_ARRAY, VALUE_ARRAY, cell_errors, current_of
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
        design: The chip; its `token_period` is the time from step to step.
        head_dim: D.
        heads: H.
        kv_heads: Hk; None: as many. One write serves H / Hk reads.
        batch: Sequences B, each in arrays of its own on a chip alike.
        layer: Layer whose mismatch is drawn.
        sliding_window: The model's own window W: columns written W steps ago or more are gated.
        refresh: Policy, applied after steps and during idle time.
        write_slot: Duration of one column's discharge and write, s; a refresh takes one for every column.
        dtype: float64 or float32.

    Raises:
        InputError: sizes or precisions that do not fit; no Design, or one that does what is not implemented.

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
        if not isinstance(design, Design):
            raise InputError(f"design is {design!r}; give a Design, as load_design gives one by its name")
        kv_heads = heads if kv_heads is None else kv_heads
        sizes = {"head_dim": head_dim, "heads": heads, "kv_heads": kv_heads, "batch": batch}
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                raise InputError(f"{name} = {size!r}; give a whole number of 1 or more")
        if type(layer) is not int or layer < 0:
            raise InputError(f"layer = {layer!r}; give the number of the layer, counted from 0")
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
        self.layer, self._group, self._rows = layer, heads // kv_heads, head_dim + design.normaliser.present
        of_layer = (design, layer, kv_heads, self._rows)
        self._driver, self._score, self._output = (
            None if line is None else Line(*(e.repeat_interleave(self._group, 0) for e in line))
            for line in converter_errors(*of_layer, dtype, device)
        )
        self._errors = [cell_errors(*of_layer, array, dtype, device) for array in (KEY_ARRAY, VALUE_ARRAY)]
        cells, columns = (batch, kv_heads, design.window, self._rows), (batch, design.window)
        self._cells = [torch.zeros(cells, dtype=dtype, device=device) for _ in range(2)]
        """Voltages of keys and values when last written, about V_offset."""
        self._copies = [u.clone() for u in self._cells]
        self._write_time = torch.zeros(columns, dtype=torch.float64, device=device)
        self._written_at = torch.zeros(columns, dtype=torch.int64, device=device)
        self._read_since = torch.zeros(columns, dtype=torch.int64, device=device)
        self._valid = torch.zeros(columns, dtype=torch.bool, device=device)
        self._pointer = torch.zeros(batch, dtype=torch.int64, device=device)
        self._first_tokens = FirstTokens(design, self._cells[0][:, :, : design.sinks.tokens], head_dim)

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
        return HeadState(self._cells[0], self._cells[1], *columns)

    @torch.no_grad()
    def step(
        self, q: Float[Tensor, "B H D"], k: Float[Tensor, "B Hk D"], v: Float[Tensor, "B Hk D"]
    ) -> Float[Tensor, "B H D"]:
        """Write one token and attend with its query; `trace` then holds every intermediate.

        Args:
            q: Requested pulse widths, 0 to 1.
            k: Requested voltages of the key, volts.
            v: Requested voltages of the value, volts.

        Returns:
            The digital sum over the sub-tiles, in units of one sub-tile's full scale; divided, where there is
            a normalising column.

        Raises:
            InputError: a wrong shape or a value that is not a finite number; nothing is written then.
        """
        q, k, v = (self._checked(name, x) for name, x in (("q", q), ("k", k), ("v", v)))
        d = self.design
        if d.normaliser.present:
            q, k, v = pad(q, (0, 1)), pad(k, (0, 1), value=d.v_offset), pad(v, (0, 1), value=d.v_max)
        column, written = self._pointer.clone(), (self._converted(k), self._converted(v))
        if self._first_tokens.take(*written, self.now):
            column = column[:0]
        else:
            self._discharge(column)
            self._write(column, written)
        x = self._drive(q)
        key, value = self._leaked(0), self._leaked(1)
        key_current = current_of(d.cell, key, self._errors[0])
        value_current = current_of(d.cell, value, self._errors[1])
        scores = self._read_keys(x, key_current)
        pulses = self._convert(scores)
        tile_charge = self._read_values(pulses, value_current)
        signed = signed_charge_to_pulse(tile_charge, d.output_saturation, d.output_ceiling)
        tile_output = quantize_output(signed, d.readout, d.counter_levels)
        tile_output = torch.cat([tile_output, *self._first_tokens.read(x, self.now)], 2)
        output = tile_output.sum(2)
        if d.normaliser.present:
            output = normalised(output, d.normaliser)
        held = (column, self._valid.clone(), key, value, key_current, value_current)
        self.trace = StepTrace(d, self.now, *held, x, scores, pulses, tile_charge, tile_output, output)
        if len(column):
            self._pointer = (self._pointer + 1) % d.window
        self.clock.step(self, d.token_period)
        return output

    def idle(self, seconds: Second) -> None:
        """Let time pass without a step; cells leak, refreshes go on. Raises as `Clock.idle`."""
        self.clock.idle(self, seconds)

    def oldest_age(self, now: Second) -> Second:
        """Time since the longest unwritten of the columns that hold a token, s; 0 when none does."""
        return max(0.0, now - float(self._write_time[self._valid].min())) if bool(self._valid.any()) else 0.0

    def reset(self) -> None:
        """Forget all tokens: valid bits cleared, pointer at column 0. The clock and the counts go on."""
        for state in (self._valid, self._pointer, *self._cells):
            state.zero_()
        self._first_tokens.reset()

    def refresh(self) -> None:
        """Refresh once, now, by the policy's kind.

        Raises:
            InputError: the kind is "none".
        """
        if self.clock.policy.kind == "none":
            raise InputError("the head has no refresh policy; make it with refresh=Refresh('copy', ...)")
        self.clock.refresh(self)

    def rewrite(self) -> tuple[int, bool]:
        """For the clock: see `Columns`."""
        order = (self._valid.cumsum(1) - 1).clamp(min=0)
        when = order.double() * self.clock.write_slot
        requested = [copy.clone() for copy in self._copies]
        if self.clock.policy.kind == "reread":
            requested = [self._converted(self._leaked(n, when) + self.design.v_offset) for n in (0, 1)]
        draw = torch.full_like(self._written_at, REFRESHES + self.clock.refreshes)
        column = torch.arange(self.design.window, device=draw.device).expand_as(draw)
        rest = self.design.writing.discharge_residual
        rewritten = []
        for array, u in enumerate(requested):
            written = write_errors(u, self.design, self.layer, array, draw, column)
            rewritten.append(written + rest * self._leaked(array, when) if rest else written)
        held = self._valid[:, None, :, None]
        changed = any(
            bool(((new != old) & held).any()) for new, old in zip(rewritten, self._cells, strict=True)
        )
        self._cells = rewritten
        self._write_time = torch.where(self._valid, self.now + when, self._write_time)
        self._read_since = self._read_since.masked_fill(self._valid, self.clock.tokens)
        return int(self._valid.sum(1).max()), changed

    def postpone(self, seconds: Second) -> None:
        """For the clock: see `Columns`."""
        self._write_time = torch.where(self._valid, self._write_time + seconds, self._write_time)

    def _discharge(self, column: Int[Tensor, " B"]) -> None:
        rows = torch.arange(self.batch, device=column.device)
        for array, cells in enumerate(self._cells):
            left: Tensor | float = 0.0
            if self.design.writing.discharge_residual > 0:
                held = self._valid[rows, column][:, None, None] * self.design.writing.discharge_residual
                left = held * self._leaked(array)[rows, :, column]
            cells[rows, :, column] = left

    def _write(self, column: Int[Tensor, " B"], volts: tuple[Tensor, Tensor]) -> None:
        rows = torch.arange(self.batch, device=column.device)
        token = torch.full_like(column, self.clock.tokens)[:, None]
        for array, u in enumerate(volts):
            self._copies[array][rows, :, column] = u
            written = write_errors(u[:, :, None], self.design, self.layer, array, token, column[:, None])
            self._cells[array][rows, :, column] += written[:, :, 0]
        self._read_since[rows, column] = self.clock.tokens
        self._write_time[rows, column] = self.now
        self._written_at[rows, column] = self.clock.tokens
        self._valid[rows, column] = True

    def _converted(self, volts: Tensor) -> Tensor:
        """What the write DAC makes of requested voltages, relative to V_offset."""
        d = self.design
        return write_dac(volts, d.dac_levels, d.v_min, d.v_max, d.v_offset).to(self._cells[0].dtype)

    def _leaked(self, array: int, later: Tensor | None = None) -> Float[Tensor, "B Hk M D"]:
        """Voltages now, or `later` seconds from now: see devices.leakage."""
        d, u, errors = self.design, self._cells[array], self._errors[array]
        reads = (self.clock.tokens - self._read_since).double() * self._group
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
        x = x.to(self._cells[0].dtype)
        row = torch.arange(self._rows, device=x.device)
        return jitter(
            self.design, driven(x, self._driver), Effect.QUERY_JITTER, self._draws(column=0, row=row)
        )

    def _draws(self, **index: Tensor | int) -> Draws:
        """Random numbers of this step's operations, [B, H, ...]."""
        some = next(e for e in index.values() if isinstance(e, Tensor))
        head = torch.arange(self.heads, device=some.device).view(-1, *[1] * (1 if some.dim() < 2 else 2))
        return Draws(
            self.design, self.layer, self._cells[0].dtype, head=head, step=self.clock.tokens, **index
        )

    def _open_columns(self) -> Bool[Tensor, "B M"]:
        """Columns that take part in a step."""
        if self.sliding_window is None:
            return self._valid
        return self._valid & (self.clock.tokens - self._written_at < self.sliding_window)

    def _read_keys(
        self, x: Float[Tensor, "B H D"], current: Float[Tensor, "B Hk M D"]
    ) -> Float[Tensor, "B H M"]:
        """Charge of every column as its converter sees it, with noise."""
        d, saturation = self.design, self.design.score_saturation(self.head_dim)
        groups = x.view(self.batch, self.kv_heads, -1, self._rows)  # [B, Hk, g, D]
        scores = converted((groups @ current.mT).flatten(1, 2), self._score, saturation)
        draws = self._draws(column=torch.arange(d.window, device=x.device), row=0)
        return score_noise(d, scores, saturation, x.square().sum(-1, keepdim=True), draws)

    def _convert(self, scores: Float[Tensor, "B H M"]) -> Float[Tensor, "B H M"]:
        d = self.design
        saturation, exponent = d.score_saturation(self.head_dim), d.charge_to_pulse.exponent
        pulses = charge_to_pulse(scores, saturation, d.score_ceiling, exponent)
        draws = self._draws(column=torch.arange(d.window, device=scores.device), row=0)
        pulses = jitter(d, pulses, Effect.PULSE_JITTER, draws)
        return torch.where(self._open_columns()[:, None], pulses, 0.0)

    def _read_values(
        self, pulses: Float[Tensor, "B H M"], current: Float[Tensor, "B Hk M D"]
    ) -> Float[Tensor, "B H t D"]:
        """Charge of every sub-tile as its converters see it, with noise; 0 where no column is open."""
        d, tiles, n = self.design, self.design.tiles, self.design.tile
        groups = pulses.view(self.batch, self.kv_heads, -1, tiles, n).transpose(2, 3)  # [B, Hk, t, g, N]
        charge = (groups @ current.unflatten(2, (tiles, n))).transpose(2, 3).flatten(1, 2)
        charge = converted(charge, self._output, d.output_saturation)
        tile, row = (torch.arange(count, device=pulses.device) for count in (tiles, self._rows))
        squares = pulses.unflatten(2, (tiles, n)).square().sum(-1)[..., None]
        draws = self._draws(column=tile[:, None], row=row)
        charge = output_noise(d, charge, d.output_saturation, squares, draws)
        read = self._open_columns().unflatten(1, (tiles, n)).any(-1)
        return torch.where(read[:, None, :, None], charge, 0.0)

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
        return x.detach().to(
            self._cells[0].device
        )  # in its own type: converters round what they are asked for
