"""The arrays token by token: schedule, trace and waveforms of `simulate`, and what `generate` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from gaincell.results.codec import COLUMNS
from gaincell.results.common import Chip, CountedTokens, NamedModel, Number, Part, Result, Whole
from gaincell.units import Coulomb, PerSecond, Second

Seconds: TypeAlias = Annotated[tuple[float, ...], "s"]
Numbers: TypeAlias = Annotated[tuple[float, ...], "1"]
Rows: TypeAlias = Annotated[tuple[tuple[float, ...], ...], "1"]
Amperes: TypeAlias = Annotated[tuple[float, ...], "A"]
Coulombs: TypeAlias = Annotated[tuple[float, ...], "C"]


class SchedulePhase(Part):
    """basis: "computed" or "assumed"."""

    name: str
    duration: Second
    basis: str
    circuits: tuple[str, ...]


class StepSchedule(Part):
    """Of one step. latency: of it.  token_period: of all layers.  utilisation: by circuit."""

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

    unstated_latency: assumed, s.  latency: of a step, s.  tokens_per_second: of one stream, all layers.
    decay_per_token: what is left of a stored voltage after a token period dt, exp(-dt / tau).
    """

    unstated_latency: Second
    latency: Second
    tokens_per_second: PerSecond
    decay_per_token: Number


class TracedStep(Part):
    """A head after a token. oldest_left: of the oldest voltage, by the retention time alone.
    pulses_above_zero, pulses_full: shares of the columns held.
    """

    token: Whole
    time: Second
    columns_held: Whole
    oldest_left: Number
    pulses_above_zero: Number
    pulses_full: Number
    output_rms: Annotated[float, "full scales"]


class HeadResult(Result, kw_only=True):
    """Of `gaincell simulate head`. chip_time: that has passed on the chip."""

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

    time: s, from the beginning of the step.  word_lines: of the key rows, 0 or 1, [D, n].  key_current: of
    the key column's bit line, A.  key_charge: on its integrator, C.  pulses: into the sub-tile's value
    columns, 0 or 1, [N, n].  value_current, value_charge: of the value bit line, A and C.  output: its output
    pulse, 0 or 1.  count: of its counter.  stored_time, stored: voltages of the newest column's cells over
    one window, s and V, [m] and [D, m].  score_saturation, output_saturation: of the charges, C.
    """

    time: Seconds
    word_lines: Rows
    key_current: Amperes
    key_charge: Coulombs
    pulses: Rows
    value_current: Amperes
    value_charge: Coulombs
    output: Numbers
    count: Numbers
    stored_time: Seconds
    stored: Annotated[tuple[tuple[float, ...], ...], "V"]
    score_saturation: Coulomb
    output_saturation: Coulomb


class TileResult(Result, kw_only=True):
    """Of `gaincell simulate tile`."""

    design: Chip
    waveforms: Waveforms


class GenerationResult(Result, kw_only=True):
    """Text written on a ring.

    tokens: of it, without the prompt.  tokens_per_second: of those after the first, which the prompt gives; 0
    where there is no other.  chip_time, refreshes: prompt included.  writes: columns in every key/value head.
    dtype: of weights.
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
