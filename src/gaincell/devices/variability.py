"""How the cells of one chip differ from each other: a keyed random field over the physical cells.

Every physical cell has its own curve (the paper's Fig. 1e). For the cell in column j mod M and row d of a key
or value array, with the voltage u that is left in it (see leakage.py),

    F_cell(u) = w * { (1 + e_gain) * [F(u + e_voltage) + sum_p e_p (u + e_voltage)^p] + e_current }

    e_gain, e_voltage, e_current   Gaussian, the basic model, for the spread of the paper's Fig. 1e (Pelgrom
                                   et al., IEEE J. Solid-State Circuits 24, 1433 (1989))
    e_p                            Gaussian with a covariance over p: what a fit to measured cells finds
    w                              what the drop along the bit line leaves (see wires.py)

A stuck cell stays at the lowest or the highest voltage whatever is written, F_cell = w F(u_stuck), and a dead
one carries no current. A part of the variance of e_gain, e_voltage and e_current can be smooth over the
array:

    e = std * (sqrt(1 - s) z + sqrt(s) y),    cov(y, y') = exp(-distance^2 / (2 length^2))

with the distance between cells in cells, columns of the ring lying side by side (Xiong, Zolotov, He, IEEE
Trans. CAD 26, 619 (2007)); y is white noise filtered with a Gaussian of standard deviation length / sqrt(2).

Mismatch belongs to the cell: it stays when the token in the column changes, and all query heads of a group
and all sequences of a batch see the same cells.

Dimensions: Hk key/value heads, M columns, D rows, p orders of a polynomial.
Not modelled: gradients over the die, non-Gaussian tails of the current, spread of capacitance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.devices.cell import Cell
from gaincell.devices.chip_cache import kept
from gaincell.devices.leakage import Leakage
from gaincell.devices.random import KEY_ARRAY, PER_CHIP, VALUE_ARRAY, Effect, normal, uniform
from gaincell.devices.wires import Wires, weights
from gaincell.errors import DesignError
from gaincell.quantity import LARGEST_SEED, Range, check_ranges
from gaincell.units import Volt

__all__ = ["KEY_ARRAY", "VALUE_ARRAY", "CellErrors", "Mismatch", "cell_errors", "current_of", "slope_of"]


@dataclass(frozen=True)
class Mismatch:
    """Standard deviations of the cells' errors, and which chip they are drawn for.

    Example:

        >>> import gaincell
        >>> chip = gaincell.load_design("leroux2025").replace(mismatch=gaincell.Mismatch(gain_std=0.05))

    Attributes:
        gain_std: Relative error of the current, as a fraction (0.05 = 5 %).
        offset_voltage_std: Shift of u, volts.
        current_offset_std: Added current, as a fraction of full scale F(v_max - v_offset).
        seed: 32-bit word of the generator's key.
        chip: The other word of the key; chips of one seed are independent.
        smooth_share: s, share of the variance of the three standard deviations that is smooth over the array.
        correlation_length: Of the smooth part, in cells.
        coefficient_covariance: Of the coefficients (C_0, ..., C_p) over the cells, row after row, charge
            units^2 per volt^(p + q); empty: none. Use it instead of the three standard deviations, not on top
            of them.
        stuck_low: Share of cells stuck at v_min.
        stuck_high: Share of cells stuck at v_max.
        dead: Share of cells without current.
    """

    gain_std: float = field(default=0.0, metadata=PER_CHIP)
    offset_voltage_std: Volt = field(default=0.0, metadata=PER_CHIP)
    current_offset_std: float = field(default=0.0, metadata=PER_CHIP)
    seed: int = 0
    chip: int = 0
    smooth_share: float = 0.0
    correlation_length: float = 0.0
    coefficient_covariance: Annotated[tuple[float, ...], "charge units^2/V^(p+q)"] = field(
        default=(), metadata=PER_CHIP
    )
    stuck_low: float = field(default=0.0, metadata=PER_CHIP)
    stuck_high: float = field(default=0.0, metadata=PER_CHIP)
    dead: float = field(default=0.0, metadata=PER_CHIP)

    def __post_init__(self) -> None:
        std, share, seed = Range(0, 10), Range(0, 1), Range(0, LARGEST_SEED, whole=True)
        check_ranges(
            "mismatch", self, gain_std=std, offset_voltage_std=Range(0, 10, unit="V"),
            current_offset_std=std, correlation_length=Range(0, 1000), smooth_share=share,
            stuck_low=share, stuck_high=share, dead=share, seed=seed, chip=seed,
        )  # fmt: skip
        if self.stuck_low + self.stuck_high + self.dead > 1:
            raise DesignError("mismatch: stuck_low + stuck_high + dead is more than all cells")
        if (self.smooth_share > 0) != (self.correlation_length > 0):
            raise DesignError("mismatch: state both smooth_share and correlation_length above 0, or neither")
        object.__setattr__(self, "coefficient_covariance", tuple(map(float, self.coefficient_covariance)))
        if self.coefficient_covariance:
            _lower_root(self.coefficient_covariance)

    @property
    def present(self) -> bool:
        stds = (self.gain_std, self.offset_voltage_std, self.current_offset_std)
        return any(std > 0 for std in (*stds, self.stuck_low, self.stuck_high, self.dead)) or any(
            self.coefficient_covariance
        )

    def with_spread(self, std: float) -> Mismatch:
        """Another spread of the cells' currents in place of this one, a fraction of full scale; stuck cells,
        seed and chip stay.
        """
        return replace(
            self, gain_std=0.0, offset_voltage_std=0.0, coefficient_covariance=(), current_offset_std=std
        )


class CellErrors(NamedTuple):
    """Errors of the cells of one array of one layer. Shared between calls: do not change them in place."""

    gain: Float[Tensor, "Hk M D"]
    """w (1 + e_gain), dimensionless; 0 of a cell that is stuck."""
    offset_voltage: Float[Tensor, "Hk M D"]
    """e_voltage, volts."""
    current_offset: Float[Tensor, "Hk M D"]
    """w e_current, charge units; w F(u_stuck) of a cell that is stuck."""
    deviations: Float[Tensor, "p Hk M D"] | None = None
    """e_p, charge units per volt^p; None: none."""
    leakage: Float[Tensor, "Hk M D"] | None = None
    """tau / tau_cell; None: 1."""

    def each(self, change: Callable[[Tensor], Tensor]) -> CellErrors:
        """With `change` applied to every field, and to every p of the deviations."""
        many = self.deviations
        return CellErrors(
            change(self.gain),
            change(self.offset_voltage),
            change(self.current_offset),
            None if many is None else torch.stack([change(e) for e in many]),
            None if self.leakage is None else change(self.leakage),
        )


def current_of(cell: Cell, u: Tensor, errors: CellErrors | None) -> Tensor:
    """F_cell(u), charge units for a full pulse; `errors` broadcast to u."""
    if errors is None:
        return cell.current(u)
    v = u + errors.offset_voltage
    current = cell.current(v)
    if errors.deviations is not None:
        current = current + _horner(errors.deviations, v)
    return errors.gain * current + errors.current_offset


def slope_of(cell: Cell, u: Tensor, errors: CellErrors | None) -> Tensor:
    """d F_cell / d u, charge units per volt."""
    if errors is None:
        return cell.slope(u)
    v = u + errors.offset_voltage
    slope = cell.slope(v)
    if errors.deviations is not None:
        orders = torch.arange(1, len(errors.deviations), dtype=u.dtype, device=u.device)
        slope = slope + _horner(
            errors.deviations[1:] * orders.view(-1, *[1] * (errors.deviations.dim() - 1)), v
        )
    return errors.gain * slope


def _horner(coefficients: Tensor, v: Tensor) -> Tensor:
    total = torch.zeros_like(v)
    for c in reversed(coefficients.unbind()):
        total = total * v + c
    return total


@runtime_checkable
class ChipDesign(Protocol):
    """The part of a design that the cells' errors depend on."""

    @property
    def cell(self) -> Cell: ...
    @property
    def mismatch(self) -> Mismatch: ...
    @property
    def wires(self) -> Wires: ...
    @property
    def leakage(self) -> Leakage: ...
    @property
    def window(self) -> int: ...
    @property
    def tile(self) -> int: ...
    @property
    def v_min(self) -> Volt: ...
    @property
    def v_max(self) -> Volt: ...
    @property
    def v_offset(self) -> Volt: ...


