"""A measured cell as a file, DEVICE.toml, and how it enters a design.

    device = fit_device("curve.csv", design)     # or load_device("device.toml")
    design = with_cell(design, device)           # or with_cell(design, "device.toml" | "curve.csv" | "x3")

The format is open: see docs/device-format.md. Every number is a table with value, unit, source and range, as
in a design; source "F" is a fit to measurements, whose file and SHA-256 stand in [origin].
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from gaincell.design import CELL_NUMBERS, Design, cell_of
from gaincell.devices.cell import CELL_KINDS, Cell
from gaincell.devices.decay import LAWS, DecayFit, fit_decay
from gaincell.devices.fit import CurveFit, Estimate, Scale, fit_curve
from gaincell.devices.measurement import read_curve, read_decay
from gaincell.devices.variability import Mismatch
from gaincell.errors import DesignError, InputError
from gaincell.files import write_text
from gaincell.quantity import (
    NumberKind,
    Quantity,
    check_keys,
    did_you_mean,
    one_of,
    parse_quantity,
    toml_value,
)

SCHEMA = "gaincell-device-1"
FARTHEST = 30.0
"""Largest ratio of a cell's slope to that the chip's converters are made for."""

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
    "gain_std": NumberKind("1"),
    "offset_voltage_std": NumberKind("V"),
    "current_offset_std": NumberKind("1"),
    "stuck_low": NumberKind("1"),
    "stuck_high": NumberKind("1"),
    "dead": NumberKind("1"),
}
SCALE_NUMBERS: Mapping[str, NumberKind] = {
    "v_min": NumberKind("V"),
    "v_max": NumberKind("V"),
    "v_offset": NumberKind("V"),
    "t_pulse_max": NumberKind("s"),
    "charge_unit": NumberKind("C"),
}
TABLES: Mapping[str, Mapping[str, NumberKind]] = {
    "cell": CELL_NUMBERS,
    "retention": RETENTION_NUMBERS,
    "mismatch": MISMATCH_NUMBERS,
    "noise": {"read_std": NumberKind("1")},
    "scale": SCALE_NUMBERS,
}
WORDS: Mapping[str, tuple[str, ...]] = {"cell": ("kind",), "retention": ("law",)}
ELSEWHERE = {
    "retention.target_voltage": "leakage.decay_voltage",
    "retention.spread": "leakage.spread",
    "noise.read_std": "noise.cell_std",
}
"""Where a number of a device stands in a design, unless its name says so."""
PLAIN = ("origin", "quality", "covariance")
"""Tables of plain values, for people and programs; only the covariance is used."""


@dataclass(frozen=True)
class Device:
    """One kind of cell, as measured.

    name, description: words.
    cell: its curve.
    law: of retention, one of devices.decay.LAWS; None if it was not measured.
    numbers: every number with its provenance, by key ("cell.coefficients", "retention.retention_time", ...).
    origin, quality, covariance: what PLAIN says.
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
        lines = [f"{key} = {toml_value(value)}" for key, value in (("schema", SCHEMA), ("name", self.name))]
        lines.append(f"description = {toml_value(self.description)}")
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
                lines += ["", f"[{table}]", *(f"{key} = {_plain(value)}" for key, value in values.items())]
        return "\n".join(lines) + "\n"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_toml()` to a file, completely or not at all."""
        return write_text(path, self.to_toml())


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    return toml_value(value)


def load_device(path: str | os.PathLike[str]) -> Device:
    """Read DEVICE.toml. Raises DesignError naming file, key, what was given and what is allowed."""
    path = Path(path)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DesignError(f"{path}: there is no such device file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DesignError(f"{path}: cannot be read as TOML: {error}") from None
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


def fit_device(
    curve: str | os.PathLike[str],
    design: Design,
    *,
    decay: str | os.PathLike[str] | None = None,
    kind: str = "polynomial",
    order: int = 3,
    law: str | None = None,
    rescale: bool = False,
    name: str | None = None,
) -> tuple[Device, CurveFit, DecayFit | None]:
    """A device from measured files.

    Args:
        curve: current against stored voltage, see devices/measurement.py.
        design: the chip it is meant for: storage range, pulse, charge unit.
        decay: stored voltage against time.
        kind, order: of the curve, see `fit_curve`.  law: of the decay, see `fit_decay`.
        rescale: take for charge unit what gives the cell the slope of the design's linear cell: converters
            dimensioned for this cell.
        name: of the device; by default that of the file.

    Raises:
        InputError: the files cannot be used or fitted; with the reason and what to do.
    """
    table = read_curve(curve)
    per_ampere = design.t_pulse_max / design.charge_unit
    charge_unit = design.charge_unit
    scale = Scale(design.v_min, design.v_max, design.v_offset, per_ampere)
    fitted = fit_curve(table, scale, kind, order)
    wanted = design.cell.linear_slope
    ratio = fitted.cell.linear_slope / wanted
    if rescale:
        charge_unit *= ratio
        scale = dataclasses.replace(scale, charge_per_ampere=per_ampere / ratio)
        fitted = fit_curve(table, scale, kind, order)
    elif not 1 / FARTHEST <= ratio <= FARTHEST:
        raise InputError(
            f"{curve}: the cell gives {fitted.cell.linear_slope / per_ampere:.3g} A/V, {ratio:.3g} times "
            f"what the converters of {design.name} are made for ({wanted / per_ampere:.3g} A/V): check the "
            "unit of the current, or give --rescale, which dimensions the converters for this cell"
        )
    decayed = None if decay is None else read_decay(decay)
    held = None if decayed is None else fit_decay(decayed, law)
    numbers = _cell_numbers(fitted) | _spread_numbers(fitted) | ({} if held is None else _decay_numbers(held))
    for key in SCALE_NUMBERS:
        value = charge_unit if key == "charge_unit" else getattr(design, key)
        numbers[f"scale.{key}"] = Quantity(
            value, SCALE_NUMBERS[key].unit, "U", (value, value), f"of {design.name}"
        )
    origin: dict[str, Any] = {"curve": table.path.name, "curve_sha256": table.sha256, "cells": fitted.cells}
    origin["points"] = fitted.points
    if decayed is not None:
        origin |= {"decay": decayed.path.name, "decay_sha256": decayed.sha256}
    quality: dict[str, Any] = {"r_squared": fitted.r_squared, "rms_charge_units": fitted.rms}
    quality |= {"residual_of_full_scale": fitted.residual_std, "full_scale_charge_units": fitted.full_scale}
    if fitted.offset_voltage is not None:
        quality["zero_current_at_volts"] = fitted.offset_voltage + design.v_offset
    if fitted.explained is not None:
        quality["variance_explained_by_mismatch"] = fitted.explained
    if held is not None:
        quality |= {"decay_rms_volts": held.rms, "decays_left_out": held.left_out}
    covariance = {"coefficients": [list(row) for row in fitted.covariance]} if fitted.covariance else {}
    title = f"{fitted.cell.name} cell fitted to {fitted.cells} measured cell{'s' * (fitted.cells > 1)}"
    device = Device(
        name or Path(curve).stem,
        title,
        fitted.cell,
        None if held is None else held.law,
        numbers,
        origin,
        quality,
        covariance,
    )
    return device, fitted, held


def _fitted(value: Any, unit: str, estimate: Estimate | None = None, note: str = "") -> Quantity:
    low, high = (min(value), max(value)) if isinstance(value, tuple) else (value, value)
    if estimate is not None and estimate.half_width is not None:
        low, high = value - estimate.half_width, value + estimate.half_width
        note = note or "range: 95 % confidence"
    return Quantity(value, unit, "F", (low, high), note)


def _cell_numbers(fitted: CurveFit) -> dict[str, Quantity]:
    numbers: dict[str, Quantity] = {}
    for key, value in fitted.cell.numbers.items():
        note = ""
        if key == "coefficients":
            note = "95 % confidence: " + ", ".join(f"+-{e.half_width:.3g}" for e in fitted.coefficients)
        numbers[f"cell.{key}"] = _fitted(value, CELL_NUMBERS[key].unit, note=note)
    return numbers


def _spread_numbers(fitted: CurveFit) -> dict[str, Quantity]:
    numbers: dict[str, Quantity] = {}
    for key, kind in MISMATCH_NUMBERS.items():
        estimate: Estimate | None = getattr(fitted, key, None)
        if estimate is not None:
            numbers[f"mismatch.{key}"] = _fitted(estimate.value, kind.unit, estimate)
    everything = fitted.cells + sum(fitted.broken.values())
    for key, count in fitted.broken.items():
        ends = stats.binomtest(count, everything).proportion_ci(0.95)
        note = f"{count} of {everything} cells; range: 95 % confidence"
        numbers[f"mismatch.{key}"] = Quantity(count / everything, "1", "F", (ends.low, ends.high), note)
    if fitted.noise_std is not None:
        numbers["noise.read_std"] = _fitted(
            fitted.noise_std, "1", note="fraction of full scale, from repeated reads"
        )
    return numbers


def _decay_numbers(held: DecayFit) -> dict[str, Quantity]:
    found = {
        "retention_time": held.tau,
        "beta": held.beta,
        "tau_slow": held.tau_slow,
        "share": held.share,
        "target_voltage": held.target,
        "spread": held.tau_spread,
        "time_to_1_over_e": held.time_to_1_over_e,
    }
    return {
        f"retention.{key}": Quantity(
            value,
            RETENTION_NUMBERS[key].unit,
            "F",
            held.intervals.get(key, (-math.inf, math.inf)),
            "range: 95 % confidence" if key in held.intervals else "",
        )
        for key, value in found.items()
        if value is not None
    }


def with_cell(design: Design, source: str | os.PathLike[str] | Device) -> Design:
    """A design with another cell.

    Args:
        design: the chip.
        source: kind of cell ("x3"; its numbers are the design's), DEVICE.toml, a measured CURVE.csv (fitted
            with the defaults of `fit_device`), or a Device. A device also brings its retention, mismatch and
            read noise, where they were measured; seed and chip stay those of the design. Of a polynomial
            cell the mismatch is the covariance of its coefficients, of a table the basic model.

    Raises:
        DesignError, InputError: there is no such cell, or the device was fitted for another chip.
    """
    if not isinstance(source, Device):
        text = os.fspath(source)
        if text.lower().endswith((".csv", ".tsv", ".txt")):
            return with_cell(design, fit_device(text, design)[0])
        if not text.lower().endswith(".toml"):
            return _named(design, text)
        return with_cell(design, load_device(text))
    for key in ("v_min", "v_max", "v_offset", "t_pulse_max"):
        measured, chip = source.number(f"scale.{key}"), getattr(design, key)
        if measured != chip:
            raise DesignError(
                f"device {source.name!r} was fitted for {key} = {measured!r}, design {design.name!r} has "
                f"{chip!r}: fit it again with --design"
            )
    changes: dict[str, Any] = {"cell": source.cell, "charge_unit": source.number("scale.charge_unit")}
    if (tau := source.number("retention.retention_time")) is not None:
        if source.law != "exponential":
            tau = source.number("retention.time_to_1_over_e") or tau
        changes["retention_time"] = tau
    known: dict[str, Any] = {}
    covariance = source.covariance.get("coefficients")
    stated = {key: source.number(f"mismatch.{key}") for key in MISMATCH_NUMBERS}
    known = {key: value for key, value in stated.items() if value is not None}
    if covariance and source.cell.name == "polynomial":
        known = {key: value for key, value in known.items() if not key.endswith("_std")}
        known["coefficient_covariance"] = tuple(entry for row in covariance for entry in row)
    if known:
        changes["mismatch"] = Mismatch(**known, seed=design.mismatch.seed, chip=design.mismatch.chip)
    target, spread = source.number("retention.target_voltage"), source.number("retention.spread")
    if target is not None or spread is not None:
        changes["leakage"] = dataclasses.replace(design.leakage, decay_voltage=target, spread=spread or 0.0)
    if (read_std := source.number("noise.read_std")) is not None:
        changes["noise"] = dataclasses.replace(design.noise, cell_std=read_std)
    if source.law not in (None, "exponential"):
        logging.getLogger("gaincell").warning(
            "device %r decays by the law %r; its chip decays exponentially with tau = %.4g s",
            source.name,
            source.law,
            tau,
        )
    changed = design.replace(**changes)
    provenance = dict(changed.provenance)
    for key, quantity in source.numbers.items():
        key = ELSEWHERE.get(key, key.removeprefix("retention.").removeprefix("scale."))
        if key in provenance and provenance[key].value == quantity.value and quantity.source == "F":
            note = f"device {source.name}" + (f"; {quantity.note}" if quantity.note else "")
            provenance[key] = dataclasses.replace(provenance[key], source="F", note=note)
    if "coefficient_covariance" in known:
        key = "mismatch.coefficient_covariance"
        provenance[key] = dataclasses.replace(provenance[key], source="F", note=f"device {source.name}")
    return dataclasses.replace(changed, provenance=provenance)


def _named(design: Design, kind: str) -> Design:
    if kind in CELL_KINDS:
        return design.replace(cell=kind)
    raise DesignError(
        f"no cell {kind!r}{did_you_mean(kind, CELL_KINDS)}; allowed: {one_of(CELL_KINDS)}, a device file "
        "(.toml) or a measured curve (.csv)"
    )
