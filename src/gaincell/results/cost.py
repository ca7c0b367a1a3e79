"""What a token costs: energy, latency and area of `gaincell cost`, cited and bottom-up; and the floorplan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from gaincell.results import system_cost
from gaincell.results.activity import ActivityOfHeads
from gaincell.results.codec import COLUMNS, Cited
from gaincell.results.common import Counted, Number, Part, Result, Value, Values, Whole
from gaincell.results.spice import OperatingPoint
from gaincell.units import Joule, Second, SquareMetre, Volt, Watt

PAPER = Cited("Leroux et al. 2025, second-hand summary [S]")
RELEASED = Cited("Leroux et al. 2025, released measurements [R]")
PAPER_AREA = Cited("Leroux et al. 2025 [S]")


class CostedModel(Part):
    """Sizes of a model.

    Attributes:
        source: Where they come from.
        linear_weights: Without embedding and output head; None for a mixture of experts, where they are not
            counted.
    """

    name: str
    source: str
    layers: Counted
    heads: Counted
    kv_heads: Counted
    head_dim: Counted
    hidden: Counted
    linear_weights: Counted | None
    vocabulary: Counted
    tokens: Counted


class CostedChip(Part):
    """A design.

    Attributes:
        v_max: The highest voltage that it stores.
    """

    name: str
    hash: str
    cell: str
    v_max: Volt


class Process(Part):
    """A technology.

    Attributes:
        numbers: All of it, each with its source or note.
    """

    name: str
    description: str
    numbers: Mapping[str, Value]


class CitedCost(system_cost.CitedTime):
    area: Annotated[SquareMetre, system_cost.SCALED]


class BottomUp(system_cost.EnergyTime):
    """Bottom-up.

    Attributes:
        power: Drawn all the time, besides energy.
    """

    area: SquareMetre
    power: Watt | None = None


class Operation(Part):
    """What a digital block does: how often, and what each takes."""

    count: Value
    each: Joule


class Block(Part):
    """The energy of one block of a head.

    Attributes:
        parts: Of the bottom-up energy.
        factor: Bottom-up over cited.
        inside: Whether it lies in the band.
        explanation: What could be behind a factor outside it.
    """

    name: str
    bottom_up: Joule
    parts: Mapping[str, Joule]
    operations: Mapping[str, Operation] | None = None
    cited: Value | None = None
    factor: Number | None = None
    band: Number | None = None
    inside: bool | None = None
    explanation: str | None = None


class OtherEnergy(Part):
    """Of a block, from another source.

    Attributes:
        factor: Over cited.
        inside: Whether it lies in the band.
    """

    energy: Joule
    factor: Number | None = None
    band: Number | None = None
    inside: bool | None = None


class DotProduct(OtherEnergy, kw_only=True):
    """One dot product by circuit simulation.

    Attributes:
        pulse: Mean, over the longest.
    """

    pulse: Number


class SpiceArrays(Part):
    """Both dot products by circuit simulation.

    Attributes:
        products: By name of the block.
        corner: None in results made before it was kept.
    """

    inputs: str
    readout: str
    technology: str
    products: Mapping[str, DotProduct]
    corner: OperatingPoint | None = None


class SpiceWrites(Part):
    """Writes by circuit simulation.

    Attributes:
        dacs: By kind.
        corner: None in results made before it was kept.
    """

    technology: str
    dacs: Mapping[str, OtherEnergy]
    corner: OperatingPoint | None = None


class SynthesisedDigital(OtherEnergy, kw_only=True):
    """Energy of the synthesised digital part, with the formula's routing.

    Attributes:
        columns: Valid ones, on average.
    """

    inputs: str
    technology: str
    columns: Annotated[float, "columns"]


class PhaseCost(Part):
    """One phase of one query.

    Attributes:
        name: Of the schedule, or "throughout".
        start: In the bottom-up schedule.
    """

    name: str
    start: Second
    duration: Second
    energy: Joule


class CostedHead(Part):
    """One query head, one token.

    Attributes:
        area: Of its key/value head, by part.
    """

    group: Whole
    context: Annotated[float, "columns"]
    window: Annotated[int, "columns"]
    tiles: Whole
    head_dim: Whole
    cells: Whole
    lines: tuple[Block, ...]
    cited: CitedCost
    bottom_up: BottomUp
    area: Mapping[str, SquareMetre]
    phases: tuple[PhaseCost, ...]
    spice: SpiceArrays | None = None
    rtl: SynthesisedDigital | None = None
    write: SpiceWrites | None = None


class Variant(Part):
    """Another cell, or cells stacked in 3D.

    Attributes:
        title: In words.
        cell: Area of a cell.
        layers: Stacked.
        cells: Areas of a key/value head.
        head: Areas of a key/value head.
        cited: Of its cells, as the paper states it; None where it does not.
    """

    title: str
    cell: SquareMetre
    layers: Whole
    cells: SquareMetre
    head: SquareMetre
    cited: Annotated[SquareMetre, PAPER] | None = None


class Areas(Part):
    """Areas that the paper states, beside the bottom-up ones."""

    layers: Whole
    cells_cited: Annotated[SquareMetre, PAPER]
    cells: SquareMetre
    crossbar_cited: Annotated[SquareMetre, PAPER]
    stack_cited: Annotated[SquareMetre, PAPER]
    head_cited: Annotated[SquareMetre, PAPER]
    head: SquareMetre
    head_factor: Number
    variants: tuple[Variant, ...]


class HeadEnergy(Part):
    """Of one query head, bottom-up."""

    layer: Whole
    head: Whole
    energy: Joule


class CostOfAttention(Part):
    """All attention of a model, one token.

    Attributes:
        batch: Sequences.
        heads: One that stands for all, if assumed.
    """

    batch: Whole
    cited: CitedCost
    bottom_up: BottomUp
    throughput: Annotated[float, "tokens/s"]
    heads: Annotated[tuple[HeadEnergy, ...], COLUMNS]


class Change(Part):
    """One parameter moved.

    Attributes:
        parameter: Its name.
        where: Technology, activity, design or head.
        factor: By which it moved.
        energy: Of the head, over what they are without the change, minus 1.
        latency: As `energy`.
        area: As `energy`.
    """

    parameter: str
    where: str
    factor: Number
    energy: Number
    latency: Number
    area: Number


class CostSweep(Part):
    """Costs of a head over one parameter.

    Attributes:
        refresh: Share of the energy that refreshes take.
        throughput: Of a layer.
    """

    title: str
    at: Values
    energy: Annotated[tuple[float, ...], "J"]
    energy_cited: Annotated[tuple[float, ...], "J", RELEASED]
    latency: Annotated[tuple[float, ...], "s"]
    area: Annotated[tuple[float, ...], "m^2"]
    refresh: Annotated[tuple[float, ...], "1"]
    throughput: Annotated[tuple[float, ...], "tokens/s"]


class LeftOut(Part):
    """What the estimate does not contain.

    Attributes:
        where: Block of the estimate that lacks it.
        what: In words.
    """

    where: str
    what: str


class CostResult(Result, kw_only=True, command="cost"):
    """Of `gaincell cost`.

    Attributes:
        gpu_context: Tokens in the GPU's cache.
        notes: What a user has to know.
    """

    model: CostedModel
    design: CostedChip
    technology: Process
    gpu: str
    gpu_context: Annotated[int, "tokens"]
    activity: ActivityOfHeads
    head: CostedHead
    areas: Areas
    model_cost: CostOfAttention
    machines: tuple[system_cost.Machine, ...]
    printed: Mapping[str, Annotated[float, "1", PAPER]]
    whole_model: tuple[system_cost.WholeModel, ...]
    retention_times: Mapping[str, Value]
    why: system_cost.MemoryAlternatives
    sensitivity: tuple[Change, ...]
    sweeps: Mapping[str, CostSweep]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
