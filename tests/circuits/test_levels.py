"""Levels that are stated one by one: circuits/levels.py, in designs, files, rings and costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gaincell.chips.design_file import list_designs, load_design
from gaincell.circuits import dac_code, query_code, query_driver, write_dac
from gaincell.circuits.levels import LevelTable, on_levels, pulse_widths, stored_volts
from gaincell.costs.activity import Activity
from gaincell.costs.head import Head
from gaincell.costs.storage import refresh_interval
from gaincell.costs.technology import load_technology
from gaincell.errors import DesignError, InputError
from gaincell.ops.gain_cell_attention import gain_cell_attention, native_decode
from gaincell.spice.designs import check_design
from gaincell.spice.technology import technology

RAILS = {"v_min": 0.0, "v_max": 0.9, "v_offset": 0.45}
PAPER = load_design("leroux2025")
UNEVEN = (-0.4, -0.1, 0.0, 0.3)
WIDTHS = (0.0, 0.1, 0.5, 1.0)


def chip(query: tuple[float, ...] = WIDTHS, storage: tuple[float, ...] = UNEVEN):  # type: ignore[no-untyped-def]
    return PAPER.replace(
        query_levels=len(query), storage_levels=len(storage), levels=LevelTable(query, storage)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_evenly_spaced_levels_are_the_converters_of_the_paper(dtype: torch.dtype) -> None:
    even = stored_volts(8, 0.0, 0.9)
    assert even == pytest.approx([(code - 3.5) * 0.9 / 7 for code in range(8)])
    volts = torch.rand(5000, generator=torch.Generator().manual_seed(0), dtype=dtype) * 1.1 - 0.1
    torch.testing.assert_close(
        write_dac(volts, even, **RAILS), write_dac(volts, 8, **RAILS), rtol=0, atol=1e-6
    )
    assert torch.equal(dac_code(volts, even, **RAILS), dac_code(volts, 8, **RAILS))
    widths = pulse_widths(16)
    for signed in (False, True):
        q = volts * 2 - 0.9
        a, b = (query_driver(q, levels, signed=signed) for levels in (widths, 16))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        assert torch.equal(query_code(q, widths, signed=signed), query_code(q, 16, signed=signed))


def test_the_nearest_level_and_of_two_the_upper_one() -> None:
    signals = torch.tensor([-9.0, -0.251, -0.25, -0.05, 0.149, 0.15, 9.0, torch.nan], dtype=torch.float64)
    taken = on_levels(signals, UNEVEN)
    assert taken[:-1].tolist() == [-0.4, -0.4, -0.1, 0.0, 0.0, 0.3, 0.3]
    assert taken[-1].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_zero_signal_is_stored_as_exactly_zero(dtype: torch.dtype) -> None:
    assert write_dac(torch.tensor([0.45], dtype=dtype), UNEVEN, **RAILS).item() == 0.0
    design = chip().replace(token_period=1e-3)
    q, k = torch.rand(1, 1, 9, 8), torch.full((1, 1, 9, 8), 0.45)
    out = gain_cell_attention(q, k, k, design.replace(cell="linear"), None, "naive")
    assert torch.equal(out, torch.zeros_like(out)), "no signal, no score, no output, at any age"


def test_gradients_of_signals_and_of_levels() -> None:
    x = torch.tensor([-0.5, -0.4, -0.3, 0.01, 0.02, 0.29, 0.3, 0.4], dtype=torch.float64, requires_grad=True)
    levels = torch.tensor(UNEVEN, dtype=torch.float64, requires_grad=True)
    weight = torch.arange(1.0, 9.0, dtype=torch.float64)
    (on_levels(x, levels) * weight).sum().backward()
    assert x.grad is not None
    assert levels.grad is not None
    assert x.grad.tolist() == [0, 0, 3, 4, 5, 6, 0, 0]
    assert levels.grad.tolist() == [1 + 2 + 3, 0, 4 + 5, 6 + 7 + 8]
    q = torch.tensor([-0.6, 0.05, 0.6], dtype=torch.float64)
    widths = torch.tensor(WIDTHS, dtype=torch.float64, requires_grad=True)
    query_driver(q, widths, signed=True).sum().backward()
    assert widths.grad is not None
    assert widths.grad.tolist() == [0, 1, -1 + 1, 0], "a negative pulse gets shorter as its width grows"


def test_designs_without_the_option_keep_their_hash() -> None:
    """Of the version before it."""
    expected = {"leroux2025": "900555723a7c", "leroux2025-extended": "e5bc13662d85", "ideal": "addb0108f081"}
    assert {name: load_design(name).hash for name in expected} == expected
    assert not any(load_design(name).levels.present for name in list_designs())
    assert len({chip().hash, chip(storage=(-0.4, -0.1, 0.0, 0.31)).hash, PAPER.hash}) == 3


def test_a_file_reads_back_the_same_levels(tmp_path: Path) -> None:
    design = chip()
    again = load_design(design.save(tmp_path / "chip.toml"))
    assert (again, again.hash, again.levels) == (design, design.hash, design.levels)
    assert 'storage = { value = [-0.4, -0.1, 0.0, 0.3], unit = "V"' in design.to_toml()
    assert (design.driver_levels, design.dac_levels) == (WIDTHS, UNEVEN)
    free = design.replace(query_levels=None, storage_levels=None)
    assert (free.driver_levels, free.dac_levels) == (None, None), "nothing is quantised"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: LevelTable(query=(0.1, 0.5)), "allowed: pulse widths that rise from 0"),
        (lambda: LevelTable(query=(0.0, 1.5)), "at most 1"),
        (lambda: LevelTable(storage=(0.1,)), "two or more numbers"),
        (lambda: LevelTable(storage=(0.1, 0.1)), "each above the one before"),
        (lambda: LevelTable(storage=(0.1, float("nan"))), "two or more numbers"),
        (lambda: chip(storage=(-0.46, 0.3)), "-0.46 to 0.3 V is out of range; allowed: -0.45 to 0.45 V"),
        (lambda: chip().replace(storage_levels=8), "storage_levels = 8, but levels.storage states 4"),
        (lambda: chip().replace(query_levels=3), "query_levels = 3, but levels.query states 4"),
    ],
)
def test_what_no_converter_can_be_is_refused(wrong, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DesignError, match=message):
        wrong()


def test_what_does_not_serve_uneven_levels_says_so() -> None:
    q = torch.rand(1, 1, 4, 16)
    assert native_decode.unsupported((q,), chip()) == "it does not implement levels.query, levels.storage"
    with pytest.raises(InputError, match=r"levels that are not evenly spaced \(\[levels\]\)"):
        check_design(chip(), technology("freepdk45"))


def test_costs_count_bits_and_the_smallest_step() -> None:
    technology = load_technology("28nm")
    assumed = Activity.assumed(chip()).heads[0]
    assert assumed.query_pulse == pytest.approx(0.4)
    assert assumed.key_square == pytest.approx((0.16 + 0.01 + 0.09) / 4)

    def head(design) -> Head:  # type: ignore[no-untyped-def]
        return Head(design, technology, Activity.assumed(design).heads[0], head_dim=64)

    even = replace_levels_by_even_ones(chip())
    assert head(chip()).storage_bits == head(even).storage_bits == 2
    found, expected = refresh_interval(head(chip())), refresh_interval(head(even))
    assert found is not None
    assert expected is not None
    assert found < expected


def replace_levels_by_even_ones(design):  # type: ignore[no-untyped-def]
    return design.replace(levels=replace(design.levels, query=(), storage=()))
