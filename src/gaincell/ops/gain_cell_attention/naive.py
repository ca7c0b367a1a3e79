"""Gain-cell attention, literally: the definition that every other implementation is tested against.

One head, from driver outputs x and stored voltages u (equations numbered as in the paper):

    S_ij    = sum_d f(x_id, u_jd delta^(i-j)),       f(x, u) = x F(u)                          (6)-(9)
    A_ij    = phi(S_ij) if token j is written and 0 <= i-j < min(M, W), else 0                 (5)
    O_t,id  = sum_{j in tile t} f(A_ij, u_jd delta^(i-j)),   tile t = { j : (j mod M) div N = t }
    sum_id  = sum_t Qout(clamp(O_t,id / O_sat, -1, 1))

What a real chip adds, where a design says so: every cell has a curve and a leakage of its own
(variability.py, leakage.py), S and O are disturbed before they are converted (converter_errors.py, noise.py),
and so are the pulses A. What drivers and writes do to x and u was done before.

Time is O(T^2 D); memory is bounded by doing a few queries at a time.

Dimensions: B sequences, Hk key/value heads, g = H / Hk query heads per key/value head, Tq queries, Tk keys,
D head dimension, M window, N tile edge, Q queries of one chunk.
Not modelled: see the devices and circuits it is made of.
"""

from __future__ import annotations

from functools import partial
from math import exp
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gaincell import features
from gaincell.circuits import charge_to_pulse, read_out, signed_charge_to_pulse, straight_through
from gaincell.circuits.converter_errors import Line, converted, converter_errors
from gaincell.circuits.noise import Draws, jitter, output_noise, score_noise
from gaincell.circuits.nonideality import disturbed
from gaincell.config import Design
from gaincell.devices.leakage import remaining
from gaincell.devices.random import Effect
from gaincell.devices.variability import KEY_ARRAY, VALUE_ARRAY, CellErrors, cell_errors, current_of

IMPLEMENTS = features.ARRAYS | {"nonideality"}
"""Features of a chip (features.py), those of front.py included."""
CELLS_AT_ONCE = 2**22  # cells (B Hk Q Tk D) of one chunk; bounds memory only


class Array(NamedTuple):
    """What one array (keys or values) holds."""

    u: Tensor  # [B, Hk, Tk, D] stored voltage when written, relative to V_offset
    errors: CellErrors | None  # of the physical cell that holds each token: [B, Hk, 1, Tk, D]
    leak_per_token: float  # exponent of the decay of a nominal cell
    disturb_per_token: float  # and what reads add to it


