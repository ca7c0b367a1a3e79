"""Gain-cell attention on a GPU in Triton for any cells and chips: by slabs (time_basis.py), in float32.

Like `native.py` it serves every cell, mismatch, errors and noise of converters, and, as it takes stored
voltages, whatever stands before the arrays (input_stage.py). Where codes do, triton.py is cheaper.

Dimensions: B sequences, H query heads, Hk key/value heads, T tokens, D head dimension, M columns, R queries
of a program, n slabs.
Not modelled: see the devices and circuits it is made of.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from gaincell import features
from gaincell.chips.design_file import Design
from gaincell.circuits.converter import sum_rounding
from gaincell.devices.random import KEY_ARRAY, VALUE_ARRAY, Effect
from gaincell.ops.gain_cell_attention import native_tables as tables
from gaincell.ops.gain_cell_attention import triton_time_basis as kernels
from gaincell.ops.gain_cell_attention.blocked_noise import Disturbance
from gaincell.ops.gain_cell_attention.call import SURROGATES
from gaincell.ops.gain_cell_attention.native_library import READOUTS
from gaincell.ops.gain_cell_attention.time_basis import PolynomialBasis, SampledBasis, linear_basis
from gaincell.ops.gain_cell_attention.varlen import Span

IMPLEMENTS = features.ARRAYS - {"leakage.spread"}


def unsupported_chip(design: Design, reads: int) -> str | None:
    """Why a chip is not served whose columns are read so many times per token; None if it is."""
    by_pieces, quiet = design.cell.coefficients is None, tables.without_read_noise(design)
    return tables.NOT_SMOOTH if by_pieces and tables.curve_of(quiet, reads, 0.0) is None else None


def core(x: Tensor, ku: Tensor, vu: Tensor, span: Span) -> Tensor:
    """The digital sum over the sub-tiles for pulse widths and stored voltages of consecutive tokens."""
    return _AnyCore.apply(x, ku, vu, span)  # type: ignore[no-untyped-call,no-any-return]


class _Cells(NamedTuple):
    """How cells separate over time, as the kernels take it."""

    basis: PolynomialBasis | SampledBasis
    rows: Tensor  # [n, R] row factors
    own: tuple[Tensor, ...]  # of the cells of both arrays: coefficients, or gain, shift and current offset
    curve: Tensor  # MOST_NODES nodes, where pieces begin, pieces per volt, their number, and the pieces
    shape: dict[str, Any]  # constants of the kernels


def _cells(
    span: Span, kv_heads: int, dim: int, reads: int, device: torch.device, *, surrogate: bool
) -> _Cells:
    design, step = tables.without_read_noise(span.design), _step(span.design, reads)
    basis = linear_basis(design, reads) if surrogate else tables.basis_of(design, reads, 0.0)
    assert isinstance(basis, PolynomialBasis | SampledBasis)
    first, count, parts = 0, basis.count, 0
    factors = basis.row_factors(torch.arange(step))
    if design.cells_differ and not surrogate:
        own = tuple(t.to(device) for t in tables.mismatch_of(design, span.layer, kv_heads, dim, reads, 0.0))
        parts = own[0].shape[2]
    else:
        alike = torch.tensor((1.0, 0.0, 0.0), dtype=torch.float32, device=device)
        if isinstance(basis, PolynomialBasis):
            first, count = 1, max(1, len(basis.coefficients) - 1)
            alike = torch.tensor((*basis.coefficients[1:], 0.0)[:count], dtype=torch.float32, device=device)
            orders = torch.arange(1, count + 1, dtype=torch.float64)
            factors = torch.exp(-basis.alpha * orders[:, None] * torch.arange(step))
        own = (alike, alike)
    rows = torch.zeros(count, _padded(step), dtype=torch.float32, device=device)
    rows[:, :step] = factors.to(rows)
    curve = torch.zeros(1, dtype=torch.float32, device=device)
    if isinstance(basis, SampledBasis):
        found = tables.curve_of(design, reads, 0.0)
        assert found is not None
        head = torch.zeros(kernels.PIECES.value, dtype=torch.float32, device="cpu")
        head[: len(basis.nodes)] = torch.tensor(basis.nodes, device="cpu")
        head[kernels.LOW.value] = found.low
        head[kernels.PER_VOLT.value] = found.per_volt
        head[kernels.NUMBER.value] = len(found.pieces)
        curve = torch.cat((head, found.pieces.flatten())).to(device)
    shape = {"POLYNOMIAL": isinstance(basis, PolynomialBasis), "FIRST": first, "COUNT": count, "PARTS": parts}
    return _Cells(basis, rows, own, curve, shape)


def _step(design: Design, reads: int) -> int:
    """Queries of a program."""
    return min(tables.LONGEST_BLOCK, tables.basis_of(tables.without_read_noise(design), reads, 0.0).span)


def _padded(size: int) -> int:
    """To what the kernels' products take."""
    return max(16, int(triton.next_power_of_2(size)))


