"""How busy the circuits are: pulse widths, stored voltages and sparsity, from which energies follow.

A cell draws charge for as long as its pulse lasts and as its stored voltage says, so an energy belongs to
the statistics of its inputs. They are measured on a text (gaincell.evaluation.activity), or assumed, and then
say so.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gaincell.design import Design
from gaincell.errors import InputError
from gaincell.files import read_json
from gaincell.quantity import did_you_mean
from gaincell.reports.results import Kind, value

PACKAGED = Path(__file__).parent / "activities"
"""Of models whose RUN is shipped; docs/readme.py writes them from docs/results/costs."""
ASSUMED = "assumed"
"""Source of an activity that nobody measured."""
UNITS = {"key_level": "V", "value_level": "V", "key_square": "V^2", "value_square": "V^2"}
"""Of the fields of HeadActivity that are not pure numbers."""


@dataclass(frozen=True)
class HeadActivity:
    """Means over tokens (and rows or columns) of one query head of one layer.

    layer, head: which.
    query_pulse: mean query pulse over T_max, in [0, 1]; of |q| with signed queries.
    query_active: share of query pulses above 0.
    score_pulse: mean phi(S) over T_max, over the valid columns.
    score_active: share of phi(S) above 0, of the valid columns.
    score_negative: mean max(-S, 0) over S_sat, over the valid columns: net charge that the cells sink; the
    converter has no lower limit, so that it may exceed 1.
    key_level, value_level: mean |u| of stored keys and values as written, V.
    key_square, value_square: mean u^2 of the same, V^2.
    output_pulse: mean |output| over T_max of the sub-tiles.
    valid_columns: mean number of valid columns that a query saw.

    Raises InputError for a share outside [0, 1], a negative or an infinite number.
    """

    layer: int
    head: int
    query_pulse: float
    query_active: float
    score_pulse: float
    score_active: float
    score_negative: float
    key_level: float
    value_level: float
    key_square: float
    value_square: float
    output_pulse: float
    valid_columns: float

    def __post_init__(self) -> None:
        for name, found in asdict(self).items():
            share = name.endswith(("pulse", "active"))
            if not (math.isfinite(found) and found >= 0 and (found <= 1 + 1e-9 or not share)):
                allowed = "0 to 1" if share else "a finite number, 0 or above"
                raise InputError(f"activity: {name} = {found!r} is out of range; allowed: {allowed}")


@dataclass(frozen=True)
class Activity:
    """Of a model on a text.

    source: what it was measured on, or "assumed".  tokens: measured; 0 when assumed.  heads: one or more.
    design: hash of the chip whose arrays were observed; None when assumed.
    """

    source: str
    tokens: int
    heads: tuple[HeadActivity, ...]
    design: str | None = None

    def __post_init__(self) -> None:
        if not self.heads:
            raise InputError("an activity needs at least one head")

    @property
    def is_assumed(self) -> bool:
        return self.source == ASSUMED

    def mean(self) -> HeadActivity:
        """The average over heads, all of the same weight; layer and head are 0."""
        means = {name: sum(getattr(h, name) for h in self.heads) / len(self.heads) for name in HEAD_NUMBERS}
        return HeadActivity(layer=0, head=0, **means)

    @classmethod
    def assumed(cls, design: Design) -> Activity:
        """What is assumed where nothing was measured: every code of every converter is equally likely.

        Queries: mean pulse 1/2 (of stated levels, their mean) and 1 - 1/L active. Keys and values: uniform
        over the write DAC's levels.
        Scores: half below zero, the other half uniform up to the ceiling, so phi has mean 1/4; the
        lower half as far below zero. Outputs: |O| uniform. All columns valid. A trained model is sparser:
        measure it.
        """
        levels, span = design.storage_levels, design.v_max - design.v_min
        if levels is None:
            low, high = design.v_min - design.v_offset, design.v_max - design.v_offset
            level, square = (low * low + high * high) / (2 * span), (high**3 - low**3) / (3 * span)
        else:
            even = [(code - (levels - 1) / 2) * span / (levels - 1) for code in range(levels)]
            volts = design.levels.storage or even
            level, square = (sum(abs(u) ** p for u in volts) / levels for p in (1, 2))
        idle = 0.0 if design.query_levels is None else 1 / design.query_levels
        widths = design.levels.query
        head = HeadActivity(
            layer=0,
            head=0,
            query_pulse=sum(widths) / len(widths) if widths else 0.5,
            query_active=1 - idle,
            score_pulse=0.25,
            score_active=0.5,
            score_negative=0.25,
            key_level=level,
            value_level=level,
            key_square=square,
            value_square=square,
            output_pulse=0.5,
            valid_columns=float(design.window),
        )
        return cls(ASSUMED, 0, (head,))

    def to_json(self) -> dict[str, Any]:
        """The entry "activity" of a result; `from_json` reads it back."""
        kind: Kind = "simulated"
        return {
            "source": self.source,
            "tokens": value(self.tokens, "tokens", kind),
            **({} if self.design is None else {"design": self.design}),
            "heads": {
                name: value([getattr(head, name) for head in self.heads], UNITS.get(name, "1"), kind)
                for name in ("layer", "head", *HEAD_NUMBERS)
            },
        }

    @classmethod
    def from_json(cls, entry: Any, where: str = "activity") -> Activity:
        """Read the entry "activity" of a result. Raises InputError: something is missing or has no unit."""
        try:
            found, names = entry["heads"], ("layer", "head", *HEAD_NUMBERS)
            unknown = [name for name in found if name not in names]
            if unknown:
                hint = did_you_mean(unknown[0], names)
                raise InputError(f"{where}: unknown number {unknown[0]!r}{hint}")
            missing = [name for name in names if name not in found]
            if missing:
                raise InputError(
                    f"{where}: {missing[0]!r} is missing; measure it again with gaincell activity --json"
                )
            columns = {name: _column(found[name], UNITS.get(name, "1"), f"{where}: {name}") for name in names}
            rows = zip(*columns.values(), strict=True)
            heads = (dict(zip(columns, row, strict=True)) for row in rows)
            made = tuple(
                HeadActivity(**(head | {key: int(head[key]) for key in ("layer", "head")})) for head in heads
            )
            return cls(str(entry["source"]), int(entry["tokens"]["value"]), made, entry.get("design"))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where} is not a measured activity ({type(error).__name__}: {error}); "
                "give the JSON that gaincell writes, with value and unit of every number"
            ) from error

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Activity:
        """Read the activity in a JSON result. Raises InputError: there is none, or none of a known design."""
        path = Path(path)
        try:
            content = read_json(path)
            entry = content["activity"]
            design = entry.get("design") or content.get("provenance", {}).get("design_hash")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path.name} holds no activity ({type(error).__name__}: {error}); give a JSON file with the "
                'entry "activity"'
            ) from error
        found = cls.from_json(entry, path.name)
        if not (found.is_assumed or isinstance(design, str)):
            raise InputError(
                f"{path.name} does not say which design its activity was measured on "
                "(provenance.design_hash); measure it again with gaincell activity --json"
            )
        return replace(found, design=None if found.is_assumed else design)


def packaged(name: str) -> Activity | None:
    """What was measured of a model in its shipped RUN, and comes with the package; None for other models."""
    path = PACKAGED / f"{name}.json"
    return Activity.read(path) if "/" not in name and path.is_file() else None


HEAD_NUMBERS = tuple(f.name for f in fields(HeadActivity) if f.name not in ("layer", "head"))
"""What of a HeadActivity is a number that can be averaged."""


def _column(entry: Any, unit: str, where: str) -> list[float]:
    """The numbers of one value with the unit expected. Raises InputError."""
    if not isinstance(entry, dict) or entry.get("unit") != unit:
        given = entry.get("unit") if isinstance(entry, dict) else None
        raise InputError(f"{where}: unit {given!r} is not accepted; allowed: {unit!r}")
    return [float(number) for number in entry["value"]]
