"""What the arrays of one layer do on their way to the output: pulses, stored voltages, sub-tile outputs.

The blocks of `blocked.py`, seen from inside: the same driver and DAC codes, the same scores, pulses and
charges as the attention computes, a block of queries at a time, so that memory is linear in the tokens.

Dimensions: B sequences, H query heads, Hk key/value heads, g = H / Hk, G key/value heads processed together,
R query tokens of a block, c key tokens of its panel, s sub-tiles, D head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaincell.circuits.converter import sum_rounding
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention.backends import blocked, not_implemented
from gaincell.ops.gain_cell_attention.blocking import Workspace, groups_of, segments_of
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.input_stage import array_inputs, with_normaliser_column


class Seen(NamedTuple):
    """One block of queries.

    Attributes:
        heads: Its key/value heads.
        pulses: phi(S) over T_max, 0 where a column is not valid.
        active: Whether there is a pulse, S being above 0 by more than its sum may be rounded.
        negative: Sum over the columns that a query sees of max(-S, 0) / S_sat: net charge that the cells
            sink.
        valid: Number of columns each query sees.
        outputs: O / O_sat of every sub-tile after the clamp, before the readout.
        read: Whether a sub-tile holds a column that the query sees; the others are not read.
    """

    heads: Int[Tensor, " G"]
    pulses: Float[Tensor, "G g R c"]
    active: Bool[Tensor, "G g R c"]
    negative: Float[Tensor, "G g R"]
    valid: Int[Tensor, " R"]
    outputs: Float[Tensor, "G g s R D"]
    read: Bool[Tensor, "s R"]


@torch.no_grad()
def observe(call: Call) -> Iterator[Seen]:
    """Block after block of the queries, per key/value head and sequence (S, A and O of naive.py).

    A normalising column takes part in `outputs` as the last one, D + 1.

    Args:
        call: Requested pulse widths and volts of consecutive tokens, as its `key_index` has them, without
            padding; the queries are those of the last keys.

    Raises:
        InputError: columns of first tokens, whose sub-tile is not part of the ring.
    """
    if call.design.sinks.tokens:
        raise InputError(
            f"design {call.design.name!r} has columns of first tokens, whose pulses are not observed; "
            "give a design with sinks.tokens = 0"
        )
    call = with_normaliser_column(call)
    if reason := not_implemented(blocked, call.design):
        raise InputError(
            f"pulses of design {call.design.name!r} are not observed: {reason}; give a design without"
        )
    call, design = array_inputs(call), call.design
    x, ku, vu = call.q, call.k - design.decay_target, call.v - design.decay_target
    plan = blocked.plan_of(call, int(call.queries[0, 0]), int(call.keys[0, 0]))
    space, margin = Workspace(x), sum_rounding(x.dtype)
    for xs, ks, vs, _, heads in groups_of(x, ku, vu, x):
        for _, panels in segments_of(plan, space, xs, ks, vs, heads):
            for panel in panels:
                s, _ = blocked.scores(panel, xs[:, :, panel.rows])
                sunk = s.clamp(max=0).neg_()
                blocked.mask_edges(panel, sunk)
                passed, a = blocked.converted(panel, s)
                o = blocked.tile_outputs(panel, a)
                read = blocked.tiles_read(panel, o)
                if design.output_ceiling:
                    o = o.clamp(-plan.steps, plan.steps)
                r, i = panel.i1 - panel.i0, panel.queries
                oldest = (i - plan.window + 1).clamp(min=plan.first_key)
                yield Seen(
                    heads,
                    a.unflatten(1, (-1, r)),
                    (passed > margin).unflatten(1, (-1, r)),
                    sunk.sum(-1).unflatten(1, (-1, r)),
                    i - oldest + 1,
                    (o / plan.steps).unflatten(2, (-1, r)).transpose(1, 2),
                    read,
                )
