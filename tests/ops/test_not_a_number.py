"""How far a NaN reaches: every implementation as naive.py, and that as one query alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.test_nonideal import EFFECTS
from tests.tiers import slow
from torch import Tensor

from gaincell.chips.design_file import Design, load_design
from gaincell.circuits.sinks import Sinks
from gaincell.features import missing
from gaincell.ops.gain_cell_attention import gain_cell_attention, native_library
from gaincell.ops.gain_cell_attention.backends import decode

BATCH, HEADS, KV_HEADS, TOKENS, DIM, M = 2, 4, 2, 50, 16, 32
CHIPS = {
    "nominal": {},
    "everything": EFFECTS["everything"],
    "write error": EFFECTS["write error"],
    "normalising column": EFFECTS["normalising column"],
    "uneven levels": EFFECTS["uneven levels"],
    "sinks": {"sinks": Sinks(4)},
    "x5, no levels": {"cell": "x5", "storage_levels": None, "query_levels": None},
}
BUILT = native_library.compiled_library() is not None
NATIVE = [f"native-{level}" for level in native_library.levels()] if BUILT else []


def chip(name: str) -> Design:
    return load_design("leroux2025").replace(window=M, tile=16, token_period=20e-6, **CHIPS[name])


def signals() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {"q": HEADS, "k": KV_HEADS, "v": KV_HEADS}
    return {
        name: torch.rand(BATCH, heads, TOKENS, DIM, generator=g) * 1.5 - 0.3 for name, heads in shapes.items()
    }


spots = st.sets(
    st.tuples(
        st.sampled_from("qkv"),
        st.integers(0, BATCH - 1),
        st.integers(0, KV_HEADS - 1),
        st.integers(0, TOKENS - 1),
        st.integers(0, DIM - 1),
        st.sampled_from([torch.nan, torch.inf, -torch.inf]),
    ),
    min_size=1,
    max_size=4,
)


def spoiled(where: set[tuple[str, int, int, int, int, float]]) -> dict[str, Tensor]:
    inputs = signals()
    for name, *at, value in where:
        inputs[name][tuple(at)] = value
    return inputs


@pytest.mark.parametrize("name", [slow(name) if name == "everything" else name for name in CHIPS])
@given(where=spots, window=st.sampled_from([None, 20]), padded=st.booleans())
@settings(max_examples=12, deadline=None)
def test_implementations_agree(
    name: str, where: set[tuple[str, int, int, int, int, float]], window: int | None, padded: bool
) -> None:
    inputs, design, options = spoiled(where), chip(name), {"sliding_window": window, "layer": 1}
    if padded:
        index = torch.arange(TOKENS).repeat(BATCH, 1)
        index[1] = torch.cat([torch.arange(10), torch.full((7,), -1), torch.arange(10, TOKENS - 7)])
        options["key_index"] = index
    expected = gain_cell_attention(**inputs, design=design, backend="naive", **options)
    for backend in ("blocked", *NATIVE):
        found = gain_cell_attention(**inputs, design=design, backend=backend, **options)
        assert torch.equal(found.isnan(), expected.isnan()), backend
        apart = (found - expected).nan_to_num().abs()
        differ = float((apart > 1e-3).double().mean())
        assert differ <= 2e-3, backend  # a code apart where a charge is at a threshold
    last = {n: t[:, :, -1:] if n == "q" else t for n, t in inputs.items()}
    alone = "auto" if missing(design.in_use, decode.IMPLEMENTS) else "decode"
    one = gain_cell_attention(**last, design=design, backend=alone, **options)
    assert torch.equal(one.isnan(), expected[:, :, -1:].isnan())


@given(where=spots, window=st.sampled_from([M, 20]))
@settings(max_examples=40, deadline=None)
def test_a_nan_reaches_what_reads_it_and_nothing_else(
    where: set[tuple[str, int, int, int, int, float]], window: int
) -> None:
    """Clamps take infinity for the end of the range."""
    inputs = spoiled(where)
    expected = torch.zeros(BATCH, HEADS, TOKENS, DIM, dtype=torch.bool)
    for name, row, head, token, component, value in where:
        if value == value:
            continue
        group = slice(head, head + 1) if name == "q" else slice(2 * head, 2 * head + 2)
        reached = expected[row, group, token : token + 1 if name == "q" else token + window]
        reached[..., component if name == "v" else slice(None)] = True
    found = gain_cell_attention(**inputs, design=chip("nominal"), backend="naive", sliding_window=window)
    assert torch.equal(found.isnan(), expected)
    clean = gain_cell_attention(
        **{n: t.nan_to_num() for n, t in inputs.items()},
        design=chip("nominal"),
        backend="naive",
        sliding_window=window,
    )
    assert torch.equal(found[~expected], clean[~expected])


@pytest.mark.parametrize("backend", ["naive", "blocked", *NATIVE])
def test_a_batch_of_padding_alone_has_gradients(backend: str) -> None:
    leaves = [t.requires_grad_() for t in signals().values()]
    index = torch.full((BATCH, TOKENS), -1)
    out = gain_cell_attention(*leaves, chip("nominal"), backend=backend, key_index=index)
    for gradient in torch.autograd.grad(out.sum(), leaves):
        assert not gradient.any()
