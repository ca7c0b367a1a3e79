"""How long a gain cell remembers: the stored voltage decays towards V_offset.

    u(age) = u(0) * exp(-age / tau)        age in seconds, u = V - V_offset

Between two tokens passes the token period dt, so a token of age a (in tokens) is read at u * delta^a with
delta = exp(-dt / tau). A token is read first at age 0, undecayed.

Source: single-exponential leakage towards V_offset [R], tau of the silicon CMOS cell [M].
Not modelled: leakage that depends on the stored level or on temperature, cell-to-cell spread of tau, droop
within one read.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.units import Second


def decay_per_token(token_period: Second, retention_time: Second | None) -> float:
    """delta = exp(-dt / tau); 1.0 for a cell that does not leak (`retention_time=None`)."""
    return 1.0 if retention_time is None else math.exp(-token_period / retention_time)


def remaining(delta: float, age: Int[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """delta^age for ages in tokens (>= 0), computed in float64 and rounded once to `dtype`."""
    return torch.pow(torch.tensor(delta, dtype=torch.float64, device=age.device), age).to(dtype)
