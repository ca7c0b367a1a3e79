"""Mean and standard deviation of every scaling stage, per layer and head.

A stage is q, k, v or out of one head of one layer; what is measured is the output y = a x + b of its
`Scaler`, before the clamp of the circuit behind it, over batch, tokens and D, as equation (4) of the paper
compares them. Padding is left out. The digital scaling is exact, and so are its statistics: those of x are
summed in float64, and mean(y) = a mean(x) + b, std(y) = |a| std(x). (In a head that is almost silent the
rounding of y to float32 alone can shift its mean by more than 1e-6 standard deviations.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gaincell.errors import InputError, ModelError
from gaincell.integrations.hf.attach import computing_layers, required_layers
from gaincell.integrations.hf.context import check_ids, check_length
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.last_rows import LastRows
from gaincell.nn.scaler import STAGES, Scaler
from gaincell.progress import Progress, silent

NO_SPREAD = 1e-12
"""A standard deviation below this fraction of the mean is rounding of a constant, and counts as zero."""

ROUNDING = 1e-3
"""A tile output within this of full scale is at full scale."""
NO_TEXT = "there is no calibration text; give at least one batch of token ids"

Tokens: TypeAlias = Int[Tensor, "B T"] | Mapping[str, Tensor]
"""Token ids, or a mapping with `input_ids` and, where there is padding, `attention_mask`."""


class Batch(NamedTuple):
    """Token ids and which of them are real; None = all."""

    ids: Int[Tensor, "B T"]
    real: Bool[Tensor, "B T"] | None

    @property
    def tokens(self) -> int:
        """Real ones."""
        return self.ids.numel() if self.real is None else int(self.real.sum())


class Place(NamedTuple):
    """One stage of one head (a query head for q and out, a key/value head for k and v)."""

    layer: int
    head: int
    stage: str

    def __str__(self) -> str:
        return f"layer {self.layer}, head {self.head}, stage {self.stage}"


@dataclass(frozen=True)
class Statistics:
    """Of every stage ("q", "k", "v", "out"): mean and standard deviation, float64, on the CPU.

    q and out have the query heads, k and v the key/value heads. Without variance the standard deviation is
    exactly 0.

    Attributes:
        mean: By stage, [layers, heads].
        std: By stage, [layers, heads].
        tokens: Real tokens measured.
        balance: Where in its range the last row of balanced keys is on average (`Balance.share`); None: there
            are no balanced rows.
    """

    mean: dict[str, Float[Tensor, "L heads"]]
    std: dict[str, Float[Tensor, "L heads"]]
    tokens: int
    balance: Float[Tensor, "L Hk"] | None = None


class Moments(NamedTuple):
    """Of the values of each head: how many, mean [heads] and sum of squared deviations [heads], float64."""

    values: int
    mean: Float[Tensor, " heads"]
    squares: Float[Tensor, " heads"]

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of values together (Chan et al.'s update)."""
        values = self.values + other.values
        shift = other.mean - self.mean
        return Moments(
            values,
            self.mean + shift * (other.values / values),
            self.squares + other.squares + shift**2 * (self.values * other.values / values),
        )

    def scaled(self, gain: Float[Tensor, " heads"], offset: Float[Tensor, " heads"]) -> Moments:
        """The moments of ``gain * x + offset``."""
        gain, offset = gain.detach().double().cpu(), offset.detach().double().cpu()
        spread = torch.where(self.std == 0, 0.0, self.squares)
        return Moments(self.values, gain * self.mean + offset, gain**2 * spread)

    @property
    def std(self) -> Float[Tensor, " heads"]:
        """Standard deviation [heads]; exactly 0 for a constant."""
        std = (self.squares / self.values).sqrt()
        return torch.where(std <= NO_SPREAD * self.mean.abs(), 0.0, std)


def moments(x: Float[Tensor, "B heads T D"], real: Bool[Tensor, "B T"] | None) -> Moments:
    """Moments per head over batch, real tokens and D; two passes in float64, a head at a time."""
    means, squares, count = [], [], 0
    for head in x.unbind(1):
        values = (head if real is None else head[real]).double()
        count = values.numel()
        means.append(values.mean())
        squares.append((values - means[-1]).square_().sum())
    return Moments(count, torch.stack(means).cpu(), torch.stack(squares).cpu())


