"""AdamW for a model with arrays: the rate of every kind of number and what decays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from gaincell.errors import InputError
from gaincell.integrations.hf.reparametrisation import part_of
from gaincell.training.settings import TrainSettings


def _is_scale(name: str) -> bool:
    return ".gain_cell." in name


def is_gain(name: str) -> bool:
    """Whether a parameter is a gain of arrays."""
    return _is_scale(name) and name.endswith(".gain")


def check_positive(gains: Mapping[str, nn.Parameter]) -> None:
    """Refuse gains that have no logarithm.

    Raises:
        InputError: one is not positive.
    """
    bad = next((name for name, gain in gains.items() if bool((gain <= 0).any())), None)
    if bad is not None:
        raise InputError(f"{bad} is not above 0: it has no logarithm to learn; leave out log_gains")


@contextmanager
def as_logarithms(gains: Collection[nn.Parameter]) -> Iterator[None]:
    """Within the context gains hold their logarithms; all else, checkpoints too, holds gains."""
    with torch.no_grad():
        for gain in gains:
            gain.log_()
        try:
            yield
        finally:
            for gain in gains:
                gain.exp_()


def make_optimizer(
    parameters: dict[str, nn.Parameter], settings: TrainSettings, rates: Mapping[str, float]
) -> torch.optim.AdamW:
    """The optimiser of named parameters.

    Args:
        parameters: What is trained, by name.
        settings: Rates, decay and the like.
        rates: Peak learning rates of parameters whose names begin so, in place of those of the settings.
    """
    scale_rate = settings.scale_learning_rate or settings.learning_rate
    groups = defaultdict[tuple[float, float], list[nn.Parameter]](list)
    for name, parameter in parameters.items():
        own = getattr(settings, _rate_of(name)) or scale_rate
        peak = next((rate for start, rate in rates.items() if name.startswith(start)), own)
        groups[peak, settings.weight_decay * _decays(name, parameter, settings)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "peak": peak, "lr": peak, "weight_decay": decay}
            for (peak, decay), members in groups.items()
        ],
        betas=settings.betas,
    )


def _rate_of(name: str) -> str:
    """The field of `TrainSettings` with a parameter's peak learning rate."""
    if not _is_scale(name):
        return "learning_rate"
    rates = {".offset": "offset_learning_rate"} | part_of(name).rates
    return next((rate for own, rate in rates.items() if name.endswith(own)), "scale_learning_rate")


def _decays(name: str, parameter: nn.Parameter, settings: TrainSettings) -> bool:
    if not _is_scale(name):
        return settings.decayed == "all" or parameter.ndim > 1
    return settings.decayed in part_of(name).decayed and not (settings.log_gains and is_gain(name))
