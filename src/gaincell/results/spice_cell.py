"""Of `gaincell spice characterise`: the cell as a netlist."""

from __future__ import annotations

from typing import Annotated

from gaincell.results.common import Many, Number, Part, Values
from gaincell.results.simulation import Amperes, Coulombs, Seconds
from gaincell.results.spice import Celsius, SpiceResult, VoltTable
from gaincell.units import Volts


class CellCurve(Part):
    """The curve of a cell.

    Attributes:
        current: DC, over volts.
        charge: Of a full pulse, over levels.
        of_the_design: Of the chip's own cell.
        r_squared_against_it: Share of the variance of `charge` that it explains, unfitted.
    """

    volts: Volts
    current: Amperes
    levels: Volts
    charge: Coulombs
    of_the_design: Values
    r_squared_against_it: Number


class CellMismatch(Part):
    """Cells that differ.

    Attributes:
        charge: Of every cell, over the levels of the curve.
        a_vt: Pelgrom's constant.
    """

    cells: Number
    charge: Annotated[tuple[tuple[float, ...], ...], "C"]
    std_of_full_scale: Many
    a_vt: Annotated[float, "V m"]


class CornerCurve(Part):
    """DC current in one corner."""

    process: str
    temperature: Celsius
    supply: Annotated[float, "of VDD"]
    current: Amperes


class CellCorners(Part):
    """A cell at the corners of the process.

    Attributes:
        volts: Stored, scaled with the supply.
    """

    volts: Annotated[tuple[float, ...], "V at nominal supply"]
    curves: tuple[CornerCurve, ...]


class CellWrite(Part):
    """Of every level of the DAC; infinite: not settled within the write.

    Attributes:
        stored: Over time.
    """

    levels: Volts
    settled_within_9_mV: Seconds
    error_after_switching_off: Volts
    time: Seconds
    stored: VoltTable


class CellRetention(Part):
    """Voltages of several cells over time.

    Attributes:
        with_default_gmin: What the simulator's own conductance does.
    """

    set_by_a_leak: bool
    gate_tunnelling: str
    time: Seconds
    held: VoltTable
    with_default_gmin: VoltTable
    tunnelling_time: Seconds
    with_tunnelling: VoltTable


class CellDisturb(Part):
    """Changes of stored voltages."""

    stored: Volts
    after_8_reads: Volts
    half_selected: Volts


class CharacterisationResult(SpiceResult, kw_only=True, command="spice characterise"):
    """Of `gaincell spice characterise`."""

    curve: CellCurve
    mismatch: CellMismatch
    corners: CellCorners
    write: CellWrite
    retention: CellRetention
    disturb: CellDisturb
