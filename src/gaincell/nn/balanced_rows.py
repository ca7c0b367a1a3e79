"""Products with a sign from pulses that have none: queries about half a pulse, keys that add up to nothing.

Queries are never negative. Driven about half a pulse, x = 1/2 + q, they give

    sum_d x_d f(u_d) = sum_d q_d f(u_d) + 1/2 sum_d f(u_d)

where the second sum is the column's own, whatever is asked for, and larger than the first. Here it is made
the same for all columns. After rotary positions, q and k of every head become

    q' = (q + q P R) H,    k' = (k + k P R) H,    P: D x 4 and R: 4 x D, of every query and key/value head

H is the Walsh-Hadamard matrix / sqrt(D) without its constant row, for which the first component is given up:
its rows add up to zero, so that the D components of k' do. The last of them is left out, too. H spreads what
is large over all rows of cells, where the levels of the write DAC are used better. What is left out, and what
rounding and the cell's curve add to the sum, comes to rest in the last row. Its pulse is 1, and it is written
with the voltage whose charge comes closest to

    f(u_D) = g b - a sum_{d < D} (f(u^_d) - f(c))                                         charge units

u^: what the write DAC gives in the other rows; c: the offset of the keys from V_offset, which so remains a
threshold of all scores; g: slope of the ideal cell; a, at first 1/2, and b, V, are learnt (`gain` and
`offset`), as P and R are (`turn_in`, `turn_out`).

First P and R (`fit`) stretch the queries and shrink the keys along the same four directions, or the reverse,
which changes no score before H. With the second moments Q = E[q^T q], of all queries of the group, and
K = E[k^T k], of all W with q W . k W^-1 = q . k that is least E|q W|^2 E|k W^-1|^2 for

    W^2 = Q^(-1/2) (Q^(1/2) K Q^(1/2))^(1/2) Q^(-1/2)

where scores are largest beside what converters round and clip. Of its eigenvectors the four whose eigenvalues
are farthest from the median are stretched: most of all the mean key.

Arrays, drivers, converters and readout stay the paper's. The score keeps all but one component, and of the
others D - 1 parts in D, where paired rows (integrations/hf/paired.py) keep half of the components. The
digital block multiplies by P and R and adds by H for every query and key, and looks up and adds D - 1 charges
a key (costs/digital.py).

Not modelled: what decay and mismatch add; the sum is that of the nominal cell as it is written. Its gradient
is exact whatever the gradient of the arrays is.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gaincell.chips.design import Design
from gaincell.circuits import write_dac
from gaincell.errors import ModelError

BALANCE = (
    "k.balance.gain",
    "k.balance.offset",
    *(f"{stage}.turn_{end}" for stage in "qk" for end in ("in", "out")),
)
"""Names of the parameters among those of a layer's `GainCellAttention`."""
MIDDLE = 0.5
"""Pulse width about which queries are driven."""
UNQUANTISED = 1025
"""Voltages to choose from where the write DAC has no levels."""
DIRECTIONS = 4
"""That are stretched."""
FLAT = 0.05
"""Slope of a cell, over that of the ideal one, below which it tells nothing of the voltage for a charge."""
EDGE = 1e-6
"""How far from the ends of the DAC's range its end levels are asked for, over the range."""
SMALLEST = 1e-6
"""Least eigenvalue that is told from zero, as a share of the largest."""


def rows_of(head_dim: int) -> Float[Tensor, "D D_less_1"]:
    """H, below a row of zeros.

    Raises:
        ModelError: D is no power of two.
    """
    h = walsh(head_dim, "balanced rows")
    h[0] = 0.0
    return h[:, :-1]


def walsh(size: int, what: str) -> Float[Tensor, "D D"]:
    """The Walsh-Hadamard matrix / sqrt(D), which is its own inverse, for `what`.

    Raises:
        ModelError: D is no power of two.
    """
    if size < 2 or size & (size - 1):
        raise ModelError(f"{what} need a power of two components a head, not {size}")
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h / math.sqrt(size)


class Turn(NamedTuple):
    """P and R of a head."""

    into: Float[Tensor, "D 4"]
    out: Float[Tensor, "4 D"]


def fit(q: Float[Tensor, "heads tokens D"], k: Float[Tensor, "tokens D"]) -> tuple[Turn, Turn]:
    """First P and R of the queries of a group, and of its keys; nothing is stretched where one is silent."""
    if not (q.any() and k.any()):
        into = torch.eye(q.shape[-1], dtype=torch.float64, device=q.device)[:, :DIRECTIONS]
        return Turn(into, 0 * into.mT), Turn(into, 0 * into.mT)
    flat = q.flatten(0, 1).double()
    root, inverse = _roots(flat.mT @ flat / len(flat))
    middle, _ = _roots(root @ (k.double().mT @ k.double() / len(k)) @ root)
    values, vectors = torch.linalg.eigh(inverse @ middle @ inverse)
    logs = values.clamp(min=float(values[-1]) * SMALLEST).log() / 2
    logs = logs - logs.median()
    far = logs.abs().topk(min(DIRECTIONS, len(logs))).indices
    into, stretch = vectors[:, far], logs[far]
    return Turn(into, stretch.expm1()[:, None] * into.mT), Turn(into, (-stretch).expm1()[:, None] * into.mT)


