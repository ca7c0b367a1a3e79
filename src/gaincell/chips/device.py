"""A measured cell: from files to a device, and from a device into a design.

device = fit_device("curve.csv", design)[0]  # or load_device("device.toml")
design = with_cell(design, device)           # or with_cell(design, "device.toml" | "curve.csv" | "x3")

The fits are those of `devices`; the device keeps their intervals, and the files with their hashes.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from pathlib import Path
from typing import Any

from scipy import stats

from gaincell.chips.design import Design
from gaincell.chips.device_file import (
    MISMATCH_NUMBERS,
    RETENTION_NUMBERS,
    SCALE_NUMBERS,
    Device,
    load_device,
    with_simulated,
)
from gaincell.chips.fields import BASIC, CELL_NUMBERS, TABLES, stated_numbers
from gaincell.devices.cell import CELL_KINDS
from gaincell.devices.columns import Columns
from gaincell.devices.decay import DecayFit, fit_decay, two_times_to_1_over_e
from gaincell.devices.fit import CurveFit, Estimate, fit_curve
from gaincell.devices.measurement import Table, read_curve, read_decay
from gaincell.devices.screening import Scale, near_range
from gaincell.errors import DesignError, InputError
from gaincell.quantity import Quantity, did_you_mean, one_of

__all__ = ["Device", "fit_device", "load_device", "with_cell"]

FARTHEST = 30.0
"""Largest ratio of a cell's slope to that the chip's converters are made for."""
ELSEWHERE = {
    "retention.target_voltage": "leakage.decay_voltage",
    "retention.spread": "leakage.spread",
    "noise.read_std": "noise.cell_std",
}
"""Where a number of a device stands in a design, unless its name says so."""
OF_DEVICE = "device "
"""Notes of a device's numbers in a design begin so."""
BEFORE = "; in place of the design's own "
"""Behind it such a note has the number that the design had stated itself."""
COVARIANCE = "mismatch.coefficient_covariance"


def with_cell(design: Design, source: str | os.PathLike[str] | Device) -> Design:
    """A design with another cell.

    Args:
        design: The chip.
        source: Kind of cell ("x3"; its numbers are the design's), DEVICE.toml, a measured CURVE.csv (fitted
            with the defaults of `fit_device`), or a Device. A device also brings its name, retention,
            mismatch and read noise, where they were measured; seed and chip stay those of the design. Of a
            polynomial cell the mismatch is the covariance of its coefficients, of a table the basic model.
            What the device does not state stays; what another device brought goes with it, and what the
            design had stated in its place is there again; with a kind, only the covariance of coefficients.

    Raises:
        DesignError, InputError: there is no such cell, the device was fitted for another chip, or states no
            retention where that of the chip is another device's.
    """
    if not isinstance(source, Device):
        text = os.fspath(source)
        if text.lower().endswith((".csv", ".tsv", ".txt")):
            try:
                return with_cell(design, fit_device(text, design)[0])
            except InputError as error:
                if not Path(text).exists():
                    raise
                raise InputError(
                    f"{error}. Such options belong to: gaincell device fit {text} --out DEVICE.toml; "
                    "then give --cell DEVICE.toml"
                ) from None
        if not text.lower().endswith(".toml"):
            return _named(design, text)
        return with_cell(design, load_device(text))
    for key in ("v_min", "v_max", "v_offset", "t_pulse_max"):
        measured, own = source.number(f"scale.{key}"), getattr(design, key)
        if measured != own:
            raise DesignError(
                f"device {source.name!r} was fitted for {key} = {measured!r}, design {design.name!r} has "
                f"{own!r}: give the --design it was fitted for, or fit it again for this one"
            )
    retention, chip = _retention(source), _without_device(design)
    if retention is None and _is_measured(chip.provenance["retention_time"]):
        raise DesignError(
            f"device {source.name!r} states no retention, and that of design {design.name!r} is another "
            "device's: fit it with --decay, or give a --design without a device"
        )
    brought: dict[str, Any] = {"charge_unit": source.number("scale.charge_unit")}
    if retention is not None:
        brought["retention_time"] = retention.value
    chip = chip.supposed(**{key: value for key, value in brought.items() if value != getattr(chip, key)})
    name, base = source.name or source.cell.name, chip.name
    changes: dict[str, Any] = {"cell": source.cell, "name": f"{base}+{name}"}
    changes["description"] = f"{base} with {source.description or name}"
    covariance = source.covariance.get("coefficients")
    stated = ((key, source.number(f"mismatch.{key}")) for key in MISMATCH_NUMBERS)
    known: dict[str, Any] = {key: value for key, value in stated if value is not None}
    if covariance and source.cell.name == "polynomial":
        known |= {**BASIC, "coefficient_covariance": tuple(entry for row in covariance for entry in row)}
        if chip.mismatch.smooth_share:
            logging.getLogger("gaincell").warning(
                "device %r states the covariance of its coefficients, which is drawn for every cell on its "
                "own: smooth_share and correlation_length of design %r have no effect; without [covariance] "
                "in the device its standard deviations are used, and correlated",
                name,
                base,
            )
    changes["mismatch"] = dataclasses.replace(chip.mismatch, **known)
    for key, place in ELSEWHERE.items():
        if (value := source.number(key)) is not None:
            table, number = place.split(".")
            part = changes.get(table, getattr(chip, table))
            changes[table] = dataclasses.replace(part, **{number: value})
    if retention is not None and source.law not in (None, "exponential"):
        logging.getLogger("gaincell").warning(
            "device %r decays by the law %r; its chip decays exponentially with tau = %.4g s",
            source.name,
            source.law,
            retention.value,
        )
    return _with_provenance(chip, chip.replace(**changes), source, retention)


