"""Circuits in ngspice: a cell, arrays against their model, energies, wires, writes, and the digital block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from gaincell.results.common import Check, Many, Number, Part, Result, Whole
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
    """Where circuits operated.

    Attributes:
        process: A corner, or a section of a kit.
    """

    process: str
    temperature: Celsius
    supply: Volt

    def __str__(self) -> str:
        return f"{self.process}, {self.temperature:g} °C, {self.supply:g} V"


class SpiceResult(Result, kw_only=True):
    """The head of every result of `gaincell spice`.

    Attributes:
        technology: Transistor models.
        ngspice: Its version.
    """

    technology: str
    ngspice: str


class AffineFit(Part):
    """From the model to the simulation, of columns in range. None: too few of them, or no sign to tell."""

    gain: Number | None = None
    offset: Second | None = None
    offset_of_negative: Second | None = None
    rms_in_range: Second | None = None


class ReadEnergy(Part):
    """Of one block, in both phases of a read.

    Attributes:
        lines: How many were simulated.
    """

    read: Joule
    conversion: Joule
    lines: Whole | None = None

    @property
    def total(self) -> Joule:
        """Of both phases."""
        return self.read + self.conversion


class VerifiedArray(Part):
    """Pulse widths of one dot product: simulated, and of models by curve of the cell."""

    spice: Seconds
    model: Mapping[str, Seconds]
    model_from_simulated_pulses: Seconds
    rms: Mapping[str, Second]
    rms_of_full_scale: Mapping[str, Number]
    affine_calibration: AffineFit
    integrators_at_a_rail: Whole
    energy: Mapping[str, ReadEnergy]


class VerifiedCodes(Part):
    """Codes of one read: simulated, and of models with the cell's own curve, its cubic, a line, its static
    current.

    Attributes:
        unlike_ideal_levels: How many differ from those of ideally written levels.
    """

    spice: Codes
    own: Codes
    cubic: Codes
    linear: Codes
    static: Codes
    differ: Whole
    differ_by_more_than_one: Whole
    unlike_ideal_levels: Whole | None = None


class VerifyResult(SpiceResult, kw_only=True, command="spice verify"):
    """Of `gaincell spice verify`.

    Attributes:
        levels: Voltage of every code; earlier files have none.
    """

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

    Attributes:
        cell_read: Of the cells over all cells, whether driven or not.
        blocks: Of the whole array.
        column: Of one line with its share of the drivers.
        array: All blocks.
        head: As many arrays as sub-tiles.
        activity: Mean pulse over the longest, of the array's word lines.
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


class EnergyResult(SpiceResult, kw_only=True, command="spice energy"):
    """Of `gaincell spice energy`."""

    corner: OperatingPoint
    readout: str
    runs: tuple[EnergyRun, ...]
    not_included: str


class BitLine(Part):
    """A line whose cells all conduct.

    Attributes:
        error: Share of the current, below 0 where it is lost.
        drop: Calibrated parameter of devices.wires; nan: none that a design takes.
        first_order_error: Error that G R s_n / ... predicts with the conductance of a cell.
    """

    cells: Whole
    resistance: OhmPerCell
    error: OfLine
    drop: Drop
    first_order_error: OfLine


class WordLine(Part):
    """What a word line of some resistance does: errors of the farthest cell's charge against the nearest
    one's, of a pulse of 1 ns and of the longest.
    """

    cells: Whole
    resistance: OhmPerCell
    capacitance: FaradPerCell
    error: Annotated[float, "of the shortest pulse's charge"]
    long_error: Annotated[float, "of the longest pulse's charge"]


class InOperation(Part):
    """One array with one kind of wire: changes of the charges of some columns, as pulse widths.

    Attributes:
        array: "first" or "second".
        drop: Fitted; nan: the change is noise, or no drop of a design (0 to below 1).
        noise: Of the integration.
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


class WiresResult(SpiceResult, kw_only=True, command="spice wires"):
    """Of `gaincell spice wires`.

    Attributes:
        conductance: Output conductance of a conducting cell at V_max.
        tolerance: Half a counter step.
        full_scale: The longest pulse.
        overload: Charge of 64 cells at V_max for a full pulse, over the saturation of the first converter.
        limits: Resistance at which 64 cells reach the tolerance; 0, infinite: below, above the range.
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
    """One kind of DAC, by code; its errors are from the line through both ends, charges of a full pulse.

    Attributes:
        levels: Ideal.
        stored: After the gate has closed.
        injection: By the closing gate.
        residual: Share left by the discharge.
    """

    levels: Volts
    stored: Volts
    gain: Number
    offset: Volt
    inl: Steps
    dnl: Steps
    injection: Volts
    settling: Seconds
    residual: Many
    energy: Joules
    noise: Volt
    charge: Coulombs
    ideal_charge: Coulombs


class WordLinePulses(Part):
    """Pulses on a word line.

    Attributes:
        error: Of the width.
    """

    width: Seconds
    error: Seconds
    energy: Joules


class WriteResult(SpiceResult, kw_only=True, command="spice write"):
    """Of `gaincell spice write`.

    Attributes:
        cells: On a write line.
        dacs: By kind.
    """

    corner: OperatingPoint
    cells: Whole
    discharge: Second
    write: Second
    dacs: Mapping[str, DacWrites]
    pulses: WordLinePulses


class MixedCodes(Part):
    """Codes [tokens, outputs].

    Attributes:
        differ: From those of HeadArray.
    """

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
    """Waves of a mixed-signal simulation: in the step of one token, of stores over the run."""

    token: Whole
    logic: Nodes
    integrators: Nodes
    stores: Nodes


class MixedResult(SpiceResult, kw_only=True, command="spice mixed"):
    """Of `gaincell spice mixed`.

    Attributes:
        drift: Of a stored voltage until its column is written again.
    """

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
