"""What all results of simulations have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np

from gaincell.chips.design import Design
from gaincell.results import provenance
from gaincell.results.common import Provenance, Values
from gaincell.results.spice import OperatingPoint
from gaincell.spice.runner import version
from gaincell.spice.technology import Site, Technology
from gaincell.text import sha256

T = TypeVar("T")
PROTOCOL = "transistor-level simulation with open models; see docs/spice.md"


class Head(TypedDict):
    """Parts that every result has."""

    technology: str
    ngspice: str
    provenance: Provenance


def head(
    technology: Technology | str,
    command: Sequence[str],
    design: Design,
    seed: int = 0,
    inputs: Mapping[str, str] | None = None,
) -> Head:
    """Parts that every result has.

    Args:
        technology: Of the circuits, or its title, where its file is among the inputs already.
        command: The command line.
        design: The chip.
        seed: Of the random numbers.
        inputs: Files and their hashes.
    """
    if isinstance(technology, Technology):
        if technology.kit is not None:
            kit = Path(technology.kit)
            inputs = {**(inputs or {}), f"models {kit.name}": sha256(kit)}
        technology = technology.title
    return {
        "technology": technology,
        "ngspice": version(),
        "provenance": provenance.made(
            command=command, seed=seed, protocol=PROTOCOL, design_hash=design.hash, inputs=inputs
        ),
    }


def plain(wave: Any) -> Any:
    """The numbers of an array as nested tuples."""
    return tuple(map(plain, wave)) if np.ndim(wave) else np.asarray(wave).item()


def corner_of(site: Site) -> OperatingPoint:
    """Where circuits operated."""
    process, kit = site.corner.process, site.technology
    if kit.kit is not None:
        process = kit.section or "as the models are"
    return OperatingPoint(process, site.corner.temperature, site.vdd)


def rounded(entry: T) -> T:
    """Numbers with 6 digits, but for cited ones: simulations are not good for more."""
    changed: Any = entry
    if isinstance(entry, float):
        changed = float(f"{entry:.6g}")
    elif isinstance(entry, tuple):
        changed = tuple(map(rounded, entry))
    elif dataclasses.is_dataclass(entry) and not isinstance(entry, type | Values):
        parts = {f.name: rounded(getattr(entry, f.name)) for f in dataclasses.fields(entry)}
        changed = dataclasses.replace(entry, **parts)
    result: T = changed
    return result
