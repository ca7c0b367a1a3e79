"""Static errors of the converters: each physical driver, integrator and comparator has its own.

    query driver of row d      x -> (1 + g_d) x + o_d where there is a pulse
    score of column c          S -> (1 + g_c) S + o_c S_sat
    output d of sub-tile t     O -> (1 + g_td) O + o_td O_sat

The gain error is that of the ramp (or of the integrator's capacitor), the offset that of the comparator. Each
is Gaussian: a part common to a sub-tile and a part of every column or output. With calibration, every
converter is measured once and trimmed in steps:

    e -> e - step * floor(e / step + 1/2)

so that at most half a step is left. All query heads of a group use the same converters.
Source: static errors of an integrating converter and foreground calibration by trimming, as in any textbook
on data converters (Maloberti, "Data Converters", Springer 2007); independent Gaussians are assumed.
Not modelled: drift after calibration, nonlinearity of the ramp, noise of the calibration.

Dimensions: Hk key/value heads, M columns, t sub-tiles, D rows and outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from gaincell.devices.random import KEY_ARRAY, PER_CHIP, VALUE_ARRAY, Effect, normal
from gaincell.devices.variability import ChipDesign
from gaincell.quantity import Range, check_ranges


@dataclass(frozen=True)
class Converters:
    """Standard deviations of the converters' errors; none by default. Fractions of full scale.

    Attributes:
        driver_gain_std: Gain of the query drivers.
        driver_offset_std: Offset of the query drivers, as a fraction of the longest pulse.
        ramp_gain_std: Gain of the ramp of a column or output.
        ramp_gain_tile_std: Gain of the ramp that is common to a sub-tile.
        comparator_offset_std: Offset of the comparator of a column or output.
        comparator_offset_tile_std: Offset of the comparators that is common to a sub-tile.
        calibration_step: Trimming step of gains and offsets; 0: not calibrated.
    """

    driver_gain_std: float = field(default=0.0, metadata=PER_CHIP)
    driver_offset_std: float = field(default=0.0, metadata=PER_CHIP)
    ramp_gain_std: float = field(default=0.0, metadata=PER_CHIP)
    ramp_gain_tile_std: float = field(default=0.0, metadata=PER_CHIP)
    comparator_offset_std: float = field(default=0.0, metadata=PER_CHIP)
    comparator_offset_tile_std: float = field(default=0.0, metadata=PER_CHIP)
    calibration_step: float = 0.0

    def __post_init__(self) -> None:
        check_ranges("converters", self, **{f.name: Range(0, 10) for f in fields(self)})

    @property
    def drivers_present(self) -> bool:
        return self.driver_gain_std > 0 or self.driver_offset_std > 0

    @property
    def present(self) -> bool:
        """Whether the conversions of scores and outputs have errors."""
        stds = (self.ramp_gain_std, self.ramp_gain_tile_std)
        return any((*stds, self.comparator_offset_std, self.comparator_offset_tile_std))


class Line(NamedTuple):
    """Errors of a row of converters: signal -> gain * signal + offset, in units of full scale."""

    gain: Tensor
    offset: Tensor


class ConverterErrors(NamedTuple):
    """Of one layer. Shared between calls: do not change them in place."""

    driver: Line | None
    """[Hk, D]; None: perfect."""
    score: Line | None
    """[Hk, M]"""
    output: Line | None
    """[Hk, t, D]"""


@runtime_checkable
class ConvertingChip(ChipDesign, Protocol):
    """The part of a design that the cells' errors and the converters' errors depend on."""

    @property
    def converters(self) -> Converters: ...


def converter_errors(
    design: ConvertingChip, layer: int, heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> ConverterErrors:
    """Errors of all converters of a layer with so many key/value heads."""
    return _converter_errors(
        design.converters, design.mismatch.seed, design.mismatch.chip, layer, heads, design.window,
        design.tile, head_dim, dtype, torch.device(device),
    )  # fmt: skip


@lru_cache(maxsize=128)
def _converter_errors(
    c: Converters,
    seed: int,
    chip: int,
    layer: int,
    heads: int,
    window: int,
    tile: int,
    dim: int,
    dtype: torch.dtype,
    device: torch.device,
) -> ConverterErrors:
    head, column, row = torch.arange(heads), torch.arange(window), torch.arange(dim)
    tiles, first = torch.arange(window // tile), torch.tensor(0)

    def drawn(effect: Effect, std: float, array: int, column: Tensor, row: Tensor) -> Tensor:
        """Errors [Hk, *columns, *rows]."""
        lead = head.view(-1, *[1] * max(column.dim(), row.dim()))
        if std == 0:
            shape = torch.broadcast_shapes(lead.shape, column.shape, row.shape)
            return torch.zeros(shape, dtype=torch.float64)
        return std * normal(
            seed=seed, chip=chip, layer=layer, head=lead, array=array, column=column, row=row, effect=effect
        )

    def line(*errors: Tensor) -> Line:
        if c.calibration_step > 0:
            errors = tuple(e - c.calibration_step * torch.floor(e / c.calibration_step + 0.5) for e in errors)
        gain, offset = errors
        with torch.inference_mode(False):
            return Line(*(e.to(device=device, dtype=dtype).clone() for e in (1 + gain, offset)))

    driver = score = output = None
    if c.drivers_present:
        kinds = ((Effect.DRIVER_GAIN, c.driver_gain_std), (Effect.DRIVER_OFFSET, c.driver_offset_std))
        driver = line(*(drawn(effect, std, KEY_ARRAY, first, row) for effect, std in kinds))
    if c.present:
        errors = (  # effect and strength of the part of every line, and of that common to a sub-tile
            (Effect.RAMP_GAIN, c.ramp_gain_std, Effect.RAMP_GAIN_OF_TILE, c.ramp_gain_tile_std),
            (
                Effect.COMPARATOR_OFFSET, c.comparator_offset_std,
                Effect.COMPARATOR_OFFSET_OF_TILE, c.comparator_offset_tile_std,
            ),
        )  # fmt: skip
        score = line(
            *(
                drawn(own, own_std, KEY_ARRAY, column, first)
                + drawn(common, common_std, KEY_ARRAY, tiles, first)[:, column // tile]
                for own, own_std, common, common_std in errors
            )
        )
        output = line(
            *(
                drawn(own, own_std, VALUE_ARRAY, tiles[:, None], row)
                + drawn(common, common_std, VALUE_ARRAY, tiles[:, None], first)
                for own, own_std, common, common_std in errors
            )
        )
    return ConverterErrors(driver, score, output)


def driven(x: Float[Tensor, "*shape"], line: Line | None) -> Float[Tensor, "*shape"]:
    """Pulses of drivers with errors; no pulse stays none. `line` broadcast to x."""
    if line is None:
        return x
    width = (x.abs() * line.gain + line.offset).clamp(min=0)
    return torch.where(x == 0, x, torch.where(x > 0, width, -width))


def converted(charge: Tensor, line: Line | None, saturation: float) -> Tensor:
    """Charge as a converter with errors sees it. `line` broadcast to the charge."""
    return charge if line is None else charge * line.gain + line.offset * saturation
