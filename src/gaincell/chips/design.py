"""What a gain-cell chip is: one frozen dataclass, checked on construction.

A Design holds no defaults of its own: all physical numbers live in designs/*.toml and come in through
`gaincell.chips.design_file.load_design`, with unit, source and range, which stay with them (`provenance`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gaincell.chips.checks import check_cell, check_design
from gaincell.chips.fields import (
    BASIC,
    CELL_NUMBERS,
    DRAWN,
    FILE_KEYS,
    FIT_NUMBERS,
    NUMBERS,
    ROOM_TEMPERATURE,
    TABLE_NUMBERS,
    TABLES,
    WORDS,
    DesignFields,
    entries_of,
    stated_numbers,
    stored,
)
from gaincell.circuits import write_dac
from gaincell.circuits.nonideality import kinds_drawn
from gaincell.circuits.readout import READOUTS
from gaincell.devices.cell import CELL_KINDS, Cell, named_cell
from gaincell.devices.leakage import at_temperature
from gaincell.devices.random import LARGEST_NORMAL, Drawn
from gaincell.devices.variability import cells_differ
from gaincell.devices.writing import write_std
from gaincell.errors import DesignError
from gaincell.files import parse_toml, write_text
from gaincell.quantity import NumberKind, Quantity, check_keys, one_of, toml_value
from gaincell.units import ChargeUnit, Second, Volt


@dataclass(frozen=True)
class Design(DesignFields):
    """One chip: the cell, the size of a head, its converters, voltages and times, in SI units.

    Obtain one from `load_design` and change it with `replace`. Two designs are equal when they behave and are
    named alike; where the numbers come from (`provenance`) is carried along but not compared.
    """

    def __post_init__(self) -> None:
        check_design(self, self.in_use)

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, f.name) for f in fields(self) if f.compare))

    def __hash__(self) -> int:
        return self._hash  # designs are keys of what is kept from call to call

    def __getstate__(self) -> dict[str, Any]:
        """What is cached stays behind: another process hashes text otherwise."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def token_period(self) -> Second:
        """Time between two tokens, dt; layers * layer_latency unless stated."""
        if self.explicit_token_period is not None:
            return self.explicit_token_period
        return self.layers * self.layer_latency

    @property
    def tau(self) -> Second | None:
        """Retention time at the chip's temperature; None = no decay."""
        return at_temperature(self.retention_time, self.leakage, self.temperature)

    @property
    def decay_per_token(self) -> float:
        """delta = exp(-dt / tau), 1 without decay; read disturb not included."""
        return math.exp(-self.leak_per_token)

    def kept_per_token(self, reads: int) -> float:
        """delta of a column that so many queries read a token, with what their reads take."""
        return math.exp(-self.leak_per_token - reads * self.disturb_per_read)

    @property
    def leak_per_token(self) -> float:
        """dt / tau, 0 without decay."""
        return 0.0 if self.tau is None else self.token_period / self.tau

    @property
    def disturb_per_read(self) -> float:
        """-ln(1 - r): what one read adds to the exponent of the decay."""
        return -math.log1p(-self.leakage.read_disturb)

    @property
    def decay_target(self) -> Volt:
        """Where the store decays to, u_inf, relative to v_offset."""
        voltage = self.leakage.decay_voltage
        return 0.0 if voltage is None else voltage - self.v_offset

    @cached_property
    def cells_differ(self) -> bool:
        """Whether cells have errors of their own."""
        return cells_differ(self)

    @cached_property
    def in_use(self) -> frozenset[str]:
        """What the chip does, by name: fields ("tile") and numbers of `TABLES` ("noise.cell_std") that are
        stated and not off. Whatever computes a chip states those that it implements: see features.py.
        """
        top = {f.name for f in fields(self) if f.compare and getattr(self, f.name) is not None}
        numbers = {
            f"{table}.{key}"
            for table in TABLES
            for key, value in stated_numbers(getattr(self, table)).items()
            if not isinstance(value, tuple) or any(value)
        }
        if self.decay_target == 0.0:
            numbers.discard("leakage.decay_voltage")
        return frozenset(top - {"name", "description", *TABLES} | numbers)

    def drawn(self, per: Drawn) -> frozenset[str]:
        """Random effects that are at work and drawn once per "chip", or at every "operation", by name."""
        found = {name for name in self.in_use if DRAWN.get(name) == per}
        if per in kinds_drawn(self.nonideality):
            found.add("nonideality")
        return frozenset(found - ({"leakage.spread"} if self.tau is None else set()))

    def without(self, *per: Drawn) -> Design:
        """The chip with these random effects off; all else, its number included, stays."""
        off: dict[str, dict[str, Any]] = {}
        own = self.nonideality if kinds_drawn(self.nonideality).isdisjoint(per) else None
        for table, key in (name.split(".") for name in self.in_use if DRAWN.get(name) in per):
            off.setdefault(table, {})[key] = next(f.default for f in fields(TABLES[table]) if f.name == key)
        tables = {table: dataclasses.replace(getattr(self, table), **keys) for table, keys in off.items()}
        return self.replace(**tables, nonideality=own)

    @property
    def largest_voltage(self) -> Volt:
        """Largest |u| that a write can leave."""
        w = self.writing
        reach = max(self.v_max - self.v_offset, self.v_offset - self.v_min)
        reach = reach * (1 + abs(w.injection_gain)) + abs(w.injection_voltage)
        reach += LARGEST_NORMAL * write_std(self)
        return reach / (1 - w.discharge_residual)

    @cached_property
    def input_stage_differs(self) -> bool:
        """Whether what drivers and writes give to the arrays is not what the converters were asked for."""
        drivers = self.drivers.signed or self.converters.drivers_present or self.noise.pulse_jitter > 0
        return drivers or self.writing.present or self.decay_target != 0 or self.levels.present

    @property
    def driver_levels(self) -> int | tuple[float, ...] | None:
        """Pulse widths of the query driver, for `circuits.query_driver`: how many, or which."""
        return self.query_levels and (self.levels.query or self.query_levels)

    @property
    def dac_levels(self) -> int | tuple[float, ...] | None:
        """Voltages of the write DAC, for `circuits.write_dac`: how many, or which (about V_offset)."""
        return self.storage_levels and (self.levels.storage or self.storage_levels)

    @cached_property
    def highest_write(self) -> Volt:
        """The highest voltage that is written, about V_offset.

        Evenly spaced levels lie about it: where V_offset is not in the middle, it is not that of v_max.
        """
        asked = torch.tensor(self.v_max, dtype=torch.float64)
        return float(write_dac(asked, self.dac_levels, self.v_min, self.v_max, self.v_offset))

    def score_saturation(self, head_dim: int) -> ChargeUnit:
        """S_sat of a head with head_dim rows, charge units."""
        return self.score_saturation_per_row * head_dim

    @property
    def output_saturation(self) -> ChargeUnit:
        """O_sat of one sub-tile, charge units."""
        return self.output_saturation_per_column * self.tile

    @property
    def tiles(self) -> int:
        """Sub-tiles of a head."""
        return self.window // self.tile

    @property
    def readout_steps(self) -> float:
        """Readout steps from zero to full scale: 15 of a 16-level counter, 31/2 in the published code."""
        return READOUTS[self.readout].steps(self.counter_levels)

    def replace(self, **changes: Any) -> Design:
        """A copy with some fields changed, checked like a file.

        `cell` takes a Cell, or the name of a kind whose numbers then come from this design. `token_period`
        states the token period; None lets it follow from the layers again.

        Raises:
            DesignError: an unknown field, a wrong type, or a value outside its range.
        """
        where = f"design {self.name!r}"
        keys = {FILE_KEYS.get(f.name, f.name): f.name for f in fields(self) if f.compare}
        check_keys(changes, keys, where)
        provenance = dict(self.provenance)
        for key, value in changes.items():
            if key == "cell":
                reach = max(self.v_max - self.v_offset, self.v_offset - self.v_min)
                changes[key] = _set_cell(value, reach, provenance, where)
            elif key in TABLES:
                _set_table(key, value, provenance, where)
            elif key in NUMBERS:
                changes[key] = _set_number(key, value, NUMBERS[key], provenance, where)
        renamed = {keys[key]: value for key, value in changes.items()}
        return dataclasses.replace(self, **renamed, provenance=provenance)

    def supposed(self, **numbers: Any) -> Design:
        """`replace` without regard to the ranges of a file, which are those of its technology."""
        free = {
            key: dataclasses.replace(self.provenance[key], range=(-math.inf, math.inf))
            for key in numbers.keys() & self.provenance.keys()
        }
        return dataclasses.replace(self, provenance={**self.provenance, **free}).replace(**numbers)

    def redrawn(self, draw: int, *, chip: bool = False) -> Design:
        """The same chip with other noise, or another chip of its kind, too; itself where that is the same.

        Args:
            draw: 0 for the noise and chip of the design; distinct numbers below 2^32 give independent draws.
            chip: Whether the chip is another one, too.
        """
        effects = self.drawn("operation")
        tables = {"noise" if name == "nonideality" else name.split(".")[0] for name in effects}
        changes: dict[str, Any] = {
            table: dataclasses.replace(part, seed=(part.seed + draw) % 2**32)
            for table, part in ((table, getattr(self, table)) for table in tables)
        }
        if chip and self.drawn("chip"):
            changes["mismatch"] = dataclasses.replace(self.mismatch, chip=(self.mismatch.chip + draw) % 2**32)
        return self.replace(**changes) if draw and changes else self

    @property
    def hash(self) -> str:
        """12 hexadecimal digits over everything that changes a result (not name, description, provenance)."""
        content: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        del content["name"], content["description"]
        kinds = CELL_NUMBERS if self.cell.name in CELL_KINDS else {}
        content["cell"] = {"kind": self.cell.name, **stored(self.cell.numbers, kinds)}
        for table in TABLES:
            stated = stored(stated_numbers(getattr(self, table)), TABLE_NUMBERS[table])
            content[table] = {"seed": 0, "chip": 0, **BASIC, **stated} if table == "mismatch" else stated
            if not content[table]:
                del content[table]  # so that a hash outlives the invention of a table
        if self.nonideality is None:
            del content["nonideality"]
        else:
            content["nonideality"] = {"name": self.nonideality.name, **self.nonideality.numbers}
        if self.temperature == ROOM_TEMPERATURE.value:
            del content["temperature"]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def to_toml(self) -> str:
        """The design as a complete file; loading it gives an equal design with the same provenance.

        Raises:
            DesignError: a cell of one's own that is not in devices.cell.CELL_KINDS, a non-ideality of one's
                own, or a text that would not give this design back: because of a number of one's own, say.
        """
        if self.nonideality is not None:
            raise DesignError(
                f"design {self.name!r}: nonideality {self.nonideality.name!r} cannot be written to a file; "
                "save the design without it: replace(nonideality=None)"
            )
        if self.cell.name not in CELL_KINDS:
            raise DesignError(
                f"design {self.name!r}: cell {self.cell.name!r} cannot be written to a file; "
                f"allowed: {one_of(CELL_KINDS)}"
            )
        lines: dict[str, list[str]] = {
            "": [f"{word} = {toml_value(getattr(self, word))}" for word in WORDS],
            "cell": [f"kind = {toml_value(self.cell.name)}"],
            **{table: [] for table in TABLES},
        }
        for key, quantity in self.provenance.items():
            table, _, entry = key.rpartition(".")
            lines[table].append(f"{entry} = {quantity.to_toml()}")
        tables = [
            [f"[{table}]", *entries] if table else entries for table, entries in lines.items() if entries
        ]
        text = "\n\n".join("\n".join(table) for table in tables) + "\n"
        try:
            again = design_of(entries_of(parse_toml(text), "the file"), "the file")
        except (ValueError, DesignError) as error:
            raise DesignError(f"design {self.name!r} cannot be written to a file: {error}") from None
        if again.hash != self.hash:
            lost = sorted(self.in_use ^ again.in_use)
            raise DesignError(
                f"design {self.name!r} cannot be written to a file, which would not hold {one_of(lost)}; "
                "save the design without it"
            )
        return text

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_toml()` to a file, completely or not at all."""
        return write_text(path, self.to_toml())


def cell_of(kind: Any, quantities: Mapping[str, Quantity]) -> Cell:
    """The cell of one kind with the numbers of a design; errors as of `named_cell`."""
    numbers = {key: quantities[f"cell.{key}"].value for key in CELL_NUMBERS if f"cell.{key}" in quantities}
    return named_cell(kind, numbers)


def _set_cell(cell: Cell | str, reach: Volt, provenance: dict[str, Quantity], where: str) -> Cell:
    """The cell to put into a design; its numbers enter the provenance."""
    if isinstance(cell, str):
        try:
            return cell_of(cell, provenance)
        except DesignError as error:
            raise DesignError(f"{where}: {error}") from None
    check_cell(cell, reach, where)
    if cell.name in CELL_KINDS and not _is_cell_of(cell, provenance):
        for key in FIT_NUMBERS if "coefficients" in cell.numbers else ():
            provenance.pop(f"cell.{key}", None)
        for key, value in cell.numbers.items():
            _set_number(f"cell.{key}", value, CELL_NUMBERS[key], provenance, where)
    return cell


def _is_cell_of(cell: Cell, provenance: Mapping[str, Quantity]) -> bool:
    """Whether the numbers at hand give this very cell already, perhaps from a fit instead of coefficients."""
    try:
        return cell == cell_of(cell.name, provenance)
    except DesignError:
        return False


def _set_table(name: str, table: Any, provenance: dict[str, Quantity], where: str) -> None:
    """Enter the numbers of one of TABLES into the provenance."""
    if not isinstance(table, TABLES[name]):
        raise DesignError(
            f"{where}: {name} = {table!r} has the wrong type; allowed: a {TABLES[name].__name__}"
        )
    stated = stated_numbers(table)
    for key, kind in TABLE_NUMBERS[name].items():
        if key in stated or f"{name}.{key}" in provenance:
            _set_number(f"{name}.{key}", getattr(table, key), kind, provenance, where)


def _set_number(key: str, value: Any, kind: NumberKind, provenance: dict[str, Quantity], where: str) -> Any:
    """One number as it is stored, entered into the provenance if it is new."""
    where = f"{where}: {key}"
    value = kind.convert(value, where)
    stated = provenance.get(key, Quantity(None, kind.unit, "U", (-math.inf, math.inf)))
    if stated.value != value:
        provenance[key] = stated.set_to(value, where)
    if key == "token_period" and value is None:
        provenance.pop(key, None)
    return value


def design_of(entries: Mapping[str, Any], where: str) -> Design:
    """The design of these entries; DesignError where one is missing or not allowed."""
    required = [*WORDS, *NUMBERS, "cell.kind"]
    absent = [key for key in required if key not in entries and key != "token_period"]
    if absent:
        raise DesignError(f"{where}: key {absent[0]!r} is missing; state it, or extend a design that does")
    quantities = {key: entry for key, entry in entries.items() if isinstance(entry, Quantity)}
    if "cell.coefficients" in quantities:
        quantities = {key: q for key, q in quantities.items() if key.removeprefix("cell.") not in FIT_NUMBERS}
    numbers: dict[str, Any] = {key: quantity.value for key, quantity in quantities.items()}
    values = {word: entries[word] for word in WORDS} | {key: numbers.get(key) for key in NUMBERS}
    explicit_token_period = values.pop("token_period")
    stated = {
        table: {key: numbers[f"{table}.{key}"] for key in kinds if f"{table}.{key}" in numbers}
        for table, kinds in TABLE_NUMBERS.items()
    }
    try:
        return Design(
            **values,
            cell=cell_of(entries["cell.kind"], quantities),
            **{table: kind(**stated[table]) for table, kind in TABLES.items()},
            nonideality=None,
            explicit_token_period=explicit_token_period,
            provenance=quantities,
        )
    except DesignError as error:
        raise DesignError(f"{where}: {error}") from None