@torch.no_grad()
def collect_statistics(
    model: nn.Module, batches: Iterable[Tokens], progress: Progress = silent
) -> Statistics:
    """Statistics of an attached model's stages on some text, one forward pass without logits.

    Example:

        >>> import gaincell, torch
        >>> model, _ = gaincell.load("tiny")
        >>> gaincell.collect_statistics(model, [torch.randint(2000, (2, 64))]).tokens
        128

    Args:
        model: Attached (`gaincell.attach`).
        batches: Token ids [B, T] each, or mappings with `input_ids` and `attention_mask`.
        progress: Called after every batch.

    Raises:
        InputError: no batch, a batch without a real token, a token that the model lacks, a text longer than
            its context.
        ModelError: the model is not attached, or a stage is not finite.
    """
    collected = Collector(attached(model))
    pieces = [as_batch(batch, model) for batch in batches]
    if not pieces:
        raise InputError(NO_TEXT)
    with evaluation_mode(model):
        for n, batch in enumerate(pieces):
            with collected.observing(batch.real):
                forward(backbone(model), batch)
            progress(n + 1, len(pieces), {})
    return collected.statistics(sum(batch.tokens for batch in pieces))


class Collector:
    """Gathers the moments of what enters all stages, over any number of forward passes.

    Args:
        layers: Those of the model.
        saturation: Also which stages of which heads drive the circuit behind them beyond its limits with
            every single value. They carry one or two codes only, whatever their mean and standard deviation
            are.
    """

    def __init__(self, layers: list[GainCellAttention], *, saturation: bool = False) -> None:
        self._layers, self._watches = layers, saturation
        self._moments: dict[tuple[str, int], Moments] = {}
        self._saturated: dict[tuple[str, int], Bool[Tensor, " heads"]] = {}
        self._rows = LastRows(layers)

    @contextmanager
    def observing(self, real: Bool[Tensor, "B T"] | None) -> Iterator[None]:
        """Within the context every forward pass of the model is measured; `real` marks its real tokens."""
        with ExitStack() as hooks:
            for stage, layer, scaler in scalers(self._layers):
                observe = partial(self._observe, (stage, layer), real)
                hooks.enter_context(scaler.register_forward_hook(observe))
            hooks.enter_context(self._rows.observing(real))
            yield

    def _observe(
        self, key: tuple[str, int], real: Tensor | None, scaler: Scaler, inputs: Any, output: Tensor
    ) -> None:
        new = moments(scaler.rows(*inputs), real)
        self._moments[key] = self._moments[key].merged(new) if key in self._moments else new
        known = self._saturated.get(key)
        if not self._watches or (known is not None and not known.any()):
            return
        for rows in (slice(1), slice(None)):  # one sequence is enough to show that a stage moves
            some = None if real is None else real[rows]
            beyond = _beyond_limits(self._layers[key[1]], key[0], inputs[0][rows], output[rows], some)
            if some is not None:
                beyond |= ~some[:, None, :, None]
            everywhere = beyond.all(dim=3).all(dim=2).all(dim=0).cpu()
            if not everywhere.any():
                break
        self._saturated[key] = everywhere if known is None else everywhere & known

    def saturated(self) -> tuple[Place, ...]:
        """The stages all of whose values so far were at or beyond the limits."""
        return tuple(
            Place(layer, head, stage)
            for (stage, layer), heads in self._saturated.items()
            for head in heads.nonzero().flatten().tolist()
        )

    def statistics(self, tokens: int) -> Statistics:
        """What was gathered so far.

        Raises:
            ModelError: it is not finite.
        """
        by_stage: dict[str, list[Moments]] = {stage: [] for stage in STAGES}
        for stage, layer, scaler in scalers(self._layers):
            found = self._moments[stage, layer].scaled(scaler.gain, scaler.offset)
            check_finite_stage(found.mean + found.squares, stage, layer)
            by_stage[stage].append(found)
        mean = {stage: torch.stack([one.mean for one in layers]) for stage, layers in by_stage.items()}
        std = {stage: torch.stack([one.std for one in layers]) for stage, layers in by_stage.items()}
        return Statistics(mean, std, tokens, self._rows.shares)


