"""Circuits around the arrays in ngspice: the write path, and a sub-tile with its digital block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from gaincell.results.common import Number, Part, Whole
from gaincell.results.spice import (
    Check,
    Coulombs,
    OperatingPoint,
    Seconds,
    SpiceResult,
    Volts,
)
from gaincell.units import Hertz, Second, Volt

Joules: TypeAlias = Annotated[tuple[float, ...], "J"]
Steps: TypeAlias = Annotated[tuple[float, ...], "steps"]
CodeTable: TypeAlias = Annotated[tuple[tuple[float, ...], ...], "codes"]


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
