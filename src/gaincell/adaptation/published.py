"""The paper's iteration: all layers at once, damped: equation (4) as in the released code [R].

    a <- a * (1 + f (sigma_L / sigma_N - 1)),    b <- b + f (mu_L - mu_N)

with f annealed linearly from 1.0 to 0.1 over 50 iterations and constant afterwards. What is within tolerance,
and gains of stages without variance, are left alone (`Residuals.moving`). It stops when every stage is within
tolerance. A target without variance would take a gain to 0, which no gain here is: it falls to a `SMALLEST`
share of itself at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gaincell.adaptation.result import Residuals, Rule
from gaincell.adaptation.statistics import Batch, Collector, Place, Statistics, attached, forward, scalers
from gaincell.evaluation.perplexity import LOGIT_BYTES, next_token_nll
from gaincell.nn.last_rows import balances
from gaincell.progress import Progress
from gaincell.standard_error import exp_or_infinity

FIRST_FACTOR = 1.0
LAST_FACTOR = 0.1
ANNEALED_OVER = 50
SMALLEST = 2.0**-24
"""Least factor of a gain in one iteration."""
TREND = 4
"""Iterations whose fall of the residual is carried on."""


def expected(history: Sequence[Mapping[str, float]], tolerance: float, limit: int) -> dict[str, float]:
    """{"expected": iterations in all}, if the residual goes on falling by the factor of the last ones.

    {"expected": 0}, unknown, before there are two residuals; the limit where the residual does not fall.
    """
    if len(history) < 2:
        return {"expected": 0.0}
    first, last = history[-min(len(history), TREND + 1)], history[-1]
    fallen = math.log(max(first["residual"], tolerance) / max(last["residual"], tolerance))
    if not fallen > 0:
        return {"expected": float(limit)}
    a_step = fallen / (last["iteration"] - first["iteration"])
    left = math.log(max(last["residual"], tolerance) / tolerance) / a_step
    return {"expected": min(float(limit), last["iteration"] + math.ceil(left))}


def iterate(
    model: nn.Module,
    batch: Batch,
    target: Statistics,
    tolerance: float,
    rule: Rule,
    max_iterations: int,
    progress: Progress,
) -> tuple[Statistics | None, Statistics, tuple[Place, ...], tuple[dict[str, float], ...]]:
    """Run the iteration on one fixed batch, in place.

    Returns:
        The statistics before the first update and of the result, its fully saturated stages, and per
        iteration (0 = before the first update) {"iteration", "residual", "perplexity"} on the calibration
        text.
    """
    layers = attached(model)
    gains = {(s, n): scaler.gain.double().cpu() for s, n, scaler in scalers(layers)}
    offsets = {(s, n): scaler.offset.double().cpu() for s, n, scaler in scalers(layers)}
    history: list[dict[str, float]] = []
    started: Statistics | None = None
    for iteration in range(max_iterations + 1):
        statistics, saturated, nll = measure(model, batch)
        started = started or statistics
        residuals = Residuals.between(statistics, target, rule)
        record = {"residual": residuals.worst()[0], "perplexity": exp_or_infinity(nll)}
        history.append({"iteration": float(iteration), **record})
        progress(iteration, max_iterations, record | expected(history, tolerance, max_iterations))
        if record["residual"] <= tolerance or iteration == max_iterations:
            break
        factor = FIRST_FACTOR + min(1.0, iteration / ANNEALED_OVER) * (LAST_FACTOR - FIRST_FACTOR)
        for stage, n, scaler in scalers(layers):
            gain_moves, offset_moves = (which[n] for which in residuals.moving(stage, tolerance))
            ratio = torch.where(gain_moves, target.std[stage][n] / statistics.std[stage][n], 1.0)
            shift = torch.where(offset_moves, target.mean[stage][n] - statistics.mean[stage][n], 0.0)
            gains[stage, n] *= (1 + factor * (ratio - 1)).clamp_min(SMALLEST)
            offsets[stage, n] += factor * shift
            scaler.gain.copy_(gains[stage, n])
            scaler.offset.copy_(offsets[stage, n])
        if target.balance is not None and statistics.balance is not None:
            for n, balance in balances(layers):
                balance.shift(factor * (target.balance[n] - statistics.balance[n]))
    return started, statistics, saturated, tuple(history)


@torch.no_grad()
def measure(model: nn.Module, batch: Batch) -> tuple[Statistics, tuple[Place, ...], float]:
    """Statistics, saturated stages and mean nll (nats a token) of the batch, in pieces whose logits fit."""
    collector = Collector(attached(model), saturation=True)
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    rows = max(1, LOGIT_BYTES // (batch.ids.shape[1] * vocabulary * 4))
    nll, predictions = 0.0, 0
    for start in range(0, len(batch.ids), rows):
        real = None if batch.real is None else batch.real[start : start + rows]
        if real is not None and not bool(real.any()):
            continue
        piece = Batch(batch.ids[start : start + rows], real)
        with collector.observing(real):
            logits: Tensor = forward(model, piece).logits
        losses = next_token_nll(logits, piece.ids)
        if real is not None:
            losses = losses[real[:, 1:] & real[:, :-1]]
        nll += float(losses.sum())
        predictions += losses.numel()
    return collector.statistics(batch.tokens), collector.saturated(), nll / max(1, predictions)
