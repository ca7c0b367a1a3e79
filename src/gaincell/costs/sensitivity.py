"""What depends on what: every parameter up and down by a share, and the change of energy, latency and area.

Numbers of the technology, of the activity and of the design are moved one at a time. Sizes move to the
nearest that exists (a window is a multiple of the tile). A parameter that its range does not let move is left
out.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from gaincell.chips.fields import number_kinds
from gaincell.costs import storage
from gaincell.costs.head import Head
from gaincell.costs.roll_up import of_head
from gaincell.costs.technology import Technology
from gaincell.errors import DesignError, InputError
from gaincell.results.activity import HEAD_NUMBERS
from gaincell.results.cost import Change

SHARE = 0.2
"""By which parameters move."""
DESIGN = (
    "window", "retention_time", "t_pulse_max", "counter_clock", "charge_unit", "score_saturation_per_row",
    "output_saturation_per_column", "token_period",
)  # fmt: skip
"""Numbers of a design that costs depend on, as keys of `Design.replace`."""
TECHNOLOGY = number_kinds(Technology)
PARAMETERS = (
    *(("technology", key) for key in TECHNOLOGY),
    *(("activity", key) for key in HEAD_NUMBERS if key != "valid_columns"),
    *(("design", key) for key in DESIGN),
    ("head", "head_dim"),
)


def sensitivity(head: Head) -> list[Change]:
    """Both directions of every parameter that changes anything, the largest change of energy first."""
    start, period, found = of_head(head).bottom_up, storage.without_pauses(head), []
    for factor, (where, key) in product((1 + SHARE, 1 - SHARE), PARAMETERS):
        try:
            moved, by = _moved(head, where, key, factor)
            if head.refresh is not None:
                moved = storage.paced(moved, period * (by if key == "token_period" else 1.0))
            cost = of_head(moved).bottom_up
        except (DesignError, InputError):
            continue
        changes = (
            cost.energy / start.energy - 1, cost.latency / start.latency - 1, cost.area / start.area - 1
        )  # fmt: skip
        if any(abs(change) > 1e-12 for change in changes):
            found.append(Change(key, where, by, *changes))
    return sorted(found, key=lambda change: -abs(change.energy))


def _moved(head: Head, where: str, key: str, factor: float) -> tuple[Head, float]:
    """The head with one parameter moved, and by which factor it moved."""
    if where == "technology":
        before = getattr(head.technology, key)
        value = round(before * factor) if TECHNOLOGY[key].whole else before * factor
        moved = replace(head, technology=head.technology.replace(**{key: value}))
        return moved, value / before if before else factor
    if where == "activity":
        value = getattr(head.activity, key) * factor
        return replace(head, activity=replace(head.activity, **{key: value})), factor
    if where == "head":
        wide = round(head.head_dim * factor)
        return replace(head, head_dim=wide), wide / head.head_dim
    d, old = head.design, getattr(head.design, key)
    if old is None:
        raise InputError(f"{key} is switched off")
    new, columns, window = old * factor, head.written, d.window
    if key == "window":
        new = window = max(1, round(new / d.tile)) * d.tile
        columns *= new / old if columns == old else 1
    activity = replace(head.activity, valid_columns=min(columns, float(window)))
    return replace(head, design=d.replace(**{key: new}), activity=activity, context=None), new / old