def cells_differ(design: ChipDesign) -> bool:
    """Whether there are errors of cells to draw."""
    return design.mismatch.present or design.leakage.spread > 0 or design.wires != Wires()


def cell_errors(
    design: ChipDesign,
    layer: int,
    heads: int,
    head_dim: int,
    array: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    keep: bool = True,
) -> CellErrors | None:
    """Errors of all cells of one array in one layer; None for a perfect chip.

    Drawn in float64 on the CPU, then rounded to `dtype`.

    Args:
        design: The chip.
        layer: Layer of the chip.
        heads: Number of key/value heads Hk.
        head_dim: D.
        array: KEY_ARRAY or VALUE_ARRAY.
        dtype: Precision of the result.
        device: Where the result is to be.
        keep: Whether it is kept for the next call (chip_cache.py).
    """
    if not cells_differ(design):
        return None
    low, high = (
        float(design.cell.current(torch.tensor(v - design.v_offset, dtype=torch.float64)))
        for v in (design.v_min, design.v_max)
    )
    drop = design.wires.key_drop if array == KEY_ARRAY else design.wires.value_drop
    shape = (heads, design.window, head_dim)
    draw = _cell_errors if keep else _draw_cell_errors
    return draw(
        design.mismatch, design.leakage.spread, drop, (low, high), layer, shape, design.tile, array,
        dtype, torch.device(device),
    )  # fmt: skip


