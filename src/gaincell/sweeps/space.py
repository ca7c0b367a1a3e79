"""What a sweep changes: numbers and words of a design by their names there, and of the adaptation.

    [parameters]
    tile = [32, 64, 128]                                            # choices
    retention_time = { low = 1e-4, high = 1e-1, log = true }        # a range
    storage_levels = [4, 8, 16, "none"]
    mismatch.current_offset_std = { low = 0.0, high = 0.1, step = 0.02 }
    cell.kind = ["linear", "polynomial", "x3"]                      # or a DEVICE.toml, a CURVE.csv
    adapt = [true, false, "chip"]

Every value is checked against the type and the range that the design gives it, before any work. What fits
alone may not fit together (a tile that does not divide the window): such a point fails, and says why.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from gaincell.chips.design import Design, cell_of
from gaincell.chips.device import with_cell
from gaincell.chips.fields import CELL_NUMBERS, NUMBERS, TABLE_NUMBERS, TABLES
from gaincell.circuits.readout import READOUTS
from gaincell.errors import GaincellError, InputError
from gaincell.quantity import NumberKind, did_you_mean, one_of
from gaincell.schema import parse, table

Values: TypeAlias = Mapping[str, Any]
"""Name of a parameter -> int, float, bool, text or None (the "none" of a file)."""

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
_PARTNERS = {"mismatch.smooth_share": "correlation_length", "mismatch.correlation_length": "smooth_share"}
"""Numbers that are above 0 only together."""
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
LEAST = {"fine_tune": -1, "calibration": 1}
"""What numbers of the adaptation lie above, if not above 0."""
RANGE = table(needed=("low", "high"), low=Any, high=Any, step=Any, log=bool)
LARGEST_GRID = 100_000


def known() -> dict[str, NumberKind | tuple[Any, ...] | None]:
    """Every parameter by name, with what it accepts; None: what `with_cell` takes."""
    found: dict[str, NumberKind | tuple[Any, ...] | None] = {
        name: kind for name, kind in NUMBERS.items() if not kind.many and name != "layers"
    }
    found |= {**CHOICES, KIND: None}
    for part, kinds in (("cell", CELL_NUMBERS), *TABLE_NUMBERS.items()):
        found |= {f"{part}.{name}": kind for name, kind in kinds.items() if not kind.many}
    return found | dict(ADAPTATION)


@dataclass(frozen=True)
class Parameter:
    """One thing that changes.

    Attributes:
        values: Choices, in order; empty for a range.
        low: Of a range, included.
        high: Of a range, included.
        step: Of a range; None: continuous (of whole numbers, 1).
        log: Whether a range is logarithmic.
    """

    name: str
    unit: str
    whole: bool = False
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False

    def grid(self) -> tuple[Any, ...]:
        """Its values in order.

        Raises:
            InputError: a range without steps.
        """
        if self.values:
            return self.values
        if self.step is None or self.log:
            raise InputError(
                f"{self.name} is a range, which a grid cannot have; give a list, or a step without log"
            )
        count = (self.high - self.low) / self.step + 1e-9
        if not count < LARGEST_GRID:
            raise InputError(
                f"{self.name} has {count + 1:.3g} values, more than {LARGEST_GRID:,}; give a larger step"
            )
        count = math.floor(count) + 1
        numbers = [self.low + n * self.step for n in range(count)]
        return tuple(round(x) if self.whole else float(f"{x:.12g}") for x in numbers)

    def holds(self, value: Any) -> bool:
        """Whether a value is one of its own."""
        if self.values:
            return any(same(value, own) for own in self.values)
        if not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        return self.step is None or abs((value - self.low) / self.step % 1 - 0.5) > 0.5 - 1e-9

    def suggest(self, trial: Any) -> Any:
        """Its value in one of Optuna's trials."""
        if self.values:
            return trial.suggest_categorical(self.name, self.values)
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def describe(self) -> str:
        """In words, for a table."""
        if self.values:
            return ", ".join(shown(value) for value in self.values)
        scale = ", logarithmic" if self.log else ""
        step = f" in steps of {shown(self.step)}" if self.step is not None else ""
        return f"{shown(self.low)} to {shown(self.high)}{step}{scale}"


