"""The circuits around the arrays, as pure functions: drivers, write DAC, charge-to-pulse converters."""

from gaincell.circuits.charge_to_pulse import charge_to_pulse, signed_charge_to_pulse
from gaincell.circuits.converter import straight_through, strict_clamp
from gaincell.circuits.dac import dac_code, write_dac
from gaincell.circuits.pwm import query_code, query_driver
from gaincell.circuits.readout import READOUTS, quantize_output

__all__ = [
    "READOUTS",
    "charge_to_pulse",
    "dac_code",
    "quantize_output",
    "query_code",
    "query_driver",
    "signed_charge_to_pulse",
    "straight_through",
    "strict_clamp",
    "write_dac",
]
