"""A fit to measured cells, or simulated ones, of `gaincell device fit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from gaincell.results.codec import Kind, Numbers
from gaincell.results.common import Part, Result
from gaincell.units import ChargeUnits, Volts

FittedValue: TypeAlias = int | float | str | tuple[tuple[float, ...], ...]


class Fitted(Part):
    """A number, some numbers or a word of a fit.

    Attributes:
        interval: Of 95 % confidence.
    """

    value: FittedValue
    unit: str
    kind: Kind = "measured"
    interval: tuple[float, ...] | None = None


class CellCurves(Part):
    """Curves of the cells and their fit.

    Attributes:
        nominal: Over u, stored voltage relative to V_offset.
        cells: Over u, stored voltage relative to V_offset.
        measured: Over measured_u.
    """

    numbers: Numbers
    u: Volts
    nominal: ChargeUnits
    measured_u: Volts
    measured: ChargeUnits
    cells: Annotated[tuple[tuple[float, ...], ...], "charge units"]


class Decay(Part):
    """Stored voltage of one cell over time."""

    numbers: Numbers
    time: Annotated[tuple[float, ...], "s"]
    measured: Volts
    fitted: Volts


class DeviceResult(Result, kw_only=True, command="device fit"):
    """A device with the numbers of its fit, by name."""

    title: str
    device: str
    fit: Mapping[str, Fitted]
    curves: CellCurves
    decays: tuple[Decay, ...]
