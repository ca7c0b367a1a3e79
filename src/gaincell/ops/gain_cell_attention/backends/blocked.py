"""Gain-cell attention in blocks of query tokens: plain torch, memory linear in T, CPU and GPU, own backward.

Agrees with `naive.py` at every T; naive is the definition, this is the portable fast path.

Dimensions: B sequences, H query heads, Hk key/value heads, g = H / Hk, G key/value heads processed together,
T tokens, D head dimension, M window, N tile edge; R query tokens of a block, c key tokens of a panel (whole
sub-tile columns, nb = c / N of them), n slabs of the separated cell (see time_basis.py).

For a block of R queries the panel is every column the window can reach. With x and the slabs stacked along n,

    S [gR, c] = X [gR, nD] @ K [c, nD]^T,   A = phi(S),
    O_b [gR, D] = sum_n row_n * (A_b @ V_b,n)                              for every piece b of N columns.

Pieces N * tiles apart lie in the same physical sub-tile: their charges are added before saturation and
readout, which is where tokens of the current lap and of the lap before meet. The codes are then added over
sub-tiles as integers.

Backward: with dO the gradient after the tile clamp and dS after the score clamp (both strictly inside),

    dA_b = sum_n (row_n dO) V_b,n^T,   dX = dS K,   dK = dS^T X,   dV_b = A_b^T (row_n dO),

and the slabs' own derivative turns dK, dV into gradients of the stored voltages. The linear surrogate takes
the same products with the slabs of a linear cell, and the masks of the true forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gaincell import features
from gaincell.circuits.converter import sum_rounding
from gaincell.circuits.readout import READOUTS
from gaincell.ops.gain_cell_attention import time_basis
from gaincell.ops.gain_cell_attention.blocked_noise import Disturbance
from gaincell.ops.gain_cell_attention.blocking import Panel, Plan, Segment, Workspace, groups_of, segments_of
from gaincell.ops.gain_cell_attention.call import SURROGATES, Call
from gaincell.ops.gain_cell_attention.input_stage import array_inputs
from gaincell.ops.gain_cell_attention.varlen import Span, around_nan, over_real_tokens

IMPLEMENTS = features.ARRAYS


def supports(_: Call) -> None:
    """Every call is served."""


def run(call: Call) -> Tensor:
    """The digital sum, in float32 or float64; zero where a query is padding."""
    call = array_inputs(call)
    if target := call.design.decay_target:
        call = call._replace(k=call.k - target, v=call.v - target)

    def core(x: Tensor, ku: Tensor, vu: Tensor, span: Span) -> Tensor:
        plan = plan_of(call, span.first_query, span.first_key)
        return _GainCellCore.apply(x, ku, vu, plan)  # type: ignore[no-any-return,no-untyped-call]

    def checked(x: Tensor, ku: Tensor, vu: Tensor, span: Span) -> Tensor:
        if any(bool(t.sum().isnan()) for t in (x, ku, vu)):
            return around_nan(core, x, ku, vu, span)
        return core(x, ku, vu, span)

    return over_real_tokens(checked, call)


def plan_of(call: Call, first_query: int, first_key: int) -> Plan:
    design, x, kv_heads = call.design, call.q, call.kv_heads
    key, value = (time_basis.errors_about_target(design, call.layer, kv_heads, x, array) for array in (0, 1))
    basis = time_basis.time_basis_of(design, call.reads, x.dtype, time_basis.fastest_leak(key, value))
    disturbance = None
    if design.noise.present or design.converters.present:
        disturbance = Disturbance(design, call.layer, kv_heads, call.reads, x)
    return Plan(
        design=design,
        first_query=first_query,
        first_key=first_key,
        window=call.window,
        aged=call.aged,
        basis=basis,
        gradient_basis=time_basis.linear_basis(design, call.reads) if call.gradient in SURROGATES else basis,
        errors=(key, value),
        score_scale=1.0 / design.score_saturation(x.shape[3]),
        output_scale=design.readout_steps / design.output_saturation,
        steps=design.readout_steps,
        disturbance=disturbance,
    )


class _GainCellCore(torch.autograd.Function):
    """x, ku, vu of consecutive tokens -> digital sum; see the head of this file."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ku: Tensor, vu: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, ku, vu)
        ctx.plan = plan
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        space = Workspace(x)
        for xs, ks, vs, outs, heads in groups_of(x, ku, vu, out):
            for _, panels in segments_of(plan, space, xs, ks, vs, heads):
                for panel in panels:
                    _, a = converted(panel, scores(panel, xs[:, :, panel.rows])[0])
                    o = tile_outputs(panel, a)
                    if plan.design.output_ceiling:
                        o.clamp_(-plan.steps, plan.steps)
                    total = READOUTS[plan.design.readout].code(o).sum(1).mul_(1.0 / plan.steps)
                    outs[:, :, panel.rows] = total.view(*outs.shape[:2], -1, outs.shape[3])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, ku, vu = ctx.saved_tensors
        dx, dku, dvu = (torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (x, ku, vu))
        groups = zip(groups_of(x, ku, vu, grad), groups_of(dx, dku, dvu, dx), strict=True)
        for (xs, ks, vs, gs, heads), (dxs, dks, dvs, _, _) in groups:
            for segment, panels in segments_of(ctx.plan, Workspace(xs), xs, ks, vs, heads):
                _backward_segment(segment, panels, (xs, ks, vs, gs), (dxs, dks, dvs))
        return dx, dku, dvu, None


