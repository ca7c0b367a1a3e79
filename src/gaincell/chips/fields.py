"""What a design states: its fields, and what each may hold, by its key in a file.

The kinds of the numbers are read from the annotations of the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, get_args, get_type_hints

from gaincell.circuits.charge_to_pulse import ChargeToPulse
from gaincell.circuits.converter_errors import Converters
from gaincell.circuits.levels import LevelTable
from gaincell.circuits.noise import Noise
from gaincell.circuits.nonideality import Nonideality
from gaincell.circuits.normaliser import Normaliser
from gaincell.circuits.pwm import Drivers
from gaincell.circuits.sinks import Sinks
from gaincell.devices.cell import CELL_KINDS, Cell
from gaincell.devices.leakage import Leakage
from gaincell.devices.random import Drawn
from gaincell.devices.variability import Mismatch
from gaincell.devices.wires import Wires
from gaincell.devices.writing import Writing
from gaincell.errors import DesignError
from gaincell.quantity import NumberKind, Quantity, check_keys, one_of, parse_quantity
from gaincell.units import ChargeUnit, Coulomb, Hertz, Kelvin, Second, Volt

FILE_KEYS = {"explicit_token_period": "token_period"}
"""Fields whose key in files and in `replace` is another."""


@dataclass(frozen=True)
class DesignFields:
    """The fields of a `Design`; `design.py` adds what follows from them."""

    name: str
    """Short name, printed with results."""
    description: str
    """One line for `gaincell design list`."""
    cell: Cell
    """Current of one gain cell, F(u) in charge units."""
    tile: int
    """N: token columns of one sub-tile."""
    window: int
    """M: token columns of a head, a multiple of tile."""
    query_levels: int | None
    """Pulse widths of the query driver; None = not quantised."""
    storage_levels: int | None
    """Voltages of the write DAC; None = not quantised."""
    counter_levels: int
    """Values of the counter of the output magnitude, zero included."""
    readout: str
    """How a tile output is digitised, one of circuits.READOUTS; "none" = not quantised."""
    score_saturation_per_row: ChargeUnit
    """S_sat / D: score at which the charge-to-pulse converter reaches the full pulse, per row."""
    output_saturation_per_column: ChargeUnit
    """O_sat / N: tile output at which the signed converter reaches the full pulse, per column."""
    score_ceiling: bool
    """Whether the score pulse stops at the full pulse."""
    output_ceiling: bool
    """Whether the output pulse stops at the full pulse."""
    v_min: Volt
    """Lowest voltage written."""
    v_max: Volt
    """Highest voltage written."""
    v_offset: Volt
    """Voltage of zero signal, towards which the store decays."""
    retention_time: Second | None
    """tau: time constant of the decay; None = no decay."""
    layer_latency: Second
    """Time of one attention step, as published; `arrays.Schedule` computes it from its phases."""
    unstated_latency: Second
    """What the published step takes beyond its stated phases: discharge, write, settling; assumed."""
    layers: int
    """Layers computed one after the other between two tokens."""
    t_pulse_max: Second
    """Duration of a pulse of width 1."""
    counter_clock: Hertz
    """Clock of the output counter."""
    charge_unit: Coulomb
    """Charge of one charge unit."""
    temperature: Kelvin
    """Of the chip."""
    mismatch: Mismatch
    """Spread of the individual cells, and the chip's number."""
    leakage: Leakage
    """How stored voltages decay, besides retention_time."""
    writing: Writing
    """Errors of writes."""
    wires: Wires
    """Voltage drop along the bit lines."""
    converters: Converters
    """Static errors of drivers and converters."""
    noise: Noise
    """Noise of reads."""
    drivers: Drivers
    """How queries are driven."""
    sinks: Sinks
    """Columns of the first tokens."""
    normaliser: Normaliser
    """A column that sums the pulses, to divide by."""
    charge_to_pulse: ChargeToPulse
    """The law of the converter between the arrays."""
    levels: LevelTable
    """Levels of query driver and write DAC that are not evenly spaced."""
    nonideality: Nonideality | None
    """An effect of a user's own, tried from a script; in no file."""
    explicit_token_period: Second | None
    """The token period when it is stated; `token_period` in files and in `replace`."""
    provenance: Mapping[str, Quantity] = field(compare=False, repr=False)
    """Unit, source, range and note of every number, by key ("tile", "cell.c00", "mismatch.seed").
    Not to be changed in place."""


_HINTS: Mapping[str, type] = get_type_hints(DesignFields)
WORDS: Mapping[str, type] = {name: hint for name, hint in _HINTS.items() if hint in (str, bool)}
"""Keys of a file that are not numbers."""


