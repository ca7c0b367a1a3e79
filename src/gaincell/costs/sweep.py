"""Energy, latency and area of a head while one thing changes: window, head dimension, retention, batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gaincell.arrays.refresh import Refresh
from gaincell.costs import storage
from gaincell.costs.head import Head
from gaincell.costs.roll_up import REFRESH, HeadCost, of_head

WINDOWS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
HEAD_DIMS = (16, 32, 64, 96, 128, 192, 256)
RETENTIONS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
BATCHES = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Point:
    """One value of what changes, and what a token then costs.

    Attributes:
        at: In the unit of the sweep.
        cost: Of one query head.
        refresh: Share of the energy that refreshes take.
        throughput: Tokens per second of a layer, whose circuits the sequences share by turns.
    """

    at: float
    cost: HeadCost
    refresh: float
    throughput: float


def windows(head: Head, sizes: Sequence[int] = WINDOWS) -> list[Point]:
    """A full ring of other sizes, in columns; sizes that sub-tiles do not divide are left out, and those that
    the refresh policy leaves no time for.
    """
    points, period = [], storage.without_pauses(head)
    for size in (size for size in sizes if size % head.design.tile == 0):
        activity = replace(head.activity, valid_columns=float(size))
        chip = head.design.supposed(window=size)
        moved = replace(head, design=chip, activity=activity, context=None, sliding_window=0)
        if _can_refresh(moved):
            points.append(_point(size, storage.paced(moved, period)))
    return points


def head_dims(head: Head) -> list[Point]:
    """Other head dimensions."""
    return [_point(size, replace(head, head_dim=size)) for size in HEAD_DIMS]


def retentions(head: Head, times: Sequence[float] = RETENTIONS) -> list[Point]:
    """Other retention times, s: columns are refreshed before they drift by half a level, where a token has to
    be held longer than that, whatever the policy. Where a refresh would take longer than its interval there
    is no point.
    """
    points, period = [], storage.without_pauses(head)
    for time in times:
        moved = replace(head, design=head.design.supposed(retention_time=time, token_period=period))
        every = storage.refresh_interval(moved)
        if every is not None and moved.rewriting >= every:
            continue
        policy = Refresh("copy", every_seconds=every) if storage.needs_refresh(moved) else None
        points.append(_point(time, storage.paced(replace(moved, refresh=policy), period)))
    return points


def batches(head: Head) -> list[Point]:
    """Sequences that take turns on the same circuits, each with cells of its own.

    The cells multiply, the periphery does not; the throughput grows until the busiest circuit is never idle,
    from then on a sequence waits: latency = sequences / throughput, and what refreshes take. The time between
    two tokens of a sequence grows as much, and with it decay and, shared by the tokens of all, leakage.
    Batches whose columns cannot all be refreshed in time are left out.
    """
    points, schedule, period = [], head.found_schedule(head.group), storage.without_pauses(head)
    for size in BATCHES:
        throughput = schedule.throughput(size)
        latency = size / throughput
        moved = replace(head, streams=size)
        if not _can_refresh(moved):
            continue
        point = _point(size, storage.paced(moved, period * latency / head.latency))
        waited, latency = latency, latency + point.cost.bottom_up.latency - head.latency
        area = point.cost.area.area + (size - 1) * point.cost.area.parts["cells"].area
        at = replace(point.cost, bottom_up=replace(point.cost.bottom_up, area=area, latency=latency))
        points.append(replace(point, cost=at, throughput=throughput * waited / latency))
    return points


SWEEPS: dict[str, tuple[str, str, Callable[[Head], list[Point]]]] = {
    "window": ("columns of a head", "1", windows),
    "head_dim": ("head dimension", "1", head_dims),
    "retention_time": ("retention time", "s", retentions),
    "batch": ("sequences that share the circuits", "1", batches),
}
"""Name -> title, unit, function."""


def _can_refresh(head: Head) -> bool:
    """Whether the policy leaves time to rewrite the columns of all sequences."""
    every = head.refresh.every_seconds if head.refresh is not None else None
    return every is None or head.rewriting < every


def _point(at: float, head: Head) -> Point:
    cost = of_head(head)
    refreshed = cost.bottom_up.parts[REFRESH].energy if REFRESH in cost.bottom_up.parts else 0.0
    of_one = head.found_schedule(head.group).throughput(1)
    throughput = of_one * head.latency / cost.bottom_up.latency  # refreshes hold it up
    return Point(float(at), cost, refreshed / cost.bottom_up.energy, throughput)
