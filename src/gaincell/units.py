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
