"""Energy, latency and area of a head while one thing changes: window, head dimension, retention, batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from gaincell.arrays.refresh import Refresh
from gaincell.costs import retention
from gaincell.costs.head import Head
from gaincell.costs.roll_up import REFRESH, HeadCost, of_head

WINDOWS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
HEAD_DIMS = (16, 32, 64, 96, 128, 192, 256)
RETENTIONS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
BATCHES = (1, 2, 4, 8, 16)


class Stacked(NamedTuple):
    """A head with its refresh policy and how many layers of its cells are stacked: arguments of `of_head`."""

    head: Head
    refresh: Refresh | None = None
    layers: int = 1


@dataclass(frozen=True)
class Point:
    """One value of what changes, and what a token then costs.

    at: in the unit of the sweep.  cost: of one query head.  refresh: share of the energy that refreshes take.
    throughput: tokens per second of a layer.
    """

    at: float
    cost: HeadCost
    refresh: float
    throughput: float


def windows(chip: Stacked, sizes: Sequence[int] = WINDOWS) -> list[Point]:
    """A full ring of other sizes, in columns; sizes that sub-tiles do not divide are left out, and those that
    the refresh policy leaves no time for.
    """
    points, head = [], chip.head
    for size in (size for size in sizes if size % head.tile == 0):
        activity = replace(head.activity, valid_columns=float(size))
        moved = replace(head, design=head.design.supposed(window=size), activity=activity, context=None)
        every = chip.refresh.every_seconds if chip.refresh else None
        if every is None or moved.columns * moved.slot < every:
            points.append(_point(size, chip._replace(head=moved)))
    return points


def head_dims(chip: Stacked) -> list[Point]:
    """Other head dimensions."""
    return [_point(size, chip._replace(head=replace(chip.head, head_dim=size))) for size in HEAD_DIMS]


def retentions(chip: Stacked, times: Sequence[float] = RETENTIONS) -> list[Point]:
    """Other retention times, s: columns are refreshed before they drift by half a level, where a token has to
    be held longer than that, whatever the policy. Where a refresh would take longer than its interval there
    is no point.
    """
    points = []
    for time in times:
        moved = replace(chip.head, design=chip.head.design.supposed(retention_time=time))
        every = retention.refresh_interval(moved)
        if every is not None and moved.columns * moved.slot >= every:
            continue
        policy = Refresh("copy", every_seconds=every) if retention.needs_refresh(moved) else None
        points.append(_point(time, chip._replace(head=moved, refresh=policy)))
    return points


def batches(chip: Stacked) -> list[Point]:
    """Sequences that take turns on the same circuits, each with cells of its own.

    The cells multiply, the periphery does not; the throughput grows until the busiest circuit is never idle,
    from then on a sequence waits: latency = sequences / throughput. The time between two tokens of a sequence
    grows as much, and with it decay and, shared by the tokens of all, leakage.
    """
    points, head = [], chip.head
    for size in BATCHES:
        throughput = _throughput(head, size)
        latency = size / throughput
        period = head.design.token_period * latency / head.latency
        moved = replace(head, design=head.design.supposed(token_period=period), streams=size)
        point = _point(size, chip._replace(head=moved))
        area = point.cost.area.area + (size - 1) * point.cost.area.parts["cells"].area
        at = replace(point.cost, bottom_up=replace(point.cost.bottom_up, area=area, latency=latency))
        points.append(replace(point, cost=at, throughput=throughput))
    return points


SWEEPS: dict[str, tuple[str, str, Callable[[Stacked], list[Point]]]] = {
    "window": ("columns of a head", "1", windows),
    "head_dim": ("head dimension", "1", head_dims),
    "retention_time": ("retention time", "s", retentions),
    "batch": ("sequences that share the circuits", "1", batches),
}
"""Name -> title, unit, function."""


def _point(at: float, chip: Stacked) -> Point:
    cost = of_head(*chip)
    refreshed = cost.bottom_up.parts[REFRESH].energy if REFRESH in cost.bottom_up.parts else 0.0
    return Point(float(at), cost, refreshed / cost.bottom_up.energy, _throughput(chip.head, 1))


def _throughput(head: Head, streams: int) -> float:
    """Tokens per second of one layer whose circuits so many sequences share by turns."""
    return head.found_schedule(head.group).throughput(streams)