def _with_provenance(chip: Design, changed: Design, source: Device, retention: Quantity | None) -> Design:
    """The changed chip, with what the device states of the numbers that are its own, and what stood there."""
    own = {f"{table}.{key}": x for table in TABLES for key, x in stated_numbers(getattr(chip, table)).items()}
    provenance = dict(changed.provenance)
    fitted = {**source.numbers, **({"retention.retention_time": retention} if retention else {})}
    for place, quantity in fitted.items():
        key = ELSEWHERE.get(place, place.removeprefix("retention.").removeprefix("scale."))
        if key not in provenance or provenance[key].value != quantity.value:
            continue
        is_fitted = quantity.source == "F"  # the range of another source is no bound of the design's
        if is_fitted or not place.startswith("scale."):
            note = f"{OF_DEVICE}{source.name}" + (f"; {quantity.note}" if quantity.note else "")
            note += f"{BEFORE}{own[key]!r}" if key in own else ""
            provenance[key] = dataclasses.replace(quantity if is_fitted else provenance[key], note=note)
    if changed.mismatch.coefficient_covariance:
        simulated = source.numbers["cell.coefficients"].note.startswith("simulated")
        note = f"{OF_DEVICE}{source.name}" + "; simulated" * simulated
        provenance[COVARIANCE] = dataclasses.replace(provenance[COVARIANCE], source="F", note=note)
        for key in own.keys() & {f"mismatch.{key}" for key in BASIC}:
            part = f"{note}; part of its covariance{BEFORE}{own[key]!r}"
            provenance[key] = dataclasses.replace(provenance[key], source="F", note=part)
    return dataclasses.replace(changed, provenance=provenance)


def _is_measured(quantity: Quantity) -> bool:
    """Whether a number of a design is that of a device."""
    return quantity.note.startswith(OF_DEVICE)


def _without_device(design: Design) -> Design:
    """The chip as it is called without a device, and without the curve's numbers, spread, leakage and noise
    that one brought, or the covariance of coefficients that are replaced.
    """
    chip = design.replace(name=design.name.partition("+")[0], **_tables_before(design, tuple(TABLES)))
    curve = {key for key, q in chip.provenance.items() if key.startswith("cell.") and _is_measured(q)}
    left = {key: quantity for key, quantity in chip.provenance.items() if key not in curve}
    return dataclasses.replace(chip, provenance=left)


