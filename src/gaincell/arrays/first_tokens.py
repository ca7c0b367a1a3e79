"""The sub-tile of the first tokens of a sequence, token by token: see circuits/sinks.py."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.chips.design import Design
from gaincell.circuits import charge_to_pulse, quantize_output, signed_charge_to_pulse
from gaincell.units import Second


class FirstTokens:
    """One sub-tile per head, if the design has any.

    Args:
        design: The chip.
        like: Gives shape, precision and device.
        head_dim: D, for S_sat.
    """

    def __init__(self, design: Design, like: Float[Tensor, "B Hk n rows"], head_dim: int) -> None:
        self._design, self._head_dim = design, head_dim
        self._key, self._value = torch.zeros_like(like), torch.zeros_like(like)
        self._written: list[Second] = []
        """When each column was last written."""
        self._tokens = 0
        """Of the sequence so far."""

    def reset(self) -> None:
        """Begin another sequence."""
        self._written, self._tokens = [], 0

    def take(self, ku: Float[Tensor, "B Hk rows"], vu: Float[Tensor, "B Hk rows"], now: Second) -> bool:
        """Count a token, rewrite what is due, and write the token here if it is one of the first."""
        if self._tokens % self._design.sinks.rewrite_tokens == 0:
            self._written = [now] * len(self._written)
        column, self._tokens = self._tokens, self._tokens + 1
        if column >= self._design.sinks.tokens:
            return False
        self._key[:, :, column], self._value[:, :, column] = ku, vu
        self._written.append(now)
        return True

    def read(self, x: Float[Tensor, "B H rows"], now: Second) -> list[Float[Tensor, "B H 1 rows"]]:
        """The digitised output of the sub-tile, or nothing where the design has none."""
        d, held = self._design, len(self._written)
        if not held:
            return []
        age = now - torch.tensor(self._written, dtype=torch.float64, device=x.device)
        left = torch.exp(-age / d.tau) if d.tau else torch.ones_like(age)
        key, value = (
            d.cell.current(u[:, :, :held] * left.to(u.dtype)[:, None]) for u in (self._key, self._value)
        )
        grouped = x.unflatten(1, (key.shape[1], -1))  # [B, Hk, g, rows]
        saturation, exponent = d.score_saturation(self._head_dim), d.charge_to_pulse.exponent
        pulses = charge_to_pulse(grouped @ key.mT, saturation, d.score_ceiling, exponent)
        charge = (pulses @ value).flatten(1, 2)[:, :, None]
        signed = signed_charge_to_pulse(charge, d.output_saturation, d.output_ceiling)
        return [quantize_output(signed, d.readout, d.counter_levels)]
