"""SI units, written in the type of a float: ``t_pulse_max: Second``.

To Python all of them are plain floats in SI units; the unit string rides along in the annotation, where
design files get it from (chips/fields.py). Prefixes (ns, mV, fC) appear only when a number is printed.
"""

import math
from typing import Annotated, TypeAlias

Volt: TypeAlias = Annotated[float, "V"]
Second: TypeAlias = Annotated[float, "s"]
Hertz: TypeAlias = Annotated[float, "Hz"]
Coulomb: TypeAlias = Annotated[float, "C"]
Metre: TypeAlias = Annotated[float, "m"]
Ohm: TypeAlias = Annotated[float, "Ohm"]
Ampere: TypeAlias = Annotated[float, "A"]
Joule: TypeAlias = Annotated[float, "J"]
Watt: TypeAlias = Annotated[float, "W"]
Kelvin: TypeAlias = Annotated[float, "K"]
Farad: TypeAlias = Annotated[float, "F"]
ElectronVolt: TypeAlias = Annotated[float, "eV"]
SquareMetre: TypeAlias = Annotated[float, "m^2"]
FaradPerMetre: TypeAlias = Annotated[float, "F/m"]
FaradPerSquareMetre: TypeAlias = Annotated[float, "F/m^2"]
AmperePerMetre: TypeAlias = Annotated[float, "A/m"]
PerVolt: TypeAlias = Annotated[float, "1/V"]
JoulePerBit: TypeAlias = Annotated[float, "J/bit"]
BytePerSecond: TypeAlias = Annotated[float, "B/s"]
PerSecond: TypeAlias = Annotated[float, "1/s"]
PerJoule: TypeAlias = Annotated[float, "1/J"]

ChargeUnit: TypeAlias = Annotated[float, "charge units"]
"""Charge of a cell in multiples of the design's ``charge_unit``."""
ChargeUnits: TypeAlias = Annotated[tuple[float, ...], "charge units"]
ChargeUnitPerVolt: TypeAlias = Annotated[float, "charge units/V"]
Coefficients: TypeAlias = Annotated[tuple[float, ...], "charge units/V^p"]
"""Of a polynomial of volts, that of its p-th power the p-th."""
Volts: TypeAlias = Annotated[tuple[float, ...], "V"]

PREFIXES = {
    1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m", 1e-6: "µ", 1e-9: "n", 1e-12: "p", 1e-15: "f",
    1e-18: "a",
}  # fmt: skip
"""Factor -> prefix, from large to small."""


def prefixes(smallest: float, unit: str = "") -> list[tuple[float, str]]:
    """Factors from 1 down to the smallest, with their prefixes before the unit."""
    return [(factor, prefix + unit) for factor, prefix in PREFIXES.items() if 1.0 >= factor >= smallest]


def with_prefix(value: float, unit: str) -> str:
    """A number for reading, ASCII: ``with_prefix(6.5e-8, "s") == "65 ns"``. Only SI units take prefixes."""
    if unit not in ("V", "s", "Hz", "C", "A", "J", "W") or value == 0 or not math.isfinite(value):
        return f"{value:.9g}" if unit == "1" else f"{value:.9g} {unit}"
    factor = next((factor for factor in PREFIXES if abs(value) * (1 + 1e-12) >= factor), min(PREFIXES))
    return f"{value / factor:.9g} {PREFIXES[factor].replace('µ', 'u')}{unit}"


SCALES = {
    "J": prefixes(1e-15, "J"),
    "s": [(3.156e7, "years"), (86400.0, "days"), *prefixes(1e-9, "s")],
    "m^2": [(1e-6, "mm²")],
    "B": [(2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B")],
    "W": prefixes(1e-9, "W"),
}
"""Unit -> factors and how they are printed, from large to small."""


def with_scale(found: float | None, unit: str) -> str:
    """A number with three digits and the largest prefix that leaves it at 1 or above; a dash for none."""
    if found is None:
        return "–"
    scales = SCALES.get(unit)
    if scales is None:
        return f"{found:.3g}" if unit == "1" else f"{found:.3g} {unit}"
    if found == 0:
        return f"0 {next((name for size, name in scales if size == 1), scales[0][1])}"
    factor, shown = next((s for s in scales if found >= s[0]), scales[-1])
    scaled = found / factor
    if scaled >= 999.5:
        return f"{scaled:,.0f} {shown}"
    return f"{scaled:.3g} {shown}" if scaled >= 1e-4 else f"{scaled:.2e} {shown}"