def gates(x: Tensor, design: Design, keep: bool) -> tuple[Tensor, float]:
    """Where the kernels note which outputs are inside their ceiling, if it is kept, and that, in steps."""
    shape = (*x.shape[:3], design.tiles, x.shape[3]) if keep else (1,)
    edge = design.readout_steps * (1 - sum_rounding(torch.float32)) if design.output_ceiling else float("inf")
    return torch.zeros(shape, dtype=torch.int8, device=x.device), edge


def pieces_of(span: Span, k: Tensor) -> int:
    """Of a sub-tile's columns, that the keys reach."""
    tile = span.design.tile
    return (span.first_key + k.shape[2] - 1) // tile - span.first_key // tile + 1


class _Setting:
    """What both passes tell the kernels."""

    def __init__(self, span: Span, x: Tensor, ku: Tensor) -> None:
        design, dim, (heads, kv_heads) = span.design, x.shape[3], (x.shape[1], ku.shape[1])
        self.reads = heads // kv_heads
        self.step = _step(design, self.reads)
        self.cells = _cells(span, kv_heads, dim, self.reads, x.device, surrogate=False)
        noise = Disturbance(design, span.layer, kv_heads, self.reads, x)
        lines = [line.flatten() for line in noise.lines] or [
            torch.zeros(1, dtype=torch.float32, device=x.device)
        ]
        stds = (noise.score_std, noise.score_of_cell, noise.output_std, noise.output_of_cell)
        words = [design.noise.seed, design.mismatch.chip, span.layer, KEY_ARRAY, VALUE_ARRAY]
        words += [Effect.READ, Effect.PULSE_JITTER]
        self.disturbances = (
            torch.cat(lines),
            torch.tensor((*stds, noise.jitter_std), dtype=torch.float32, device=x.device),
            torch.tensor(words, dtype=torch.int64, device=x.device).to(torch.uint32),
        )
        self.noisy_outputs = any(stds[2:])
        self.sizes = [heads, kv_heads, x.shape[2], ku.shape[2], span.first_query, span.first_key, span.window]
        self.sizes += [design.window, design.tiles, design.tile, dim, self.step]
        self.flags = self.cells.shape | {
            "CEILING": design.score_ceiling,
            "EXPONENT": design.charge_to_pulse.exponent,
            "LINES": bool(noise.lines),
            "NOISE": any(stds[:2]),
            "JITTER": noise.jitter_std > 0,
            "R": _padded(self.step),
            "N": _padded(design.tile),
            "D": _padded(dim),
        }


class _AnyCore(torch.autograd.Function):
    """Pulse widths and stored voltages of consecutive tokens -> digital sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ku: Tensor, vu: Tensor, span: Span) -> Tensor:
        design, dim = span.design, x.shape[3]
        x, ku, vu = (t.contiguous().float() for t in (x, ku - design.decay_target, vu - design.decay_target))
        setting, cells = (s := _Setting(span, x, ku)), s.cells
        keep = any(ctx.needs_input_grad)
        out = torch.empty_like(x)
        open_, edge = gates(x, design, keep)
        steps = design.readout_steps
        grid = (triton.cdiv(x.shape[2], setting.step), x.shape[0] * x.shape[1])
        kernels.forward[grid](
            x, ku, vu, out, open_, cells.rows, *cells.own, cells.curve, *setting.disturbances, *setting.sizes,
            cells.basis.alpha, cells.basis.constant, 1 / design.score_saturation(dim),
            steps / design.output_saturation, steps, edge,
            OUT_CEILING=design.output_ceiling, OUT_NOISE=setting.noisy_outputs,
            READOUT=READOUTS[design.readout], KEEP=keep, **setting.flags,
        )  # fmt: skip
        if keep:
            ctx.save_for_backward(x, ku, vu, open_)
            ctx.span = span
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, ku, vu, open_ = ctx.saved_tensors
        span: Span = ctx.span
        design, dim, kv_heads = span.design, x.shape[3], ku.shape[1]
        setting, cells = (s := _Setting(span, x, ku)), s.cells
        back = cells
        if span.gradient in SURROGATES:
            back = _cells(span, kv_heads, dim, setting.reads, x.device, surrogate=True)
        grad, gradients = grad.contiguous().float(), [torch.zeros_like(t) for t in (x, ku, vu)]
        flags = setting.flags | {f"BACK_{name}": number for name, number in back.shape.items()}
        blocks = triton.cdiv(x.shape[2], setting.step)
        grids = ((blocks, len(x) * x.shape[1]), (pieces_of(span, ku), len(x) * kv_heads))
        for grid, queries in zip(grids, (True, False), strict=True):
            kernels.backward[grid](
                x, ku, vu, grad, open_, *gradients, cells.rows, cells.own[0], cells.curve,
                *setting.disturbances, back.rows, *back.own, *setting.sizes,
                cells.basis.alpha, back.basis.alpha, cells.basis.constant, back.basis.constant,
                1 / design.score_saturation(dim), 1 / design.output_saturation, sum_rounding(torch.float32),
                QUERIES=queries, **flags,
            )  # fmt: skip
        return gradients[0], gradients[1], gradients[2], None
