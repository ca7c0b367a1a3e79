"""Gain-cell attention, literally: the definition that every other implementation is tested against.

From driver outputs x and stored voltages u (equations numbered as in the paper):

    S_ij    = sum_d f(x_id, u_jd delta^(i-j)),       f(x, u) = x F(u)                          (6)-(9)
    A_ij    = phi(S_ij) if token j is written and 0 <= i-j < min(M, W), else 0                 (5)
    O_t,id  = sum_{j in tile t} f(A_ij, u_jd delta^(i-j)),   tile t = { j : (j mod M) div N = t }
    sum_id  = sum_t Qout(clamp(O_t,id / O_sat, -1, 1))

`chip` gives back what it is given where a design says no more than this; what a real chip adds stands in
naive_errors.py. What drivers and writes do to x and u was done before. Time is O(T^2 D).

Dimensions: B sequences, Hk key/value heads, g query heads per key/value head, Q queries, Tk keys, D head
dimension, M window, N tile edge.
Not modelled: see the devices and circuits it is made of.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, einsum

from gaincell.circuits import charge_to_pulse, quantize_output, signed_charge_to_pulse, straight_through
from gaincell.devices.leakage import remaining
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.naive_errors import Chip

Currents = tuple[Tensor, Tensor | None]
"""F(u) of cells, and slope * u of linear ones where the gradient is theirs."""


def attention(
    x: Float[Tensor, "B Hk g Q D"],
    ku: Float[Tensor, "B Hk Tk D"],
    vu: Float[Tensor, "B Hk Tk D"],
    call: Call,
    chip: Chip,
    query_index: Int[Tensor, "B Q"],
    decays_from: Int[Tensor, "B Tk"],
) -> Float[Tensor, "B Hk g Q D"]:
    """`sum_id` of some queries i of a call; voltages of tokens j decay from tokens `decays_from` on."""
    design, key_index, surrogate = call.design, call.keys, call.gradient == "surrogate"
    i, j = query_index[:, :, None], key_index[:, None, :]
    visible = (i - j >= 0) & (i - j < call.window) & (j >= 0) & (i >= 0)  # [B, Q, Tk]
    age = (i - decays_from[:, None, :]).clamp(min=0)

    def cells(array: int, u: Tensor) -> Currents:
        """Of every cell for a full pulse; whatever columns hold that a query does not see, they give none."""
        left = remaining(chip.decay_per_token, age, u.dtype)[:, None, :, :, None]  # delta^(i-j)
        seen, u = visible[:, None, :, :, None], u[:, :, None]
        linear = (
            torch.where(seen, design.cell.linear_slope * chip.decayed(u, left), 0.0) if surrogate else None
        )
        return torch.where(seen, chip.current(array, u, left, age), 0.0), linear

    def charge(sum_of: str, pulses: Tensor, currents: Currents) -> Tensor:
        """sum f(pulse, u)."""
        exact, linear = currents
        charge = einsum(sum_of, pulses, exact)
        return charge if linear is None else straight_through(charge, einsum(sum_of, pulses, linear))

    x = chip.query(x)
    scores = charge("bkgid,bkijd->bkgij", x, cells(0, ku))  # S_ij                                  (7)-(9)
    scores = chip.score(scores, x)
    saturation, exponent = design.score_saturation(x.shape[-1]), design.charge_to_pulse.exponent
    pulses = chip.pulse(charge_to_pulse(scores, saturation, design.score_ceiling, exponent))  # phi      (5)
    pulses = torch.where(visible[:, None, None], pulses, 0.0)  # A_ij
    values = cells(1, vu)
    total = torch.zeros_like(x)
    for t in range(design.tiles):
        in_tile = (key_index % design.window // design.tile == t)[:, None, None, None, :]
        read = (visible & in_tile[:, 0, 0]).any(-1)  # a sub-tile of which nothing is visible is not read
        if t and not bool(read.any()):  # the first is, so that there is a graph if every query is padding
            continue
        pulses_t = torch.where(in_tile, pulses, 0.0)
        output = chip.output(t, charge("bkgij,bkijd->bkgid", pulses_t, values), pulses_t)  # O_t,id
        output = torch.where(read[:, None, None, :, None], output, 0.0)
        output = signed_charge_to_pulse(output, design.output_saturation, design.output_ceiling)
        total = total + quantize_output(output, design.readout, design.counter_levels)  # Qout, then the sum
    return total
