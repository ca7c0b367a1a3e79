"""The arrays token by token: schedule, trace and waveforms of `simulate`, and what `generate` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from gaincell.results.codec import COLUMNS
from gaincell.results.common import Chip, CountedTokens, Many, NamedModel, Number, Part, Result, Whole
from gaincell.units import Coulomb, PerSecond, Second

Seconds: TypeAlias = Annotated[tuple[float, ...], "s"]
Rows: TypeAlias = Annotated[tuple[tuple[float, ...], ...], "1"]
Amperes: TypeAlias = Annotated[tuple[float, ...], "A"]
Coulombs: TypeAlias = Annotated[tuple[float, ...], "C"]


class SchedulePhase(Part):
    """One phase of a step.

    Attributes:
        basis: "computed" or "assumed".
    """

    name: str
    duration: Second
    basis: str
    circuits: tuple[str, ...]


class StepSchedule(Part):
    """Of one step.

    Attributes:
        latency: Of the step.
        token_period: Of all layers.
        utilisation: By circuit.
    """

    phases: tuple[SchedulePhase, ...]
    latency: Second
    token_period: Second
    utilisation: Mapping[str, Number]


class ScheduleEvent(Part):
    """A phase of one query head of one token."""

    phase: str
    token: Whole
    query: Whole
    start: Second
    duration: Second
    basis: str
    circuits: tuple[str, ...]


class Timeline(Part):
    """Of the first tokens."""

    events: tuple[ScheduleEvent, ...]
    token_ends: Seconds


class LatencySensitivity(Part):
    """A step with another assumed latency of the phases whose durations are stated nowhere.

    Attributes:
        unstated_latency: Assumed, s.
        latency: Of a step, s.
        tokens_per_second: Of one stream, all layers.
        decay_per_token: What is left of a stored voltage after a token period dt, exp(-dt / tau).
    """

    unstated_latency: Second
    latency: Second
    tokens_per_second: PerSecond
    decay_per_token: Number


class TracedStep(Part):
    """A head after a token; pulses are shares of the columns held.

    Attributes:
        oldest_left: Of the oldest voltage, by the retention time alone.
    """

    token: Whole
    time: Second
    columns_held: Whole
    oldest_left: Number
    pulses_above_zero: Number
    pulses_full: Number
    output_rms: Annotated[float, "full scales"]


class HeadResult(Result, kw_only=True, command="simulate head"):
    """Of `gaincell simulate head`.

    Attributes:
        chip_time: Time that has passed on the chip.
    """

    design: Chip
    schedule: StepSchedule
    timeline: Timeline
    sensitivity: tuple[LatencySensitivity, ...]
    trace: Annotated[tuple[TracedStep, ...], COLUMNS]
    refreshes: Whole
    writes: Annotated[int, "columns"]
    chip_time: Second


class Waveforms(Part):
    """One query head of one sequence, one sub-tile, one of its key columns and one of its value bit lines.

    Attributes:
        time: From the beginning of the step.
        word_lines: Of the key rows, 0 or 1, [D, n].
        key_current: Of the key column's bit line, whose charge is on its integrator.
        pulses: Into the sub-tile's value columns, 0 or 1, [N, n].
        output: Pulse of the value bit line, 0 or 1, with its count.
        stored: Voltages of the newest column's cells over one window, [D, m].
    """

    time: Seconds
    word_lines: Rows
    key_current: Amperes
    key_charge: Coulombs
    pulses: Rows
    value_current: Amperes
    value_charge: Coulombs
    output: Many
    count: Many
    stored_time: Seconds
    stored: Annotated[tuple[tuple[float, ...], ...], "V"]
    score_saturation: Coulomb
    output_saturation: Coulomb


class TileResult(Result, kw_only=True, command="simulate tile"):
    """Of `gaincell simulate tile`."""

    design: Chip
    waveforms: Waveforms


class GenerationResult(Result, kw_only=True, command="generate"):
    """Text written on a ring.

    Attributes:
        tokens: How many were written, without the prompt.
        tokens_per_second: Of those after the first, which the prompt gives; 0 where there is no other.
        chip_time: Prompt included.
        refreshes: Prompt included.
        writes: Columns in every key/value head.
        dtype: Type of the weights.
    """

    model: NamedModel
    gains: str
    design: Chip
    text: str
    tokens: CountedTokens
    tokens_per_second: Annotated[float, "tokens/s", "measured"]
    ring_memory: Annotated[int, "bytes", "measured"]
    chip_time: Second
    refreshes: Whole
    refreshing: Second
    writes: Annotated[int, "columns"]
    dtype: str | None = None
