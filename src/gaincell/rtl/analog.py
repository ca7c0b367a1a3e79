"""The arrays as the digital half sees them: a behavioural model driven by its wires, period by period.

It holds the voltages of every column and knows nothing of tokens: what is written, where and when, which
columns are open, and how long word lines are driven come from the wires alone. In a period it sees

    discharge, write   the voltage of the selected columns goes to V_offset, then by the code's level u
    key_read           word lines are driven; their periods are counted, in key_negative downwards
    value_read begins  S_c = sum_d x_d F(u_cd), phi(S_c) of the valid columns, O_td = sum_c phi_c F(u_cd)
    value_read ends    the converters give out pulses of |O_td| / O_sat, at most 1, and their signs

and it answers with the levels of the pulses at the edge that ends the period. A pulse begins half a period
after its phase for the readout `counter`, with it for `counter-floor`, so that n edges see it where

    n <= (L - 1) |o| + 1/2,       n <= (L - 1) |o|

Not modelled: errors and noise of any kind, and whatever else devices and circuits leave out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gaincell import features
from gaincell.circuits import charge_to_pulse, signed_charge_to_pulse
from gaincell.circuits.levels import stored_volts
from gaincell.errors import InputError
from gaincell.rtl.parameters import Parameters

IMPLEMENTS = features.NOMINAL | features.PULSE_LAW | {"drivers.phases"}
"""Features of a chip (features.py)."""


class AnalogArrays:
    """The key and value arrays of one key/value head, with their converters.

    Raises:
        InputError: a design with features that the model lacks.
    """

    def __init__(self, parameters: Parameters) -> None:
        d = parameters.design
        if more := features.missing(d.in_use, IMPLEMENTS):
            raise InputError(
                f"the model of the arrays behind the digital half lacks {more} of design {d.name!r}; give a "
                "design without"
            )
        self.parameters = parameters
        self.now = 0.0
        """s; whoever drives the head moves it on."""
        shape = (parameters.columns, parameters.rows)
        self._stores = {name: torch.zeros(shape, dtype=torch.float64) for name in ("key", "value")}
        self._written = torch.zeros(parameters.columns, dtype=torch.float64)
        self._before: dict[str, int] = dict.fromkeys(
            ("write_key", "write_value", "key_read", "value_read", "select"), 0
        )
        self._driven = torch.zeros(parameters.rows, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._charge = torch.zeros(0, dtype=torch.float64)
        self._negative = 0
        self._since = 0

    def respond(self, wires: dict[str, int]) -> tuple[int, int]:
        """The levels of `pulse` and `negative` at the end of a period, given the head's outputs in it."""
        p, before = self.parameters, self._before
        if any(wires[f"{act}_{array}"] for act in ("discharge", "write") for array in ("key", "value")):
            self._write(wires)
        if wires["key_read"]:
            if not before["key_read"]:
                self._driven.zero_()
            pulses = torch.tensor(bits(wires["query_pulse"], p.rows), dtype=torch.float64)
            self._driven += -pulses if wires.get("key_negative") else pulses
        if wires["value_read"] and not before["value_read"]:
            self._read(wires["valid"])
        if before["value_read"] and not wires["value_read"]:
            self._begin_pulses()
        self._before = {name: wires[name] for name in before}
        if not len(self._counts):
            return 0, 0
        self._since += 1
        return join((self._counts >= self._since).tolist()), self._negative

    def _write(self, wires: dict[str, int]) -> None:
        columns = [n for n, on in enumerate(bits(wires["select"], self.parameters.columns)) if on]
        for array, store in self._stores.items():
            if wires[f"discharge_{array}"]:
                store[columns] = 0.0
            began = wires[f"write_{array}"] and (
                not self._before[f"write_{array}"] or wires["select"] != self._before["select"]
            )
            if began:
                store[columns] += self._levels(wires[f"{array}_code"])
                self._written[columns] = self.now

    def _levels(self, codes: int) -> Tensor:
        """The voltages of one column's codes, about V_offset."""
        p, d = self.parameters, self.parameters.design
        volts = torch.tensor(stored_volts(p.storage_levels, d.v_min, d.v_max), dtype=torch.float64)
        return volts[numbers(codes, p.rows, p.storage_bits)]

    def _current(self, array: str) -> Tensor:
        """Charge of every cell for a full pulse, after the decay since its column was written."""
        d = self.parameters.design
        u = self._stores[array]
        if d.tau is not None:
            left = torch.exp(-((self.now - self._written) / d.tau))[:, None]
            u = d.decay_target + (u - d.decay_target) * left
        return d.cell.current(u)

    def _read(self, valid: int) -> None:
        p, d = self.parameters, self.parameters.design
        x = self._driven / (p.query_levels - 1)
        scores = x @ self._current("key").mT
        pulses = charge_to_pulse(
            scores, d.score_saturation(p.rows), d.score_ceiling, d.charge_to_pulse.exponent
        )
        pulses = torch.where(torch.tensor(bits(valid, p.columns), dtype=torch.bool), pulses, 0.0)
        value = self._current("value").unflatten(0, (p.tiles, d.tile))
        self._charge = (pulses.unflatten(0, (p.tiles, 1, d.tile)) @ value).flatten()

    def _begin_pulses(self) -> None:
        d = self.parameters.design
        o = signed_charge_to_pulse(self._charge, d.output_saturation, d.output_ceiling)
        late = 0.5 if d.readout == "counter" else 0.0
        self._counts = torch.floor(o.abs() * (d.counter_levels - 1) + late).to(torch.int64)
        self._negative = join((o < 0).tolist())
        self._since = 0


def bits(word: int, count: int) -> list[int]:
    """The lowest bits of a word, the lowest first."""
    return [int(digit) for digit in f"{word:0{count}b}"[::-1][:count]]


def join(levels: list[bool]) -> int:
    """The word of these bits, the lowest first."""
    return int("".join("1" if level else "0" for level in reversed(levels)), 2)


def numbers(word: int, count: int, width: int, *, signed: bool = False) -> list[int]:
    """Numbers that stand side by side in a word, the first in the lowest bits."""
    mask, half = (1 << width) - 1, 1 << (width - 1)
    found = [word >> n * width & mask for n in range(count)]
    return [number - 2 * half if signed and number >= half else number for number in found]


def packed(items: list[int], widths: list[int]) -> int:
    """The word of these numbers, the first in the lowest bits."""
    word = 0
    for number, width in zip(reversed(items), reversed(widths), strict=True):
        word = word << width | number & (1 << width) - 1
    return word