def _backward_segment(
    segment: Segment, panels: list[Panel], saved: tuple[Tensor, ...], gradients: tuple[Tensor, ...]
) -> None:
    """Accumulate the gradients of G key/value heads into `gradients` (dx, dku, dvu)."""
    (xs, ks, vs, gs), (dxs, dks, dvs), plan = saved, gradients, segment.plan
    exact = plan.gradient_basis is plan.basis
    # the surrogate's own stacks, about the same base time and over the same columns
    other = segment if exact else segment.separated(plan.gradient_basis, ks, vs)
    dk, dv = torch.zeros_like(other.keys), torch.zeros_like(other.values)
    for panel in panels:
        x, through = xs[:, :, panel.rows], panel._replace(segment=other)
        s, stacked_x = scores(panel, x)
        passed, a = converted(panel, s)
        do = _tile_gradient(panel, tile_outputs(panel, a), gs[:, :, panel.rows])
        if not exact:
            stacked_x = _stack_queries(through, x)
        da, stacked_do = _activation_gradient(through, do)
        margin = sum_rounding(a.dtype)
        ds = da.mul_(passed > margin)
        if plan.design.score_ceiling:
            ds.mul_(passed < 1.0 - margin)
        exponent = plan.design.charge_to_pulse.exponent
        if exponent > 1:
            ds.mul_(passed.pow_(exponent - 1)).mul_(exponent)
        if plan.disturbance is not None and plan.disturbance.score is not None:
            column = panel.tokens % plan.design.window
            ds.mul_(plan.disturbance.score.gain[segment.heads[:, None], column][:, None])
        columns = slice(panel.lo, panel.hi)
        dk[:, columns].baddbmm_(ds.transpose(1, 2), stacked_x)
        pieces = a.view(a.shape[0], a.shape[1], stacked_do.shape[1], -1).permute(0, 2, 3, 1)
        dv[:, columns] += torch.matmul(pieces, stacked_do).flatten(1, 2)
        dxs[:, :, panel.rows] += _query_gradient(through, ds, x.shape)
    _add_key_gradient(other, dk, 0, ks, dks)
    _add_key_gradient(other, dv, 1, vs, dvs)


def _stack_queries(panel: Panel, x: Tensor) -> Tensor:
    """X [G, gR, nD]: the queries times the row factors of every slab, over S_sat."""
    segment, factors = panel.segment, panel.row_factors(panel.plan.score_scale)
    name = "queries" if segment.basis is panel.plan.basis else "queries of the surrogate"
    stacked = segment.space(name, *x.shape[:3], segment.basis.count, x.shape[3])
    torch.mul(x.unsqueeze(3), factors, out=stacked)
    return stacked.view(x.shape[0], -1, segment.basis.count * x.shape[3])


