"""What q, k and v pass on their way to the digital sum, once and in order:

    scaling -> normalising column -> columns of first tokens -> input stage -> backend

and what the sum passes on its way back. A stage that a chip does not have passes the call on as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaincell.circuits.normaliser import normalised
from gaincell.ops.gain_cell_attention import backends
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.first_token_tile import sink_tile, without_sinks
from gaincell.ops.gain_cell_attention.input_stage import array_inputs, scaled, with_normaliser_column


def attend(call: Call) -> Tensor:
    """What the arrays give, scaled."""
    scaling = call.scaling
    if scaling is None:
        return _compiled(call) if torch.compiler.is_compiling() else sums(call)
    d = call.design
    between = d.normaliser.present or d.sinks.tokens or d.input_stage_differs or torch.compiler.is_compiling()
    plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in scaling)
    if plain and not between and call.in_kernel and (found := backends.in_kernel(call)) is not None:
        return found
    q, k, v = (scaled(x, *scaling[2 * n : 2 * n + 2]) for n, x in enumerate(call[:3]))
    return scaled(attend(call._replace(q=q, k=k, v=v, scaling=None)), *scaling[6:])


def sums(call: Call) -> Tensor:
    """The digital sum of a call without scaling, before the output scaling."""
    wide = with_normaliser_column(call)
    ring = without_sinks(wide)
    total = backends.run(array_inputs(ring) if ring.design.input_stage_differs else ring)
    if wide.design.sinks.tokens:
        total = total + sink_tile(wide)
    return normalised(total, call.design.normaliser) if call.design.normaliser.present else total


def _compiled(call: Call) -> Tensor:
    """`sums` as one operator of a graph."""
    from gaincell.ops.gain_cell_attention import compiled

    number = compiled.number_of(call.design, call.backend, call.sliding_window, call.layer, call.gradient)
    out: Tensor = compiled.attention(call.q, call.k, call.v, call.key_index, call.query_index, number)
    return out
