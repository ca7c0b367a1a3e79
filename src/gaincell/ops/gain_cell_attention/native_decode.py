"""One query of every head against a ring of one-byte codes, and writing into it, in compiled code.

The equations of `decode.py` on codes: where all cells are alike, the charge of one depends on its level and
its column's age alone, so a table of at most 16 numbers a column replaces voltages. With errors and noise of
converters (noise.py, converter_errors.py), but for those of the query drivers.

Dimensions: B sequences, H query heads, Hk key/value heads, M columns of the ring, S slots that are looked at,
D head dimension.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaincell.chips.design_file import Design
from gaincell.circuits.converter import in_precision
from gaincell.features import CELLS, CONVERSIONS, NOMINAL, PULSE_LAW, READ_NOISE, missing
from gaincell.ops.gain_cell_attention import native_library as library
from gaincell.ops.gain_cell_attention import native_tables as tables
from gaincell.ops.gain_cell_attention.backends import native
from gaincell.ops.gain_cell_attention.native_library import MOST_SLABS, TABLE, pointer

IMPLEMENTS = NOMINAL | PULSE_LAW | CELLS | CONVERSIONS | READ_NOISE - {"noise.pulse_jitter"}


def unsupported(tensors: tuple[Tensor, ...], design: Design) -> str | None:
    """Why a ring of codes is not served for these q, k, v, gains and offsets, in words; None if it is."""
    if (reason := _unsupported_chip(design)) is not None:
        return reason
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        return "it has no gradients"
    return native.unsupported(tensors[:3], design, 1)


@lru_cache(maxsize=64)
def _unsupported_chip(design: Design) -> str | None:
    """Why no ring of a chip is served; None if they are."""
    if more := missing(design.in_use, IMPLEMENTS):
        return f"it does not implement {more}"
    if design.storage_levels is None or design.storage_levels > TABLE:
        return f"a ring of codes has at most {TABLE} storage levels"
    if len(design.cell.coefficients or ()) > MOST_SLABS + 1:
        return f"a ring of codes has polynomials of order {MOST_SLABS} at most"
    return None


Scale = tuple[Tensor, Tensor] | None
"""Gain and offset per head, float32, that are still to be applied; None: none are."""


def _dense(scale: Scale) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Without strides, as it is read."""
    return (None, None) if scale is None else (scale[0].contiguous(), scale[1].contiguous())


class Slots(NamedTuple):
    """What the query of every sequence sees of a ring."""

    positions: Tensor  # [S] int32: column of the ring
    tile_of: Tensor  # [B, S] int32: sub-tile, -1 where the slot is not seen
    left: Tensor  # [B, S] float32: what is left of the voltages
    table: Tensor | None  # [B, S, 16] charge of every level now, of cells that are alike and not polynomials
    query: Tensor  # [B] uint32: number of the query's token


def make_slots(positions: Tensor, tile_of: Tensor, left: Tensor, query: Tensor, design: Design) -> Slots:
    """From columns [S], sub-tiles [B, S], what is left of the voltages [B, S] and the queries' tokens [B]."""
    table = None
    left = left.float().contiguous()
    if design.cell.coefficients is None and not design.cells_differ:
        levels = design.storage_levels
        assert levels is not None
        step = (design.v_max - design.v_min) / (levels - 1)
        u = (torch.arange(levels, dtype=torch.float32, device=left.device) - (levels - 1) / 2) * step
        table = torch.zeros(*left.shape, TABLE, dtype=torch.float32, device=left.device)
        table[..., :levels] = design.cell.current(left[..., None] * u)
    tokens = query.to(torch.uint32).contiguous()
    return Slots(positions.to(torch.int32), tile_of.to(torch.int32).contiguous(), left, table, tokens)