def scores(panel: Panel, x: Tensor) -> tuple[Tensor, Tensor]:
    """S / S_sat [G, gR, c] as the cells give it (equations 5, 7), of every column of the panel; and X."""
    plan, stacked, keys = panel.plan, _stack_queries(panel, x), panel.keys.transpose(1, 2)
    a = panel.segment.space("activations", *stacked.shape[:2], keys.shape[2])
    if plan.basis.constant:
        constant = x.sum(-1).view(x.shape[0], -1, 1) * (plan.basis.constant * plan.score_scale)
        torch.baddbmm(constant, stacked, keys, out=a)
    else:
        torch.bmm(stacked, keys, out=a)
    if plan.disturbance is not None:
        plan.disturbance.scores(a, x, panel.segment.heads, panel.queries, panel.tokens)
    return a, stacked


def converted(panel: Panel, a: Tensor) -> tuple[Tensor, Tensor]:
    """S / S_sat of `scores` between its limits, in place, zero outside causal window and written columns; and
    the pulses (equations 8, 9).
    """
    design, disturbance, segment = panel.plan.design, panel.plan.disturbance, panel.segment
    a.clamp_(0.0, 1.0 if design.score_ceiling else None)
    mask_edges(panel, a)
    exponent = design.charge_to_pulse.exponent
    phi = a if exponent == 1 else torch.pow(a, exponent, out=segment.space("powers", *a.shape))
    if disturbance is None:
        return a, phi
    return a, disturbance.pulses(phi, segment.heads, panel.queries, panel.tokens)


def mask_edges(panel: Panel, a: Tensor) -> None:
    """Zero, in place, what the queries do not see; only columns at the panel's two ends can be hidden."""
    plan, start = panel.plan, panel.segment.first
    a = a.view(a.shape[0], -1, panel.i1 - panel.i0, a.shape[-1])
    first, last = start + panel.lo, start + panel.hi - 1
    rows = panel.queries[:, None]
    hidden_old = max(0, panel.i1 - plan.window - first, plan.first_key - first)
    if hidden_old:
        columns = torch.arange(first, first + hidden_old, device=a.device)[None, :]
        a[..., :hidden_old].mul_((rows - columns < plan.window) & (columns >= plan.first_key))
    hidden_new = last - panel.i0
    if hidden_new > 0:
        columns = torch.arange(last - hidden_new + 1, last + 1, device=a.device)[None, :]
        a[..., a.shape[-1] - hidden_new :].mul_(rows >= columns)


