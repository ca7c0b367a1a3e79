"""Converter errors and noise for the blocked computation: what `naive.py` says, on panels of a block.

Dimensions: G key/value heads processed together, g query heads of each, R query tokens of a block, c columns
of the panel, s sub-tiles that it reaches, D head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaincell.chips.design_file import Design
from gaincell.circuits.converter_errors import converter_errors
from gaincell.circuits.noise import Draws, cell_read_std, converter_std
from gaincell.devices.random import KEY_ARRAY, VALUE_ARRAY, Effect


class Disturbance:
    """Of one layer, for g = `group` query heads per key/value head.

    Scores are in units of S_sat, outputs in readout steps.
    """

    def __init__(self, design: Design, layer: int, kv_heads: int, group: int, like: Tensor) -> None:
        dim = like.shape[-1]
        self.design, self.layer, self.group = design, layer, group
        lines = converter_errors(design, layer, kv_heads, dim, like.dtype, like.device)
        self.score, self.output = lines.score, lines.output
        score_saturation, output_saturation = design.score_saturation(dim), design.output_saturation
        steps, noise = design.readout_steps, design.noise
        self.score_std = converter_std(design, noise.score_std, score_saturation) / score_saturation
        self.output_std = (
            converter_std(design, noise.output_std, output_saturation) * steps / output_saturation
        )
        cell = cell_read_std(design)
        self.score_of_cell, self.output_of_cell = cell / score_saturation, cell * steps / output_saturation
        self.jitter_std = noise.pulse_jitter / design.t_pulse_max

    @property
    def lines(self) -> tuple[Tensor, ...]:
        """Gains and offsets of the conversions, of scores and then of outputs; none if they are perfect."""
        if self.score is None or self.output is None:
            return ()
        return (*self.score, self.output.gain, self.output.offset * self.design.readout_steps)

    def scores(self, a: Tensor, x: Tensor, heads: Tensor, queries: Tensor, tokens: Tensor) -> None:
        """Disturb, in place, scores `a` [G, gR, c] of queries x [G, g, R, D] and columns of `tokens` [c]."""
        if self.score is not None:
            gain, offset = (e[heads[:, None], tokens % self.design.window][:, None] for e in self.score)
            a.mul_(gain).add_(offset)
        squares = x.square().sum(-1).view(len(x), -1, 1)
        std = _std(self.score_std, self.score_of_cell, squares)
        if std is not None:
            a.add_(self._columns(Effect.READ, KEY_ARRAY, a, heads, queries, tokens).mul_(std))

    def pulses(self, a: Tensor, heads: Tensor, queries: Tensor, tokens: Tensor) -> Tensor:
        if self.jitter_std == 0:
            return a
        z = self._columns(Effect.PULSE_JITTER, VALUE_ARRAY, a, heads, queries, tokens)
        return z.mul_(self.jitter_std).add_(a).clamp_(min=0).mul_(a > 0)

    def outputs(self, o: Tensor, squares: Tensor, heads: Tensor, queries: Tensor, tiles: Tensor) -> None:
        """Disturb, in place, outputs `o` [G, s, gR, D] of `tiles` [s]; squares [G, s, gR, 1]: sum A^2."""
        if self.output is not None:
            gain, offset = (e[heads[:, None], tiles][:, :, None] for e in self.output)
            o.mul_(gain).add_(offset, alpha=self.design.readout_steps)
        std = _std(self.output_std, self.output_of_cell, squares)
        if std is not None:
            column, row = tiles[:, None, None, None], torch.arange(o.shape[3], device=o.device)
            draws = self._draws(o, heads[:, None], queries, column=column, row=row)
            o.add_(draws(Effect.READ, VALUE_ARRAY).flatten(2, 3).mul_(std))

    def _columns(
        self, effect: Effect, array: int, like: Tensor, heads: Tensor, queries: Tensor, tokens: Tensor
    ) -> Tensor:
        draws = self._draws(like, heads, queries, column=tokens % self.design.window, row=0)
        return draws(effect, array).flatten(1, 2)

    def _draws(self, like: Tensor, heads: Tensor, queries: Tensor, **index: Tensor | int) -> Draws:
        """For the query heads [..., g, 1, 1] of key/value heads [...]."""
        head = heads[..., None] * self.group + torch.arange(self.group, device=heads.device)
        head = head[..., None, None]
        return Draws(self.design, self.layer, like.dtype, head=head, step=queries[:, None], **index)


def _std(rest: float, of_cell: float, squares: Tensor) -> Tensor | float | None:
    if of_cell == 0:
        return rest or None
    return (squares * of_cell**2).add_(rest**2).sqrt_()
