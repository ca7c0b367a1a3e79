"""What an adaptation achieved: residuals of every stage, the worst of them, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaincell.adaptation.statistics import STAGES, Statistics, scalers

if TYPE_CHECKING:
    from gaincell.nn.attention import GainCellAttention


class Place(NamedTuple):
    """One stage of one head (a query head for q and out, a key/value head for k and v)."""

    layer: int
    head: int
    stage: str

    def __str__(self) -> str:
        return f"layer {self.layer}, head {self.head}, stage {self.stage}"


@dataclass(frozen=True)
class Residuals:
    """How far a model's statistics (N) are from their target (L), per stage [layers, heads]:

    std: |sigma_N / sigma_L - 1|.    mean: |mu_N - mu_L| / sigma_L.
    usable: both have variance; the others are left out and have residual 0 here.
    """

    std: dict[str, Float[Tensor, "L heads"]]
    mean: dict[str, Float[Tensor, "L heads"]]
    usable: dict[str, Bool[Tensor, "L heads"]]

    @classmethod
    def between(cls, measured: Statistics, target: Statistics) -> Residuals:
        """The residuals of `measured` against `target`."""
        usable = {s: (measured.std[s] > 0) & (target.std[s] > 0) for s in STAGES}
        std, mean = {}, {}
        for s in STAGES:
            sigma = torch.where(usable[s], target.std[s], 1.0)
            std[s] = torch.where(usable[s], (measured.std[s] / sigma - 1).abs(), 0.0)
            mean[s] = torch.where(usable[s], (measured.mean[s] - target.mean[s]).abs() / sigma, 0.0)
        return cls(std, mean, usable)

    def of(self, stage: str) -> Float[Tensor, "L heads"]:
        """The larger of both residuals."""
        return torch.maximum(self.std[stage], self.mean[stage])

    def worst(self) -> tuple[float, Place | None]:
        """The largest residual of all and where it is; (0, None) when no stage is usable."""
        found: tuple[float, Place | None] = (0.0, None)
        for stage in STAGES:
            value = self.of(stage)
            layer, head = divmod(int(value.argmax()), value.shape[1])
            if self.usable[stage].any() and (found[1] is None or float(value[layer, head]) > found[0]):
                found = (float(value[layer, head]), Place(layer, head, stage))
        return found

    def beyond(self, tolerance: float, limits: dict[str, Tensor] | None = None) -> tuple[Place, ...]:
        """The stages further off than the tolerance, and than the `limits` of their type where these are
        given.
        """
        return tuple(
            Place(layer, head, stage)
            for stage in STAGES
            for layer, head in self.outside(stage, tolerance, limits).nonzero().tolist()
        )

    def outside(
        self, stage: str, tolerance: float, limits: dict[str, Tensor] | None = None
    ) -> Bool[Tensor, "L heads"]:
        """Which heads of a stage are; see `beyond`."""
        allowed = torch.full_like(self.mean[stage], tolerance)
        if limits is not None:
            allowed = torch.maximum(allowed, limits[stage])
        return (self.std[stage] > tolerance) | (self.mean[stage] > allowed)

    def without_variance(self) -> tuple[Place, ...]:
        """The stages left out."""
        return tuple(
            Place(layer, head, stage)
            for stage in STAGES
            for layer, head in (~self.usable[stage]).nonzero().tolist()
        )


def rounding_limits(
    layers: list[GainCellAttention], measured: Statistics, target: Statistics
) -> dict[str, Float[Tensor, "L heads"]]:
    """How exact a stage's mean can be, as a residual, when its gain and offset are numbers of their type.

        eps / 2 * (|a m| + |b| + |mu_N|) / sigma_L,     m: mean of the stage's input, a m = mu_N - b

    It matters where an almost constant input is magnified: a m and b are then large and cancel. In float32
    the limit is above 1e-6 when they exceed sigma by a factor of about 10; in float64 never in practice.
    """
    limits: dict[str, list[Tensor]] = {stage: [] for stage in STAGES}
    for stage, layer, scaler in scalers(layers):
        mean, offset = measured.mean[stage][layer], scaler.offset.detach().double().cpu()
        size = (mean - offset).abs() + offset.abs() + mean.abs()
        sigma = torch.where(target.std[stage][layer] > 0, target.std[stage][layer], 1.0)
        limits[stage].append(torch.finfo(scaler.offset.dtype).eps / 2 * size / sigma)
    return {stage: torch.stack(rows) for stage, rows in limits.items()}


@dataclass(frozen=True)
class AdaptationResult:
    """The outcome of `adapt`.

    converged: every stage with variance is within the tolerance, or as near as its type allows.
    method: "closed-form" or "published".
    tolerance: largest residual allowed.
    residual: the largest residual of the adapted model.
    worst: where it is.
    residuals: of every stage.
    statistics: of the adapted model.
    iterations: updates made (1 for the closed form).
    forward_passes: forward passes of the model over all calibration tokens, counted in its attention layers;
        the statistics of the target are not among them.
    tokens: calibration tokens.
    skipped: stages of zero variance, in the model or in the target; their gains and offsets are unchanged.
    saturated: stages all of whose values lie at or beyond the limits of the circuit behind them.
    limited: stages beyond the tolerance, but as near as the type of gains and offsets allows: float32 cannot
        state their mean any better (see `rounding_limits`).
    history: of the published method, one entry an iteration: iteration, residual, perplexity of the
    calibration text.
    """

    converged: bool
    method: str
    tolerance: float
    residual: float
    worst: Place | None
    residuals: Residuals
    statistics: Statistics
    iterations: int
    forward_passes: float
    tokens: int
    skipped: tuple[Place, ...]
    saturated: tuple[Place, ...]
    limited: tuple[Place, ...] = ()
    history: tuple[dict[str, float], ...] = ()

    def summary(self) -> str:
        """One line for people."""
        state = "converged" if self.converged else "did not converge"
        where = f" at {self.worst}" if self.worst is not None else ""
        line = (
            f"{self.method} adaptation {state}: largest residual {self.residual:.2g}{where}, "
            f"{self.iterations} iteration(s), {self.forward_passes:.3g} forward passes over "
            f"{self.tokens} tokens"
        )
        for name, places in (
            ("without variance", self.skipped),
            ("fully saturated", self.saturated),
            ("limited by rounding", self.limited),
        ):
            if places:
                more = f" and {len(places) - 3} more" if len(places) > 3 else ""
                line += f"; {len(places)} {name}: " + ", ".join(f"({p})" for p in places[:3]) + more
        return line
