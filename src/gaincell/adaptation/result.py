"""What an adaptation achieved: residuals of every stage, the worst of them, and what was left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gaincell.adaptation.statistics import Place, Statistics
from gaincell.nn.scaler import STAGES
from gaincell.results.run import Rule as Rule

TOLERANCE: dict[Rule, float] = {"relative": 1e-6, "released": 1e-4}
"""Largest residual that counts as converged; that of the released rule is the authors' [R]."""


@dataclass(frozen=True)
class Residuals:
    """How far a model's statistics (N) are from their target (L), per stage [layers, heads].

    By the rule "relative":

        std: |sigma_N / sigma_L - 1|.    mean: |mu_N - mu_L| / sigma_L.
        usable: both have variance; the others are left out and have residual 0 here.

    By the rule "released", that of the authors' code [R]:

        std: |sigma_N - sigma_L|.    mean: |mu_N - mu_L|.
        usable: N has variance. The others count all the same: their offset can be moved, their gain cannot.
    """

    std: dict[str, Float[Tensor, "L heads"]]
    mean: dict[str, Float[Tensor, "L heads"]]
    usable: dict[str, Bool[Tensor, "L heads"]]
    rule: Rule = "relative"

    @classmethod
    def between(cls, measured: Statistics, target: Statistics, rule: Rule = "relative") -> Residuals:
        """The residuals of `measured` against `target`."""
        std, mean, usable = {}, {}, {}
        for s in STAGES:
            usable[s] = measured.std[s] > 0
            if rule == "released":
                std[s] = (measured.std[s] - target.std[s]).abs()
                mean[s] = (measured.mean[s] - target.mean[s]).abs()
                continue
            usable[s] &= target.std[s] > 0
            sigma = torch.where(usable[s], target.std[s], 1.0)
            std[s] = torch.where(usable[s], (measured.std[s] / sigma - 1).abs(), 0.0)
            mean[s] = torch.where(usable[s], (measured.mean[s] - target.mean[s]).abs() / sigma, 0.0)
        return cls(std, mean, usable, rule)

    def of(self, stage: str) -> Float[Tensor, "L heads"]:
        """The larger of both residuals."""
        return torch.maximum(self.std[stage], self.mean[stage])

    def moving(self, stage: str, tolerance: float) -> tuple[Bool[Tensor, "L heads"], Bool[Tensor, "L heads"]]:
        """Which gains and which offsets an iteration still moves.

        "relative": both while one of them is beyond the tolerance.  "released": each by its own residual, the
        gain only where the stage has variance.
        """
        if self.rule == "released":
            return (self.std[stage] > tolerance) & self.usable[stage], self.mean[stage] > tolerance
        beyond = self.of(stage) > tolerance
        return beyond, beyond

    def worst(self) -> tuple[float, Place | None]:
        """The largest residual of all and where it is; (0, None) when no stage is usable."""
        found: tuple[float, Place | None] = (0.0, None)
        for stage in STAGES:
            value = self.of(stage)
            layer, head = divmod(int(value.argmax()), value.shape[1])
            counts = self.rule == "released" or bool(self.usable[stage].any())
            if counts and (found[1] is None or float(value[layer, head]) > found[0]):
                found = (float(value[layer, head]), Place(layer, head, stage))
        return found

    def without_variance(self) -> tuple[Place, ...]:
        """The stages left out."""
        return tuple(
            Place(layer, head, stage)
            for stage in STAGES
            for layer, head in (~self.usable[stage]).nonzero().tolist()
        )


@dataclass(frozen=True)
class AdaptationResult:
    """The outcome of `adapt`.

    Attributes:
        converged: Every stage that counts (see `Residuals`) is within the tolerance.
        method: "closed-form" or "published".
        start: Gains and offsets as "trained", or "neutral".
        tolerance: Largest residual allowed.
        residual: Largest residual of the adapted model.
        worst: Where that is.
        residuals: Of the adapted model.
        statistics: Of the adapted model.
        iterations: Updates made (1 for the closed form).
        forward_passes: Of the model over all calibration tokens, counted in its attention layers, without
            those of the target's statistics.
        tokens: Of the calibration text.
        skipped: Stages of zero variance, in the model or in the target; their gains and offsets are
            unchanged. By the rule "released", in the model alone, and their offsets are moved.
        saturated: Stages all of whose values lie at or beyond the limits of the circuit behind them.
        history: Of the published method, one entry an iteration: iteration, residual, perplexity of the
            calibration text.
        started: Of the published method, the statistics before the first update.
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
    history: tuple[dict[str, float], ...] = ()
    start: Literal["trained", "neutral"] = "trained"
    started: Statistics | None = None

    def summary(self) -> str:
        """One line for people."""
        state = "converged" if self.converged else "did not converge"
        where = f" at {self.worst}" if self.worst is not None else ""
        start = " from the neutral start" if self.start == "neutral" else ""
        kind = "absolute" if self.residuals.rule == "released" else "relative"
        line = (
            f"{self.method} adaptation{start} {state}: largest {kind} residual {self.residual:.2g}{where} "
            f"({self.tolerance:.0e} allowed by the {self.residuals.rule} rule), "
            f"{self.iterations} iteration(s), {self.forward_passes:.3g} forward passes over "
            f"{self.tokens} tokens"
        )
        for name, places in (("without variance", self.skipped), ("fully saturated", self.saturated)):
            if places:
                more = f" and {len(places) - 3} more" if len(places) > 3 else ""
                line += f"; {len(places)} {name}: " + ", ".join(f"({p})" for p in places[:3]) + more
        return line
