"""Mismatch: the generator's known answers, its keys, and the fields drawn from it."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.devices.leakage import Leakage
from gaincell.devices.random import KEY_ARRAY, VALUE_ARRAY, normal, philox4x32
from gaincell.devices.variability import CellErrors, Mismatch, cell_errors
from gaincell.devices.writing import Writing
from gaincell.errors import DesignError
from gaincell.quantity import Range, check_ranges

CPU = torch.device("cpu")
ONES = 0xFFFFFFFF


def chip(**mismatch: float) -> Design:
    return load_design("leroux2025").replace(window=128, tile=64, mismatch=Mismatch(**mismatch))  # type: ignore[arg-type]


def errors(design: Design, layer: int = 0, heads: int = 2, array: int = KEY_ARRAY) -> CellErrors:
    drawn = cell_errors(design, layer, heads, 32, array, torch.float64, CPU)
    assert drawn is not None
    return drawn


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter: tuple, key: tuple, expected: tuple) -> None:
    assert tuple(int(word) for word in philox4x32(counter, key)) == expected


FIELDS = {"seed": 32, "chip": 32, "layer": 16, "head": 16, "array": 8, "column": 32, "row": 16, "effect": 8}
FIELDS |= {"step": 32}


@settings(max_examples=200)
@given(st.fixed_dictionaries({name: st.integers(0, 2**bits - 1) for name, bits in FIELDS.items()}), st.data())
def test_every_field_of_the_key_counts(key: dict[str, int], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(key)))
    other = data.draw(st.integers(0, 2 ** FIELDS[field] - 1).filter(lambda value: value != key[field]))
    assert normal(**key) != normal(**(key | {field: other}))


def test_no_two_cells_draw_the_same_number() -> None:
    head, column, row = np.ogrid[:4, :256, :64]
    z = np.stack(
        [
            normal(seed=0, chip=0, layer=layer, head=head, array=array, column=column, row=row, effect=effect)
            for layer in range(2)
            for array in range(2)
            for effect in range(3)
        ]
    )
    assert (
        len(np.unique(z)) > z.size - 5
    )  # a chance collision of 2^64 values is allowed, a repeated field is not


def test_a_field_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DesignError, match="row must be in"):
        normal(seed=0, chip=0, layer=0, head=0, array=0, column=0, row=2**16, effect=0)
    with pytest.raises(DesignError, match="seed"):
        Mismatch(seed=2**32)
    with pytest.raises(DesignError, match="gain_std"):
        Mismatch(gain_std=-0.1)


@pytest.mark.parametrize(
    ("part", "numbers", "message"),
    [
        (Mismatch, {"offset_voltage_std": 11}, "offset_voltage_std = 11 is out of range; allowed: 0 to 10 V"),
        (Mismatch, {"correlation_length": -1}, "correlation_length = -1 is out of range; allowed: 0 to 1000"),
        (Mismatch, {"chip": -1}, "chip = -1 is out of range; allowed: a whole number, 0 to 4294967295"),
        (Leakage, {"activation_energy": math.inf}, "inf is out of range; allowed: 0 eV or more, finite"),
        (Leakage, {"reference_temperature": 0.0}, "0.0 is out of range; allowed: above 0 K, finite"),
        (Leakage, {"decay_voltage": math.nan}, "nan is out of range; allowed: a finite number of V, or none"),
        (Leakage, {"read_disturb": 1}, "read_disturb = 1 is out of range; allowed: 0 to below 1"),
        (Writing, {"storage_capacitance": 0.0}, "0.0 is out of range; allowed: above 0 F, or none"),
    ],
)
def test_numbers_out_of_range_are_refused_with_what_is_allowed(
    part: Callable[..., object], numbers: dict[str, float], message: str
) -> None:
    with pytest.raises(DesignError) as refused:
        part(**numbers)
    assert str(refused.value).endswith(message)


def test_what_is_no_number_is_in_no_range() -> None:
    numbers, whole = Range(0, math.inf), Range(0, 10, whole=True)
    assert [numbers.holds(value) for value in (0.5, 3, np.float32(2), "5%", True, (1,))] == [True] * 3 + [
        False
    ] * 3
    assert [whole.holds(value) for value in (3, np.int64(3), 1.5, True)] == [True, True, False, False]


def test_numbers_that_may_be_none() -> None:
    with pytest.raises(DesignError, match=r"wires: key_drop = None is out of range; allowed: 0 to below 1"):
        check_ranges("wires", SimpleNamespace(key_drop=None), key_drop=Range(0, 1, below=True))
    assert Leakage(decay_voltage=None) == Leakage()
    assert Writing(storage_capacitance=None) == Writing()


def test_numbers_are_normal() -> None:
    head, column, row = np.ogrid[:4, :512, :64]
    z = normal(seed=7, chip=3, layer=2, head=head, array=1, column=column, row=row, effect=1).numpy().ravel()
    bound = 5 / np.sqrt(z.size)
    assert abs(z.mean()) < bound
    assert abs(z.std() - 1) < bound
    assert abs((z**3).mean()) < np.sqrt(15) * bound
    assert abs((z**4).mean() - 3) < np.sqrt(96) * bound
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < bound  # neighbouring rows
    assert abs(np.corrcoef(z[:-64], z[64:])[0, 1]) < bound  # neighbouring columns


def test_standard_deviations_are_those_of_the_design() -> None:
    design = chip(gain_std=0.1, offset_voltage_std=0.02, current_offset_std=0.05)
    drawn = errors(design, heads=4)
    full_scale = float(design.cell.current(torch.tensor(0.45, dtype=torch.float64)))
    assert drawn.gain.mean() == pytest.approx(1.0, abs=5e-3)
    assert drawn.gain.std() == pytest.approx(0.1, rel=0.03)
    assert drawn.offset_voltage.std() == pytest.approx(0.02, rel=0.03)
    assert drawn.current_offset.std() == pytest.approx(0.05 * full_scale, rel=0.03)


def test_effects_arrays_layers_heads_and_chips_are_independent() -> None:
    std = {"gain_std": 1.0, "offset_voltage_std": 0.1, "seed": 5}
    first = errors(chip(**std))
    fields = [first.gain[0] - 1, first.gain[1] - 1, first.offset_voltage[0]]
    fields += [errors(chip(**std), array=VALUE_ARRAY).gain[0] - 1, errors(chip(**std), layer=1).gain[0] - 1]
    fields += [errors(chip(**std, chip=1)).gain[0] - 1]
    correlation = torch.corrcoef(torch.stack([field.flatten() for field in fields]))
    assert (correlation - torch.eye(len(fields))).abs().max() < 5 / fields[0].numel() ** 0.5


def test_a_cell_keeps_its_errors_whatever_else_is_drawn() -> None:
    design = chip(gain_std=0.1, seed=1)
    small = errors(design, heads=1)
    large = errors(design.replace(window=256), heads=3)
    assert torch.equal(small.gain[0], large.gain[0, :128])


def test_a_perfect_chip_has_no_errors() -> None:
    assert cell_errors(chip(seed=4, chip=2), 0, 2, 32, KEY_ARRAY, torch.float64, CPU) is None


def test_fields_first_drawn_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        drawn = errors(chip(gain_std=0.1, seed=99))
    weight = torch.ones(32, dtype=torch.float64, requires_grad=True)
    (weight * drawn.gain).sum().backward()
    assert weight.grad is not None
