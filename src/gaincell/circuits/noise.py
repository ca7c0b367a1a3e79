"""Noise of the reads: drawn anew for every operation, from a generator keyed by the operation.

    S -> S + sigma_S z,    sigma_S^2 = (score_std S_sat)^2   + k T C / q^2 + sigma_cell^2 sum_d x_d^2
    O -> O + sigma_O z,    sigma_O^2 = (output_std O_sat)^2  + k T C / q^2 + sigma_cell^2 sum_j A_j^2
    x -> x + jitter z / T_max where there is a pulse, of queries and of scores

    sigma_cell = cell_std F(v_max - v_offset)    of one cell's current in one read, independent from cell to
                                                 cell: their sum is Gaussian with this very variance
    k T C / q^2                                  thermal charge noise of the integrator's capacitor C, in
                                                 charge units of q coulomb
    jitter                                       of a pulse's duration, s

Sources: k T C noise: Nyquist; addition of independent fluctuations [D]. Gradients are straight-through: noise
is a constant to them. `step` of the generator is the index of the query's token, `head` the query head,
`column` the key column or the sub-tile, `row` the output. A pulse never becomes shorter than nothing. A
cell's fluctuation is taken as constant during a pulse, so that its charge goes with the pulse's width.
Not modelled: white noise within a pulse (variance proportional to the width), 1/f correlation from one read
to the next, dependence of a cell's noise on its current.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gaincell.circuits.converter import straight_through
from gaincell.devices.leakage import BOLTZMANN
from gaincell.devices.random import KEY_ARRAY, PER_OPERATION, VALUE_ARRAY, Effect, normal
from gaincell.devices.variability import ChipDesign
from gaincell.quantity import LARGEST_SEED, Range, check_ranges
from gaincell.units import ChargeUnit, Coulomb, Farad, Kelvin, Second


@dataclass(frozen=True)
class Noise:
    """Noise of reads; none by default.

    Example:

        >>> import gaincell
        >>> chip = gaincell.load_design("leroux2025").replace(noise=gaincell.Noise(score_std=0.01))

    Attributes:
        cell_std: Of one cell's current in one read, fraction of the full-scale current F(v_max - v_offset).
        score_std: Of the conversion of scores, fraction of S_sat.
        output_std: Of the conversion of outputs, fraction of O_sat.
        integrator_capacitance: C, F; None: no thermal noise.
        pulse_jitter: Standard deviation of a pulse's width, s.
        seed: Of all of these.
    """

    cell_std: float = field(default=0.0, metadata=PER_OPERATION)
    score_std: float = field(default=0.0, metadata=PER_OPERATION)
    output_std: float = field(default=0.0, metadata=PER_OPERATION)
    integrator_capacitance: Farad | None = field(default=None, metadata=PER_OPERATION)
    pulse_jitter: Second = field(default=0.0, metadata=PER_OPERATION)
    seed: int = 0

    def __post_init__(self) -> None:
        std = Range(0, 10)
        check_ranges(
            "noise", self, cell_std=std, score_std=std, output_std=std, pulse_jitter=std,
            integrator_capacitance=Range(0, 1, above=True, unit="F", optional=True),
            seed=Range(0, LARGEST_SEED, whole=True),
        )  # fmt: skip

    @property
    def present(self) -> bool:
        return self != Noise(seed=self.seed)


@runtime_checkable
class NoisyChip(ChipDesign, Protocol):
    """The part of a design that the cells' errors and noise depend on."""

    @property
    def noise(self) -> Noise: ...
    @property
    def temperature(self) -> Kelvin: ...
    @property
    def charge_unit(self) -> Coulomb: ...
    @property
    def t_pulse_max(self) -> Second: ...


def cell_read_std(design: NoisyChip) -> ChargeUnit:
    """sigma_cell."""
    if design.noise.cell_std == 0:
        return 0.0
    top = torch.tensor(design.v_max - design.v_offset, dtype=torch.float64)
    return design.noise.cell_std * abs(float(design.cell.current(top)))


def converter_std(design: NoisyChip, fraction: float, saturation: ChargeUnit) -> ChargeUnit:
    """What sigma_S and sigma_O have besides the cells' part: `fraction` of the saturation, and k T C."""
    thermal = 0.0
    if design.noise.integrator_capacitance is not None:
        thermal = BOLTZMANN * design.temperature * design.noise.integrator_capacitance / design.charge_unit**2
    return math.sqrt((fraction * saturation) ** 2 + thermal)


def score_noise(
    design: NoisyChip, scores: Tensor, saturation: ChargeUnit, squares: Tensor, draw: Callable[..., Tensor]
) -> Tensor:
    """Scores with noise.

    Args:
        design: The chip.
        scores: S, charge units.
        saturation: S_sat, charge units.
        squares: sum_d x_d^2, broadcast to the scores.
        draw: See `Draws`.
    """
    std = _std(design, design.noise.score_std, saturation, squares)
    return scores if std is None else scores + std * draw(Effect.READ, KEY_ARRAY)


def output_noise(
    design: NoisyChip, charge: Tensor, saturation: ChargeUnit, squares: Tensor, draw: Callable[..., Tensor]
) -> Tensor:
    """Charges of the sub-tiles with noise.

    Args:
        design: The chip.
        charge: O of the sub-tiles, charge units.
        saturation: O_sat, charge units.
        squares: sum_j A_j^2 of each.
        draw: See `Draws`.
    """
    std = _std(design, design.noise.output_std, saturation, squares)
    return charge if std is None else charge + std * draw(Effect.READ, VALUE_ARRAY)


def _std(
    design: NoisyChip, fraction: float, saturation: ChargeUnit, squares: Tensor
) -> Tensor | float | None:
    cell, rest = cell_read_std(design), converter_std(design, fraction, saturation)
    if cell == 0:
        return rest or None
    return (rest**2 + cell**2 * squares.detach()).sqrt()


def jitter(design: NoisyChip, width: Tensor, effect: Effect, draw: Callable[..., Tensor]) -> Tensor:
    """Pulses whose duration is off, of QUERY_JITTER or PULSE_JITTER; no pulse stays none."""
    std = design.noise.pulse_jitter / design.t_pulse_max
    if std == 0:
        return width
    array = KEY_ARRAY if effect == Effect.QUERY_JITTER else VALUE_ARRAY
    exact = width.detach()
    noisy = (exact.abs() + std * draw(effect, array)).clamp(min=0)
    return straight_through(torch.where(exact == 0, exact, torch.where(exact > 0, noisy, -noisy)), width)


class Draws:
    """Standard normal numbers of one layer's operations.

        draw = Draws(design, layer, dtype, head=..., step=..., column=..., row=...)
        z = draw(Effect.READ, KEY_ARRAY)

    Args:
        design: The chip.
        layer: Layer of the chip.
        dtype: Precision of the numbers.
        **index: Integer tensors head, step, column, row that broadcast to the shape of what is disturbed.
    """

    def __init__(self, design: NoisyChip, layer: int, dtype: torch.dtype, **index: Any) -> None:
        self._key = {"seed": design.noise.seed, "chip": design.mismatch.chip, "layer": layer, **index}
        self._dtype = dtype

    def __call__(self, effect: Effect, array: int) -> Tensor:
        return normal(effect=effect, array=array, **self._key).to(self._dtype)
