"""Geometry of the blocked computation: what a block of queries sees, its separated keys and values.

Dimensions: B sequences, H query heads, Hk key/value heads, g = H / Hk, G key/value heads processed together,
T tokens, D head dimension, M window, N tile edge; R query tokens of a block, c key tokens of a panel (whole
sub-tile columns), n slabs of the separated cell (see time_basis.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from gaincell.chips.design_file import Design
from gaincell.devices.variability import CellErrors
from gaincell.ops.gain_cell_attention.blocked_noise import Disturbance
from gaincell.ops.gain_cell_attention.time_basis import TimeBasis

ROWS = 128
"""Query rows of a block, over the g heads of a group: score panel and stacks stay in a core's cache."""


@dataclass(frozen=True)
class Plan:
    """What the block loops need to know; indices and sizes in tokens."""

    design: Design
    first_query: int
    first_key: int
    window: int  # tokens a query sees: the hardware's window or the model's own, whichever is smaller
    aged: bool  # earlier tokens than the first query decay from the first query on
    basis: TimeBasis
    gradient_basis: TimeBasis  # the same object for the exact derivative
    errors: tuple[CellErrors | None, CellErrors | None]  # of the key and the value array, [Hk, M, D]
    score_scale: float  # 1 / S_sat
    output_scale: float  # readout steps per charge unit
    steps: float  # readout steps at full scale
    disturbance: Disturbance | None  # of scores, pulses and outputs


class Workspace:
    """Buffers that every block of a call reuses: fresh memory would cost a page fault per 4 kB and block."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """An uninitialised contiguous tensor, valid until the same name is asked for again."""
        size = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[name] = self._like.new_empty(size)
        return buffer[:size].view(shape)


class Segment(NamedTuple):
    """Keys and values separated about one base time, for the panels of the queries that it serves."""

    plan: Plan
    space: Workspace
    heads: Tensor  # key/value heads [G]
    basis: TimeBasis
    base: int
    end: int  # query behind the last one
    first: int  # token of column 0, a multiple of N
    columns: int
    keys: Tensor  # [G, c, nD]
    values: Tensor
    factors: Tensor  # [queries, n, 1] row factors, from the base time on

    def of_keys(self, u: Tensor, array: int, *, slopes: bool = False) -> Tensor:
        """Slabs of the columns, or their slopes, [G, c, n, D], of voltages `u` [G, T, D] from token
        `plan.first_key` on; of zeros where there is no token.
        """
        plan, start, errors = self.plan, self.first - self.plan.first_key, self.plan.errors[array]
        stop = start + self.columns
        inside = u[:, max(0, start) : min(u.shape[1], stop)]
        before, after = max(0, -start), max(0, stop - u.shape[1])
        if before or after:
            inside = pad(inside, (0, 0, before, after))
        tokens = torch.arange(self.first, self.first + self.columns, device=u.device)
        decays_from = tokens.clamp(min=plan.first_query) if plan.aged else tokens
        since = decays_from.clamp(max=self.end - 1) - self.base  # no query sees later ones: keep them finite
        own = None  # the surrogate's cells are nominal
        if errors is not None and self.basis is plan.basis:
            columns = tokens % plan.design.window
            own = errors.each(lambda e: e[self.heads[:, None], columns[None, :]])
        return self.basis.of_keys(inside, since, own, slopes=slopes)

    def separated(self, basis: TimeBasis, ks: Tensor, vs: Tensor) -> Segment:
        """With keys and values by `basis`; missing tokens are zeros and masked by the caller."""
        other = self._replace(basis=basis)
        keys, values = (other.of_keys(u, array).flatten(2) for array, u in enumerate((ks, vs)))
        rel = torch.arange(self.end - self.base, device=ks.device)
        factors = basis.row_factors(rel).to(ks.dtype).t().unsqueeze(2).contiguous()
        return other._replace(keys=keys, values=values, factors=factors)


class Panel(NamedTuple):
    """Queries [i0, i1) and the columns [lo, hi) of their segment that the window can reach; lo, hi multiples
    of N.
    """

    segment: Segment
    i0: int
    i1: int
    lo: int
    hi: int

    @property
    def plan(self) -> Plan:
        return self.segment.plan

    @property
    def rows(self) -> slice:
        """Of the queries, in all of the call."""
        return slice(self.i0 - self.plan.first_query, self.i1 - self.plan.first_query)

    @property
    def queries(self) -> Tensor:
        return torch.arange(self.i0, self.i1, device=self.segment.heads.device)

    @property
    def tokens(self) -> Tensor:
        """Of the columns."""
        first = self.segment.first
        return torch.arange(first + self.lo, first + self.hi, device=self.segment.heads.device)

    @property
    def keys(self) -> Tensor:
        return self.segment.keys[:, self.lo : self.hi]

    @property
    def values(self) -> Tensor:
        """In pieces of a sub-tile: [G, nb, N, nD]."""
        pieces: Tensor = self.segment.values[:, self.lo : self.hi].unflatten(1, (-1, self.plan.design.tile))
        return pieces

    def row_factors(self, scale: float) -> Tensor:
        """[R, n, 1] of the queries, times `scale`."""
        base, factors = self.segment.base, self.segment.factors
        return factors[self.i0 - base : self.i1 - base].mul(scale)


def groups_of(
    x: Tensor, ku: Tensor, vu: Tensor, out: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Pieces of queries [G, g, T, D], keys and values [G, T, D], output, and their key/value heads.

    On a CPU a head for every thread, so that what a thread works on stays in its cache; on a GPU everything
    at once. The pieces are views: results can be written in place.
    """
    b, hk = ku.shape[:2]
    g = x.shape[1] // hk
    xs, outs = (t.reshape(b * hk, g, *t.shape[2:]) for t in (x, out))
    ks, vs = (t.reshape(b * hk, *t.shape[2:]) for t in (ku, vu))
    heads = torch.arange(hk, device=x.device).repeat(b)
    step = min(b * hk, torch.get_num_threads()) if x.device.type == "cpu" else b * hk
    for s in range(0, b * hk, step):
        e = s + step
        yield xs[s:e], ks[s:e], vs[s:e], outs[s:e], heads[s:e]


def segments_of(
    plan: Plan, space: Workspace, xs: Tensor, ks: Tensor, vs: Tensor, heads: Tensor
) -> Iterator[tuple[Segment, list[Panel]]]:
    """Cut the queries into segments that one base time may serve, and those into panels."""
    n, end = plan.design.tile, plan.first_query + xs.shape[2]
    rows = max(1, min(plan.basis.span, max(ROWS // 2, ROWS // xs.shape[1])))
    length = plan.basis.span // rows * rows
    for s0 in range(plan.first_query, end, length):
        s1 = min(s0 + length, end)
        first = max(s0 - plan.window + 1, plan.first_key) // n * n
        columns, none = -(-s1 // n) * n - first, ks.new_empty(0)
        segment = Segment(plan, space, heads, plan.basis, s0, s1, first, columns, none, none, none)
        segment = segment.separated(plan.basis, ks, vs)
        panels = []
        for i0 in range(s0, s1, rows):
            i1 = min(i0 + rows, s1)
            lo = max(i0 - plan.window + 1, first) // n * n - first
            panels.append(Panel(segment, i0, i1, lo, -(-i1 // n) * n - first))
        yield segment, panels
