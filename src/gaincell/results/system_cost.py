"""What stands beside the arrays: other machines, cited or timed by `gaincell baseline`, a whole model, the
cache on a GPU, other memories.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, TypeAlias

from gaincell.errors import InputError
from gaincell.results.codec import REST, Cited, Numbers
from gaincell.results.common import Counted, CountedTokens, Number, Part, Result, Value, Whole
from gaincell.units import Joule, Second, SquareMetre, Watt

SCALED = Cited("Leroux et al. 2025, scaled by counts")
Seconds: TypeAlias = Annotated[float, "s", "measured"]
Runs: TypeAlias = Annotated[tuple[float, ...], "s", "measured"]
Watts: TypeAlias = Annotated[float, "W", "measured"]
Share: TypeAlias = Annotated[float, "1", "measured"]
NO_WHOLE_MODEL = "the whole model is left out: this is a mixture of experts, whose weights are not counted"


class CitedTime(Part):
    """As the paper states it, scaled to this size."""

    energy: Annotated[Joule, SCALED]
    latency: Annotated[Second, SCALED]


class EnergyTime(Part):
    """Bottom-up, or of a part of a whole model."""

    energy: Joule
    latency: Second


class Measured(Part):
    """Attention of one layer, one token, on a machine.

    Attributes:
        title: Of the machine.
        heads: Query heads that it computed.
        kv_heads: Key/value heads that they share.
        head_dim: Of each.
        context: Of the token.
        energy: None where it was not measured.
        kind: "cited", "measured" on this machine, or "simulated": computed from what a maker states.
        source: Where it comes from.
        batch: Sequences decoded together, over which time and energy are.
    """

    title: str
    heads: Whole
    kv_heads: Whole
    head_dim: Whole
    context: Annotated[int, "tokens"]
    latency: Second
    energy: Joule | None = None
    kind: Numbers = "measured"
    source: str = "this machine"
    batch: Whole = 1

    def __post_init__(self) -> None:
        if min(self.sizes) < 1 or not self.latency > 0 or (self.energy is not None and not self.energy > 0):
            raise InputError(f"{self.title}: a measurement has 1 or more heads, and time and energy above 0")

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """heads, kv_heads, head_dim, context."""
        return self.heads, self.kv_heads, self.head_dim, self.context


class Machine(Measured):
    """A machine against as many heads in gain cells; no ratios where sizes differ, none of latency where the
    time of a batch was measured.
    """

    latency_over_cited: Annotated[float, "1", "simulated"] | None = None
    latency_over_bottom_up: Annotated[float, "1", "simulated"] | None = None
    energy_over_cited: Annotated[float, "1", "simulated"] | None = None
    energy_over_bottom_up: Annotated[float, "1", "simulated"] | None = None


class WholeModel(Part):
    """Who computes what, one token; its gains are over the first arrangement.

    Attributes:
        held: How long a token is needed.
    """

    title: str
    attention: EnergyTime
    linear: EnergyTime
    transfers: EnergyTime
    total: EnergyTime
    total_cited: EnergyTime
    attention_share_of_energy: Number
    energy_gain: Number
    energy_gain_cited: Number
    attention_share_of_latency: Number
    latency_gain: Number
    latency_gain_cited: Number
    note: str | None
    attention_cited: CitedTime | None = None
    held: Second | None = None


class Cache(Part):
    """The key/value cache of a model on a GPU, one sequence.

    Attributes:
        seen: Tokens that are kept, at most those of the model's own sliding window.
        floor: Time to read it.
        arithmetic: Energy of the two dot products.
        movement: Of reading it from HBM; None where the GPU has none.
    """

    model: str
    context: Annotated[int, "tokens"]
    seen: Annotated[int, "tokens"]
    bytes_per_token: Annotated[float, "B"]
    bytes: Annotated[float, "B"]
    floor: Second
    arithmetic: Joule
    movement: Joule | None = None


class StatedCache(Part):
    """A stated cache: at which lengths a model's has that size.

    Attributes:
        read_as: Unit.
        bytes_per_number: Of the cache.
        grouped: Of the cache.
        tokens: For which it is that large.
    """

    read_as: str
    bytes_per_number: Annotated[float, "B"]
    grouped: bool
    tokens: Annotated[float, "tokens"]


class MemoryCost(Part):
    """Keys and values of one head in a memory.

    Attributes:
        area: Of the cells.
        write: Of one token.
        lifetime: Until cells are worn out; None: no limit.
        retention: None: longer than anything here.
        refresh: Power of rewriting a full ring within the retention.
    """

    title: str
    area: SquareMetre
    write: Joule
    refresh: Watt
    lifetime: Second | None = None
    retention: Second | None = None


class Conversion(Part):
    """Reading out one line."""

    title: str
    energy: Joule
    area: SquareMetre


class MemoryAlternatives(Part):
    cache: Cache
    stated_cache: tuple[StatedCache, ...]
    memories: tuple[MemoryCost, ...]
    conversions: tuple[Conversion, ...]


class Sizes(Part):
    """Of the attention that was timed."""

    heads: Counted
    kv_heads: Counted
    head_dim: Counted


class Timing(Part):
    """One configuration; costs.baselines.measurement.Measurement says what the numbers are.

    Attributes:
        state: Clocks and limits of a GPU.
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
    implementation: str
    dtype: str
    context: CountedTokens
    batch: Counted
    reason: str


class BaselineResult(Result, kw_only=True, command="baseline"):
    """Of `gaincell baseline`.

    Attributes:
        machine: The accelerator; None for a CPU.
        machines: With which `gaincell cost --baseline` compares.
    """

    machine: str | None
    sizes: Sizes
    measurements: tuple[Timing, ...]
    skipped: tuple[Skipped, ...]
    machines: tuple[Measured, ...]
