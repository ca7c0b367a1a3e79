"""The adaptation algorithm: gains and offsets that give a model's stages the statistics of another model's.

Given its inputs, every stage's output y = a x + b is affine in (a, b). With mean m and standard deviation s
of x,

    a = sigma_L / s,    b = mu_L - a m                                                              (4)

gives it exactly the target's mean mu_L and standard deviation sigma_L. Going layer by layer, q, k and v
before the arrays and the output after them, each stage sees the final inputs: one forward pass sets them
all, a second one verifies. The paper's own iteration has the same fixed point; it is in `published.py`. Of
balanced rows (nn/balanced_rows.py) b follows: on average the last row is where in its range the target's is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from gaincell.adaptation import statistics as measured
from gaincell.adaptation.published import iterate
from gaincell.adaptation.result import TOLERANCE, AdaptationResult, Residuals, Rule
from gaincell.adaptation.statistics import Batch, Place, Statistics, Tokens, attached, scalers
from gaincell.errors import InputError, ModelError
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.last_rows import balances, restored, rows_at
from gaincell.nn.scaler import Scaler
from gaincell.progress import Progress, silent
from gaincell.quantity import one_of

Method = Literal["closed-form", "published"]
Start = Literal["trained", "neutral"]
METHODS, STARTS, RULES = get_args(Method), get_args(Start), get_args(Rule)


@torch.no_grad()
def adapt(
    model: nn.Module,
    batches: Iterable[Tokens],
    target: Statistics,
    method: Method = "closed-form",
    *,
    start: Start = "trained",
    rule: Rule | None = None,
    tolerance: float | None = None,
    max_iterations: int = 100,
    progress: Progress = silent,
) -> AdaptationResult:
    """Set, in place, gains and offsets of a model so that its stages have the statistics of `target`.

    Example:

        >>> import gaincell, torch
        >>> model, _ = gaincell.load("tiny")  # with linear cells
        >>> batches = [torch.randint(2000, (2, 64))]
        >>> target = gaincell.collect_statistics(model, batches)
        >>> result = gaincell.adapt(gaincell.set_design(model, "leroux2025"), batches, target)
        >>> result.converged, result.iterations
        (True, 1)

    Args:
        model: Attached (`gaincell.attach`), with the weights, gains and offsets of the model to be matched.
        batches: Calibration text, token ids [B, T] each, or mappings with `input_ids` and `attention_mask`.
            All goes through the model at once ("published": in pieces whose logits fit).
        target: Statistics of the model to be matched, best measured on the same text (`collect_statistics`).
        method: "closed-form" (two forward passes) or "published" (the paper's damped iteration).
        start: "trained", the gains and offsets the model has, or "neutral" (see `set_neutral`).
        rule: How residuals are stated and when the published method stops: "relative", or the authors'
            "released" (see `Residuals`); None: see `choose_rule`.
        tolerance: Largest residual of a converged stage; None for 1e-6 ("relative") or 1e-4 ("released").
        max_iterations: Limit of the published method.
        progress: Called after every pass over the text, with the largest residual where it is known.

    Raises:
        InputError: no calibration text or none of token ids, an unknown method, start or rule, a rule without
            effect, a tolerance not above 0, a limit not whole or below 0, or a target of another shape.
        ModelError: not attached or set to softmax, balanced rows with a neutral start, a stage not finite.

    A gain keeps its sign. The gain of a stage without variance stays as it is, and its offset too unless the
    rule is "released"; the stage is named in the result.
    """
    rule = choose_rule(method, start, rule)
    layers = _checked(model, target, method, start, rule)
    tolerance = TOLERANCE[rule] if tolerance is None else tolerance
    _check_limits(tolerance, max_iterations)
    batch = concatenate([measured.as_batch(b, model) for b in batches])
    if start == "neutral":
        set_neutral(model)
    history: tuple[dict[str, float], ...] = ()
    started: Statistics | None = None
    with _counting(layers) as passed, measured.evaluation_mode(model):
        if method == "closed-form":
            statistics, saturated = _closed_form(model, batch, target, progress)
        else:
            started, statistics, saturated, history = iterate(
                model, batch, target, tolerance, rule, max_iterations, progress
            )
    residuals = Residuals.between(statistics, target, rule)
    residual, worst = residuals.worst()
    return AdaptationResult(
        converged=residual <= tolerance,
        method=method,
        tolerance=tolerance,
        residual=residual,
        worst=worst,
        residuals=residuals,
        statistics=statistics,
        iterations=len(history) - 1 if history else 1,
        forward_passes=sum(passed) / (len(layers) * batch.ids.numel()),
        tokens=batch.tokens,
        skipped=residuals.without_variance(),
        saturated=saturated,
        history=history,
        start=start,
        started=started,
    )


def choose_rule(method: str, start: str, rule: Rule | None) -> Rule:
    """As given; for None "released" for the published method from the neutral start, else "relative"."""
    if rule is not None:
        return rule
    return "released" if method == "published" and start == "neutral" else "relative"


def _check_limits(tolerance: float, max_iterations: int) -> None:
    numbers = isinstance(tolerance, Real) and isinstance(max_iterations, Integral)
    if not numbers or not tolerance > 0 or max_iterations < 0:
        raise InputError(
            f"tolerance = {tolerance!r}, max_iterations = {max_iterations!r}; "
            "give a number > 0 and a whole number >= 0"
        )


def _checked(
    model: nn.Module, target: Statistics, method: str, start: str, rule: str
) -> list[GainCellAttention]:
    """The layers of a model that can be adapted so."""
    choices = (("method", method, METHODS), ("start", start, STARTS), ("rule", rule, RULES))
    for name, given, allowed in choices:
        if given not in allowed:
            raise InputError(f"unknown {name} {given!r}; choose {one_of(allowed)}")
    if rule == "released" and method != "published":
        raise InputError("the released rule stops the published method; leave it out with the closed form")
    layers = attached(model)
    if not isinstance(target, Statistics):
        raise InputError(f"the target is {target!r}; give Statistics, as collect_statistics gives them")
    for stage, _, scaler in scalers(layers):
        shape, needed = tuple(target.mean[stage].shape), (len(layers), scaler.gain.numel())
        if shape != needed:
            raise InputError(
                f"the target's stage {stage} has {shape} layers and heads; this model has {needed}"
            )
    return layers


def check_neutral(model: nn.Module) -> None:
    """Raise ModelError for a model with balanced rows, which no neutral start leaves balanced."""
    if any(balances(attached(model))):
        raise ModelError(
            "the neutral start sets the offsets of queries to 0, and this model has balanced rows, which "
            "drive queries about half a pulse; take the trained start"
        )


@torch.no_grad()
def set_neutral(model: nn.Module) -> None:
    """Set every gain of an attached model to 1 and every offset to 0, in place.

    Keys and values lose their centre V_offset. The paper's released code does this before it adapts [R]:
    by it Fig. 4c starts from here. What that code does not have, biases and exponents, stays as it is: no
    adaptation would restore it.

    Raises:
        ModelError: the model is not attached, or has balanced rows.
    """
    check_neutral(model)
    for _, _, scaler in scalers(attached(model)):
        scaler.gain.fill_(1.0)
        scaler.offset.zero_()


@contextmanager
def neutral_scales(model: nn.Module) -> Iterator[None]:
    """Within the context an attached model has neutral gains and offsets; after it, its own."""
    with restored(parameter for layer in attached(model) for parameter in layer.parameters()):
        set_neutral(model)
        yield


def _closed_form(
    model: nn.Module, batch: Batch, target: Statistics, progress: Progress
) -> tuple[Statistics, tuple[Place, ...]]:
    """One pass in which every scaler is set from its input before it computes, and one that verifies."""
    layers = attached(model)
    with ExitStack() as hooks:
        for stage, layer, scaler in scalers(layers):
            mean, std = target.mean[stage][layer], target.std[stage][layer]
            set_stage = partial(_set_scaler, mean, std, batch.real)
            hooks.enter_context(scaler.register_forward_pre_hook(set_stage))
        hooks.enter_context(rows_at(layers, target.balance, batch.real))
        measured.forward(measured.backbone(model), batch)
    progress(1, 2, {})
    collector = measured.Collector(layers, saturation=True)
    with collector.observing(batch.real):
        measured.forward(measured.backbone(model), batch)
    progress(2, 2, {})
    return collector.statistics(batch.tokens), collector.saturated()


def _set_scaler(
    mean: Float[Tensor, " heads"],
    std: Float[Tensor, " heads"],
    real: Bool[Tensor, "B T"] | None,
    scaler: Scaler,
    inputs: tuple[Any, ...],
) -> None:
    """Give one stage the mean and standard deviation of the target: equation (4) at the head of this file."""
    found = measured.moments(scaler.rows(*inputs), real)
    if not torch.isfinite(found.squares).all():
        raise ModelError("the model's activations are not finite; look for NaN or infinite weights")
    usable = (found.std > 0) & (std > 0)
    old_gain, old_offset = scaler.gain.cpu(), scaler.offset.cpu()
    gain = (std / found.std * old_gain.sign()).to(old_gain.dtype)
    gain = torch.where(usable, gain, old_gain)
    offset = (mean - gain.double() * found.mean).to(old_offset.dtype)
    scaler.gain.copy_(gain)
    scaler.offset.copy_(torch.where(usable, offset, old_offset))


@contextmanager
def _counting(layers: list[GainCellAttention]) -> Iterator[list[int]]:
    """Within the context, the tokens of every pass through an attention layer are added to the list."""
    passed: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        passed.append(output.shape[0] * output.shape[2])

    with ExitStack() as hooks:
        for layer in layers:
            hooks.enter_context(layer.register_forward_hook(count))
        yield passed


def concatenate(batches: list[Batch]) -> Batch:
    """All sequences in one batch, shorter ones padded on the right."""
    if not batches:
        raise InputError(measured.NO_TEXT)
    longest = max(batch.ids.shape[1] for batch in batches)
    ids = torch.cat([pad(batch.ids, (0, longest - batch.ids.shape[1])) for batch in batches])
    masks = [torch.ones_like(b.ids, dtype=torch.bool) if b.real is None else b.real for b in batches]
    real = torch.cat([pad(mask, (0, longest - mask.shape[1])) for mask in masks])
    return Batch(ids, None if bool(real.all()) else real)
