"""AdamW for a model with arrays: the rate of every kind of number and what decays."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gaincell.errors import InputError
from gaincell.nn.array_normaliser import NORMALISER
from gaincell.nn.attention import BIASES, EXPONENTS
from gaincell.nn.balanced_rows import BALANCE
from gaincell.training.settings import SCALE_RATES, TrainSettings


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
        yield
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
    peaks = {"": settings.learning_rate}
    peaks |= {of: getattr(settings, name) or scale_rate for of, name in SCALE_RATES.items()}
    peaks |= rates

    def kind(name: str) -> str:
        own = name.rpartition(".")[2]
        of = next((of for of in SCALE_RATES if of in own), "gain") if _is_scale(name) else ""
        return next((start for start in rates if name.startswith(start)), of)

    def decays(name: str) -> bool:
        if (is_gain(name) and settings.log_gains) or name.endswith(NORMALISER + BALANCE):
            return False
        if settings.decayed == "all":
            return True
        return (parameters[name].ndim > 1 or _is_scale(name)) and not name.endswith(BIASES + EXPONENTS)

    groups: list[dict[str, Any]] = []
    for which, rate in peaks.items():
        for decayed, decay in ((True, settings.weight_decay), (False, 0.0)):
            members = [p for n, p in parameters.items() if kind(n) == which and decays(n) is decayed]
            if members:
                groups.append({"params": members, "peak": rate, "lr": rate, "weight_decay": decay})
    return torch.optim.AdamW(groups, betas=settings.betas)
