"""Wrong shapes and types are refused in every test, whichever library checks them."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from tests import type_checks
from torch import Tensor

from gaincell.circuits.converter import straight_through, strict_clamp
from gaincell.circuits.dac import write_dac
from gaincell.circuits.normaliser import Normaliser
from gaincell.devices.random import philox4x32


def test_arrays_of_another_type_are_refused() -> None:
    with pytest.raises(TypeCheckError, match="strict_clamp"):
        strict_clamp(torch.zeros(3, dtype=torch.int64), 0.0, 1.0)


def test_shapes_that_do_not_fit_each_other_are_refused() -> None:
    """Each is acceptable alone."""
    with pytest.raises(TypeCheckError, match="straight_through"):
        straight_through(torch.zeros(2), torch.zeros(3))


def test_other_arguments_and_fields_are_refused() -> None:
    with pytest.raises(BeartypeCallHintViolation):
        philox4x32("counter", "key")  # type: ignore[arg-type]
    with pytest.raises(BeartypeCallHintViolation):
        Normaliser("0.1")  # type: ignore[arg-type]


def test_a_function_within_a_function_is_compiled_once() -> None:
    volts = torch.rand(4)
    write_dac(volts, 8, 0.0, 0.9, 0.45)
    before = len(type_checks._checks)
    write_dac(volts, 8, 0.0, 0.9, 0.45)
    assert len(type_checks._checks) == before

    def inner(x: Tensor) -> int:
        return int(x.sum())

    with pytest.raises(TypeCheckError):
        type_checks.jaxtyped(inner, typechecker=type_checks.check)("no tensor")


def test_a_call_is_checked_unless_one_like_it_passed() -> None:
    answers = [torch.zeros(3), torch.zeros(3), torch.zeros(4), torch.zeros(3)]

    def inner(x: Float[Tensor, " n"], name: str) -> Float[Tensor, " n"]:
        return answers.pop(0)

    checked = type_checks.jaxtyped(inner, typechecker=type_checks.check)
    for _ in range(2):
        assert checked(torch.zeros(3), "a").shape == (3,)
    with pytest.raises(TypeCheckError, match="return value"):
        checked(torch.zeros(3), "a")
    for wrong in ((torch.zeros(3, dtype=torch.int64), "a"), (torch.zeros(2, 3), "a"), (torch.zeros(3), 1)):
        with pytest.raises(TypeCheckError, match="parameters"):
            checked(*wrong)
    assert len(answers) == 1, "what has wrong arguments is not called"
