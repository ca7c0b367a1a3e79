"""The digital blocks against plain arithmetic, and against the arrays that they serve."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaincell.arrays import HeadArray
from gaincell.arrays.digital import AdderTree, WriteAddressController
from gaincell.chips.design_file import load_design
from gaincell.errors import InputError


@given(st.integers(1, 40), st.lists(st.sampled_from(["write", "reset", "hold"]), max_size=120))
def test_the_pointer_counts_writes_modulo_the_columns(columns: int, edges: list[str]) -> None:
    controller, writes = WriteAddressController(columns), 0
    for edge in edges:
        controller.clock(write=edge == "write", reset=edge == "reset")
        writes = 0 if edge == "reset" else writes + (edge == "write")
        assert controller.pointer == writes % columns
        assert sum(controller.valid) == min(writes, columns)
        assert controller.select.index(True) == controller.pointer
        assert controller.pointer < 2**controller.bits


@given(st.integers(1, 33), st.integers(2, 6), st.data())
def test_the_tree_adds_what_entered_depth_edges_before(inputs: int, width: int, data: st.DataObject) -> None:
    code = st.integers(-(2 ** (width - 1)), 2 ** (width - 1) - 1)
    entered = data.draw(st.lists(st.lists(code, min_size=inputs, max_size=inputs), min_size=1, max_size=8))
    tree = AdderTree(inputs, width)
    zeros = [0] * inputs
    came_out = [tree.clock(codes) for codes in [*entered, *[zeros] * tree.depth]]
    late = max(tree.depth - 1, 0)
    assert came_out[late : late + len(entered)] == [sum(codes) for codes in entered]
    for level, bits in zip(tree.levels, tree.widths(), strict=True):
        assert all(-(2 ** (bits - 1)) <= value < 2 ** (bits - 1) for value in level)


def test_controller_and_tree_agree_with_the_arrays() -> None:
    design = load_design("leroux2025").replace(tile=8, window=32, cell="linear")
    head = HeadArray(design, 8)
    controller = WriteAddressController(design.window)
    random = torch.Generator().manual_seed(1)
    for _ in range(70):
        q, k, v = torch.rand(3, 1, 1, 8, generator=random, dtype=torch.float64)
        assert controller.pointer == int(head.state.pointer[0])
        output = head.step(q, k, v)
        controller.clock(write=True)
        assert controller.valid == head.state.valid[0].tolist()
        assert head.trace is not None
        for row, codes in enumerate(head.trace.tile_codes[0, 0].T.tolist()):
            tree = AdderTree(design.tiles, 5)
            sums = [tree.clock(codes) for _ in range(tree.depth)]
            assert sums[-1] / 15 == pytest.approx(float(output[0, 0, row]), abs=1e-12)


def test_codes_beyond_the_width_are_refused() -> None:
    with pytest.raises(InputError, match="2 codes from -16 to 15"):
        AdderTree(2, 5).clock([16, 0])