def check_finite_stage(numbers: Tensor, stage: str, layer: int) -> None:
    """Raise ModelError where statistics of a stage are not finite."""
    if not bool(numbers.isfinite().all()):
        raise ModelError(
            f"stage {stage} of layer {layer} is not finite; "
            "look for NaN or infinite weights, gains and offsets"
        )


def _beyond_limits(
    attention: GainCellAttention,
    stage: str,
    x: Float[Tensor, "B heads T D"],
    y: Float[Tensor, "B heads T D"],
    real: Bool[Tensor, "B T"] | None,
) -> Bool[Tensor, "B heads T D"]:
    """q outside (0, 1), signed (-1, 1), k and v outside (V_min, V_max); the output where all sub-tiles in use
    are at full scale, which quotients (array_normaliser.py, a normalising column) do not say.
    """
    design = attention.design
    if stage != "out":
        shortest = -1.0 if design.drivers.signed else 0.0
        low, high = (shortest, 1.0) if stage == "q" else (design.v_min, design.v_max)
        return (y <= low) | (y >= high)
    if not design.output_ceiling or attention.normaliser is not None or design.normaliser.present:
        return torch.zeros_like(x, dtype=torch.bool)
    tokens = torch.arange(x.shape[2], device=x.device)[None] if real is None else real.cumsum(1) - 1
    tiles_in_use = (tokens // design.tile + 1).clamp(max=design.tiles)
    return x.abs() >= tiles_in_use[:, None, :, None] - ROUNDING


def scalers(layers: list[GainCellAttention]) -> Iterator[tuple[str, int, Scaler]]:
    """(stage, layer, its scaler) of all layers, in the order in which they are computed."""
    for layer, attention in enumerate(layers):
        for stage in STAGES:
            yield stage, layer, getattr(attention, stage)


def attached(model: nn.Module) -> list[GainCellAttention]:
    """The gain-cell attention of every layer.

    Raises:
        ModelError: there is none, or none in use.
    """
    return computing_layers(model) or required_layers(model)


def as_batch(tokens: Tokens, model: nn.Module) -> Batch:
    """Calibration text on the model's device."""
    given = {"input_ids": tokens} if isinstance(tokens, Tensor) else tokens
    if not isinstance(given, Mapping) or not isinstance(given.get("input_ids"), Tensor):
        raise InputError(
            f"a batch of calibration text is {type(given).__name__}; give a tensor of token ids, or a "
            "mapping with a tensor input_ids and, where there is padding, attention_mask"
        )
    ids, mask = given["input_ids"], given.get("attention_mask")
    if ids.ndim != 2 or ids.numel() == 0 or ids.is_floating_point():
        raise InputError(
            f"calibration token ids are {ids.dtype} {tuple(ids.shape)}; give whole numbers "
            "[sequences, tokens]"
        )
    if mask is not None and mask.shape != ids.shape:
        raise InputError(
            f"attention_mask has shape {tuple(mask.shape)}; give that of input_ids, {tuple(ids.shape)}"
        )
    check_ids(model, ids)
    device = next(model.parameters()).device
    real = None if mask is None or bool((mask != 0).all()) else (mask != 0).to(device)
    if real is not None and not bool(real.any()):
        raise InputError("a batch of calibration text holds padding only; remove it")
    check_length(model, ids.shape[1] if real is None else int(real.sum(1).max()))
    return Batch(ids.to(device=device, dtype=torch.long), real)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within the context a model is in evaluation mode; after it, each of its modules is in its own mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def backbone(model: nn.Module) -> nn.Module:
    """The model without its output layer, where transformers knows one."""
    return getattr(model, "base_model", model)


def forward(model: nn.Module, batch: Batch) -> Any:
    """One forward pass without a cache; padded sequences start at position 0, wherever their padding is."""
    if batch.real is None:
        return model(input_ids=batch.ids, use_cache=False)
    positions = (batch.real.cumsum(1) - 1).clamp(min=0)
    return model(
        input_ids=batch.ids, attention_mask=batch.real.long(), position_ids=positions, use_cache=False
    )
