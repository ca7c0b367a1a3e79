"""Softmax attention timed on a machine, of `gaincell baseline`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, TypeAlias

from gaincell.results.codec import REST, Numbers
from gaincell.results.common import Counted, CountedTokens, Part, Result, Value, Whole
from gaincell.results.system_cost import Measured
from gaincell.units import Joule, Second

Seconds: TypeAlias = Annotated[float, "s", "measured"]
Runs: TypeAlias = Annotated[tuple[float, ...], "s", "measured"]
Watts: TypeAlias = Annotated[float, "W", "measured"]
Share: TypeAlias = Annotated[float, "1", "measured"]


class Sizes(Part):
    """Of the attention that was timed."""

    heads: Counted
    kv_heads: Counted
    head_dim: Counted


class Timing(Part):
    """One configuration; its numbers are those of costs.baselines.measurement.Measurement.

    state: clocks and limits of a GPU.
    """

    implementation: str
    dtype: str
    protocol: str
    context: CountedTokens
    batch: Counted
    latency: Seconds
    latency_per_token: Seconds
    runs: Runs
    steps: Counted
    caches: Counted
    cache_bytes: Annotated[int, "byte", "measured"]
    bandwidth: Annotated[float, "byte/s", "measured"]
    error: Share
    meter: str | None
    no_energy: str | None
    processor: Runs = ()
    power_samples: Counted | None = None
    busy: Share | None = None
    processor_per_token: Seconds | None = None
    energy: Annotated[float, "J", "measured"] | None = None
    power: Watts | None = None
    idle_power: Watts | None = None
    state: Annotated[Mapping[str, Value], REST] = field(default_factory=dict)


class Skipped(Part):
    """What was not measured, and why."""

    implementation: str
    dtype: str
    context: CountedTokens
    batch: Counted
    reason: str


class Timed(Part):
    """A machine that `gaincell cost --baseline` compares with. kv_heads: earlier files have none."""

    kind: Numbers
    title: str
    source: str
    heads: Whole
    head_dim: Whole
    context: Annotated[int, "tokens"]
    batch: Whole
    latency: Second
    kv_heads: Whole | None = None
    energy: Joule | None = None

    @property
    def measured(self) -> Measured:
        """As costs compare it."""
        sizes = self.heads, self.kv_heads or self.heads, self.head_dim, self.context
        return Measured(self.title, *sizes, self.latency, self.energy, self.kind, self.source)


class BaselineResult(Result, kw_only=True):
    """machine: the accelerator; None for a CPU."""

    machine: str | None
    sizes: Sizes
    measurements: tuple[Timing, ...]
    skipped: tuple[Skipped, ...]
    machines: tuple[Timed, ...]
