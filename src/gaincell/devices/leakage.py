"""How a gain cell forgets: the stored voltage decays towards a voltage of its own.

    u(t) = u_inf + (u_0 - u_inf) * exp(-t / tau_cell) * (1 - r)^reads,       u = V - V_offset
    tau(T) = tau * exp(E_a / k (1 / T - 1 / T_ref)),     tau_cell = tau(T) * exp(spread * z)

t seconds since the write, z standard normal, one for every cell. Between two tokens passes the token period
dt; every query head of a group reads a column once a token, so that g heads a token take g reads. A token is
read first at age 0, undecayed and undisturbed.

Sources: single-exponential leakage towards V_offset [R], tau of the silicon CMOS cell [M]. Thermally
activated leakage: Arrhenius' law, as for subthreshold and junction leakage of DRAM cells; a lognormal spread
of retention times: Hamamoto et al., IEEE Trans. Electron Devices 45, 1300 (1998). A read that takes the same
fraction every time is the simplest model of read disturb; assumed.
Not modelled: leakage that depends on the stored level, droop within one read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.devices.random import PER_CHIP
from gaincell.quantity import Range, check_ranges
from gaincell.units import ElectronVolt, Kelvin, Second, Volt

BOLTZMANN = 1.380649e-23
"""J/K, exact in the SI."""
ELEMENTARY_CHARGE = 1.602176634e-19
"""C, exact in the SI."""


@dataclass(frozen=True)
class Leakage:
    """What the retention of a chip depends on; all of it off by default.

    Attributes:
        decay_voltage: Voltage that stored voltages decay towards, V; None: v_offset.
        spread: Standard deviation of ln tau over the cells.
        activation_energy: E_a of the leakage, eV; 0: tau does not depend on temperature.
        reference_temperature: Temperature at which the retention time holds, K.
        read_disturb: r, fraction of u - u_inf that one read takes.
    """

    decay_voltage: Volt | None = None
    spread: float = field(default=0.0, metadata=PER_CHIP)
    activation_energy: ElectronVolt = 0.0
    reference_temperature: Kelvin = 300.0
    read_disturb: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(
            "leakage",
            self,
            decay_voltage=Range(-math.inf, math.inf, above=True, below=True, unit="V", optional=True),
            spread=Range(0, 3),
            activation_energy=Range(0, math.inf, below=True, unit="eV"),
            reference_temperature=Range(0, math.inf, above=True, below=True, unit="K"),
            read_disturb=Range(0, 1, below=True),
        )


def at_temperature(tau: Second | None, leakage: Leakage, temperature: Kelvin) -> Second | None:
    """tau(T), seconds."""
    if tau is None or leakage.activation_energy == 0:
        return tau
    energy = leakage.activation_energy * ELEMENTARY_CHARGE / BOLTZMANN  # kelvin
    exponent = energy * (1 / temperature - 1 / leakage.reference_temperature)
    return tau * math.exp(max(-700.0, min(700.0, exponent)))


def remaining(delta: float, age: Int[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """delta^age for ages in tokens (>= 0), computed in float64 and rounded once to `dtype`."""
    return torch.pow(torch.tensor(delta, dtype=torch.float64, device=age.device), age).to(dtype)
