"""Gradients of circuits (ops, learned.py) against finite differences of the core without quantisers."""

from __future__ import annotations

from collections.abc import Callable
from math import exp

import pytest
import torch
from tests.ops.test_nonideal import EFFECTS, chip, signals
from torch import Tensor

from gaincell.chips.design import Design
from gaincell.circuits.levels import LevelTable
from gaincell.circuits.sinks import Sinks
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention import gain_cell_attention
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.learned import attention_of_learned

SMOOTH = {"query_levels": None, "storage_levels": None, "readout": "none"}


def weighted(out: Tensor) -> Tensor:
    """A loss to which all outputs contribute alike."""
    return out.square().mean()


def logs() -> list[Tensor]:
    return [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2)]


@pytest.mark.parametrize(
    "effect", [None, "mismatch", "normalising column", "signed queries", "conversion noise", "write error"]
)
@pytest.mark.parametrize("cell", ["linear", "polynomial", "sigmoid"])
def test_saturations_against_finite_differences(cell: str, effect: str | None) -> None:
    """Some scores and outputs lie on their ceilings; h^2 of O_sat's own difference is the largest error."""
    changes = {"score_saturation_per_row": 0.5, "output_saturation_per_column": 0.15}
    design = chip(effect, cell=cell, **SMOOTH, **changes)
    inputs, found = signals(60), logs()
    out = attention_of_learned(Call(*inputs, design, "blocked", layer=3), None, None, *found)
    torch.testing.assert_close(
        out, gain_cell_attention(*inputs, design, None, "blocked", layer=3), rtol=0, atol=1e-10
    )
    gradients = torch.autograd.grad(weighted(out), found)
    for key, gradient in zip(changes, gradients, strict=True):
        h = 1e-7
        ends = (
            weighted(
                gain_cell_attention(
                    *inputs, design.replace(**{key: changes[key] * exp(sign * h)}), None, "blocked", layer=3
                )
            )
            for sign in (1, -1)
        )
        difference = (next(ends) - next(ends)) / (2 * h)
        own = 0.01 if key.startswith("output") else 1e-5
        assert float(gradient) == pytest.approx(float(difference), rel=own), key


@pytest.mark.parametrize("backend", ["naive", "blocked", "native"])
@pytest.mark.parametrize("array", ["query", "storage"])
def test_levels_against_finite_differences(array: str, backend: str) -> None:
    """Signals on their levels, which do not change codes when one moves a little."""
    table: LevelTable = EFFECTS["uneven levels"]["levels"]  # type: ignore[assignment]
    design = chip(readout="none", levels=table)
    g = torch.Generator().manual_seed(1)
    stored = torch.tensor(table.storage, dtype=torch.float64) + 0.45
    q = torch.tensor(table.query, dtype=torch.float64)[torch.randint(16, (1, 2, 40, 8), generator=g)]
    k, v = (stored[torch.randint(8, (1, 1, 40, 8), generator=g)] for _ in range(2))

    def result(design: Design, run: Callable[[Design], Tensor]) -> Tensor:
        return weighted(run(design).double())

    levels = torch.tensor(getattr(table, array), dtype=torch.float64, requires_grad=True)
    learned = {"query": table.query, "storage": table.storage, array: levels}
    inputs = [t.float() if backend == "native" else t for t in (q, k, v)]
    out = attention_of_learned(Call(*inputs, design, backend), *learned.values(), *logs())
    (gradient,) = torch.autograd.grad(weighted(out.double()), levels)
    assert bool((gradient != 0).sum() > len(levels) / 2)
    for code in range(1, len(levels) - 1):
        ends = []
        for h in (1e-6, -1e-6):
            moved = list(getattr(table, array))
            moved[code] += h
            there = design.replace(levels=LevelTable(**{**vars(table), array: tuple(moved)}))
            ends.append(weighted(gain_cell_attention(q, k, v, there, None, "naive")))
        difference = float(ends[0] - ends[1]) / 2e-6
        assert float(gradient[code]) == pytest.approx(
            difference, rel=1e-3, abs=1e-3 * float(gradient.abs().max())
        )


@pytest.mark.parametrize("effect", ["uneven levels", "everything, with extensions"])
@pytest.mark.parametrize("backend", ["auto", "blocked"])
def test_the_forward_pass_is_that_of_the_design(effect: str, backend: str) -> None:
    design = chip(effect)
    inputs = [t.float() for t in signals(dim=16)]
    table = design.levels
    tensors = (torch.tensor(t, dtype=torch.float64, requires_grad=True) for t in (table.query, table.storage))
    found = attention_of_learned(Call(*inputs, design, backend, layer=3), *tensors, *logs())
    assert torch.equal(found, gain_cell_attention(*inputs, design, None, backend, layer=3))  # type: ignore[arg-type]


def test_columns_of_first_tokens_are_refused() -> None:
    with pytest.raises(InputError, match=r"give sinks\.tokens = 0"):
        attention_of_learned(Call(*signals(9), chip(sinks=Sinks(tokens=2))), 16, 8, *logs())
