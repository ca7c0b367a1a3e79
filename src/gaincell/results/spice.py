"""Circuits in ngspice: a cell, arrays against their model, energies, wires, writes, and the digital block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from gaincell.results.common import Check, Number, Part, Result, Whole
from gaincell.results.simulation import Coulombs, Seconds
from gaincell.units import Hertz, Joule, Second, Volt, Volts

VoltTable: TypeAlias = Annotated[tuple[tuple[float, ...], ...], "V"]
Joules: TypeAlias = Annotated[tuple[float, ...], "J"]
Codes: TypeAlias = Annotated[tuple[float, ...], "codes"]
CodeTable: TypeAlias = Annotated[tuple[tuple[float, ...], ...], "codes"]
Steps: TypeAlias = Annotated[tuple[float, ...], "steps"]
Celsius: TypeAlias = Annotated[float, "C"]
OhmPerCell: TypeAlias = Annotated[float, "Ohm per cell"]
FaradPerCell: TypeAlias = Annotated[float, "F per cell"]
Drop: TypeAlias = Annotated[float, "of the farthest cell's current"]
OfLine: TypeAlias = Annotated[float, "of the line's current"]


class OperatingPoint(Part):
    """Where circuits operated. process: a corner, or a section of a kit."""

    process: str
    temperature: Celsius
    supply: Volt

    def __str__(self) -> str:
        return f"{self.process}, {self.temperature:g} °C, {self.supply:g} V"


class SpiceResult(Result, kw_only=True):
    """technology: transistor models.  ngspice: its version."""

    technology: str
    ngspice: str


class AffineFit(Part):
    """From the model to the simulation, of columns in range. None: too few of them, or no sign to tell."""

    gain: Number | None = None
    offset: Second | None = None
    offset_of_negative: Second | None = None
    rms_in_range: Second | None = None


class ReadEnergy(Part):
    """Of one block, in both phases of a read. lines: that were simulated."""

    read: Joule
    conversion: Joule
    lines: Whole | None = None

    @property
    def total(self) -> Joule:
        """Of both phases."""
        return self.read + self.conversion


class VerifiedArray(Part):
    """Pulse widths of one dot product. model, rms, rms_of_full_scale: by curve of the cell."""

    spice: Seconds
    model: Mapping[str, Seconds]
    model_from_simulated_pulses: Seconds
    rms: Mapping[str, Second]
    rms_of_full_scale: Mapping[str, Number]
    affine_calibration: AffineFit
    integrators_at_a_rail: Whole
    energy: Mapping[str, ReadEnergy]


class VerifiedCodes(Part):
    """spice: simulated; of the models with the cell's own curve, its cubic, a line, its static current.

    unlike_ideal_levels: how many differ from those of ideally written levels.
    """

    spice: Codes
    own: Codes
    cubic: Codes
    linear: Codes
    static: Codes
    differ: Whole
    differ_by_more_than_one: Whole
    unlike_ideal_levels: Whole | None = None


class VerifyResult(SpiceResult, kw_only=True):
    """Of `gaincell spice verify`. levels: voltage of every code; earlier files have none."""

    corner: OperatingPoint
    readout: str
    inputs: str
    input_statistics: Mapping[str, Number]
    columns: Whole
    full_scale: Second
    first: VerifiedArray
    second: VerifiedArray
    codes: VerifiedCodes
    levels: Volts = ()
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def arrays(self) -> Mapping[str, VerifiedArray]:
        """By dot product."""
        return {"first": self.first, "second": self.second}


class ArrayEnergy(Part):
    """One dot product on one tile.

    cell_read: of the cells over all cells, whether driven or not.  blocks: of the whole array.
    column: of one line with its share of the drivers.  array: all blocks.  head: as many arrays as sub-tiles.
    activity: mean pulse over the longest, of the array's word lines.
    """

    cell_read: Joule
    blocks: Mapping[str, ReadEnergy]
    column: Joule
    array: Joule
    head: Joule
    activity: Number


class EnergyRun(Part):
    """One set of inputs."""

    inputs: str
    input_statistics: Mapping[str, Number]
    simulated_lines: Whole
    first: ArrayEnergy
    second: ArrayEnergy

    @property
    def arrays(self) -> Mapping[str, ArrayEnergy]:
        """By dot product."""
        return {"first": self.first, "second": self.second}


class EnergyResult(SpiceResult, kw_only=True):
    """Of `gaincell spice energy`."""

    corner: OperatingPoint
    readout: str
    runs: tuple[EnergyRun, ...]
    not_included: str


class BitLine(Part):
    """A line whose cells all conduct.

    error: share of the current, below 0 where it is lost.  drop: calibrated parameter of devices.wires; nan:
    none that a design takes.  first_order_error: that G R s_n / ... predicts with the conductance of a cell.
    """

    cells: Whole
    resistance: OhmPerCell
    error: OfLine
    drop: Drop
    first_order_error: OfLine


class WordLine(Part):
    """error, long_error: of the farthest cell's charge against the nearest one's, 1 ns and longest pulse."""

    cells: Whole
    resistance: OhmPerCell
    capacitance: FaradPerCell
    error: Annotated[float, "of the shortest pulse's charge"]
    long_error: Annotated[float, "of the longest pulse's charge"]


class InOperation(Part):
    """One array with one kind of wire.

    array: "first" or "second".  rms, largest: change of the charges as pulse widths.  drop: fitted; nan: the
    change is noise, or no drop of a design (0 to below 1).  noise: of the integration.  columns: compared.
    """

    array: str
    resistance: OhmPerCell
    capacitance: FaradPerCell
    rms: Second
    largest: Second
    drop: Drop
    rms_after_first_order_model: Second
    noise: Second
    columns: Whole


class WiresResult(SpiceResult, kw_only=True):
    """Of `gaincell spice wires`.

    conductance: output conductance of a conducting cell at V_max.  tolerance: half a counter step.
    full_scale: the longest pulse.
    overload: charge of 64 cells at V_max for a full pulse, over the saturation of the first converter.
    limits: resistance at which 64 cells reach the tolerance; 0, infinite: below, above the range.
    """

    corner: OperatingPoint
    bit_line: tuple[BitLine, ...]
    word_line: tuple[WordLine, ...]
    in_operation: tuple[InOperation, ...]
    conductance: Annotated[float, "S"]
    tolerance: Number
    full_scale: Second
    overload: Annotated[float, "of the converter's saturation"]
    limits: Mapping[str, OhmPerCell]


class DacWrites(Part):
    """One kind of DAC, by code.

    levels: ideal.  stored: after the gate has closed.  gain, offset: of the line through both ends.
    inl, dnl: from that line.  injection: by the closing gate.  residual: share left by the discharge.
    charge, ideal_charge: of a full pulse.
    """

    levels: Volts
    stored: Volts
    gain: Number
    offset: Volt
    inl: Steps
    dnl: Steps
    injection: Volts
    settling: Seconds
    residual: Annotated[tuple[float, ...], "1"]
    energy: Joules
    noise: Volt
    charge: Coulombs
    ideal_charge: Coulombs


class WordLinePulses(Part):
    """error: of the width."""

    width: Seconds
    error: Seconds
    energy: Joules


class WriteResult(SpiceResult, kw_only=True):
    """Of `gaincell spice write`. cells: on a write line.  dacs: by kind."""

    corner: OperatingPoint
    cells: Whole
    discharge: Second
    write: Second
    dacs: Mapping[str, DacWrites]
    pulses: WordLinePulses


class MixedCodes(Part):
    """[tokens, outputs]; differ: from those of HeadArray."""

    spice: CodeTable
    head_array: CodeTable
    ideal_writes: CodeTable
    differ: Whole
    unlike_ideal_writes: Whole


class VoltageErrors(Part):
    """Over all cells."""

    rms: Volt
    largest: Volt


class Nodes(Part):
    """Voltages of circuit nodes, by name, over time."""

    time: Seconds
    nodes: Mapping[str, Volts]


class MixedWaves(Part):
    """logic, integrators: in the step of one token.  stores: over the run."""

    token: Whole
    logic: Nodes
    integrators: Nodes
    stores: Nodes


class MixedResult(SpiceResult, kw_only=True):
    """Of `gaincell spice mixed`. drift: of a stored voltage until its column is written again."""

    corner: OperatingPoint
    chip: str
    columns: Whole
    rows: Whole
    tokens: Whole
    step_periods: Whole
    clock: Hertz
    codes: MixedCodes
    write_error: VoltageErrors
    drift: VoltageErrors
    checks: tuple[Check, ...]
    waves: MixedWaves
    warnings: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)
