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

_PREFIXES = {-18: "a", -15: "f", -12: "p", -9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}


def with_prefix(value: float, unit: str) -> str:
    """A number for reading: ``with_prefix(6.5e-8, "s") == "65 ns"``. Only SI units take prefixes."""
    if unit not in ("V", "s", "Hz", "C", "A", "J", "W") or value == 0 or not math.isfinite(value):
        return f"{value:.9g}" if unit == "1" else f"{value:.9g} {unit}"
    exponent = 3 * math.floor(math.log10(abs(value) * (1 + 1e-12)) / 3)
    exponent = min(max(exponent, min(_PREFIXES)), max(_PREFIXES))
    return f"{value / 10.0**exponent:.9g} {_PREFIXES[exponent]}{unit}"
