"""Energy, latency and area of a head while one thing changes: window, head dimension, retention, batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gaincell.arrays.refresh import Refresh
from gaincell.costs import retention
from gaincell.costs.head import Head
from gaincell.costs.roll_up import HeadCost, of_head, tokens_per_second
from gaincell.errors import InputError

WINDOWS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
HEAD_DIMS = (16, 32, 64, 96, 128, 192, 256)
RETENTIONS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
BATCHES = (1, 2, 4, 8, 16)


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


def windows(head: Head, sizes: Sequence[int] = WINDOWS) -> list[Point]:
    """A full ring of other sizes, in columns; sizes that sub-tiles do not divide are left out."""
    fit = [size for size in sizes if size % head.tile == 0]
    return [_point(size, _resized(head, size)) for size in fit]


def head_dims(head: Head, sizes: Sequence[int] = HEAD_DIMS) -> list[Point]:
    """Other head dimensions."""
    return [_point(size, replace(head, head_dim=size)) for size in sizes]


def retentions(head: Head, times: Sequence[float] = RETENTIONS) -> list[Point]:
    """Other retention times, s: columns are refreshed before they drift by half a level, where a token has to
    be held longer than that. Where a refresh would take longer than its interval there is no point.
    """
    points = []
    for time in times:
        moved = replace(head, design=head.design.replace(retention_time=time))
        every = retention.refresh_interval(moved)
        if every is not None and moved.columns * moved.slot >= every:
            continue
        policy = Refresh("copy", every_seconds=every) if retention.needs_refresh(moved) else None
        points.append(_point(time, moved, policy))
    return points


def batches(head: Head, sizes: Sequence[int] = BATCHES) -> list[Point]:
    """Sequences that take turns on the same circuits, each with cells of its own.

    The cells multiply, the periphery does not; the throughput grows until the busiest circuit is never idle,
    from then on a sequence waits: latency = sequences / throughput. The time between two tokens of a sequence
    grows as much, and with it decay and, shared by the tokens of all, leakage.
    """
    points = []
    for size in sizes:
        if size < 1:
            raise InputError(f"batch = {size!r} is out of range; allowed: 1 or more")
        throughput = tokens_per_second(head, size)
        latency = size / throughput
        period = head.design.token_period * latency / head.latency
        cost = of_head(replace(head, design=head.design.replace(token_period=period), streams=size))
        cells = cost.area.parts["cells"].area
        area = cost.area.area + (size - 1) * cells
        at = replace(cost, bottom_up=replace(cost.bottom_up, area=area, latency=latency))
        points.append(Point(float(size), at, 0.0, throughput))
    return points


SWEEPS: dict[str, tuple[str, str, Callable[[Head], list[Point]]]] = {
    "window": ("columns of a head", "1", windows),
    "head_dim": ("head dimension", "1", head_dims),
    "retention_time": ("retention time", "s", retentions),
    "batch": ("sequences that share the circuits", "1", batches),
}
"""Name -> title, unit, function."""


def _resized(head: Head, window: int) -> Head:
    activity = replace(head.activity, valid_columns=float(window))
    return replace(head, design=head.design.replace(window=window), activity=activity, context=None)


def _point(at: float, head: Head, policy: Refresh | None = None) -> Point:
    cost = of_head(head, policy)
    refreshed = sum(line.bottom_up.energy for line in cost.lines if line.name == "refresh")
    return Point(float(at), cost, refreshed / cost.bottom_up.energy, tokens_per_second(head, 1))
