"""Geometry of the blocked computation: what a block of queries sees, its separated keys and values.

Dimensions: B sequences, H query heads, Hk key/value heads, g = H / Hk, G key/value heads processed together,
T tokens, D head dimension, M window, N tile edge; R query tokens of a block, c key tokens of a panel (whole
sub-tile columns), n slabs of the separated cell (see slabs.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from gaincell.config import Design
from gaincell.devices.variability import CellErrors
from gaincell.ops.gain_cell_attention.disturbed import Disturbance
from gaincell.ops.gain_cell_attention.slabs import Slabs

ROWS = (
    128  # query rows of a block, over the g heads of a group: score panel and stacks stay in a core's cache
)


@dataclass(frozen=True)
class Plan:
    """What the block loops need to know; indices and sizes in tokens."""

    design: Design
    first_query: int
    first_key: int
    window: int  # tokens a query sees: the hardware's window or the model's own, whichever is smaller
    aged: bool  # earlier tokens than the first query decay from the first query on
    slabs: Slabs
    gradient_slabs: Slabs  # the same object for the exact derivative
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


class Block(NamedTuple):
    """Queries [i0, i1) and the columns [lo, hi) of their segment that the window can reach; lo, hi
    multiples of N.
    """

    i0: int
    i1: int
    lo: int
    hi: int


class Segment(NamedTuple):
    """Keys and values separated about one base time, for the blocks of queries that it serves."""

    base: int
    first: int  # token of column 0, a multiple of N
    keys: Tensor  # [G, c, nD]
    values: Tensor
    factors: Tensor  # [queries, n, 1] row factors, from the base time on
    blocks: list[Block]


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
    plan: Plan, slabs: Slabs, ks: Tensor, vs: Tensor, heads: Tensor, g: int, tq: int
) -> Iterator[Segment]:
    """Cut the queries into segments that one base time may serve, and those into blocks."""
    n = plan.design.tile
    end = plan.first_query + tq
    rows = max(1, min(slabs.span, max(ROWS // 2, ROWS // g)))
    length = slabs.span // rows * rows
    for s0 in range(plan.first_query, end, length):
        s1 = min(s0 + length, end)
        first = max(s0 - plan.window + 1, plan.first_key) // n * n
        blocks = []
        for i0 in range(s0, s1, rows):
            i1 = min(i0 + rows, s1)
            lo = max(i0 - plan.window + 1, first) // n * n - first
            blocks.append(Block(i0, i1, lo, -(-i1 // n) * n - first))
        empty = ks.new_empty(0)
        yield separated(plan, slabs, ks, vs, heads, Segment(s0, first, empty, empty, empty, blocks))


def separated(plan: Plan, slabs: Slabs, ks: Tensor, vs: Tensor, heads: Tensor, segment: Segment) -> Segment:
    """`segment` with its keys and values separated by `slabs`; missing tokens are zeros and masked by the
    caller.
    """
    columns = segment.blocks[-1].hi
    tokens = torch.arange(segment.first, segment.first + columns, device=ks.device)
    stacks = []
    for array, u in enumerate((ks, vs)):
        panel = panel_of(plan, u, segment.first, columns)
        errors = column_errors(plan, slabs, array, heads, tokens)
        stacks.append(slabs.key_slabs(panel, written_since(plan, segment, tokens), errors).flatten(2))
    rel = torch.arange(segment.blocks[-1].i1 - segment.base, device=ks.device)
    factors = slabs.row_factors(rel).to(ks.dtype).t().unsqueeze(2).contiguous()
    return segment._replace(keys=stacks[0], values=stacks[1], factors=factors)


def written_since(plan: Plan, segment: Segment, tokens: Tensor) -> Tensor:
    """When `tokens` began to decay, after the segment's base time. Those that its queries never see, at the
    panel's end, are not let grow without bound.
    """
    if plan.aged:
        tokens = tokens.clamp(min=plan.first_query)
    return tokens.clamp(max=segment.blocks[-1].i1 - 1) - segment.base


def panel_of(plan: Plan, u: Tensor, first: int, columns: int) -> Tensor:
    """Tokens first..first+columns-1 of `u` [G, T, D], whose own first token is `plan.first_key`; zeros
    where there are none.
    """
    start, stop = first - plan.first_key, first - plan.first_key + columns
    inside = u[:, max(0, start) : min(u.shape[1], stop)]
    before, after = max(0, -start), max(0, stop - u.shape[1])
    if before == after == 0:
        return inside
    return torch.nn.functional.pad(inside, (0, 0, before, after))


def column_errors(plan: Plan, slabs: Slabs, array: int, heads: Tensor, tokens: Tensor) -> CellErrors | None:
    """Errors of the physical columns that hold `tokens`, [G, c, D]; the surrogate's cells are nominal."""
    errors = plan.errors[array]
    if errors is None or slabs is not plan.slabs:
        return None
    columns = tokens % plan.design.window
    return errors.each(lambda e: e[heads[:, None], columns[None, :]])


def row_factors_of(segment: Segment, block: Block, scale: float) -> Tensor:
    """[R, n, 1] factors of the block's queries, times `scale`."""
    return segment.factors[block.i0 - segment.base : block.i1 - segment.base] * scale


def tokens_of(segment: Segment, block: Block, device: torch.device) -> Tensor:
    """Tokens of the panel's columns."""
    return torch.arange(segment.first + block.lo, segment.first + block.hi, device=device)