def tile_outputs(panel: Panel, a: Tensor) -> Tensor:
    """O of every physical sub-tile before saturation, in readout steps: [G, tiles, gR, D]."""
    plan, segment, groups = panel.plan, panel.segment, a.shape[0]
    basis, values = plan.basis, panel.values.flatten(0, 1)
    pieces = a.view(groups, a.shape[1], -1, plan.design.tile).transpose(1, 2).flatten(0, 1)  # [G nb, gR, N]
    charges = segment.space("charges", *pieces.shape[:2], values.shape[2])
    torch.bmm(pieces, values, out=charges)
    factors = panel.row_factors(plan.output_scale)
    r = factors.shape[0]
    split = charges.view(pieces.shape[0], -1, r, basis.count, values.shape[2] // basis.count)
    o = segment.space("tiles", *split.shape[:3], split.shape[4])
    torch.mul(split[..., 0, :], factors[:, 0], out=o)
    for n in range(1, basis.count):
        o.addcmul_(split[..., n, :], factors[:, n])
    o = o.flatten(1, 2)
    if basis.constant:
        o.add_(pieces.sum(-1, keepdim=True), alpha=basis.constant * plan.output_scale)
    o = _merge_laps(o.unflatten(0, (groups, -1)), plan.design.tiles)
    if plan.disturbance is not None:
        squares = pieces.square().sum(-1, keepdim=True).unflatten(0, (groups, -1))
        squares = _merge_laps(squares, plan.design.tiles)
        plan.disturbance.outputs(o, squares, segment.heads, panel.queries, _tiles(panel, o))
        o.view(*o.shape[:2], -1, r, o.shape[3]).mul_(tiles_read(panel, o)[:, None, :, None])
    return o


def _tiles(panel: Panel, o: Tensor) -> Tensor:
    """Physical sub-tiles of outputs [G, s, gR, D]."""
    design = panel.plan.design
    first = (panel.segment.first + panel.lo) // design.tile
    return (first + torch.arange(o.shape[1], device=o.device)) % design.tiles


def tiles_read(panel: Panel, o: Tensor) -> Tensor:
    """[s, R]: whether the query sees a token of the sub-tile; else it is not read."""
    plan, n, i = panel.plan, panel.plan.design.tile, panel.queries
    first = (panel.segment.first + panel.lo) // n
    oldest, newest = (i - plan.window + 1).clamp(min=plan.first_key) // n - first, i // n - first
    piece = torch.arange((panel.hi - panel.lo) // n, device=o.device)[:, None]
    seen = ((piece >= oldest) & (piece <= newest)).to(o.dtype)[None]
    return _merge_laps(seen[..., None], plan.design.tiles)[0, ..., 0] > 0


def _merge_laps(o: Tensor, tiles: int) -> Tensor:
    """Add the charges of pieces in one physical sub-tile: piece b of the panel is in sub-tile b mod tiles."""
    pieces = o.shape[1]
    if pieces <= tiles:
        return o
    merged = o[:, :tiles].clone()
    for b in range(tiles, pieces, tiles):
        merged[:, : min(tiles, pieces - b)] += o[:, b : b + tiles]
    return merged


def _tile_gradient(panel: Panel, o: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the tile outputs in charge units, [G, tiles, gR, D]; 0 on the ceiling and beyond."""
    plan = panel.plan
    grad = grad.reshape(grad.shape[0], 1, -1, grad.shape[-1]) * (plan.output_scale / plan.steps)
    if plan.disturbance is not None and plan.disturbance.output is not None:
        gain = plan.disturbance.output.gain[panel.segment.heads[:, None], _tiles(panel, o)]
        grad = grad * gain[:, :, None]
    if plan.design.output_ceiling:
        return grad * (o.abs() < plan.steps * (1.0 - sum_rounding(o.dtype)))
    return grad.expand_as(o)


def _activation_gradient(panel: Panel, do: Tensor) -> tuple[Tensor, Tensor]:
    """dA [G, gR, c] and the stacked dO [G, nb, gR, nD] of every piece of the panel."""
    pieces = (panel.hi - panel.lo) // panel.plan.design.tile

    def of_pieces(tiles: Tensor) -> Tensor:
        if pieces <= tiles.shape[1]:
            return tiles
        return tiles[:, torch.arange(pieces, device=do.device) % tiles.shape[1]]

    factors, constant = panel.row_factors(1.0), panel.segment.basis.constant
    stacked = do.reshape(*do.shape[:2], -1, len(factors), 1, do.shape[-1]) * factors
    stacked = of_pieces(stacked.reshape(*do.shape[:3], -1))
    da = torch.matmul(stacked, panel.values.transpose(2, 3))  # [G, nb, gR, N]
    if constant:
        da += of_pieces(do.sum(-1, keepdim=True) * constant)
    return da.transpose(1, 2).flatten(2), stacked


def _query_gradient(panel: Panel, ds: Tensor, shape: torch.Size) -> Tensor:
    """dx [G, g, R, D] from dS [G, gR, c]."""
    basis, scale = panel.segment.basis, panel.plan.score_scale
    d_stacked = torch.bmm(ds, panel.keys)
    dx = (d_stacked.view(*shape[:3], basis.count, shape[3]) * panel.row_factors(scale)).sum(3)
    if basis.constant:
        dx = dx + ds.sum(-1).view(*shape[:3], 1) * (basis.constant * scale)
    return dx


def _add_key_gradient(segment: Segment, d_slabs: Tensor, array: int, u: Tensor, du: Tensor) -> None:
    """Turn the gradient of the slabs [G, c, nD] into that of the stored voltages, added to `du` [G, T, D]."""
    slopes = segment.of_keys(u, array, slopes=True)
    gradient = (slopes * d_slabs.view(slopes.shape)).sum(2)
    start = segment.first - segment.plan.first_key
    stop = min(u.shape[1], start + segment.columns)
    du[:, max(0, start) : stop] += gradient[:, max(0, -start) : stop - start]