def same(a: Any, b: Any) -> bool:
    """Equal and of one type: True is not 1."""
    return type(a) is type(b) and bool(a == b)


def shown(value: Any) -> str:
    """A value as files have it: numbers with six digits, with more where six are others."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def parse_parameters(raw: Any, design: Design, where: str) -> tuple[Parameter, ...]:
    """The table [parameters], checked against a design.

    Raises:
        InputError: no parameter, an unknown one, an empty range.
        DesignError: the design forbids a value.
    """
    if not isinstance(raw, dict):
        raise InputError(f"{where} = {raw!r} is not a table; allowed: [parameters] with one line a parameter")
    allowed = known()
    found: list[Parameter] = []
    for name, entry in _flat(raw):
        if name not in allowed:
            meant = ALIASES.get(name.lower())
            hint = f" (did you mean {one_of(meant)}?)" if meant else did_you_mean(name, allowed)
            if name == "layers":
                hint = " (the number of layers is the model's)"
            raise InputError(f"{where}: unknown parameter {name!r}{hint}; allowed: {', '.join(allowed)}")
        found.append(_parameter(name, entry, allowed[name], design, f"{where}: {name}"))
    if not found:
        raise InputError(f"{where}: no parameter; give at least one, such as tile = [32, 64]")
    return tuple(found)


def _flat(raw: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names with their entries; those of tables ("mismatch") with a dot."""
    found: list[tuple[str, Any]] = []
    for key, entry in raw.items():
        if (
            isinstance(entry, dict)
            and (key in TABLES or key == "cell")
            and not entry.keys() & RANGE.model_fields.keys()
        ):
            found += [(f"{key}.{name}", inner) for name, inner in entry.items()]
        else:
            found.append((key, entry))
    return found


def _parameter(
    name: str, entry: Any, kind: NumberKind | tuple[Any, ...] | None, design: Design, where: str
) -> Parameter:
    unit = kind.unit if isinstance(kind, NumberKind) else "1"
    whole = isinstance(kind, NumberKind) and kind.whole
    if isinstance(entry, list):
        if not entry:
            raise InputError(f"{where} = [] is an empty range; give at least one value")
        off = isinstance(kind, NumberKind)  # of a number "none" switches it off; else it is a word
        values = tuple(None if off and value == "none" else value for value in entry)
        for value in values:
            check_value(name, value, design, where)
        if isinstance(kind, NumberKind) and not whole:
            values = tuple(None if value is None else float(value) for value in values)
        if len({(type(v), v) for v in values}) < len(values):
            raise InputError(f"{where} = {entry!r} holds a value twice")
        return Parameter(name, unit, whole, values)
    if not isinstance(entry, dict):
        raise InputError(f"{where} = {entry!r}; allowed: a list of values or {{ low = ..., high = ... }}")
    if not isinstance(kind, NumberKind):
        raise InputError(f"{where} is a choice, not a number; give a list of values")
    return _range(name, entry, kind, design, where)


def _range(name: str, entry: Mapping[str, Any], kind: NumberKind, design: Design, where: str) -> Parameter:
    """{ low, high, step, log }"""
    given = parse(RANGE, entry, where)
    low, high, step, log = given["low"], given["high"], given.get("step"), given.get("log", False)
    for value in (low, high):
        check_value(name, value, design, where)
    if not low < high:
        raise InputError(f"{where}: {low!r} to {high!r} is an empty range; give low < high, or a list")
    if step is not None:
        NumberKind(kind.unit, whole=kind.whole).convert(step, f"{where}: step")
        if not 0 < step <= high - low:
            raise InputError(f"{where}: step = {step!r}; allowed: above 0 to {high - low:g}, high - low")
        if log:
            raise InputError(f"{where}: step and log exclude each other; leave one out")
        high = low + math.floor((high - low) / step + 1e-9) * step
        high = high if kind.whole else float(f"{high:.12g}")  # 0.3 * 3 is below 0.9, and 0.9 is meant
    if log and not low > 0:
        raise InputError(f"{where}: low = {low!r} with log; give low above 0")
    if kind.whole:
        return Parameter(name, kind.unit, True, (), low, high, None if log else step or 1, log)
    return Parameter(name, kind.unit, False, (), float(low), float(high), step and float(step), log)