def _tables_before(design: Design, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Tables of the chip without the covariance of coefficients, and with what it had stated itself in place
    of a device's numbers, whose keys begin with `prefixes`.
    """
    before: dict[str, dict[str, Any]] = {}
    for place, quantity in design.provenance.items():
        table, _, key = place.rpartition(".")
        measured = place.startswith(prefixes) and table in TABLES and _is_measured(quantity)
        if measured or place == COVARIANCE:
            own = quantity.note.rpartition(BEFORE)[2] if BEFORE in quantity.note else None
            value = getattr(TABLES[table](), key) if own is None else float(own)
            before.setdefault(table, {})[key] = value
    return {table: dataclasses.replace(getattr(design, table), **keys) for table, keys in before.items()}


def _retention(device: Device) -> Quantity | None:
    """tau of the exponential decay that is down to 1/e when the device is; None: not measured.

    Raises:
        DesignError: the device states a law, but not its numbers.
    """
    keys = ("retention_time", "time_to_1_over_e", "tau_slow", "share")
    tau, late, slow, share = (device.numbers.get(f"retention.{key}") for key in keys)
    if device.law in (None, "exponential"):
        return tau
    if device.law == "stretched":
        found = tau or late
    elif late is None and tau and slow and share:
        time = two_times_to_1_over_e(tau.value, slow.value, share.value)  # type: ignore[arg-type]
        found = dataclasses.replace(tau, value=time, range=(-math.inf, math.inf))
    else:
        found = late
    if found is None:
        raise DesignError(
            f"device {device.name!r} decays by the law {device.law!r}, but its numbers are missing: state "
            "retention.time_to_1_over_e, or leave out retention.law"
        )
    return dataclasses.replace(found, note=f"time to 1/e of the law {device.law}")


def _named(design: Design, kind: str) -> Design:
    if kind in CELL_KINDS:
        chip = design.replace(cell=kind)
        if chip.cell == design.cell or not chip.mismatch.coefficient_covariance:
            return chip
        return chip.replace(**_tables_before(chip, tuple(f"mismatch.{key}" for key in BASIC)))
    raise DesignError(
        f"no cell {kind!r}{did_you_mean(kind, CELL_KINDS)}; allowed: {one_of(CELL_KINDS)}, a device file "
        "(.toml) or a measured curve (.csv)"
    )


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
    columns: Columns | None = None,
    skip_bad_rows: bool = False,
) -> tuple[Device, CurveFit, DecayFit | None]:
    """A device from measured files.

    Args:
        curve: Current against stored voltage, see devices/measurement.py.
        design: The chip it is meant for: storage range, pulse, charge unit.
        decay: Stored voltage against time.
        kind: Of the curve, see `fit_curve`.
        order: Of a polynomial.
        law: Of the decay, see `fit_decay`.
        rescale: Dimension the converters for this cell: its slope is then that of the design's linear one.
        name: Of the device; by default that of the file.
        columns: Of the files, see `read_curve`.
        skip_bad_rows: Whether rows that hold something else than numbers are left out.

    Raises:
        InputError: the files cannot be used or fitted; with the reason and what to do.
    """
    table = read_curve(curve, columns, skip_bad_rows=skip_bad_rows)
    charge_unit, wanted = design.charge_unit, design.cell.linear_slope
    per_ampere = design.t_pulse_max / charge_unit
    scale = Scale(design.v_min, design.v_max, design.v_offset, per_ampere)
    measured, table = len(table), near_range(table, scale) if kind == "polynomial" else table
    fitted = fit_curve(table, scale, kind, order)
    ratio = fitted.cell.linear_slope / wanted
    if rescale:
        charge_unit *= ratio
        low, high = design.provenance["charge_unit"].range
        if not low <= charge_unit <= high:
            raise InputError(
                f"{curve}: its charge unit would be {charge_unit:.3g} C; design {design.name!r} allows "
                f"{low:g} to {high:g} C: check the unit of the current"
            )
        scale = dataclasses.replace(scale, charge_per_ampere=per_ampere / ratio)
        fitted = fit_curve(table, scale, kind, order)
    elif not 1 / FARTHEST <= ratio <= FARTHEST:
        raise InputError(
            f"{curve}: the cell gives {fitted.cell.linear_slope / per_ampere:.3g} A/V, {ratio:.3g} times "
            f"what the converters of {design.name} are made for ({wanted / per_ampere:.3g} A/V): check the "
            "unit of the current, or give --rescale, which dimensions the converters for this cell"
        )
    decayed = None if decay is None else read_decay(decay, columns, skip_bad_rows=skip_bad_rows)
    held = None if decayed is None else fit_decay(decayed, law)
    numbers = _cell_numbers(fitted) | _spread_numbers(fitted)
    numbers |= {} if held is None else _decay_numbers(held, design)
    numbers |= _scale_numbers(design, charge_unit if rescale else None)
    numbers = with_simulated(numbers, table.simulated, "" if decayed is None else decayed.simulated)
    cells = f"{fitted.cells} {'simulated' if table.simulated else 'measured'} cell{'s' * (fitted.cells > 1)}"
    device = Device(
        name or Path(curve).stem,
        f"{fitted.cell.name} cell fitted to {cells}",
        fitted.cell,
        None if held is None else held.law,
        numbers,
        _origin(fitted, measured - len(table), table, decayed),
        _quality(fitted, held, design),
        {"coefficients": [list(row) for row in fitted.covariance]} if fitted.covariance else {},
    )
    return device, fitted, held


def _origin(fitted: CurveFit, beyond: int, *files: Table | None) -> dict[str, Any]:
    """The files that a device was fitted to, of curve and decay, and how much of them."""
    found: dict[str, Any] = {}
    for kind, file in zip(("curve", "decay"), files, strict=True):
        if file is not None:
            found |= {kind: file.path.name, f"{kind}_sha256": file.sha256}
            found |= {f"{kind}_simulated": file.simulated} if file.simulated else {}
    found |= {"cells": fitted.cells, "points": fitted.points}
    left_out = sum(len(file.left_out) for file in files if file is not None)
    counts = {"rows_left_out": left_out, "points_beyond_the_storage_range": beyond}
    return found | {what: count for what, count in counts.items() if count}


def _quality(fitted: CurveFit, held: DecayFit | None, design: Design) -> dict[str, Any]:
    """How well curves and decays are described; what was not fitted is left out."""
    zero = fitted.offset_voltage
    found = {
        "r_squared_of_nominal_curve": fitted.nominal_r_squared,
        "rms_about_nominal_curve_charge_units": fitted.nominal_rms,
        "r_squared_of_own_curves": fitted.r_squared,
        "rms_about_own_curves_charge_units": fitted.rms,
        "residual_of_full_scale": fitted.residual_std,
        "full_scale_charge_units": fitted.full_scale,
        "zero_current_at_volts": None if zero is None else zero + design.v_offset,
        "variance_explained_by_mismatch": fitted.explained,
        "decay_rms_volts": None if held is None else held.rms,
        "decays_left_out": None if held is None else held.left_out,
    }
    return {key: value for key, value in found.items() if value is not None}


def _cell_numbers(fitted: CurveFit) -> dict[str, Quantity]:
    widths = ", ".join(f"+-{e.interval[1] - e.value:.3g}" for e in fitted.coefficients)
    numbers: dict[str, Quantity] = {}
    for key, value in fitted.cell.numbers.items():
        ends = (min(value), max(value)) if isinstance(value, tuple) else (value, value)
        note = f"95 % confidence: {widths}" if key == "coefficients" else ""
        numbers[f"cell.{key}"] = Quantity(value, CELL_NUMBERS[key].unit, "F", ends, note)
    return numbers


def _spread_numbers(fitted: CurveFit) -> dict[str, Quantity]:
    numbers: dict[str, Quantity] = {}
    for key, kind in MISMATCH_NUMBERS.items():
        estimate: Estimate | None = getattr(fitted, key, None)
        if estimate is not None:
            value, ends = estimate.value, estimate.interval
            numbers[f"mismatch.{key}"] = Quantity(value, kind.unit, "F", ends, "range: 95 % confidence")
    everything = fitted.cells + sum(fitted.broken.values())
    for key, count in fitted.broken.items():
        ends = stats.binomtest(count, everything).proportion_ci(0.95)
        note = f"{count} of {everything} cells; range: 95 % confidence"
        numbers[f"mismatch.{key}"] = Quantity(count / everything, "1", "F", (ends.low, ends.high), note)
    if (noise := fitted.noise_std) is not None:
        note = "fraction of full scale, from repeated reads"
        numbers["noise.read_std"] = Quantity(noise, "1", "F", (noise, noise), note)
    return numbers


def _scale_numbers(design: Design, rescaled: float | None) -> dict[str, Quantity]:
    """Those of a chip; with the charge unit it was rescaled to, if it was."""
    numbers = {}
    for key, number in SCALE_NUMBERS.items():
        value, source, note = getattr(design, key), "U", f"of {design.name}"
        if key == "charge_unit" and rescaled is not None:
            note = f"rescaled to the linear slope of {design.name}, whose own is {value:g} C"
            value, source = rescaled, "F"
        numbers[f"scale.{key}"] = Quantity(value, number.unit, source, (value, value), note)
    return numbers


def _decay_numbers(held: DecayFit, design: Design) -> dict[str, Quantity]:
    """The retention; a target that agrees with v_offset within its interval is v_offset."""
    intervals = dict(held.intervals)
    low, high = intervals["target_voltage"]
    is_offset = low <= design.v_offset <= high
    if held.time_to_1_over_e == held.tau:
        intervals["time_to_1_over_e"] = intervals["retention_time"]
    found = {
        "retention_time": held.tau,
        "beta": held.beta,
        "tau_slow": held.tau_slow,
        "share": held.share,
        "target_voltage": design.v_offset if is_offset else held.target,
        "spread": held.tau_spread,
        "time_to_1_over_e": held.time_to_1_over_e,
    }
    notes = dict.fromkeys(intervals, "range: 95 % confidence")
    if is_offset:
        notes["target_voltage"] += f"; v_offset, with which the fit, {held.target:.6g} V, agrees"
    return {
        f"retention.{key}": Quantity(
            value,
            RETENTION_NUMBERS[key].unit,
            "F",
            intervals.get(key, (-math.inf, math.inf)),
            notes.get(key, ""),
        )
        for key, value in found.items()
        if value is not None
    }
