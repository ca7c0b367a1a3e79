"""The gain-cell attention of one layer: four scaling stages around the arrays."""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gaincell.design import Design
from gaincell.nn.scaler import Scaler
from gaincell.ops.gain_cell_attention import Gradient, Impl, attend_to_stored, gain_cell_attention


class Attend(Protocol):
    """What `gain_cell_attention` is called with."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        design: Design,
        scaling: None,
        impl: Impl,
        *,
        key_index: Tensor | None,
        query_index: Tensor | None,
        sliding_window: int | None,
        layer: int,
        gradient: Gradient,
    ) -> Tensor: ...


class GainCellAttention(nn.Module):
    """Attention of one layer's heads in gain-cell arrays, equations (3) and (5) to (9) of the paper [M].

        out_id = a_o sum_t Qout(clamp(O_t,id / O_sat, -1, 1)) + b_o

    with q, k and v each scaled by their own stage before the driver and the write DAC quantise them. The
    initial values are those of the released code [R]: q (1, 0), k and v (1, V_offset), output (1, 0).

    Args:
        design: the chip; its ``token_period`` must already be that of the whole model.
        heads: query heads H.
        kv_heads: key/value heads Hk; H is a multiple of it.
        head_dim: D, rows of a key array and columns of a value array.
        layer: which layer this is: mismatch is drawn per (layer, head).
        impl: implementation of the arrays, see ``gain_cell_attention``.
        gradient: of the cells in the backward pass, see ops/gain_cell_attention/gradients.py.
        dtype: of gains and offsets.
        device: of gains and offsets.

    Not modelled: dropout of attention weights (an array has none), attention sinks, soft-capping,
    additive biases.
    """

    def __init__(
        self,
        design: Design,
        heads: int,
        kv_heads: int,
        head_dim: int,
        *,
        layer: int = 0,
        impl: Impl = "auto",
        gradient: Gradient = "exact",
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.design = design
        self.heads = heads
        self.kv_heads = kv_heads
        self.head_dim = head_dim
        self.layer = layer
        self.impl: Impl = impl
        self.gradient: Gradient = gradient
        self.q = Scaler(heads, dtype=dtype, device=device)
        self.k = Scaler(kv_heads, offset=design.v_offset, dtype=dtype, device=device)
        self.v = Scaler(kv_heads, offset=design.v_offset, dtype=dtype, device=device)
        self.out = Scaler(heads, dtype=dtype, device=device)
        self.attend: Attend = gain_cell_attention
        """What computes the arrays; another while circuits are learned (training/codesign.py)."""

    def forward(
        self,
        q: Float[Tensor, "B H Tq D"],
        k: Float[Tensor, "B Hk Tk D"],
        v: Float[Tensor, "B Hk Tk D"],
        key_index: Int[Tensor, "B Tk"] | None = None,
        query_index: Int[Tensor, "B Tq"] | None = None,
        sliding_window: int | None = None,
        *,
        extra_age: Float[Tensor, "B held"] | None = None,
    ) -> Float[Tensor, "B H Tq D"]:
        """Attend with the model's own q, k, v (after rotary embedding and norms).

        Args:
            q: queries of the last Tq tokens.
            k: keys of all tokens still held, padding included.
            v: their values.
            key_index: number of the real token in each key slot, -1 for padding, which is never written.
            query_index: the same for the queries; by default the last Tq of ``key_index``.
            sliding_window: the model's own window W: columns of age W and more are gated.
            extra_age: if given, ``k`` and ``v`` are not projections but voltages that a ring holds already,
                relative to V_offset, with these ages (see ``attend_to_stored``).

        Returns:
            The scaled output of every head, in the type of ``q``, or in float32 where that is narrower.
        """
        if extra_age is not None:
            attended = attend_to_stored(
                self.q(q),
                k,
                v,
                self.design,
                self.impl,
                key_index=key_index,
                query_index=query_index,
                sliding_window=sliding_window,
                layer=self.layer,
                extra_age=extra_age,
            )
        else:
            attended = self.attend(
                self.q(q),
                self.k(k),
                self.v(v),
                self.design,
                None,
                self.impl,
                key_index=key_index,
                query_index=query_index,
                sliding_window=sliding_window,
                layer=self.layer,
                gradient=self.gradient,
            )
        scaled: Tensor = self.out(attended)
        return scaled

    def extra_repr(self) -> str:
        """What ``print(module)`` shows in the brackets."""
        cell = self.design.cell.name
        return (
            f"layer={self.layer}, heads={self.heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}, "
            f"design={self.design.name!r}, cell={cell!r}"
        )
