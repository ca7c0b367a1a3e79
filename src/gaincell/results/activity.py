"""What drives the word lines of every head on real text: `gaincell activity`."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Annotated

from gaincell.errors import InputError
from gaincell.results.codec import COLUMNS
from gaincell.results.common import Chip, Number, Part, Whole
from gaincell.results.evaluation import EvaluationResult
from gaincell.units import Volt

ASSUMED = "assumed"
"""Source of an activity that nobody measured."""


class HeadActivity(Part):
    """Means over tokens (and rows or columns) of one query head of one layer.

    Attributes:
        query_pulse: Mean query pulse over T_max, in [0, 1]; of |q| with signed queries.
        query_active: Share of query pulses above 0.
        score_pulse: Mean phi(S) over T_max, over the valid columns.
        score_active: Share of phi(S) above 0, of the valid columns.
        score_negative: Mean max(-S, 0) over S_sat, over the valid columns: net charge that the cells sink;
            the converter has no lower limit, so that it may exceed 1.
        key_level: Mean |u| of stored keys as written.
        value_level: Mean |u| of stored values as written.
        key_square: Mean u^2 of the keys.
        value_square: Mean u^2 of the values.
        output_pulse: Mean |output| over T_max of the sub-tiles.
        valid_columns: Mean number that a query saw.

    Raises:
        InputError: a share outside [0, 1], a negative or an infinite number.
    """

    layer: Whole
    head: Whole
    query_pulse: Number
    query_active: Number
    score_pulse: Number
    score_active: Number
    score_negative: Number
    key_level: Volt
    value_level: Volt
    key_square: Annotated[float, "V^2"]
    value_square: Annotated[float, "V^2"]
    output_pulse: Number
    valid_columns: Number

    def __post_init__(self) -> None:
        for name, found in asdict(self).items():
            share = name.endswith(("pulse", "active"))
            if not (math.isfinite(found) and found >= 0 and (found <= 1 + 1e-9 or not share)):
                allowed = "0 to 1" if share else "a finite number, 0 or above"
                raise InputError(f"activity: {name} = {found!r} is out of range; allowed: {allowed}")


HEAD_NUMBERS = tuple(f.name for f in fields(HeadActivity) if f.name not in ("layer", "head"))
"""What of a HeadActivity is a number that can be averaged."""


class ActivityOfHeads(Part):
    """Of a model on a text.

    Attributes:
        source: What it was measured on, or "assumed".
        tokens: Measured; 0 when assumed.
        heads: One or more.
        design: Hash of the chip whose arrays were observed; None when assumed.
    """

    source: str
    tokens: Annotated[int, "tokens"]
    heads: Annotated[tuple[HeadActivity, ...], COLUMNS]
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


class ActivityResult(EvaluationResult, kw_only=True, command="activity"):
    """Of `gaincell activity`: a model with arrays on a text."""

    design: Chip
    activity: ActivityOfHeads
