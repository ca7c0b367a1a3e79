"""From blocks to heads, layers and models: energy, latency, area and power of one token.

Two columns everywhere. *Cited*: what the paper states (cited.py). *Bottom-up*: from activity, capacitances,
clock, gate and cell counts (arrays.py, storage.py, digital.py, area.py), fitted to nothing of the paper. The
factor between them has a stated band; a block outside it is reported as such, with what could explain it, and
never adjusted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gaincell.arrays.refresh import Refresh
from gaincell.arrays.schedule import Schedule
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.costs import arrays, digital, storage
from gaincell.costs.area import head_area
from gaincell.costs.cited import DIGITAL, FIRST, SECOND, WRITE, cited, paper
from gaincell.costs.cost import Cost, total
from gaincell.costs.head import Head, counted
from gaincell.costs.size import ModelSize
from gaincell.costs.technology import Technology
from gaincell.results.activity import ActivityOfHeads
from gaincell.results.common import Value
from gaincell.results.cost import Block
from gaincell.units import Joule, PerSecond, Second, SquareMetre, with_scale

REFRESH, LEAKAGE = "refresh", "leakage"


@dataclass(frozen=True)
class HeadCost:
    """One query head, one token. The area is that of its key/value head.

    Attributes:
        lines: The energy by block: one of cited.py, refresh or leakage.
    """

    head: Head
    lines: tuple[Block, ...]
    cited: Cost
    bottom_up: Cost
    area: Cost

    @property
    def outside(self) -> tuple[Block, ...]:
        """Blocks outside their band."""
        return tuple(line for line in self.lines if line.inside is False)

    def explain(self, line: Block) -> str:
        """What could be behind a block that is outside its band, in words."""
        if line.inside is not False:
            return ""
        if line.name == WRITE:
            lines = 2 * self.head.head_dim / self.head.group
            always = storage.always_on(self.head) / self.head.group
            each, found = self.cited.parts[WRITE].energy / lines, line.bottom_up / lines
            return (
                f"cited: {with_scale(each, 'J')} a conversion; charging and settling a write line takes "
                f"{with_scale(found, 'J')}. If the DACs of all sub-tiles, one a row, stay biased through the "
                f"step, they draw {with_scale(always, 'J')}"
            )
        if line.name == DIGITAL:
            p = paper()
            wider = compared(DIGITAL, Cost(line.bottom_up + digital.float_surplus(self.head)), self.cited)
            words = "inside it" if wider.inside else "outside it too"
            return (
                f"cited: {p.digital_power * 1e3:.4g} mW for {p.digital_active * 1e9:.3g} ns, of which parts "
                "is not stated; counted here are gated clocks and the least logic, without margins or the "
                f"buffers of a clock tree. Factor {line.factor:.3g} with scaling stages of "
                f"{self.head.query_word} and {self.head.storage_word} bits; {wider.factor:.3g} if they "
                f"multiply and add 16-bit floats, {words}"
            )
        own, papers = self.head.design.charge_unit, load_design("leroux2025").charge_unit
        if own != papers:
            return f"cited of a cell with a charge unit of {papers:.3g} C, and this chip's is {own:.3g} C"
        return "the activity differs from that of the paper, which states none"


def of_head(head: Head) -> HeadCost:
    """All of one query head.

    Raises:
        InputError: a refresh takes longer than the time between two.
    """
    stated, area, interval = cited(head), head_area(head), head.refresh_every
    blocks = {
        FIRST: arrays.first_product(head),
        SECOND: arrays.second_product(head),
        WRITE: _shared(storage.write(head), head.group),
        DIGITAL: digital.digital(head, area.area),
        LEAKAGE: storage.leakage(head),
    }
    if interval is not None:
        blocks[REFRESH] = storage.refresh(head, interval)
    lines = tuple(compared(name, block, stated) for name, block in blocks.items())
    stalled = blocks[REFRESH].latency / head.design.layers if REFRESH in blocks else 0.0
    whole = replace(total(blocks, head.latency + stalled), area=area.area)
    return HeadCost(head, lines, stated, whole, area)


def compared(name: str, bottom_up: Cost, stated: Cost) -> Block:
    """A block against what the paper states of it, if it does; `stated` is the cost of the whole head."""
    found = Block(name, bottom_up.energy, {part: cost.energy for part, cost in bottom_up.parts.items()})
    if name not in stated.parts:
        return found
    energy, p = stated.parts[name].energy, paper()
    factor, band = bottom_up.energy / energy if energy else None, p.band(name)
    inside = None if factor is None or band is None else 1 / band <= factor <= band
    cited = Value(energy, "J", "cited", p.source(name))
    return replace(found, cited=cited, factor=factor, band=band, inside=inside)


def _shared(cost: Cost, group: int) -> Cost:
    """A cost that the query heads of a group share."""
    parts = {name: _shared(part, group) for name, part in cost.parts.items()}
    return replace(cost, energy=cost.energy / group, parts=parts)


@dataclass(frozen=True)
class ModelCost:
    """All attention of a model, one token.

    Attributes:
        heads: Its query heads, or one that stands for all.
        batch: Sequences at a time.
    """

    size: ModelSize
    heads: tuple[HeadCost, ...]
    batch: int = 1

    @property
    def head(self) -> HeadCost:
        """The first head: what does not depend on activity is the same for all."""
        return self.heads[0]

    @property
    def energy_bottom_up(self) -> Joule:
        """Of all heads."""
        return self._all(head.bottom_up for head in self.heads)

    @property
    def energy_cited(self) -> Joule:
        """Of all heads, as the paper states it."""
        return self._all(head.cited for head in self.heads)

    @property
    def latency(self) -> tuple[Second, Second]:
        """Of all layers, one after the other: cited, bottom-up."""
        layers = self.size.layers
        return layers * self.head.cited.latency, layers * self.head.bottom_up.latency

    @property
    def area(self) -> tuple[SquareMetre, SquareMetre]:
        """Of the arrays of all key/value heads, for every sequence of the batch: cited, bottom-up."""
        count = self.size.layers * self.size.kv_heads * self.batch
        return count * self.head.cited.area, count * self.head.area.area

    @property
    def throughput(self) -> PerSecond:
        """Tokens per second of all sequences together: each has arrays of its own."""
        return self.batch / self.latency[1]

    def _all(self, costs: Iterable[Cost]) -> Joule:
        return sum(cost.energy for cost in costs) / len(self.heads) * self.size.layers * self.size.heads


def of_model(
    size: ModelSize,
    design: Design,
    technology: Technology,
    activity: ActivityOfHeads,
    *,
    context: int | None = None,
    batch: int = 1,
    refresh: Refresh | None = None,
    layers: int = 1,
) -> ModelCost:
    """All attention of a model.

    Args:
        size: Sizes of the model.
        design: Its `layers` become those of the model, as in `attach`, and the time between two tokens layers
            x the step of a group and what refreshes take, unless it states one.
        technology: The process.
        activity: Measured or assumed.
        context: Tokens before and including the query; by default the whole window, or what was measured.
        batch: Sequences at a time.
        refresh: Policy.
        layers: Of cells, stacked in 3D.

    Raises:
        ModelError: its layers are not alike.
        InputError: a refresh takes longer than the time between two.
    """
    size.check_equal()
    chip = design.replace(layers=size.layers)
    of_size = ("sliding_window", "column_gains", "array_normaliser", "balanced_rows")
    added = {name: getattr(size, name) for name in of_size}
    added |= {"refresh": refresh, "layers": layers}
    heads = [
        Head(chip, technology, one, size.head_dim, size.group, context, **added) for one in activity.heads
    ]
    if chip.explicit_token_period is None:
        base = Schedule(counted(chip), size.group).token_period(size.layers)
        heads = [storage.paced(head, base) for head in heads]
    return ModelCost(size, tuple(map(of_head, heads)), batch)


def paced(model: ModelCost, others: Second) -> ModelCost:
    """The same attention where everything else takes time besides, so that tokens are held for longer.

    Args:
        model: The attention.
        others: Of a token, s. With it dt = others + layers x step + refreshes.

    Raises:
        InputError: a refresh takes longer than the time between two.
    """
    period = others + model.size.layers * model.head.head.latency
    return replace(model, heads=tuple(of_head(storage.paced(one.head, period)) for one in model.heads))


def mean_head(
    size: ModelSize,
    design: Design,
    technology: Technology,
    activity: ActivityOfHeads,
    context: int | None = None,
    refresh: Refresh | None = None,
    layers: int = 1,
) -> HeadCost:
    """The head with the mean activity of a model; see `of_model`."""
    mean = replace(activity, heads=(activity.mean(),))
    return of_model(size, design, technology, mean, context=context, refresh=refresh, layers=layers).head
