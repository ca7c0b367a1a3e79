"""How the cells of one chip differ from each other: a keyed random field over the physical cells.

Every physical cell has its own curve (the paper's Fig. 1e). Basic model, all errors Gaussian and constant in
time, for the cell in column j mod M and row d of a key or value array:

    F_cell(u) = (1 + e_gain) * F(u * delta^age + e_voltage) + e_current

The decay acts on the stored voltage, before the cell's own threshold shift. Mismatch belongs to the cell: it
stays when the token in the column changes, and all query heads of a group and all sequences of a batch see
the same cells.

Random numbers come from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
2011), a pure function from a counter and a key to 128 bits. Nothing is drawn "in order", so every
implementation, on any device, draws the same number for the same cell:

    counter = (column, row | effect << 16 | array << 24, step, layer << 16 | head),   key = (seed, chip)

Dimensions: Hk key/value heads, M columns, D rows.
Not modelled: spatial correlation and gradients over the die, non-Gaussian tails, spread of capacitance or of
retention time, noise that changes from read to read (`step` is reserved for it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.devices.cell import Cell
from gaincell.errors import DesignError
from gaincell.units import Volt

UInt32s = npt.NDArray[np.uint32]

KEY_ARRAY, VALUE_ARRAY = 0, 1
GAIN, OFFSET_VOLTAGE, CURRENT_OFFSET = 0, 1, 2

# Philox4x32 (Salmon et al., table 2): two multipliers, two Weyl increments (golden ratio, sqrt(3) - 1)
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


@dataclass(frozen=True)
class Mismatch:
    """Standard deviations of the cells' errors, and which chip they are drawn for.

    gain_std: relative error of the current, as a fraction (0.05 = 5 %).
    offset_voltage_std: shift of u, volts.
    current_offset_std: added current, as a fraction of full scale F(v_max - v_offset).
    seed, chip: 32-bit key of the generator; chips of one seed are independent.
    """

    gain_std: float = 0.0
    offset_voltage_std: Volt = 0.0
    current_offset_std: float = 0.0
    seed: int = 0
    chip: int = 0

    def __post_init__(self) -> None:
        for key in ("gain_std", "offset_voltage_std", "current_offset_std"):
            value = getattr(self, key)
            if not (math.isfinite(value) and value >= 0):
                raise DesignError(f"mismatch: {key} = {value!r} must be a finite number, 0 or above")
        for key in ("seed", "chip"):
            value = getattr(self, key)
            if not 0 <= value < 2**32:
                raise DesignError(f"mismatch: {key} = {value!r} must be an integer in 0 ... 2^32 - 1")

    @property
    def present(self) -> bool:
        return self.gain_std > 0 or self.offset_voltage_std > 0 or self.current_offset_std > 0


class CellErrors(NamedTuple):
    """Errors of the cells of one array of one layer. Shared between calls: do not change them in place."""

    gain: Float[Tensor, "Hk M D"]
    """1 + e_gain, dimensionless."""
    offset_voltage: Float[Tensor, "Hk M D"]
    """e_voltage, volts."""
    current_offset: Float[Tensor, "Hk M D"]
    """e_current, charge units."""


@runtime_checkable
class ChipDesign(Protocol):
    """The part of a design that mismatch depends on."""

    @property
    def cell(self) -> Cell: ...
    @property
    def mismatch(self) -> Mismatch: ...
    @property
    def window(self) -> int: ...
    @property
    def v_max(self) -> Volt: ...
    @property
    def v_offset(self) -> Volt: ...


def philox4x32(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[UInt32s, ...]:
    """Philox4x32-10: four counter words and two key words (32 bit, broadcast) to four random words."""
    c0, c1, c2, c3, k0, k1 = (np.asarray(word).astype(np.uint64) for word in (*counter, *key))
    multiplier0, multiplier1 = (np.uint64(m) for m in _MULTIPLIERS)
    weyl0, weyl1 = (np.uint64(w) for w in _WEYL)
    half, low_word = np.uint64(32), np.uint64(0xFFFFFFFF)
    for _ in range(_ROUNDS):
        product0, product1 = c0 * multiplier0, c2 * multiplier1  # 32 x 32 bits: no overflow
        c0, c1, c2, c3 = (
            (product1 >> half) ^ c1 ^ k0,
            product1 & low_word,
            (product0 >> half) ^ c3 ^ k1,
            product0 & low_word,
        )
        k0, k1 = (k0 + weyl0) & low_word, (k1 + weyl1) & low_word
    return tuple(np.asarray(word, dtype=np.uint32) for word in (c0, c1, c2, c3))


def normal(
    *,
    seed: int,
    chip: int,
    layer: int,
    head: Any,
    array: int,
    column: Any,
    row: Any,
    effect: int,
    step: Any = 0,
) -> npt.NDArray[np.float64]:
    """Standard normal numbers, one per physical cell; arrays `head`, `column`, `row`, `step` broadcast.

    Box-Muller on the first two words w0, w1 of the cell's Philox block, in float64:
        z = sqrt(-2 ln((w0 + 1/2) / 2^32)) * cos(2 pi (w1 + 1/2) / 2^32)

    Raises DesignError if an index does not fit its field: array, effect < 2^8; row, head, layer < 2^16;
    column, step < 2^32.
    """
    fields = {"layer": (layer, 16), "head": (head, 16), "array": (array, 8), "column": (column, 32)}
    fields |= {"row": (row, 16), "effect": (effect, 8), "step": (step, 32)}
    words = {name: _field(name, value, bits) for name, (value, bits) in fields.items()}
    counter = (
        words["column"],
        words["row"] | words["effect"] << np.uint64(16) | words["array"] << np.uint64(24),
        words["step"],
        words["layer"] << np.uint64(16) | words["head"],
    )
    w0, w1, _, _ = philox4x32(counter, (seed, chip))
    radius = np.sqrt(-2.0 * np.log((w0 + 0.5) / 2.0**32))
    return np.asarray(radius * np.cos(2.0 * np.pi * (w1 + 0.5) / 2.0**32), dtype=np.float64)


def _field(name: str, value: Any, bits: int) -> npt.NDArray[np.uint64]:
    values = np.asarray(value)
    if values.size and (values.min() < 0 or values.max() >= 2**bits):
        raise DesignError(f"mismatch: {name} must be in 0 ... 2^{bits} - 1, got up to {values.max()}")
    return values.astype(np.uint64)


def cell_errors(
    design: ChipDesign,
    layer: int,
    heads: int,
    head_dim: int,
    array: int,
    dtype: torch.dtype,
    device: torch.device,
) -> CellErrors | None:
    """Errors of all cells of one array (KEY_ARRAY or VALUE_ARRAY) in one layer; None for a perfect chip.

    heads: number of key/value heads Hk.  head_dim: D.  Drawn in float64 on the CPU, then rounded to `dtype`.
    """
    if not design.mismatch.present:
        return None
    full_scale = float(design.cell.current(torch.tensor(design.v_max - design.v_offset, dtype=torch.float64)))
    return _cell_errors(
        design.mismatch, full_scale, layer, heads, design.window, head_dim, array, dtype, torch.device(device)
    )


@lru_cache(maxsize=128)
def _cell_errors(
    mismatch: Mismatch,
    full_scale: float,
    layer: int,
    heads: int,
    window: int,
    head_dim: int,
    array: int,
    dtype: torch.dtype,
    device: torch.device,
) -> CellErrors:
    shape = (heads, window, head_dim)
    head, column, row = np.ogrid[:heads, :window, :head_dim]

    def field(effect: int, std: float, mean: float = 0.0) -> Tensor:
        if std == 0.0:
            return torch.full((1, 1, 1), mean, dtype=dtype, device=device).expand(shape)
        z = normal(
            seed=mismatch.seed,
            chip=mismatch.chip,
            layer=layer,
            head=head,
            array=array,
            column=column,
            row=row,
            effect=effect,
        )
        return torch.from_numpy(mean + std * z).to(device=device, dtype=dtype)

    with torch.inference_mode(False):  # a cached inference tensor could never be used in training again
        return CellErrors(
            gain=field(GAIN, mismatch.gain_std, mean=1.0),
            offset_voltage=field(OFFSET_VOLTAGE, mismatch.offset_voltage_std),
            current_offset=field(CURRENT_OFFSET, mismatch.current_offset_std * full_scale),
        )
