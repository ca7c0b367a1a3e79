"""What stands beside the arrays: other machines, a whole model, the cache on a GPU, other memories."""

from __future__ import annotations

from typing import Annotated

from gaincell.errors import InputError
from gaincell.results.codec import Cited, Numbers
from gaincell.results.common import Number, Part, Whole
from gaincell.units import Joule, Second, SquareMetre, Watt

SCALED = Cited("Leroux et al. 2025, scaled by counts")


class CitedTime(Part):
    """The same, where no area is compared."""

    energy: Annotated[Joule, SCALED]
    latency: Annotated[Second, SCALED]


class EnergyTime(Part):
    """Of a part of a whole model."""

    energy: Joule
    latency: Second


class Measured(Part):
    """Attention of one layer, one token, on a machine.

    title: of the machine.  heads, kv_heads, head_dim, context: what it computed; query heads share kv_heads
    key/value heads.  energy: None where it was not measured.
    kind: "cited", "measured" on this machine, or "simulated": computed from what a maker states.
    source: where it comes from.
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

    def __post_init__(self) -> None:
        if min(self.sizes) < 1 or not self.latency > 0 or (self.energy is not None and not self.energy > 0):
            raise InputError(f"{self.title}: a measurement has 1 or more heads, and time and energy above 0")

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """heads, kv_heads, head_dim, context."""
        return self.heads, self.kv_heads, self.head_dim, self.context


class Machine(Measured):
    """A machine against as many heads in gain cells; no ratios where sizes differ."""

    latency_over_cited: Annotated[float, "1", "simulated"] | None = None
    latency_over_bottom_up: Annotated[float, "1", "simulated"] | None = None
    energy_over_cited: Annotated[float, "1", "simulated"] | None = None
    energy_over_bottom_up: Annotated[float, "1", "simulated"] | None = None


class WholeModel(Part):
    """Who computes what, one token. gains: over the first arrangement.  held: how long a token is needed."""

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

    seen: tokens that are kept, at most those of the model's own sliding window.
    floor: time to read it.  movement, arithmetic: energy of reading it from HBM, and of the two dot products.
    """

    model: str
    context: Annotated[int, "tokens"]
    seen: Annotated[int, "tokens"]
    bytes_per_token: Annotated[float, "B"]
    bytes: Annotated[float, "B"]
    floor: Second
    movement: Joule
    arithmetic: Joule


class StatedCache(Part):
    """A stated cache: at which lengths a model's has that size.

    read_as: unit.  bytes_per_number, grouped: of the cache.  tokens: for which it is that large.
    """

    read_as: str
    bytes_per_number: Annotated[float, "B"]
    grouped: bool
    tokens: Annotated[float, "tokens"]


class MemoryCost(Part):
    """Keys and values of one head in a memory.

    area: of the cells.  write: of one token.  lifetime: until cells are worn out; None: no limit.
    retention: None: longer than anything here.  refresh: power of rewriting it within the retention.
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


class Motivation(Part):
    """Cache, memories, converters."""

    cache: Cache
    stated_cache: tuple[StatedCache, ...]
    memories: tuple[MemoryCost, ...]
    conversions: tuple[Conversion, ...]
