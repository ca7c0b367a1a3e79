"""What a write leaves in a cell besides the DAC's voltage.

    u = (1 + g) u^ + V_inj + sigma z + r u_old,        sigma^2 = error_std^2 + k T / C

    u^     the DAC's voltage, relative to V_offset
    V_inj  charge injection and clock feed-through of the write switch: a constant, and a part g linear
           in the voltage (Sheu and Hu, IEEE J. Solid-State Circuits 19, 519 (1984))
    sigma  random error of the write; the thermal noise of the storage capacitor C is part of it
    r      what an incomplete discharge leaves of the voltage u_old that is in the column when it is
           overwritten, a lap of the ring later; assumed proportional

z is drawn anew for every write: step is the index of the token.
Not modelled: that V_inj and g differ from cell to cell (see mismatch), settling that depends on the level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.devices.leakage import BOLTZMANN
from gaincell.devices.random import PER_OPERATION, Effect, normal
from gaincell.devices.variability import ChipDesign
from gaincell.quantity import LARGEST_SEED, Range, check_ranges
from gaincell.units import Farad, Kelvin, Volt


@dataclass(frozen=True)
class Writing:
    """Errors of writes; none by default.

    Attributes:
        error_std: Random error, V.
        injection_voltage: V_inj, V.
        injection_gain: g.
        discharge_residual: r.
        storage_capacitance: C, F; None: no thermal noise.
        seed: Of the writes' errors.
    """

    error_std: Volt = field(default=0.0, metadata=PER_OPERATION)
    injection_voltage: Volt = 0.0
    injection_gain: float = 0.0
    discharge_residual: float = 0.0
    storage_capacitance: Farad | None = field(default=None, metadata=PER_OPERATION)
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            "writing",
            self,
            error_std=Range(0, 10, unit="V"),
            injection_voltage=Range(-10, 10, unit="V"),
            injection_gain=Range(-10, 10),
            discharge_residual=Range(0, 1, below=True),
            storage_capacitance=Range(0, math.inf, above=True, unit="F", optional=True),
            seed=Range(0, LARGEST_SEED, whole=True),
        )

    @property
    def present(self) -> bool:
        return self != Writing(seed=self.seed)


@runtime_checkable
class WrittenChip(ChipDesign, Protocol):
    """The part of a design that the cells' errors and writes depend on."""

    @property
    def writing(self) -> Writing: ...
    @property
    def temperature(self) -> Kelvin: ...


def write_errors(
    u: Float[Tensor, "B Hk T D"],
    design: WrittenChip,
    layer: int,
    array: int,
    token: Int[Tensor, "B T"],
    column: Int[Tensor, "B T"] | None = None,
) -> Float[Tensor, "B Hk T D"]:
    """(1 + g) u^ + V_inj + sigma z: what writes that begin from a discharged column leave.

    Args:
        u: Voltages that the write DACs give, relative to V_offset.
        design: The chip.
        layer: Layer of the chip.
        array: KEY_ARRAY or VALUE_ARRAY.
        token: Index of every token, below 0 for padding.
        column: Column that it is written into; None: token mod M.
    """
    w = design.writing
    out = u * (1 + w.injection_gain) + w.injection_voltage if w.injection_gain or w.injection_voltage else u
    std = write_std(design)
    if std == 0:
        return out
    column = token % design.window if column is None else column
    if bool((token == token[:1]).all()) and bool((column == column[:1]).all()):
        token, column = token[:1], column[:1]
    token = token.clamp(min=0)
    z = normal(
        seed=w.seed,
        chip=design.mismatch.chip,
        layer=layer,
        head=torch.arange(u.shape[1], device=u.device)[:, None, None],
        array=array,
        column=column[:, None, :, None],
        row=torch.arange(u.shape[3], device=u.device),
        effect=Effect.WRITE,
        step=token[:, None, :, None],
    )
    return out + (std * z).to(u.dtype)


def write_std(design: WrittenChip) -> Volt:
    """sigma, V."""
    w = design.writing
    thermal = 0.0
    if w.storage_capacitance is not None:
        thermal = BOLTZMANN * design.temperature / w.storage_capacitance
    return math.sqrt(w.error_std**2 + thermal)