def check_value(name: str, value: Any, design: Design, where: str) -> None:
    """Raise InputError or DesignError for a value that the parameter cannot have, whatever the others are."""
    kind = known()[name]
    if isinstance(kind, tuple):
        if not any(same(value, choice) for choice in kind):
            words = [choice for choice in kind if isinstance(choice, str)]
            hint = did_you_mean(value, words) if isinstance(value, str) else ""
            raise InputError(f"{where} = {value!r} is not allowed{hint}; allowed: {one_of(map(shown, kind))}")
        return
    if kind is None:
        _try(lambda: with_cell(design, value) if isinstance(value, str) else cell_of(value, {}), where)
        return
    number = kind.convert(value, where)
    table, _, key = name.rpartition(".")
    if table in TABLES:
        own = getattr(design, table)
        partner = _PARTNERS.get(name)  # another parameter of the sweep may state it
        stated = {partner: (getattr(own, partner) or 0.5) if number else 0.0} if partner else {}
        _try(lambda: dataclasses.replace(own, **stated, **{key: number}), where)
    if name in design.provenance:
        design.provenance[name].set_to(number, where)
    elif name in ADAPTATION and not (isinstance(number, (int, float)) and number > LEAST.get(name, 0)):
        low = f"{LEAST[name] + 1} or more" if name in LEAST else "above 0"
        raise InputError(f"{where} = {value!r} is out of range; allowed: {low}")


def _try(make: Callable[[], object], where: str) -> None:
    try:
        make()
    except GaincellError as error:
        raise InputError(f"{where}: {error}") from error


def applied(design: Design, values: Values) -> Design:
    """The design with the values of one point; those of the adaptation are left to whom they concern. A value
    of the point comes before what a measured cell brings.

    Raises:
        DesignError: the values do not fit together.
    """
    changes: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        if table:
            tables.setdefault(table, {})[key] = value
        elif name not in ADAPTATION:
            changes[name] = value
    cell = tables.pop("cell", {})

    def stated_on(chip: Design) -> Design:
        made = {name: dataclasses.replace(getattr(chip, name), **new) for name, new in tables.items()}
        return chip.replace(**changes | made) if changes or made else chip

    chip = stated_on(design)
    if "kind" in cell:
        chip = stated_on(with_cell(chip, cell.pop("kind")))
    if cell:
        quantities = dict(chip.provenance)
        for key, value in cell.items():
            name = f"cell.{key}"
            if name not in quantities:
                raise InputError(f"{name}: design {chip.name!r} states no such number to change")
            quantities[name] = moved = quantities[name].set_to(value, name)
            alone = cell_of(chip.cell.name, {**chip.provenance, name: moved})
            if alone == chip.cell and value != chip.provenance[name].value:
                raise InputError(f"{name} has no effect on the {chip.cell.name} cell of design {chip.name!r}")
        chip = chip.replace(cell=cell_of(chip.cell.name, quantities))
    return chip


def value_in(design: Design, name: str) -> Any:
    """What a design has for a parameter of a design; None for a token period that it does not state, which
    follows from the model's layers.
    """
    table, _, key = name.rpartition(".")
    if name == KIND:
        return design.cell.name
    if name == "token_period":
        return design.explicit_token_period
    if table == "cell":
        return design.provenance[name].value if name in design.provenance else None
    return getattr(getattr(design, table), key) if table else getattr(design, key)
