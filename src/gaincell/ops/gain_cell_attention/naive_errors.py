"""What a real chip adds to the definition (naive.py), where a design says so.

Every cell has a curve and a leakage of its own (variability.py, leakage.py). S and O are disturbed before
they are converted (converter_errors.py, noise.py), and so are the pulses A. A non-ideality of one's own
(nonideality.py) sees every signal. On a nominal chip everything passes as it is.

Dimensions: as in naive.py.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from gaincell.circuits.converter_errors import Line, converted, converter_errors
from gaincell.circuits.noise import Draws, jitter, output_noise, score_noise
from gaincell.circuits.nonideality import apply_nonideality
from gaincell.devices.random import Effect
from gaincell.devices.variability import CellErrors, cell_errors, current_of
from gaincell.ops.gain_cell_attention.call import Call


def errors_of_columns(call: Call) -> tuple[CellErrors | None, ...]:
    """Of the physical cells that hold the tokens of both arrays, [B, Hk, 1, Tk, D]: column j mod M."""
    x, hk, column = call.q, call.kv_heads, call.keys % call.design.window  # padding is never read
    both = (cell_errors(call.design, call.layer, hk, x.shape[-1], n, x.dtype, x.device) for n in (0, 1))
    return tuple(e and e.each(lambda error: error[:, column].transpose(0, 1)[:, :, None]) for e in both)


class Chip:
    """The arrays and circuits of one layer, as some queries meet them."""

    def __init__(
        self, call: Call, cells: tuple[CellErrors | None, ...], query_index: Int[Tensor, "B Q"]
    ) -> None:
        design, hk, g, dim, device = call.design, call.kv_heads, call.reads, call.q.shape[3], call.q.device
        self.design, self._cells = design, cells
        self._lines = converter_errors(design, call.layer, hk, dim, call.q.dtype, device)
        self._disturb = call.reads * design.disturb_per_read
        self.decay_per_token = design.kept_per_token(call.reads)
        self._column = call.keys % design.window
        self._head = torch.arange(hk * g, device=device).view(hk, g, 1, 1)
        self._step = query_index.clamp(min=0)[:, None, None, :, None]
        self._row = torch.arange(dim, device=device)
        kv_head = self._head[:, :1] // g
        self._draws = partial(Draws, design, call.layer, call.q.dtype, head=self._head, step=self._step)
        own = partial(apply_nonideality, design.nonideality, design, call.layer, kv_head=kv_head)
        self._own = partial(own, head=self._head, step=self._step)
        at = self._column[:, None, None, :, None]
        self._own_of_cells = partial(
            own, head=kv_head, step=self._step.transpose(2, 3), column=at, row=self._row
        )

    def query(self, x: Tensor) -> Tensor:
        """Pulse widths that reach the key array."""
        return self._own("query", x, column=0, row=self._row)

    def decayed(self, u: Tensor, left: Tensor) -> Tensor:
        """u_inf + (u - u_inf) left."""
        target = self.design.decay_target
        return u * left if target == 0 else target + (u - target) * left

    def current(self, array: int, u: Tensor, left: Tensor, age: Int[Tensor, "B Q Tk"]) -> Tensor:
        """Of every cell [B, Hk, Q, Tk, D] for a full pulse, if nominal ones have so much left."""
        errors = self._cells[array]
        if errors is not None and errors.leakage is not None:
            rate = self.design.leak_per_token * errors.leakage.double() + self._disturb
            left = torch.exp(-rate * age[:, None, :, :, None]).to(u.dtype)
        u = self._own_of_cells(("key", "value")[array], self.decayed(u, left))
        return current_of(self.design.cell, u, errors)

    def score(self, scores: Tensor, x: Tensor) -> Tensor:
        """Charge S as it is converted."""
        at, saturation = self._column[:, None, None, None], self.design.score_saturation(x.shape[-1])
        scores = self._own("score", scores, column=at, row=0)
        if (line := self._lines.score) is not None:
            own = Line(*(e[:, self._column].transpose(0, 1)[:, :, None, None] for e in line))
            scores = converted(scores, own, saturation)
        squares, draws = x.square().sum(-1, keepdim=True), self._draws(column=at, row=0)
        return score_noise(self.design, scores, saturation, squares, draws)

    def pulse(self, pulses: Tensor) -> Tensor:
        """Pulse widths between the arrays."""
        at = self._column[:, None, None, None]
        pulses = jitter(self.design, pulses, Effect.PULSE_JITTER, self._draws(column=at, row=0))
        return self._own("pulse", pulses, column=at, row=0)

    def output(self, tile: int, charge: Tensor, pulses: Tensor) -> Tensor:
        """Charge O of a sub-tile as it is converted, for pulses A of its columns."""
        saturation = self.design.output_saturation
        charge = self._own("output", charge, column=tile, row=self._row)
        if (line := self._lines.output) is not None:
            charge = converted(charge, Line(*(e[:, None, None, tile] for e in line)), saturation)
        squares, draws = pulses.square().sum(-1, keepdim=True), self._draws(column=tile, row=self._row)
        return output_noise(self.design, charge, saturation, squares, draws)
