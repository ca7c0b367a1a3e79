"""The process of a bottom-up estimate: technologies/*.toml, or a file of one's own that extends one."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gaincell.chips.fields import number_kinds
from gaincell.costs.data import FOLDER, Sourced, build
from gaincell.quantity import (
    check_keys,
    named_after_file,
    own_files,
    shipped_names,
    shipped_or_own,
    with_parents,
)
from gaincell.text import sha256
from gaincell.units import (
    AmperePerMetre,
    Farad,
    FaradPerMetre,
    FaradPerSquareMetre,
    Joule,
    Metre,
    PerVolt,
    Second,
    SquareMetre,
    Volt,
    Watt,
)

SHIPPED = FOLDER / "technologies"
REFERENCE = "28nm"
"""Its ranges hold for every file."""
CELL_TRANSISTORS = 6


@dataclass(frozen=True)
class Technology(Sourced):
    """Numbers of a process; each is explained in technologies/28nm.toml."""

    name: str
    description: str
    node: Metre
    supply: Volt
    wire_capacitance: FaradPerMetre
    gate_capacitance: FaradPerMetre
    diffusion_capacitance: FaradPerMetre
    off_current: AmperePerMetre
    gate_leakage: Watt
    capacitor_density: FaradPerSquareMetre
    cell_area: SquareMetre
    cell_switches: Metre
    cell_write: Metre
    transistor_area: SquareMetre
    storage: Farad
    write_time: Second
    discharge_time: Second
    transconductance_efficiency: PerVolt
    comparator_capacitance: Farad
    driver_overhead: float
    amplifier_area: SquareMetre
    comparator_area: SquareMetre
    dac_area: SquareMetre
    driver_area: SquareMetre
    adder_energy: Joule
    adder_node: Metre
    adder_supply: Volt
    guard_bits: int
    flip_flop_clock: Farad
    flip_flop_data: Farad
    gate_switching: Farad
    control_gates: int
    control_activity: float
    gate_area: SquareMetre
    flip_flop_area: SquareMetre
    utilisation: float

    @property
    def pitch(self) -> Metre:
        """Edge of a cell, taken to be square."""
        return math.sqrt(self.cell_area)

    @property
    def silicon_cell_area(self) -> SquareMetre:
        """Of a cell all of silicon: six transistors, and a storage capacitor of the stated density."""
        return CELL_TRANSISTORS * self.transistor_area + self.storage / self.capacitor_density

    @property
    def adder_bit(self) -> Joule:
        """A bit of an adder: adder_energy scaled as C V^2, capacitance in proportion to the node."""
        return self.adder_energy * (self.node / self.adder_node) * (self.supply / self.adder_supply) ** 2

    def switched(self, capacitance: Farad) -> Joule:
        """C VDD^2: drawn from the supply each time a capacitance is charged (half of it heats the charging
        transistor, the rest the one that discharges).
        """
        return capacitance * self.supply**2

    def data(self, capacitance: Farad) -> Joule:
        """C VDD^2 / 4: of one bit of random data, which rises every fourth time on average."""
        return self.switched(capacitance) / 4

    def replace(self, **changes: Any) -> Technology:
        """A copy with some numbers changed, checked against their ranges.

        Raises:
            DesignError: a number is unknown or out of its range.
        """
        kinds, provenance = number_kinds(Technology), dict(self.provenance)
        check_keys(changes, kinds, f"technology {self.name!r}")
        for key, value in changes.items():
            where = f"technology {self.name!r}: {key}"
            changes[key] = kinds[key].convert(value, where)
            provenance[key] = provenance[key].set_to(changes[key], where)
        return dataclasses.replace(self, **changes, provenance=provenance)


def list_technologies() -> list[str]:
    """Names of the shipped technologies."""
    return shipped_names(SHIPPED)


def load_technology(source: str | os.PathLike[str] | Technology) -> Technology:
    """A technology by its shipped name, from a .toml file, or as it is.

    Raises:
        DesignError: there is none, or the file is not acceptable; names file, key, what was given and what is
            allowed.
    """
    if isinstance(source, Technology):
        return source
    path = shipped_or_own(os.fspath(source), SHIPPED, "technology")
    found = build(Technology, _entries(path), str(path))
    limited = {}
    for key, quantity in found.provenance.items():
        (low, high), (lowest, highest) = quantity.range, _reference().provenance[key].range
        limited[key] = dataclasses.replace(quantity, range=(max(low, lowest), min(high, highest)))
        limited[key].check_range(f"{path}: {key}")
    return dataclasses.replace(found, provenance=limited)


def inputs_of_technology(source: str) -> dict[str, str]:
    """`inputs_of_design` of a technology."""
    return {f"technology {path.name}": sha256(path) for path in own_files(source, SHIPPED, "technology")}


@cache
def _reference() -> Technology:
    """Where every number may lie: a file's own range may be narrower, not wider, so that nothing becomes
    negative and no divisor 0.
    """
    return build(Technology, _entries(SHIPPED / f"{REFERENCE}.toml"), REFERENCE)


def _entries(path: Path) -> dict[str, Any]:
    """The entries of a file and of what it extends. A file that changes another and has no name or
    description is named after itself and described by what it changes.
    """
    found: dict[str, Any] = {}
    shipped = list_technologies()
    for place, raw, parent in reversed(with_parents(path, SHIPPED, "technology")):
        found |= named_after_file(place, raw, parent, found, shipped) | raw
    return found
