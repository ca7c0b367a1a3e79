"""What the paper states for a head, scaled to other sizes by counting.

    arrays      in proportion to the cells that are read, D x valid columns
    DACs        to the lines that are written, D, shared by the query heads of a group
    digital     to the output lines, D x sub-tiles with a valid column
    area        to the cells of a head

At the paper's own sizes the factors are 1. Nothing is rescaled for another cell, supply, clock or activity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from gaincell.arrays.schedule import Schedule
from gaincell.costs.cost import Cost, total
from gaincell.costs.data import Sourced, packaged
from gaincell.costs.head import Head
from gaincell.units import Joule, Second, SquareMetre, Watt

FIRST, SECOND, WRITE, DIGITAL = "first dot product", "second dot product", "write", "digital"
"""Blocks that the paper states an energy for."""


@dataclass(frozen=True)
class Paper(Sourced):
    """Numbers of components.toml."""

    first_product: Joule
    second_product: Joule
    digital: Joule
    write: Joule
    digital_power: Watt
    digital_active: Second
    head_dim: int
    tile: int
    window: int
    heads: int
    head_area: SquareMetre
    cell_area: SquareMetre
    crossbar_area: SquareMetre
    stack_area: SquareMetre
    arrays_band: float
    write_band: float
    digital_band: float

    def band(self, group: str) -> float:
        """Factor within which a bottom-up estimate of a block is expected."""
        return {WRITE: self.write_band, DIGITAL: self.digital_band}.get(group, self.arrays_band)

    def source(self, group: str) -> str:
        """Where the energy of a block comes from, in words."""
        key = {FIRST: "first_product", SECOND: "second_product"}.get(group, group)
        return f"Leroux et al. 2025 [{self.provenance[key].source}]"


@lru_cache(maxsize=1)
def paper() -> Paper:
    """The numbers that the paper states."""
    return packaged(Paper, "components.toml", "paper")


def cited(head: Head) -> Cost:
    """Energy of one token, latency of a step of the group, area of the key/value head; parts: blocks."""
    p = paper()
    read = head.columns * head.head_dim / (p.window * p.head_dim)
    lines = head.output_lines / (p.window // p.tile * p.head_dim)
    energies = {
        FIRST: p.first_product * read,
        SECOND: p.second_product * read,
        WRITE: p.write * head.head_dim / p.head_dim / head.group,
        DIGITAL: p.digital * lines,
    }
    parts = total({name: Cost(energy=energy) for name, energy in energies.items()})
    others = Schedule(head.design, head.group).latency - Schedule(head.design).latency  # of the group
    return replace(parts, latency=head.design.layer_latency + others, area=p.head_area * cells_ratio(head))


def cells_ratio(head: Head) -> float:
    """Cells of a key/value head over those of the paper's."""
    p = paper()
    return head.cells / (2 * p.window * p.head_dim)
