"""How busy the circuits are: pulse widths, stored voltages and sparsity, from which energies follow.

A cell draws charge for as long as its pulse lasts and as its stored voltage says, so an energy belongs to
the statistics of its inputs. They are measured on a text (gaincell.evaluation.activity), or assumed, and then
say so.
"""

from __future__ import annotations

import os
from pathlib import Path

from gaincell.chips.design import Design
from gaincell.errors import InputError, RunError
from gaincell.results import read
from gaincell.results.activity import ASSUMED, ActivityOfHeads, ActivityResult, HeadActivity
from gaincell.results.common import Result
from gaincell.results.cost import CostResult
from gaincell.results.sweep import PointResult

__all__ = ["Activity", "HeadActivity", "packaged"]
COMMAND = "gaincell activity --json"
PACKAGED = Path(__file__).parent / "activities"
"""Of models whose RUN is shipped; docs/readme.py writes them from docs/results/costs."""


class Activity(ActivityOfHeads):
    """Of a model on a text, as costs take it."""

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

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Activity:
        """The activity in a result.

        Raises:
            InputError: there is none, or none of a known design.
        """
        try:
            found = read(path, Result, f"the result of {COMMAND}")
        except RunError as error:
            raise InputError(str(error)) from error
        known = found.activity if isinstance(found, ActivityResult | CostResult | PointResult) else None
        if known is None:
            raise InputError(f"{Path(path).name} holds no activity; give the result of {COMMAND}")
        design = known.design or found.provenance.design_hash
        if design is None and not known.is_assumed:
            raise InputError(
                f"{Path(path).name} does not say which design its activity was measured on "
                f"(provenance.design_hash); measure it again with {COMMAND}"
            )
        return cls(known.source, known.tokens, known.heads, None if known.is_assumed else design)


def packaged(name: str) -> Activity | None:
    """What was measured of a model in its shipped RUN, and comes with the package; None for other models."""
    path = PACKAGED / f"{name}.json"
    return Activity.read(path) if "/" not in name and path.is_file() else None
