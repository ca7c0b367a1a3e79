"""Names of what a sweep can change, what each accepts, and what else people call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gaincell.chips.fields import CELL_NUMBERS, NUMBERS, TABLE_NUMBERS
from gaincell.circuits.signed_charge_to_pulse import READOUTS
from gaincell.quantity import NumberKind, did_you_mean, one_of

ADAPTATION: Mapping[str, NumberKind | tuple[Any, ...]] = {
    "adapt": (True, False, "chip"),
    "calibration": NumberKind("tokens", whole=True),
    "fine_tune": NumberKind("steps", whole=True),
    "learning_rate": NumberKind("1"),
    "scale_learning_rate": NumberKind("1"),
}
"""Parameters that are not of the design: what each accepts."""
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "readout": tuple(READOUTS),
    "score_ceiling": (True, False),
    "output_ceiling": (True, False),
}
"""Fields of a design that are no numbers: what each accepts."""
KIND = "cell.kind"
_SATURATIONS = ("score_saturation_per_row", "output_saturation_per_column")
_NOISE = ("noise.cell_std", "noise.score_std", "noise.output_std")
_MISMATCH = ("mismatch.current_offset_std", "mismatch.gain_std", "mismatch.offset_voltage_std")
_LEVELS = ("query_levels", "storage_levels", "counter_levels")
ALIASES: Mapping[str, tuple[str, ...]] = {
    "tau": ("retention_time",), "retention": ("retention_time",), "decay": ("retention_time",),
    "leakage": ("retention_time", "leakage.spread"),
    "saturation": _SATURATIONS, "saturations": _SATURATIONS,
    "s_sat": _SATURATIONS[:1], "o_sat": _SATURATIONS[1:], "score_saturation": _SATURATIONS[:1],
    "output_saturation": _SATURATIONS[1:],
    "noise": _NOISE, "read_noise": _NOISE, "sigma": (*_NOISE, *_MISMATCH),
    "mismatch": _MISMATCH, "variability": _MISMATCH, "variation": _MISMATCH,
    "levels": _LEVELS, "bits": _LEVELS, "precision": _LEVELS,
    "key_levels": ("storage_levels",), "value_levels": ("storage_levels",), "dac_levels": ("storage_levels",),
    "write_levels": ("storage_levels",), "dac_bits": ("storage_levels",),
    "output_levels": ("counter_levels",),
    "adc_levels": ("counter_levels",), "adc_bits": ("counter_levels",),
    "ring": ("window",), "context": ("window",), "sequence_length": ("window",),
    "subtile": ("tile",), "sub_tile": ("tile",), "array": ("tile", "window"),
    "cell": (KIND,), "device": (KIND,), "stuck": ("mismatch.stuck_low", "mismatch.stuck_high"),
    "ir_drop": ("wires.key_drop", "wires.value_drop"), "wires": ("wires.key_drop", "wires.value_drop"),
    "write_noise": ("writing.error_std",), "writing": ("writing.error_std",), "clock": ("counter_clock",),
    "pulse_width": ("t_pulse_max",), "lr": ("learning_rate",), "steps": ("fine_tune",),
}  # fmt: skip
"""Terms of the field, in lower case -> names here. Keys and values are written by one kind of DAC, and
have one number of levels.
"""


def known() -> dict[str, NumberKind | tuple[Any, ...] | None]:
    """Every parameter by name, with what it accepts; None: what `with_cell` takes."""
    found: dict[str, NumberKind | tuple[Any, ...] | None] = {
        name: kind for name, kind in NUMBERS.items() if not kind.many and name != "layers"
    }
    found |= {**CHOICES, KIND: None}
    for table, kinds in (("cell", CELL_NUMBERS), *TABLE_NUMBERS.items()):
        found |= {f"{table}.{name}": kind for name, kind in kinds.items() if not kind.many}
    return found | dict(ADAPTATION)


def unknown(name: str) -> str:
    """What to say of a name that is no parameter: what may be meant, and all there are."""
    meant = ALIASES.get(name.lower())
    hint = f" (did you mean {one_of(meant)}?)" if meant else did_you_mean(name, known())
    if name == "layers":
        hint = " (the number of layers is the model's)"
    return f"unknown parameter {name!r}{hint}; allowed: {', '.join(known())}"
