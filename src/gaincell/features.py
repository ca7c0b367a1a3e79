"""What a chip can do, by name, in groups: `Design.in_use` says which of it a design does.

Names are fields of a Design ("tile") and numbers of its tables ("noise.cell_std"). Whatever computes a chip
states in a constant `IMPLEMENTS` which of them it implements, and refuses a design that does more, by name:

    missing(design.in_use, IMPLEMENTS)

A new number is in no group, and so refused everywhere, until a path states it. It enters a group once all
that state the group implement it.
"""

from __future__ import annotations

from functools import lru_cache


def _of(table: str, *numbers: str) -> frozenset[str]:
    return frozenset(f"{table}.{number}" for number in numbers)


NOMINAL = frozenset(
    {
        *("cell", "tile", "window", "query_levels", "storage_levels", "counter_levels", "readout"),
        *("score_saturation_per_row", "output_saturation_per_column", "score_ceiling", "output_ceiling"),
        *("v_min", "v_max", "v_offset", "retention_time", "layers", "layer_latency", "unstated_latency"),
        *("explicit_token_period", "t_pulse_max", "counter_clock", "charge_unit", "temperature"),
        *("mismatch.seed", "mismatch.chip", "mismatch.smooth_share", "mismatch.correlation_length"),
        *("noise.seed", "writing.seed", "converters.calibration_step", "sinks.rewrite_tokens"),
        *("leakage.activation_energy", "leakage.reference_temperature"),
    }
)
"""The nominal chip as published; and numbers that do nothing without another, or act through its tau."""
LEVELS = frozenset({"levels.query", "levels.storage", "drivers.phases"})
"""What a code stands for."""
DRIVERS = _of("converters", "driver_gain_std", "driver_offset_std")
WRITES = _of(
    "writing", "error_std", "injection_voltage", "injection_gain", "discharge_residual", "storage_capacitance"
)
CELLS = _of(
    "mismatch",
    *("gain_std", "offset_voltage_std", "current_offset_std", "coefficient_covariance"),
    *("stuck_low", "stuck_high", "dead"),
) | _of("wires", "key_drop", "value_drop")
LEAKAGE = _of("leakage", "spread", "read_disturb", "decay_voltage")
"""What makes the decay another than that of tau."""
PULSE_LAW = _of("charge_to_pulse", "exponent")
CONVERSIONS = _of(
    "converters",
    *("ramp_gain_std", "ramp_gain_tile_std", "comparator_offset_std", "comparator_offset_tile_std"),
)
READ_NOISE = _of("noise", "cell_std", "score_std", "output_std", "integrator_capacitance", "pulse_jitter")
ARRAYS = NOMINAL | LEVELS | DRIVERS | WRITES | CELLS | LEAKAGE | PULSE_LAW | CONVERSIONS | READ_NOISE
"""All of a head's arrays and circuits, without extensions."""
SINKS = _of("sinks", "tokens")
NORMALISER = _of("normaliser", "floor")


@lru_cache(maxsize=256)
def missing(in_use: frozenset[str], implemented: frozenset[str]) -> str:
    """Names of what is in use and not implemented, in words; empty if there is nothing."""
    return ", ".join(sorted(in_use - implemented))
