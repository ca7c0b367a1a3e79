"""Gain-cell attention with gradients of its circuits: the levels of the converters, S_sat and O_sat.

The forward pass is `gain_cell_attention` on the design as it is, quantisers and all. Backward:

* A level: the sum of the gradients of the signals that take it (circuits/levels.py).
* S_sat: a score enters as S / S_sat only, and S is linear in the query's pulses x, so that

      dL/d(ln S_sat) = -sum_i x_i dL/dx_i

  with the gradient dL/dx that the call asks for (exact only where that is "exact"), which scores on the
  ceiling or below zero do not contribute to.
* O_sat: pulses on the ceiling contribute as well, and cells need not be linear in u, so that no product of
  gradients gives it. A central difference does, at O_sat exp(+-h), of the sum of the sub-tile outputs behind
  their ceiling and before the counter (whose rounding is straight-through, as everywhere):

      dL/d(ln O_sat) = sum G (Y(O_sat e^h) - Y(O_sat e^-h)) / 2h,    G = dL/dsum,    h = 0.1 %

  exact but for h^2 and for outputs within h of the ceiling. It takes two forward passes more.

Drivers' and writes' errors, mismatch and noise of the design are at work in the forward pass.
Not modelled: columns of first tokens, which are refused; by how much a learned level moves its thresholds.
"""

from __future__ import annotations

from functools import lru_cache
from math import exp
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.chips.design_file import Design
from gaincell.circuits import query_driver
from gaincell.circuits.levels import Levels
from gaincell.circuits.normaliser import normalised
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention import backends, input_stage
from gaincell.ops.gain_cell_attention.call import Call

STEP = 1e-3
"""h of the central difference."""


def attention_of_learned(
    call: Call, query: Levels, storage: Levels, log_score: Float[Tensor, ""], log_output: Float[Tensor, ""]
) -> Float[Tensor, "B H Tq D"]:
    """`gain_cell_attention` without scaling, differentiable in what is learned of the chip, too.

    Args:
        call: What is to be computed.
        query: Tensor of the query levels, as the design states them, or the design's own.
        storage: Likewise of the storage levels.
        log_score: Scalar whose gradient is that of ln S_sat of the design.
        log_output: Likewise of ln O_sat.

    Raises:
        InputError: the chip has columns of first tokens.
    """
    q, design = call.q, call.design
    if design.sinks.tokens:
        raise InputError("columns of first tokens have no gradients of circuits; give sinks.tokens = 0")
    call = input_stage.convert_writes(call, storage)
    x = query_driver(q, query, signed=design.drivers.signed)
    x = x * torch.exp(log_score.detach() - log_score).to(x.dtype)
    call = input_stage.add_write_errors(input_stage.with_normaliser_column(call._replace(q=x)))
    total = _sum(call)
    if log_output.requires_grad:
        total = _OutputSaturation.apply(total, log_output, call)  # type: ignore[no-untyped-call]
    if design.normaliser.present:
        total = normalised(total, design.normaliser)
    return total.to(q.dtype)


def _sum(call: Call) -> Tensor:
    """The digital sum for pulse widths of perfect drivers."""
    return backends.run(backends.in_plain_torch(input_stage.add_driver_errors(call)))


@lru_cache(maxsize=4)
def _around(design: Design) -> tuple[Design, Design]:
    """The chip with O_sat a little higher and lower, before the counter."""
    at, plain = design.output_saturation_per_column, design.replace(readout="none")
    higher, lower = (plain.replace(output_saturation_per_column=at * exp(h)) for h in (STEP, -STEP))
    return higher, lower


class _OutputSaturation(torch.autograd.Function):
    """The identity, with the gradient of ln O_sat."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, log: Tensor, call: Call) -> Tensor:
        ctx.call, ctx.dtype = call, log.dtype
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        with torch.no_grad():
            higher, lower = (_sum(ctx.call._replace(design=chip)) for chip in _around(ctx.call.design))
            slope = ((higher - lower) * grad).sum(dtype=torch.float64) / (2 * STEP)
        return grad, slope.to(ctx.dtype), None
