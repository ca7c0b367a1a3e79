"""What no chip can be, though every number of it is in its range."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args

import torch

from gaincell.chips.fields import FILE_KEYS, NUMBERS, WORDS, DesignFields
from gaincell.circuits.nonideality import Nonideality, kinds_drawn
from gaincell.circuits.readout import READOUTS
from gaincell.devices.cell import CELL_KINDS, Cell
from gaincell.devices.random import Drawn
from gaincell.errors import DesignError
from gaincell.features import LEVELS, NOMINAL, NORMALISER, PULSE_LAW, SINKS, missing
from gaincell.quantity import did_you_mean, one_of
from gaincell.units import Volt

WITH_SINKS = NOMINAL | LEVELS | PULSE_LAW | SINKS | NORMALISER
"""What columns of first tokens are modelled with (features.py)."""


REACH = 10
"""How far from the range of the write DAC voltages may decay to, over that range."""


def check_design(design: DesignFields, in_use: frozenset[str]) -> None:
    """Raise DesignError for what no chip can be. Types and ranges were checked number by number before."""
    for reason in _refusals(design, in_use):
        raise DesignError(f"design {design.name!r}: {reason}")


def _refusals(design: DesignFields, in_use: frozenset[str]) -> Iterator[str]:
    """Why there is no such chip; each reason holds if those before it do not."""
    for word, kind in WORDS.items():
        if type(getattr(design, word)) is not kind:
            allowed = "true or false" if kind is bool else "text"
            yield f"{word} = {getattr(design, word)!r} has the wrong type; allowed: {allowed}"
    if design.readout not in READOUTS:
        hint = did_you_mean(design.readout, READOUTS)
        yield f"readout = {design.readout!r} is unknown{hint}; allowed: {one_of(READOUTS)}"
    for f in fields(design):
        if (key := FILE_KEYS.get(f.name, f.name)) in NUMBERS:
            yield from _of_number(key, getattr(design, f.name), design)
    if design.window % design.tile:
        near = max(design.window // design.tile, 1) * design.tile
        yield (
            f"tile = {design.tile} does not divide window = {design.window}; "
            f"allowed: a window that is a multiple of the tile, {near} or {near + design.tile} for instance"
        )
    if design.nonideality is not None and not _acceptable(design.nonideality):
        yield (
            f"nonideality = {type(design.nonideality).__name__} is not acceptable; allowed: a frozen "
            'dataclass with name, plain numbers, drawn = "chip", "operation", a tuple of both or None, and '
            "__call__(stage, signal, draw)"
        )
    if design.sinks.tokens:
        if more := missing(in_use, WITH_SINKS):
            yield f"columns of first tokens are modelled without errors and noise, not with {more}"
        if design.sinks.tokens > design.tile:
            yield (
                f"sinks.tokens = {design.sinks.tokens} is out of range; allowed: 0 to {design.tile}, "
                "the columns of a sub-tile"
            )
    if not design.v_min < design.v_offset < design.v_max:
        yield (
            f"v_min = {design.v_min}, v_offset = {design.v_offset}, v_max = {design.v_max} V "
            "are out of order; allowed: v_min < v_offset < v_max"
        )
    low, high = (
        end + s * REACH * (design.v_max - design.v_min) for end, s in ((design.v_min, -1), (design.v_max, 1))
    )
    target = design.leakage.decay_voltage
    if target is not None and not low <= target <= high:
        yield (
            f"leakage.decay_voltage = {target:g} V is out of range; allowed: {low:g} to {high:g} V, within "
            f"{REACH} times the range of the write DAC of it"
        )
    yield from _of_levels(design)


def check_cell(cell: Any, reach: Volt, where: str) -> None:
    """Refuse what is no cell, and one of one's own that computes otherwise than it says.

    Args:
        cell: What a design is to have.
        reach: Largest |u| that it stores.
        where: Where it stands, for errors.

    Raises:
        DesignError: a member is missing, the name is another cell's, or `current` is not the polynomial of
            its `coefficients`, by which most implementations compute.
    """
    if not isinstance(cell, Cell):
        raise DesignError(
            f"{where}: cell = {cell!r} has the wrong type; allowed: {one_of(CELL_KINDS)}, or a frozen "
            "dataclass with name, coefficients, linear_slope, numbers, current and slope"
        )
    if cell.name in CELL_KINDS:
        if type(cell) is not CELL_KINDS[cell.name].owner:
            raise DesignError(
                f"{where}: {type(cell).__name__} has the name of another cell, {cell.name!r}; give it its own"
            )
    elif cell.coefficients is not None:
        u = torch.linspace(-reach, reach, 9, dtype=torch.float64)
        stated = sum(c * u**power for power, c in enumerate(cell.coefficients))
        if not torch.allclose(cell.current(u), torch.as_tensor(stated), rtol=1e-6, atol=1e-6):
            raise DesignError(
                f"{where}: current of cell {cell.name!r} is not the polynomial of its coefficients "
                f"{cell.coefficients!r}; correct one of them, or give coefficients = None"
            )


def _of_number(key: str, value: int | float | None, design: DesignFields) -> Iterator[str]:
    stated = design.provenance[key].value if key in design.provenance else None
    if value != stated:
        yield f"{key} = {value!r} has no source; change designs by load_design and replace"
    if value is None:
        return
    if key in ("v_min", "v_max", "v_offset"):
        if not math.isfinite(value):
            yield f"{key} = {value!r} is out of range; allowed: a finite number"
        return
    lowest = 2 if key.endswith("_levels") else 0
    if value < lowest or value == 0 or math.isinf(value):
        allowed = "2 or more" if lowest else "a finite number above 0"
        yield f"{key} = {value!r} is out of range; allowed: {allowed}"


def _acceptable(own: Any) -> bool:
    """Whether a non-ideality of a user's own has what implementations use of it."""
    try:
        hash(own)
        json.dumps(dict(own.numbers))
        return isinstance(own, Nonideality) and kinds_drawn(own) <= set(get_args(Drawn))
    except (TypeError, ValueError, AttributeError):
        return False


def _of_levels(design: DesignFields) -> Iterator[str]:
    """As many levels as codes, and voltages that the DAC can give; not asked where nothing is quantised."""
    for name, count in (("query", design.query_levels), ("storage", design.storage_levels)):
        stated = getattr(design.levels, name)
        if stated and count not in (None, len(stated)):
            yield (
                f"{name}_levels = {count}, but levels.{name} states {len(stated)}; allowed: as many "
                f"values as levels, or no levels.{name} for evenly spaced ones"
            )
    low, high = design.v_min - design.v_offset, design.v_max - design.v_offset
    storage, margin = design.levels.storage, 1e-9 * (high - low)
    if storage and not low - margin <= storage[0] < storage[-1] <= high + margin:
        yield (
            f"levels.storage from {storage[0]:g} to {storage[-1]:g} V is out of range; allowed: "
            f"{low:g} to {high:g} V, the range of the write DAC about V_offset"
        )
