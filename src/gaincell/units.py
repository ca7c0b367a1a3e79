"""SI aliases: the unit of a float is written in its type, ``t_pulse_max: Second``.

All of them are plain floats in SI units; prefixes (ns, mV, fC) appear only when a number is printed.
"""

from typing import TypeAlias

Volt: TypeAlias = float
Second: TypeAlias = float
Hertz: TypeAlias = float
Coulomb: TypeAlias = float
Ampere: TypeAlias = float
Farad: TypeAlias = float
Joule: TypeAlias = float
Watt: TypeAlias = float
SquareMetre: TypeAlias = float

ChargeUnit: TypeAlias = float
"""The charge a cell delivers in units of a design's ``charge_unit`` (15 fC in the shipped designs)."""

PulseWidth: TypeAlias = float
"""A pulse duration over the longest one, ``t_pulse_max``: 0 to 1."""
