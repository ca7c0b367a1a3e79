"""What depends on what: every parameter up and down by a share, and the change of energy, latency and area.

Numbers of the technology, of the activity and of the design are moved one at a time. Sizes move to the
nearest that exists (a window is a multiple of the tile). A parameter that its range does not let move is left
out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from gaincell.costs.data import number_kinds
from gaincell.costs.head import Head
from gaincell.costs.roll_up import HeadCost, of_head
from gaincell.costs.technology import Technology
from gaincell.errors import DesignError, InputError
from gaincell.results.cost import Change
from gaincell.results.evaluation import HEAD_NUMBERS

SHARE = 0.2
DESIGN = (
    "window", "retention_time", "t_pulse_max", "counter_clock", "charge_unit", "score_saturation_per_row",
    "output_saturation_per_column", "token_period",
)  # fmt: skip
"""Numbers of a design that costs depend on, as keys of `Design.replace`."""


def sensitivity(head: Head, share: float = SHARE) -> list[Change]:
    """Both directions of every parameter that changes anything.

    Raises InputError: a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise InputError(f"share = {share!r} is out of range; allowed: between 0 and 1")
    start, found = of_head(head), []
    for factor in (1 + share, 1 - share):
        for where, name, make in _parameters(head, factor):
            try:
                moved, by = make()
                change = _change(name, where, by, start, of_head(moved))
            except (DesignError, InputError):
                continue
            if any(abs(x) > 1e-12 for x in (change.energy, change.latency, change.area)):
                found.append(change)
    return sorted(found, key=lambda change: -abs(change.energy))


def _parameters(head: Head, factor: float) -> Iterator[tuple[str, str, Callable[[], tuple[Head, float]]]]:
    t, a = head.technology, head.activity
    for key in number_kinds(Technology):
        yield "technology", key, lambda key=key: _moved_technology(head, t, key, factor)  # type: ignore[misc]
    for key in HEAD_NUMBERS:
        if key != "valid_columns":
            new = {key: getattr(a, key) * factor}
            yield "activity", key, lambda new=new: (replace(head, activity=replace(a, **new)), factor)  # type: ignore[misc]
    for key in DESIGN:
        yield "design", key, lambda key=key: _moved_design(head, key, factor)  # type: ignore[misc]
    wide = round(head.head_dim * factor)
    yield "head", "head_dim", lambda: (replace(head, head_dim=wide), wide / head.head_dim)


def _moved_technology(head: Head, t: Technology, key: str, factor: float) -> tuple[Head, float]:
    value = getattr(t, key) * factor
    if number_kinds(Technology)[key].whole:
        value = round(value)
    return replace(head, technology=t.replace(**{key: value})), factor


def _moved_design(head: Head, key: str, factor: float) -> tuple[Head, float]:
    d = head.design
    old = getattr(d, key)
    if old is None:
        raise InputError(f"{key} is switched off")
    new = max(1, round(old * factor / d.tile)) * d.tile if key == "window" else old * factor
    columns = head.columns * new / old if key == "window" else head.columns
    activity = replace(head.activity, valid_columns=min(columns, float(new if key == "window" else d.window)))
    moved = replace(head, design=d.replace(**{key: new}), activity=activity, context=None)
    return moved, new / old


def _change(name: str, where: str, factor: float, start: HeadCost, moved: HeadCost) -> Change:
    a, b = start.bottom_up, moved.bottom_up
    return Change(
        name, where, factor, b.energy / a.energy - 1, b.latency / a.latency - 1, b.area / a.area - 1
    )
