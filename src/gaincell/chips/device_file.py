"""A measured cell as a file, DEVICE.toml.

The format is open: see docs/device-format.md. Every number is a table with value, unit, source and range, as
in a design; source "F" is a fit to measurements, whose file and SHA-256 stand in [origin].
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gaincell.chips.design import cell_of
from gaincell.chips.fields import BASIC, CELL_NUMBERS, NUMBERS, TABLE_NUMBERS
from gaincell.devices.cell import CELL_KINDS, Cell
from gaincell.devices.decay import LAWS
from gaincell.devices.variability import Mismatch
from gaincell.errors import DesignError
from gaincell.files import write_text
from gaincell.quantity import (
    NumberKind,
    Quantity,
    check_keys,
    one_of,
    parse_quantity,
    read_numbers,
    toml_value,
)
from gaincell.resources import resolve
from gaincell.text import sha256

SCHEMA = "gaincell-device-1"
RETENTION_NUMBERS: Mapping[str, NumberKind] = {
    "retention_time": NumberKind("s"),
    "beta": NumberKind("1"),
    "tau_slow": NumberKind("s"),
    "share": NumberKind("1"),
    "target_voltage": NumberKind("V"),
    "spread": NumberKind("1"),
    "time_to_1_over_e": NumberKind("s"),
}
MISMATCH_NUMBERS: Mapping[str, NumberKind] = {
    key: TABLE_NUMBERS["mismatch"][key] for key in (*BASIC, "stuck_low", "stuck_high", "dead")
}
SCALE_NUMBERS: Mapping[str, NumberKind] = {
    key: NUMBERS[key] for key in ("v_min", "v_max", "v_offset", "t_pulse_max", "charge_unit")
}
TABLES: Mapping[str, Mapping[str, NumberKind]] = {
    "cell": CELL_NUMBERS,
    "retention": RETENTION_NUMBERS,
    "mismatch": MISMATCH_NUMBERS,
    "noise": {"read_std": NumberKind("1")},
    "scale": SCALE_NUMBERS,
}
WORDS: Mapping[str, tuple[str, ...]] = {"cell": ("kind",), "retention": ("law",)}
PLAIN = ("origin", "quality", "covariance")
"""Tables of plain values, for people and programs; only the covariance is used."""


@dataclass(frozen=True)
class Device:
    """One kind of cell, as measured.

    Attributes:
        name: Its name.
        description: One line on it.
        cell: Its curve.
        law: Of retention, one of devices.decay.LAWS; None if it was not measured.
        numbers: Every number with its provenance, by key ("cell.coefficients", "retention.retention_time",
            ...).
        origin: See PLAIN.
        quality: See PLAIN.
        covariance: See PLAIN.
    """

    name: str
    description: str
    cell: Cell
    law: str | None
    numbers: Mapping[str, Quantity]
    origin: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, Any] = field(default_factory=dict)
    covariance: Mapping[str, Any] = field(default_factory=dict)

    def number(self, key: str) -> float | None:
        """A number by its key; None if the file does not state it."""
        value = self.numbers[key].value if key in self.numbers else None
        assert value is None or isinstance(value, (int, float))
        return value

    def to_toml(self) -> str:
        """The device as a file; loading it gives an equal device."""
        words = {"schema": SCHEMA, "name": self.name, "description": self.description}
        lines = [f"{key} = {toml_value(value)}" for key, value in words.items()]
        for table in TABLES:
            entries = {k.split(".")[1]: q for k, q in self.numbers.items() if k.startswith(f"{table}.")}
            word = {"cell": self.cell.name, "retention": self.law}.get(table)
            if not entries and word is None:
                continue
            lines += ["", f"[{table}]"]
            lines += [f"{name} = {toml_value(word)}" for name in WORDS.get(table, ())]
            lines += [f"{key} = {quantity.to_toml()}" for key, quantity in entries.items()]
        for table in PLAIN:
            if values := getattr(self, table):
                lines += [
                    "",
                    f"[{table}]",
                    *(f"{key} = {toml_value(value)}" for key, value in values.items()),
                ]
        return "\n".join(lines) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_toml()` to a file, completely or not at all."""
        return write_text(path, self.to_toml())


