"""How a measured cell enters a design.

device = fit_device("curve.csv", design)[0]  # or load_device("device.toml")
design = with_cell(design, device)           # or with_cell(design, "device.toml" | "curve.csv" | "x3")
"""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

from gaincell.chips.design import Design
from gaincell.chips.device_file import MISMATCH_NUMBERS, Device, load_device
from gaincell.chips.device_fit import fit_device
from gaincell.devices.cell import CELL_KINDS
from gaincell.devices.variability import Mismatch
from gaincell.errors import DesignError, InputError
from gaincell.quantity import did_you_mean, one_of

__all__ = ["Device", "fit_device", "load_device", "with_cell"]

ELSEWHERE = {
    "retention.target_voltage": "leakage.decay_voltage",
    "retention.spread": "leakage.spread",
    "noise.read_std": "noise.cell_std",
}
"""Where a number of a device stands in a design, unless its name says so."""


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
            try:
                return with_cell(design, fit_device(text, design)[0])
            except InputError as error:
                raise InputError(
                    f"{error}. Such options belong to: gaincell device fit {text} --out DEVICE.toml; "
                    "then give --cell DEVICE.toml"
                ) from None
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
    covariance = source.covariance.get("coefficients")
    stated = {key: source.number(f"mismatch.{key}") for key in MISMATCH_NUMBERS}
    known: dict[str, Any] = {key: value for key, value in stated.items() if value is not None}
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
            provenance[key] = dataclasses.replace(quantity, note=note)
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
