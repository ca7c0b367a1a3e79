"""What no chip can be, though every number of it is in its range."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from gaincell.chips.fields import FILE_KEYS, NUMBERS, WORDS, DesignFields
from gaincell.circuits.nonideality import Nonideality, kinds_drawn
from gaincell.circuits.signed_charge_to_pulse import READOUTS
from gaincell.devices.random import Drawn
from gaincell.errors import DesignError
from gaincell.features import LEVELS, NOMINAL, NORMALISER, PULSE_LAW, SINKS, missing
from gaincell.quantity import Quantity, did_you_mean, one_of

WITH_SINKS = NOMINAL | LEVELS | PULSE_LAW | SINKS | NORMALISER
"""What columns of first tokens are modelled with (features.py)."""


def check_design(design: DesignFields, in_use: frozenset[str]) -> None:
    """Raise DesignError for what no chip can be. Types and ranges were checked number by number before."""
    where = f"design {design.name!r}"
    for word, kind in WORDS.items():
        if type(getattr(design, word)) is not kind:
            allowed = "true or false" if kind is bool else "text"
            raise DesignError(
                f"{where}: {word} = {getattr(design, word)!r} has the wrong type; allowed: {allowed}"
            )
    if design.readout not in READOUTS:
        hint = did_you_mean(design.readout, READOUTS)
        raise DesignError(
            f"{where}: readout = {design.readout!r} is unknown{hint}; allowed: {one_of(READOUTS)}"
        )
    for f in fields(design):
        key = FILE_KEYS.get(f.name, f.name)
        if key in NUMBERS:
            _check_number(key, getattr(design, f.name), design.provenance, where)
    if design.window % design.tile:
        near = max(design.window // design.tile, 1) * design.tile
        raise DesignError(
            f"{where}: tile = {design.tile} does not divide window = {design.window}; "
            f"allowed: a window that is a multiple of the tile, {near} or {near + design.tile} for instance"
        )
    _check_nonideality(design.nonideality, where)
    if design.sinks.tokens:
        more = missing(in_use, WITH_SINKS)
        if more:
            raise DesignError(
                f"{where}: columns of first tokens are modelled without errors and noise, not with {more}"
            )
        if design.sinks.tokens > design.tile:
            raise DesignError(
                f"{where}: sinks.tokens = {design.sinks.tokens} is out of range; allowed: 0 to "
                f"{design.tile}, the columns of a sub-tile"
            )
    if not design.v_min < design.v_offset < design.v_max:
        raise DesignError(
            f"{where}: v_min = {design.v_min}, v_offset = {design.v_offset}, v_max = {design.v_max} V "
            "are out of order; allowed: v_min < v_offset < v_max"
        )
    _check_levels(design, where)


def _check_nonideality(own: Any, where: str) -> None:
    if own is None:
        return
    try:
        hash(own)
        json.dumps(dict(own.numbers))
        acceptable = isinstance(own, Nonideality) and kinds_drawn(own) <= set(get_args(Drawn))
    except (TypeError, ValueError, AttributeError):
        acceptable = False
    if not acceptable:
        raise DesignError(
            f"{where}: nonideality = {type(own).__name__} is not acceptable; allowed: a frozen dataclass "
            'with name, plain numbers, drawn = "chip", "operation", a tuple of both or None, and '
            "__call__(stage, signal, draw)"
        )


def _check_levels(design: DesignFields, where: str) -> None:
    """As many levels as codes, and voltages that the DAC can give; not asked where nothing is quantised."""
    for name, count in (("query", design.query_levels), ("storage", design.storage_levels)):
        stated = getattr(design.levels, name)
        if stated and count not in (None, len(stated)):
            raise DesignError(
                f"{where}: {name}_levels = {count}, but levels.{name} states {len(stated)}; allowed: as many "
                f"values as levels, or no levels.{name} for evenly spaced ones"
            )
    low, high = design.v_min - design.v_offset, design.v_max - design.v_offset
    storage, margin = design.levels.storage, 1e-9 * (high - low)
    if storage and not low - margin <= storage[0] < storage[-1] <= high + margin:
        raise DesignError(
            f"{where}: levels.storage from {storage[0]:g} to {storage[-1]:g} V is out of range; allowed: "
            f"{low:g} to {high:g} V, the range of the write DAC about V_offset"
        )


def _check_number(
    key: str, value: int | float | None, provenance: Mapping[str, Quantity], where: str
) -> None:
    stated = provenance[key].value if key in provenance else None
    if value != stated:
        raise DesignError(
            f"{where}: {key} = {value!r} has no source; change designs by load_design and replace"
        )
    if value is None or key in ("v_min", "v_max", "v_offset"):
        return
    lowest = 2 if key.endswith("_levels") else 0
    if value < lowest or value == 0 or math.isinf(value):
        allowed = "2 or more" if lowest else "a finite number above 0"
        raise DesignError(f"{where}: {key} = {value!r} is out of range; allowed: {allowed}")
