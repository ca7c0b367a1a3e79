"""Netlists are the same text for the same circuit; regenerate: python -m tests.spice.regenerate."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.spice.circuits import circuits

from gaincell.errors import InputError
from gaincell.spice.netlists.array import WireElement, array_slice, word_line
from gaincell.spice.netlists.readout import RELU, Readout
from gaincell.spice.technology import Corner, Site, technology, user_technology

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", sorted(circuits()))
def test_the_text_of_a_circuit_is_the_golden_one(name: str) -> None:
    assert circuits()[name].text == (GOLDEN / f"{name}.cir").read_text(encoding="utf-8")


def test_no_netlist_and_no_card_holds_a_path() -> None:
    for circuit in circuits().values():
        assert not re.search(r"(?m)^\.(include|lib)\s+\S*/", circuit.text)
        assert all("/home" not in text for text in circuit.files.values())


@given(st.floats(0, 15e-9))
def test_times_of_a_pulse_rise_whatever_its_width(width: float) -> None:
    source = word_line(0, width, 1e-9, 0.9, 2, WireElement(), 0, 0)[0]
    if "PWL" in source:
        times = [float(t) for t in re.findall(r"[\d.e+-]+", source.split("PWL(")[1])[::2]]
        assert times == sorted(times)


def test_shapes_that_do_not_fit_are_refused() -> None:
    free = Site(technology("freepdk45"))
    with pytest.raises(InputError, match="they must fit"):
        array_slice(free, [[0.0]], [1e-9, 1e-9], Readout(RELU, 1e-13))
    with pytest.raises(InputError, match="longer than the longest"):
        array_slice(free, [[0.0]], [1e-6], Readout(RELU, 1e-13))


def test_corners_and_technologies_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="allowed: nominal, fast"):
        Corner("typical")
    with pytest.raises(InputError, match=r"0\.5 to 1\.5"):
        Corner(supply=3.0)
    with pytest.raises(InputError, match="--lib FILE"):
        technology("sky130")
    kit = tmp_path / "kit.lib"
    with pytest.raises(InputError, match="cannot be read"):
        user_technology(kit, "n", "p")
    kit.write_text(".model n nmos level=54\n")
    with pytest.raises(InputError, match="defines no model or subcircuit 'p'"):
        user_technology(kit, "n", "p")
    with pytest.raises(InputError, match="an order of the letters"):
        user_technology(kit, "n", "n", nodes="dgs")
    with pytest.raises(InputError, match="nodes = 'gdsb' are of subcircuits; give --subcircuits"):
        user_technology(kit, "n", "n", nodes="gdsb")
    kit.write_text(".lib tt\n.model n nmos level=54\n.endl\n")
    with pytest.raises(InputError, match="defines no model or subcircuit 'p'"):
        user_technology(kit, "n", "p")


@pytest.mark.parametrize("line", ['.include "slow.spi"', ".inc slow.spi", '.lib "corners.lib" tt'])
def test_models_may_lie_in_files_that_the_kit_includes(line: str, tmp_path: Path) -> None:
    kit = tmp_path / "kit.spi"
    kit.write_text(f"* top\n{line}\n")
    assert user_technology(kit, "n", "p").kit == str(kit.resolve())


def test_gate_tunnelling_is_off_unless_asked_for() -> None:
    free = technology("freepdk45")
    quiet, loud = (free.files(Corner(), tunnelling=t)["card.spi"] for t in (False, True))
    assert not re.search(r"ig[cb]mod\s*=\s*1", quiet)
    assert len(re.findall(r"ig[cb]mod\s*=\s*1", loud)) == 16
    assert "SPDX-License-Identifier: Apache-2.0" in loud