def _roots(moments: Float[Tensor, "D D"]) -> tuple[Tensor, Tensor]:
    """Square root of a symmetric matrix, and its inverse."""
    values, vectors = torch.linalg.eigh(moments)
    root = values.clamp(min=float(values[-1]) * SMALLEST).sqrt()
    return vectors * root @ vectors.mT, vectors / root @ vectors.mT


class Balance(nn.Module):
    """The last rows of a layer's key arrays: see the head of this file.

    Args:
        design: Whose nominal cell and write DAC count; to be kept that of the layer.
        kv_heads: Hk; `gain` and `offset` are one number each per key/value head.
        like: Of the type and on the device of both.
    """

    def __init__(self, design: Design, kv_heads: int, like: Tensor) -> None:
        super().__init__()
        self.design = design
        self.gain = nn.Parameter(like.new_full((kv_heads,), MIDDLE))
        self.offset = nn.Parameter(like.new_zeros(kv_heads))

    @torch.no_grad()
    def share(
        self,
        volts: Float[Tensor, "B Hk T D_less_1"],
        around: Float[Tensor, " Hk"],
        real: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, " Hk"]:
        """Where the charge that the last row is asked for lies, on average over requests: 0 at the least that
        it can give, 1 at the most.

        Args:
            volts: As for `forward`.
            around: As for `forward`.
            real: Which tokens count; None: all.
        """
        charges = self._charges(volts, around).transpose(0, 1)  # [Hk, B, T]
        mean = (charges.flatten(1) if real is None else charges[:, real]).double().mean(1).to(self.offset)
        low, width = self._range()
        return (self.design.cell.linear_slope * self.offset - self.gain * mean - low) / width

    @torch.no_grad()
    def centre(
        self,
        volts: Float[Tensor, "B Hk T D_less_1"],
        around: Float[Tensor, " Hk"],
        share: Float[Tensor, " Hk"] | float = MIDDLE,
        real: Bool[Tensor, "B T"] | None = None,
    ) -> None:
        """Set b so that `share` becomes this: by default the middle."""
        self.shift(torch.as_tensor(share).to(self.offset) - self.share(volts, around, real))

    @torch.no_grad()
    def shift(self, share: Float[Tensor, " Hk"]) -> None:
        """Move b by a share of the last row's range."""
        self.offset.add_(share.to(self.offset) * self._range()[1] / self.design.cell.linear_slope)

    def _range(self) -> tuple[float, float]:
        """Least charge of the last row, and from there to the most."""
        _, charges = _levels(self.design, torch.float64, torch.device("cpu"))
        return float(charges[0]), float(charges[-1] - charges[0])

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self, volts: Float[Tensor, "B Hk T D_less_1"], around: Float[Tensor, " Hk"]
    ) -> Float[Tensor, "B Hk T D"]:
        """Requested voltages with the last row's after them, V; `around`: offset of the others, V.

        The choice of the last row among levels is straight-through: its gradient is that of the voltage with
        just the wanted charge, where there is one and the cell's curve is not flat.
        """
        d, slope = self.design, self.design.cell.linear_slope
        gain, offset = (number.to(volts.dtype)[:, None] for number in (self.gain, self.offset))
        wanted = slope * offset - gain * self._charges(volts, around)
        with torch.no_grad():
            levels, charges = _levels(d, volts.dtype, volts.device)
            middles = (charges[1:] + charges[:-1]) / 2
            nearest = levels[torch.bucketize(wanted.contiguous(), middles)]
            steep = d.cell.slope(nearest)
            inside = (wanted > charges[0]) & (wanted < charges[-1]) & (steep.abs() > FLAT * slope)
            through = torch.where(inside, 1 / torch.where(inside, steep, 1.0), 0.0)
            edge = EDGE * (d.v_max - d.v_min)  # on the very end the DAC passes no gradient
            nearest = nearest.clamp(levels.min() + edge, levels.max() - edge)
        last = d.v_offset + nearest + (wanted - wanted.detach()) * through
        return torch.cat([volts, last[..., None]], -1)

    def _charges(
        self, volts: Float[Tensor, "B Hk T rows"], around: Float[Tensor, " Hk"]
    ) -> Float[Tensor, "B Hk T"]:
        """Sum of the charges of rows under full pulses, less as many of the voltages `around`."""
        d = self.design
        found = d.cell.current(write_dac(volts, d.dac_levels, d.v_min, d.v_max, d.v_offset))
        at_offset = d.cell.current(around.to(volts.dtype) - d.v_offset)
        return (found - at_offset[:, None, None]).sum(-1)


@lru_cache(maxsize=64)
def _levels(
    design: Design, dtype: torch.dtype, device: torch.device
) -> tuple[Float[Tensor, " levels"], Float[Tensor, " levels"]]:
    """What the write DAC gives, from V_offset, and the charges of full pulses, by charge."""
    d = design
    if isinstance(d.dac_levels, tuple):
        levels = torch.tensor(d.dac_levels, dtype=dtype, device=device)
    else:
        asked = torch.linspace(d.v_min, d.v_max, d.dac_levels or UNQUANTISED, dtype=torch.float64)
        levels = write_dac(asked, d.dac_levels, d.v_min, d.v_max, d.v_offset).to(device, dtype)
    charges, order = d.cell.current(levels).sort()
    return levels[order], charges