def load_device(path: str | os.PathLike[str]) -> Device:
    """Read DEVICE.toml.

    Raises:
        DesignError: the file is not acceptable; names file, key, what was given and what is allowed.
    """
    path = resolve(path)
    if not path.exists():
        raise DesignError(f"{path}: there is no such device file")
    raw = read_numbers(path)
    if raw.get("schema") != SCHEMA:
        hint = "; a design belongs to --design" if "tile" in raw or "extends" in raw else ""
        raise DesignError(f"{path}: schema = {raw.get('schema')!r}; a device file says {SCHEMA!r}{hint}")
    check_keys(raw, ("schema", "name", "description", *TABLES, *PLAIN), str(path))
    words = {key: raw.get(key, "") for key in ("name", "description")}
    if not all(isinstance(word, str) for word in words.values()):
        raise DesignError(f"{path}: name and description must be text")
    numbers: dict[str, Quantity] = {}
    for table, kinds in TABLES.items():
        entries = raw.get(table, {})
        where = f"{path}: {table}"
        if not isinstance(entries, dict):
            raise DesignError(f"{where} = {entries!r} is not a table")
        check_keys(entries, (*WORDS.get(table, ()), *kinds), where)
        for key, value in entries.items():
            if key in kinds:
                numbers[f"{table}.{key}"] = parse_quantity(value, kinds[key], f"{where}.{key}")
    for table in PLAIN:
        if not isinstance(raw.get(table, {}), dict):
            raise DesignError(f"{path}: {table} = {raw[table]!r} is not a table")
    law = raw.get("retention", {}).get("law")
    if law is not None and (not isinstance(law, str) or law not in LAWS):
        raise DesignError(f"{path}: retention.law = {law!r}; allowed: {one_of(LAWS)}")
    missing = [f"scale.{key}" for key in SCALE_NUMBERS if f"scale.{key}" not in numbers]
    if missing or "kind" not in raw.get("cell", {}):
        raise DesignError(f"{path}: {(missing or ['cell.kind'])[0]!r} is missing")
    try:
        cell = cell_of(raw["cell"]["kind"], numbers)
    except DesignError as error:
        raise DesignError(f"{path}: {error}") from None
    ends = torch.tensor([numbers[f"scale.{key}"].value for key in ("v_min", "v_max")], dtype=torch.float64)
    low, high = cell.current(ends - float(numbers["scale.v_offset"].value)).tolist()  # type: ignore[arg-type]
    if not low < high:
        raise DesignError(
            f"{path}: the current falls from {low:.4g} to {high:.4g} charge units; it must rise"
        )
    plain = {table: raw.get(table, {}) for table in PLAIN}
    check_keys(plain["covariance"], ("coefficients",), f"{path}: covariance")
    _check_covariance(plain["covariance"].get("coefficients"), cell, path)
    return Device(words["name"], words["description"], cell, law, numbers, **plain)


def _check_covariance(rows: Any, cell: Cell, path: Path) -> None:
    """Raise DesignError for what is no covariance of the cell's coefficients."""
    if rows is None:
        return
    size = len(cell.coefficients or ()) or None
    square = isinstance(rows, list) and all(isinstance(row, list) and len(row) == len(rows) for row in rows)
    if not square or not all(type(c) in (int, float) for row in rows for c in row):
        raise DesignError(f"{path}: covariance.coefficients = {rows!r}; allowed: n rows of n numbers")
    if cell.name == "polynomial" and len(rows) != size:
        raise DesignError(
            f"{path}: covariance.coefficients has {len(rows)} rows for {size} coefficients of the cell"
        )
    try:
        Mismatch(coefficient_covariance=tuple(float(c) for row in rows for c in row))
    except DesignError as error:
        raise DesignError(f"{path}: covariance: {error}") from None


def inputs_of_cell(source: str | None) -> dict[str, str]:
    """Name -> SHA-256 of the file that `with_cell` reads, for provenances; of a kind of cell nothing."""
    if source is None or source in CELL_KINDS:
        return {}
    return {f"cell {Path(source).name}": sha256(resolve(source))}


def with_simulated(numbers: Mapping[str, Quantity], curve: str, decay: str) -> dict[str, Quantity]:
    """The numbers of a device, with a note on those fitted to simulations, where curve or decay are; without
    the spread of simulated decays, which are of one cell.
    """
    found = dict(numbers)
    for key, number in numbers.items():
        if number.source == "F" and (decay if key.startswith("retention.") else curve):
            note = f"simulated; {number.note}".removesuffix("; ")
            if key.startswith("retention."):
                note = note.replace("95 % confidence", "95 %, over written voltages of one cell")
            found[key] = dataclasses.replace(number, note=note)
    if decay:
        found.pop("retention.spread", None)
    return found
