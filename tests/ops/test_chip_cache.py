"""What is kept of chips is bounded by bytes, and changes no result."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from tests.ops.test_nonideal import LEVELS, chip, signals
from tests.tiers import slow
from torch import Tensor

from gaincell.devices import chip_cache
from gaincell.devices.chip_cache import kept
from gaincell.devices.variability import Mismatch, cell_errors
from gaincell.ops.gain_cell_attention import gain_cell_attention

made: list[tuple[str, int]] = []


@kept("layer")
def part(name: str, layer: int) -> tuple[Tensor, Tensor]:
    """16 bytes of one layer of a chip."""
    made.append((name, layer))
    return torch.zeros(2), torch.zeros(2)


@pytest.fixture(autouse=True)
def _a_small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chip_cache, "_entries", OrderedDict())
    monkeypatch.setattr(chip_cache, "LIMIT", 64)
    made.clear()


def passes(name: str, layers: int, count: int = 3) -> int:
    """How many parts are made by so many passes through a model, and whether the bound holds."""
    made.clear()
    for _ in range(count):
        for layer in range(layers):
            part(name, layer)
            assert chip_cache.held() <= chip_cache.LIMIT
    return len(made)


def test_a_chip_that_fits_is_made_once_and_drops_the_one_before() -> None:
    assert passes("a", 4) == 4
    assert passes("b", 3) == 3
    assert chip_cache.held() == 64  # the last part of "a" is still there
    assert passes("b", 3) == 0
    assert passes("a", 4) == 3


def test_a_chip_that_does_not_fit_keeps_what_does() -> None:
    assert passes("a", 6) == 6 + 2 * 2
    assert chip_cache.held() == 64
    assert part("a", 5)[0].shape == (2,)


def test_what_is_larger_than_the_bound_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chip_cache, "LIMIT", 15)
    assert passes("a", 2) == 6
    assert chip_cache.held() == 0


@pytest.mark.parametrize("backend", [slow("naive"), slow("blocked"), *LEVELS[-1:]])
def test_chips_of_a_model_are_bounded_and_alike(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs() -> list[Tensor]:
        found = []
        for _ in range(2):
            for number in range(3):
                design = chip("everything").replace(mismatch=Mismatch(0.1, 0.01, 0.1, chip=number))
                for layer in range(4):
                    inputs = [t.float() for t in signals(40)]
                    found.append(gain_cell_attention(*inputs, design, backend=backend, layer=layer))  # type: ignore[arg-type]
                    assert chip_cache.held() <= chip_cache.LIMIT
        return found

    monkeypatch.setattr(chip_cache, "LIMIT", 0)
    never = outputs()
    monkeypatch.setattr(chip_cache, "LIMIT", 100_000)
    assert all(torch.equal(a, b) for a, b in zip(never, outputs(), strict=True))
    assert chip_cache.held() > 50_000


def test_bytes_are_counted_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chip_cache, "LIMIT", 10**7)
    design = chip("everything")
    errors = cell_errors(design, 0, 2, 12, 0, torch.float32, torch.device("cpu"))
    assert errors is not None
    numbers = sum(t.numel() for t in errors if t is not None)
    assert chip_cache.held() == 4 * numbers