def number_kinds(owner: type) -> dict[str, NumberKind]:
    """What each number of a dataclass accepts, read from its annotation: int, Second, Volt | None, ..."""
    kinds: dict[str, NumberKind] = {}
    for name, hint in get_type_hints(owner, include_extras=True).items():
        optional = type(None) in get_args(hint)
        core = get_args(hint)[0] if optional else hint
        base, unit = (core.__origin__, core.__metadata__[0]) if hasattr(core, "__metadata__") else (core, "1")
        if base == tuple[float, ...]:
            kinds[name] = NumberKind(unit, many=True)
        if base in (int, float):
            kinds[name] = NumberKind(unit, whole=base is int, optional=optional)
    return kinds


FIT_NUMBERS: Mapping[str, NumberKind] = {
    "v_in": NumberKind("V"),
    "c00": NumberKind("charge units"),
    **{f"c{ij}": NumberKind("charge units/V") for ij in ("01", "10")},
    **{f"c{ij}": NumberKind("charge units/V^2") for ij in ("02", "11", "20")},
    **{f"c{ij}": NumberKind("charge units/V^3") for ij in ("03", "12", "21", "30")},
}
"""Those from which coefficients are computed; without effect, and left out, where these are stated."""

CELL_NUMBERS: Mapping[str, NumberKind] = {
    key: kind
    for owner, fixed in CELL_KINDS.values()
    for key, kind in number_kinds(owner).items()
    if key not in fixed
} | dict(FIT_NUMBERS)
"""Numbers of the table [cell]: the fields of all kinds. None is required here."""

NUMBERS: Mapping[str, NumberKind] = {
    FILE_KEYS.get(name, name): kind for name, kind in number_kinds(DesignFields).items()
}
"""Numbers at the top of a file."""

TABLES: Mapping[str, type] = {name: hint for name, hint in _HINTS.items() if is_dataclass(hint)}
"""What a chip's parts do beyond the nominal chip: tables of a file, fields of a Design. Not stated: off."""

TABLE_NUMBERS: Mapping[str, Mapping[str, NumberKind]] = {
    table: number_kinds(kind) for table, kind in TABLES.items()
}
"""Numbers of each of TABLES."""

DRAWN: Mapping[str, Drawn] = {
    f"{table}.{f.name}": f.metadata["drawn"]
    for table, kind in TABLES.items()
    for f in fields(kind)
    if "drawn" in f.metadata
}
"""Random effects, and when they are drawn: as the fields themselves state it."""


def where_drawn(*per: Drawn) -> str:
    """In words, where in a design random effects are stated: a table, and its key where there is but one."""
    found: dict[str, list[str]] = {}
    for table, key in (name.split(".") for name, when in DRAWN.items() if when in per):
        found.setdefault(table, []).append(key)
    return one_of(f"[{table}]" + (f" {keys[0]}" if len(keys) == 1 else "") for table, keys in found.items())


BASIC = {"gain_std": 0.0, "offset_voltage_std": 0.0, "current_offset_std": 0.0}
"""The basic mismatch model: numbers of a fitted device, and always part of a hash."""

ROOM_TEMPERATURE = Quantity(300.0, "K", "D", (1.0, 1000.0), "assumed where a file does not state it")
"""The temperature of a chip whose file states none."""


def stated_numbers(table: Any) -> dict[str, Any]:
    """Numbers of one of TABLES that are not what they are when they are not stated."""
    return {f.name: getattr(table, f.name) for f in fields(table) if getattr(table, f.name) != f.default}


def stored(numbers: Mapping[str, Any], kinds: Mapping[str, NumberKind]) -> dict[str, Any]:
    """Numbers as a file gives them back: 1 comes back as 1.0 where any number is allowed."""
    return {key: kinds[key].convert(x, key) if key in kinds else x for key, x in numbers.items()}


def entries_of(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every entry of a parsed file but `extends`, checked, by key ("tile", "cell.kind", "cell.c00").

    Raises:
        DesignError: an entry is not acceptable.
    """
    check_keys(raw, ("extends", *WORDS, *NUMBERS, "cell", *TABLES), where)
    entries: dict[str, Any] = {}
    for key, value in raw.items():
        if key in NUMBERS:
            entries[key] = parse_quantity(value, NUMBERS[key], f"{where}: {key}")
        elif key in WORDS:
            entries[key] = value
        else:
            entries |= _table_entries(key, value, f"{where}: {key}")
    return entries


def _table_entries(table: str, raw: Any, where: str) -> dict[str, Any]:
    kinds = CELL_NUMBERS if table == "cell" else TABLE_NUMBERS[table]
    words = ("kind",) if table == "cell" else ()
    if not isinstance(raw, dict):
        raise DesignError(
            f"{where} = {raw!r} is not a table; allowed: [{table}] with {one_of((*words, *kinds))}"
        )
    check_keys(raw, (*words, *kinds), where)
    return {
        f"{table}.{key}": value if key in words else parse_quantity(value, kinds[key], f"{where}.{key}")
        for key, value in raw.items()
    }