def write_ring(volts: Tensor, ring: Tensor, position: int, design: Design, scale: Scale = None) -> bool:
    """Codes of requested voltages [B, Hk, T, D] into a ring [B, Hk, M, D], uint8.

    The first token goes to column `position`, the others to those after it; of more than M the last M stay.
    False if a voltage is not finite: there is no code for that.
    """
    volts, (gain, offset) = volts.resolve_neg().contiguous(), _dense(scale)
    levels = design.storage_levels or 0
    batch, heads, tokens, dim = volts.shape
    asked = library.Tokens(
        batch=batch,
        heads=heads,
        tokens=tokens,
        dim=dim,
        columns=ring.shape[2],
        position=position,
        volts=volts.data_ptr(),
        gain=pointer(gain),
        offset=pointer(offset),
        ring=ring.data_ptr(),
        levels=levels,
        low=in_precision(design.v_min, torch.float32),
        high=in_precision(design.v_max, torch.float32),
        middle=in_precision(design.v_offset, torch.float32),
        to_code=(levels - 1) / (design.v_max - design.v_min),
    )
    return library.invoke("gc_write", asked) == library.OK


class RingDecoder:
    """Reads rings of one design; what does not change from token to token is filled in once.

    Args:
        design: The chip.
        heads: H.
        kv_heads: Hk.
        dim: Head dimension D.
        layer: Of the chip: selects the cells' mismatch, and the noise.
        level: Instruction level; None: the best, or the one forced.
    """

    def __init__(
        self, design: Design, heads: int, kv_heads: int, dim: int, layer: int, level: str | None = None
    ) -> None:
        self.design, self._level = design, level
        self._made_of = design, heads, kv_heads, dim, layer, level
        chip, self._held = tables.chip_problem(design, design.window, layer, heads, kv_heads, dim)
        coefficients = design.cell.coefficients or (0.0,)
        self._step = library.Step(
            dim=dim,
            tiles=design.tiles,
            order=len(coefficients) - 1,
            coefficients=(ctypes.c_float * (MOST_SLABS + 1))(*coefficients),
            cells=chip.cells,
            errors=chip.errors,
            q_levels=design.query_levels or 0,
            storage_levels=design.storage_levels or 0,
            to_volts=(design.v_max - design.v_min) / ((design.storage_levels or 2) - 1),
            **tables.converters_of(design, dim),
        )

    def __reduce__(self) -> tuple[type[RingDecoder], tuple[Any, ...]]:
        """Copies are made anew: a structure of pointers cannot be copied."""
        return RingDecoder, self._made_of

    def __call__(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Slots,
        scale: Scale = None,
        out_scale: Scale = None,
    ) -> Tensor | None:
        """The digital sum [B, H, 1, D] for one query of every head against a ring of codes.

        None where q is not finite.

        Args:
            q: [B, H, 1, D] requested pulse widths.
            keys: [B, Hk, M, D] codes, uint8.
            values: Likewise.
            slots: What the query of every sequence sees of the ring.
            scale: Of q.
            out_scale: Of the sum.
        """
        q = q.resolve_neg().contiguous()
        (gain, offset), (out_gain, out_offset) = _dense(scale), _dense(out_scale)
        out = torch.empty_like(q)
        step = self._step
        step.batch, step.heads = q.shape[:2]
        step.kv_heads, step.columns = keys.shape[1:3]
        step.slots = len(slots.positions)
        step.q, step.out = q.data_ptr(), out.data_ptr()
        step.q_gain, step.q_offset = pointer(gain), pointer(offset)
        step.out_gain, step.out_offset = pointer(out_gain), pointer(out_offset)
        step.key, step.value = keys.data_ptr(), values.data_ptr()
        step.positions, step.tile_of = slots.positions.data_ptr(), slots.tile_of.data_ptr()
        step.left, step.table = slots.left.data_ptr(), pointer(slots.table)
        step.query_tokens = slots.query.data_ptr()
        step.threads = library.threads_for(step.batch * step.heads * step.slots * step.dim)
        step.level = library.level_number(self._level or library.level_in_use())
        return out if library.invoke("gc_decode", step) == library.OK else None