def _draw_cell_errors(
    mismatch: Mismatch,
    spread: float,
    drop: float,
    currents: tuple[float, float],
    layer: int,
    shape: tuple[int, int, int],
    tile: int,
    array: int,
    dtype: torch.dtype,
    device: torch.device,
) -> CellErrors:
    low, high = currents
    key: dict[str, Any] = {"seed": mismatch.seed, "chip": mismatch.chip, "layer": layer, "array": array}
    key |= dict(zip(("head", "column", "row"), _indices(*shape), strict=True))

    def drawn(effect: Effect, std: float) -> Tensor:
        if std == 0.0:
            return torch.zeros((1, 1, 1), dtype=torch.float64)
        z = normal(effect=effect, **key)
        if mismatch.smooth_share > 0:
            y = _smooth(mismatch, layer, array, Effect.CORRELATED + effect, shape)
            z = math.sqrt(1 - mismatch.smooth_share) * z + math.sqrt(mismatch.smooth_share) * y
        return std * z

    along = weights(drop, tile)  # the rows of the key array, or the columns of a sub-tile of the values
    weight = along[key["row"] % tile] if array == KEY_ARRAY else along[key["column"] % tile]
    gain = (1 + drawn(Effect.GAIN, mismatch.gain_std)) * weight
    shift = drawn(Effect.OFFSET_VOLTAGE, mismatch.offset_voltage_std)
    offset = drawn(Effect.CURRENT_OFFSET, mismatch.current_offset_std * high) * weight
    stuck = (mismatch.stuck_low, mismatch.stuck_high, mismatch.dead)
    if any(stuck):
        chance, edge = uniform(effect=Effect.STUCK, **key), 0.0
        for share, current in zip(stuck, (low, high, 0.0), strict=True):
            hit = (chance >= edge) & (chance < edge + share)
            gain, offset = torch.where(hit, 0.0, gain), torch.where(hit, current * weight, offset)
            edge += share
    deviations = leakage = None
    if any(mismatch.coefficient_covariance):
        root = _lower_root(mismatch.coefficient_covariance)
        z = torch.stack([normal(effect=Effect.COEFFICIENT + p, **key) for p in range(len(root))])
        deviations = torch.tensordot(torch.tensor(root, dtype=torch.float64), z, 1)
        deviations = deviations.to(device=device, dtype=dtype)
    if spread > 0:
        leakage = torch.exp(-spread * normal(effect=Effect.LEAKAGE, **key)).to(device=device, dtype=dtype)
    with torch.inference_mode(False):  # a cached inference tensor could never be used in training again
        parts = (t.to(device=device, dtype=dtype).expand(shape).clone() for t in (gain, shift, offset))
        return CellErrors(*parts, *(t if t is None else t.clone() for t in (deviations, leakage)))


