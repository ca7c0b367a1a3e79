"""What stands around a fast core, which takes consecutive tokens and numbers: padding, and NaN.

Padding tokens are never written ("Ring and decay" in docs/concepts/attention.md): index, age and physical
column of a token count real tokens only, so padded rows are compacted before a fast path sees them.

As naive.py has it, a NaN in a query reaches that query's outputs; one in a key those of every query of its
group that sees the token; one in a value component that component of the same outputs. Fast paths, whose
products meet columns that a query does not see, compute without it, and what it reaches is marked afterwards.

Dimensions: B sequences, H query heads, Hk key/value heads, Tq queries, Tk keys, D head dimension.
Not modelled: how NaN spreads in gradients; where an output is NaN, gradients mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from gaincell.chips.design_file import Design
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention.call import Call, Gradient


class Span(NamedTuple):
    """Consecutive tokens, and what the arrays do with them: what a pass keeps of a call, without tensors."""

    design: Design
    window: int
    layer: int
    gradient: Gradient
    first_query: int
    first_key: int


Core = Callable[[Tensor, Tensor, Tensor, Span], Tensor]
"""(q [b, H, tq, D], k, v [b, Hk, tk, D], span) -> [b, H, tq, D], on consecutive tokens."""


def marks(q: Float[Tensor, "B H Tq D"], k: Tensor, v: Tensor, span: Span) -> Float[Tensor, "B H Tq D"]:
    """NaN where one reaches, 0 elsewhere: to be added to the output. Tokens are consecutive."""
    bad = v.isnan() | k.isnan().any(-1, keepdim=True)
    before = pad(bad.cumsum(2, dtype=torch.int32), (0, 0, 1, 0))  # [B, Hk, Tk + 1, D] in earlier tokens
    end = torch.arange(1, q.shape[2] + 1, device=q.device) + span.first_query - span.first_key
    read = before[:, :, end] != before[:, :, (end - span.window).clamp(min=0)]
    reached = read.repeat_interleave(q.shape[1] // k.shape[1], 1) | q.isnan().any(-1, keepdim=True)
    return torch.where(reached, torch.nan, 0.0)


def around_nan(core: Core, q: Tensor, k: Tensor, v: Tensor, span: Span) -> Tensor:
    """What `core` computes with a number wherever there is none, and NaN where one reaches.

    Infinities stand at the end of the range.
    """
    x, ku, vu = (t.nan_to_num(nan=0.0) for t in (q, k, v))
    return core(x, ku, vu, span) + marks(q, k, v, span)


def over_real_tokens(core: Core, call: Call) -> Tensor:
    """Run `core` on the real tokens of every sequence and put the results back; zero at padding queries.

    Sequences that start at the same token run together (all of a left- or right-padded prompt does).

    Raises:
        InputError: the indices of a row are not consecutive apart from padding, or a query's key is missing.
    """
    x, ku, vu = call.q, call.k, call.v
    span = Span(call.design, call.window, call.layer, call.gradient, ku.shape[2] - x.shape[2], 0)
    if call.consecutive:
        return core(x, ku, vu, span)
    key_index, query_index = call.keys, call.queries
    content = (index.cpu().contiguous().numpy().tobytes() for index in (key_index, query_index))
    groups, lengths = _runs(len(key_index), *content)
    if len(groups) == 1 and lengths == [(x.shape[2], ku.shape[2])] * len(lengths):
        ((first_query, first_key),) = groups
        return core(x, ku, vu, span._replace(first_query=first_query, first_key=first_key))
    out = torch.zeros_like(x) + sum(t[..., :0].sum() for t in (x, ku, vu))  # a graph also if all is padding
    for (first_query, first_key), rows in groups.items():
        select = torch.tensor(rows, device=x.device)
        n_queries, n_keys = (max(lengths[b][k] for b in rows) for k in (0, 1))
        queries = query_index[select]
        key_slots = _slots(key_index[select], first_key, n_keys)
        query_slots = _slots(queries, first_query, n_queries)
        keys, values = (_take(u[select], key_slots) for u in (ku, vu))
        at = span._replace(first_query=first_query, first_key=first_key)
        part = core(_take(x[select], query_slots), keys, values, at)
        back = torch.where(queries >= 0, queries - first_query, -1)
        out = out.index_copy(0, select, _take(part, back))
    return out


@lru_cache(maxsize=8)
def _runs(
    batch: int, key_index: bytes, query_index: bytes
) -> tuple[dict[tuple[int, int], list[int]], list[tuple[int, int]]]:
    """Rows by the tokens that their queries and keys begin with, and (queries, keys) of every row.

    Found once for all layers of a model, which ask for the same.
    """
    rows = (
        torch.frombuffer(bytearray(t), dtype=torch.int64).view(batch, -1).tolist()
        for t in (key_index, query_index)
    )
    groups: dict[tuple[int, int], list[int]] = {}
    lengths: list[tuple[int, int]] = []
    for b, (keys, queries) in enumerate(zip(*rows, strict=True)):
        first_key, n_keys = _consecutive("key_index", b, keys)
        first_query, n_queries = _consecutive("query_index", b, queries)
        lengths.append((n_queries, n_keys))
        if n_queries and not first_key <= first_query <= first_query + n_queries <= first_key + n_keys:
            raise InputError(
                f"row {b}: the keys are of the tokens {first_key} to {first_key + n_keys - 1}, the queries "
                f"of {first_query} to {first_query + n_queries - 1}; every query's own key must be among "
                "the keys"
            )
        if n_queries:
            groups.setdefault((first_query, first_key), []).append(b)
    return groups, lengths


def _consecutive(name: str, row: int, index: list[int]) -> tuple[int, int]:
    """First real token and number of real tokens of a row, (-1, 0) if there is none."""
    real = [j for j in index if j >= 0]
    if not real:
        return -1, 0
    if real != list(range(real[0], real[0] + len(real))):
        raise InputError(f"{name}: row {row} must count real tokens one by one (with -1 at padding)")
    return real[0], len(real)


def _slots(index: Tensor, first: int, length: int) -> Tensor:
    """[b, length]: where in the padded row token first + s stands, -1 beyond the end of a shorter row."""
    target = torch.where(index >= 0, index - first, length)
    position = torch.arange(index.shape[1], device=index.device).expand_as(index)
    return torch.full_like(index[:, :1], -1).repeat(1, length + 1).scatter(1, target, position)[:, :length]


def _take(x: Tensor, slots: Tensor) -> Tensor:
    """x [b, H, T, D] at `slots` [b, t] along T; zeros where a slot is -1, whatever stands in the padding."""
    there = slots[:, None, :, None]
    taken = x.gather(2, there.clamp(min=0).expand(-1, x.shape[1], -1, x.shape[3]))
    return torch.where(there >= 0, taken, torch.zeros((), dtype=x.dtype, device=x.device))