def gain_cell_core_naive(
    x: Float[Tensor, "B H Tq D"],
    ku: Float[Tensor, "B Hk Tk D"],
    vu: Float[Tensor, "B Hk Tk D"],
    design: Design,
    key_index: Int[Tensor, "B Tk"] | None = None,
    query_index: Int[Tensor, "B Tq"] | None = None,
    sliding_window: int | None = None,
    layer: int = 0,
    gradient: str = "exact",
    aged: bool = False,
) -> Float[Tensor, "B H Tq D"]:
    """Digital sum over the sub-tiles, in units of one sub-tile's full-scale output.

    Args:
        x: query pulse widths in [0, 1], the query drivers' output.
        ku, vu: stored voltages relative to V_offset, volts, the write DACs' output.
        design: the chip.
        key_index: index j of the real token in each key slot, -1 for padding; None for 0 ... Tk - 1.
        query_index: index i of each query, -1 for padding (output 0); None for the last Tq of key_index.
        sliding_window: the model's own window W; columns of age W and more are gated.
        layer: whose mismatch to draw.
        gradient: "exact" (derivative of the cells) or "surrogate" (backward as if every cell were
            linear_slope * x * u * delta^age; the clamps' masks are those of the true forward pass).
        aged: ku, vu of tokens before the first query are what is left of them at the first query, and decay
            from there on.
    """
    b, h, tq, d = x.shape
    hk, tk = ku.shape[1:3]
    if key_index is None:
        key_index = torch.arange(tk, device=x.device).expand(b, tk)
    if query_index is None:
        query_index = key_index[:, tk - tq :]
    written = key_index >= 0  # the valid bits
    decays_from = key_index
    reads = h // hk
    if aged:
        queries = torch.where(query_index >= 0, query_index, torch.iinfo(torch.int64).max)
        decays_from = torch.maximum(key_index, queries.min(1, keepdim=True).values)
    keys = _array(design, layer, _only(written, ku), key_index, KEY_ARRAY, reads)
    values = _array(design, layer, _only(written, vu), key_index, VALUE_ARRAY, reads)
    lines = converter_errors(design, layer, hk, d, x.dtype, x.device)
    grouped = _only(query_index >= 0, x).reshape(b, hk, h // hk, tq, d)

    queries_at_once = max(1, CELLS_AT_ONCE // max(1, b * hk * tk * d))
    chunks = []
    for x_chunk, index_chunk in zip(
        torch.split(grouped, queries_at_once, dim=3),
        torch.split(query_index, queries_at_once, dim=1),
        strict=True,
    ):
        chunk = checkpoint(  # recomputed in the backward pass instead of stored
            _some_queries,
            x_chunk,
            keys,
            values,
            design,
            key_index,
            decays_from,
            index_chunk,
            sliding_window,
            layer,
            gradient,
            lines.score,
            lines.output,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        chunks.append(chunk)
    return torch.cat(chunks, dim=3).reshape(b, h, tq, d)


def _some_queries(
    x: Tensor,
    keys: Array,
    values: Array,
    design: Design,
    key_index: Tensor,
    decays_from: Tensor,
    query_index: Tensor,
    sliding_window: int | None,
    layer: int,
    gradient: str,
    score_line: Line | None,
    output_line: Line | None,
) -> Tensor:
    """The equations, for queries x [B, Hk, g, Q, D]; returns [B, Hk, g, Q, D]."""
    window = design.window if sliding_window is None else min(design.window, sliding_window)
    age = query_index[:, :, None] - key_index[:, None, :]  # [B, Q, Tk]
    visible = (age >= 0) & (age < window) & (key_index >= 0)[:, None, :] & (query_index >= 0)[:, :, None]
    decay = (query_index[:, :, None] - decays_from[:, None, :]).clamp(min=0)
    surrogate = gradient == "surrogate"
    column = key_index % design.window
    hk, g = x.shape[1:3]
    head = torch.arange(hk * g, device=x.device).view(hk, g, 1, 1)
    step = query_index.clamp(min=0)[:, None, None, :, None]
    row = torch.arange(x.shape[-1], device=x.device)
    at = column[:, None, None, None]
    kv_head = head[:, :1] // g
    shown = partial(
        disturbed, design.nonideality, design, layer, head=head, kv_head=kv_head, step=step, column=at, row=0
    )
    of_cells = {"head": kv_head, "step": step.transpose(2, 3), "column": at.mT, "row": row}

    def gated(currents: Tensor) -> Tensor:
        """Those of columns that the query sees; whatever the others hold, a NaN included, gives none."""
        return torch.where(visible[:, None, :, :, None], currents, 0.0)

    x = shown("query", x, column=0, row=row)
    u = shown("key", _voltages(keys, decay, design), **of_cells)
    currents = gated(current_of(design.cell, u, keys.errors))
    scores = torch.einsum("bkgid,bkijd->bkgij", x, currents)  # S_ij                                (7)-(9)
    if surrogate:
        path = torch.einsum("bkgid,bkijd->bkgij", x, gated(_linear_currents(keys, decay, design)))
        scores = straight_through(scores, path)
    scores = shown("score", scores)
    saturation = design.score_saturation(x.shape[-1])
    if score_line is not None:
        of_column = Line(*(e[:, column].transpose(0, 1)[:, :, None, None] for e in score_line))
        scores = converted(scores, of_column, saturation)
    noise = Draws(design, layer, x.dtype, head=head, step=step, column=at, row=0)
    scores = score_noise(design, scores, saturation, x.square().sum(-1, keepdim=True), noise)
    exponent = design.charge_to_pulse.exponent
    pulses = charge_to_pulse(scores, saturation, design.score_ceiling, exponent)  # phi                  (5)
    pulses = jitter(design, pulses, Effect.PULSE_JITTER, noise)
    pulses = shown("pulse", pulses)
    pulses = torch.where(visible[:, None, None], pulses, torch.zeros_like(pulses))  # A_ij

    u = shown("value", _voltages(values, decay, design), **of_cells)
    currents = gated(current_of(design.cell, u, values.errors))
    linear = gated(_linear_currents(values, decay, design)) if surrogate else None
    tile_of_token = column // design.tile  # t = (j mod M) div N
    total = torch.zeros_like(x)
    for t in range(design.tiles):
        in_tile = tile_of_token == t
        read = (visible & in_tile[:, None, :]).any(-1)  # a sub-tile of which nothing is visible is not read
        if t and not bool(read.any()):  # the first is, so that there is a graph if every query is padding
            continue
        pulses_t = _only(in_tile, pulses, dim=4)
        charge = torch.einsum("bkgij,bkijd->bkgid", pulses_t, currents)  # O_t,id
        if linear is not None:
            charge = straight_through(charge, torch.einsum("bkgij,bkijd->bkgid", pulses_t, linear))
        charge = shown("output", charge, column=t, row=row)
        if output_line is not None:
            charge = converted(
                charge, Line(*(e[:, None, None, t] for e in output_line)), design.output_saturation
            )
        noise = Draws(design, layer, x.dtype, head=head, step=step, column=t, row=row)
        squares = pulses_t.square().sum(-1, keepdim=True)
        charge = output_noise(design, charge, design.output_saturation, squares, noise)
        charge = _only(read, charge, dim=3)
        output = signed_charge_to_pulse(charge, design.output_saturation, design.output_ceiling)
        total = total + read_out(output, design.readout, design.counter_levels)  # Qout, then the sum
    return total


def _voltages(array: Array, age: Tensor, design: Design) -> Tensor:
    """What is left after `age` [B, Q, Tk] tokens: [B, Hk, Q, Tk, D]."""
    age = age[:, None, :, :, None]
    if array.errors is None or array.errors.leakage is None:
        left = _nominally_left(array, age)
    else:
        rate = array.leak_per_token * array.errors.leakage.double() + array.disturb_per_token
        left = torch.exp(-rate * age).to(array.u.dtype)
    return _decayed(array, left, design)


def _linear_currents(array: Array, age: Tensor, design: Design) -> Tensor:
    """The linear surrogate's, of nominal cells."""
    left = _nominally_left(array, age[:, None, :, :, None])
    return design.cell.linear_slope * _decayed(array, left, design)


def _nominally_left(array: Array, age: Tensor) -> Tensor:
    return remaining(exp(-array.leak_per_token - array.disturb_per_token), age, array.u.dtype)


def _decayed(array: Array, left: Tensor, design: Design) -> Tensor:
    """u_inf + (u - u_inf) left."""
    u, target = array.u[:, :, None], design.decay_target
    return u * left if target == 0 else target + (u - target) * left


def _array(design: Design, layer: int, u: Tensor, key_index: Tensor, array: int, reads: int) -> Array:
    """Voltages and errors of the cells that hold the tokens: physical column j mod M of the head."""
    errors = cell_errors(design, layer, u.shape[1], u.shape[-1], array, u.dtype, u.device)
    if errors is not None:
        column = key_index % design.window  # [B, Tk]; padding points anywhere, it is never read
        errors = errors.each(lambda e: e[:, column].transpose(0, 1)[:, :, None])
    return Array(u, errors, design.leak_per_token, reads * design.disturb_per_read)


def _only(keep: Tensor, values: Tensor, dim: int = 2) -> Tensor:
    """values with 0 where keep [B, T] is false; T is dimension `dim` of values."""
    shape = [1] * values.dim()
    shape[0], shape[dim] = keep.shape
    return torch.where(keep.reshape(shape), values, torch.zeros((), dtype=values.dtype, device=values.device))