_cell_errors = kept("layer", "array", "drop")(_draw_cell_errors)


def _indices(heads: int, columns: int, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.arange(heads)[:, None, None],
        torch.arange(columns)[None, :, None],
        torch.arange(rows)[None, None, :],
    )


def _smooth(mismatch: Mismatch, layer: int, array: int, effect: int, shape: tuple[int, int, int]) -> Tensor:
    """y [Hk, M, D]: white noise on a larger grid, filtered with a Gaussian in both directions."""
    std = mismatch.correlation_length / math.sqrt(2)
    around = math.ceil(4 * std)
    heads, columns, rows = shape
    head, column, row = _indices(heads, columns + 2 * around, rows + 2 * around)
    y = normal(
        seed=mismatch.seed, chip=mismatch.chip, layer=layer, head=head, array=array, column=column, row=row,
        effect=effect,
    )  # fmt: skip
    at = torch.arange(-around, around + 1, dtype=torch.float64)
    kernel = torch.exp(-at.square() / (2 * std**2))
    kernel /= kernel.square().sum().sqrt()  # variance 1
    y = torch.nn.functional.conv2d(y[:, None], kernel[None, None, :, None])
    return torch.nn.functional.conv2d(y, kernel[None, None, None, :])[:, 0]


def _lower_root(covariance: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """L, lower triangular, with L L^T the covariance, which may be singular.

    Raises:
        DesignError: it is no covariance matrix.
    """
    n = math.isqrt(len(covariance))
    if n * n != len(covariance) or not all(math.isfinite(c) for c in covariance):
        raise DesignError(
            f"mismatch: coefficient_covariance has {len(covariance)} entries; "
            "allowed: (p + 1)^2 finite numbers, row after row"
        )
    a = [list(covariance[n * i : n * i + n]) for i in range(n)]
    scale = [math.sqrt(max(a[i][i], 0.0)) for i in range(n)]
    root = [[0.0] * n for _ in range(n)]
    for j in range(n):
        left = a[j][j] - sum(root[j][k] ** 2 for k in range(j))
        if left < -1e-6 * scale[j] ** 2 or a[j][j] < 0:
            raise DesignError("mismatch: coefficient_covariance is no covariance matrix (negative variance)")
        root[j][j] = math.sqrt(left) if left > 1e-9 * scale[j] ** 2 else 0.0
        for i in range(j + 1, n):
            if abs(a[i][j] - a[j][i]) > 1e-6 * scale[i] * scale[j]:
                raise DesignError("mismatch: coefficient_covariance is not symmetric")
            rest = a[i][j] - sum(root[i][k] * root[j][k] for k in range(j))
            if root[j][j] > 0:
                root[i][j] = rest / root[j][j]
            elif abs(rest) > 1e-4 * scale[i] * scale[j] or (scale[j] == 0 and rest != 0):
                raise DesignError("mismatch: coefficient_covariance is no covariance matrix (indefinite)")
    return tuple(tuple(row) for row in root)
