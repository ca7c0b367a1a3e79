"""The arrays with state, driven at random against a model made of Python lists; and what they refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gaincell.arrays import HeadArray, Refresh
from gaincell.chips.design_file import Design, load_design
from gaincell.errors import InputError

TILE, WINDOW, D = 4, 8, 3
SLOT = 10e-9


def chip() -> Design:
    """Eight columns that lose a good part of their voltage in a few steps; 0.5 ms from step to step."""
    return load_design("leroux2025").replace(tile=TILE, window=WINDOW, token_period=0.5e-3)


def level(volts: float) -> float:
    """Write DAC: stored voltage about V_offset."""
    code = min(7, max(0, math.floor((min(max(volts, 0.0), 0.9) - 0.45) * 7 / 0.9 + 4)))
    return (code - 3.5) * 0.9 / 7


def current(u: float) -> float:
    c0, c1, c2, c3 = chip().cell.coefficients or ()
    return c0 + c1 * u + c2 * u * u + c3 * u**3


@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("computed", [torch.float64, torch.float32])
def test_a_zero_key_has_the_upper_code_in_every_type(given: torch.dtype, computed: torch.dtype) -> None:
    """The write DAC rounds what it is asked for, V_offset in the type of the keys, no number near it."""
    head = HeadArray(chip(), D, dtype=computed)
    k = torch.full((1, 1, D), 0.45, dtype=given)
    head.step(torch.ones(1, 1, D, dtype=given), k, k)
    assert head.trace is not None
    assert head.trace.key[0, 0, 0].tolist() == pytest.approx([0.45 / 7] * D)


@dataclass
class Column:
    """What one column holds: written voltages, the digital copy of them, when."""

    key: list[float]
    value: list[float]
    copy: tuple[list[float], list[float]]
    time: float


@dataclass
class ListHead:
    """One head as a list of columns, no tensors."""

    refresh: Refresh
    columns: list[Column | None] = field(default_factory=lambda: [None] * WINDOW)
    pointer: int = 0
    now: float = 0.0
    steps: int = 0
    writes: int = 0
    refreshed: float = 0.0
    refreshed_step: int = 0

    def step(self, q: list[float], k: list[float], v: list[float]) -> list[float]:
        key, value = [level(x) for x in k], [level(x) for x in v]
        self.columns[self.pointer] = Column(key, value, (key, value), self.now)
        self.writes += 1
        x = [math.floor(15 * min(max(a, 0.0), 1.0) + 0.5) / 15 for a in q]
        total = [0.0] * D
        for tile in range(WINDOW // TILE):
            charge = [0.0] * D
            for column in self.columns[tile * TILE : (tile + 1) * TILE]:
                if column is None:
                    continue
                left = math.exp(-(self.now - column.time) / 5e-3)
                score = sum(a * current(u * left) for a, u in zip(x, column.key, strict=True))
                pulse = min(max(score / (1.25 * D), 0.0), 1.0)
                for d in range(D):
                    charge[d] += pulse * current(column.value[d] * left)
            for d in range(D):
                o = min(max(charge[d] / (0.625 * TILE), -1.0), 1.0)
                total[d] += math.copysign(math.floor(15 * abs(o) + 0.5), o) / 15
        self.pointer = (self.pointer + 1) % WINDOW
        self.steps += 1
        self.work(0.5e-3)
        every = self.refresh.every_tokens
        if every is not None and self.steps - self.refreshed_step >= every:
            self.do_refresh()
        return total

    def idle(self, seconds: float) -> None:
        end, every = self.now + seconds, self.refresh.every_seconds
        while every is not None and self.refreshed + every <= end:
            self.now = max(self.now, self.refreshed + every)
            self.do_refresh()
        self.now = max(self.now, end)

    def work(self, seconds: float) -> None:
        every = self.refresh.every_seconds
        while every is not None and self.refreshed + every <= self.now + seconds:
            wait = max(0.0, self.refreshed + every - self.now)
            seconds -= wait
            self.now += wait
            self.do_refresh()
        self.now += seconds

    def do_refresh(self) -> None:
        for column in self.columns:
            if column is None:
                continue
            if self.refresh.kind == "copy":
                column.key, column.value = column.copy
            else:
                left = math.exp(-(self.now - column.time) / 5e-3)
                column.key = [level(0.45 + u * left) for u in column.key]
                column.value = [level(0.45 + u * left) for u in column.value]
            column.time = self.now
            self.now += SLOT
            self.writes += 1
        self.refreshed, self.refreshed_step = self.now, self.steps

    def reset(self) -> None:
        self.columns = [None] * WINDOW
        self.pointer = 0


numbers = st.lists(st.floats(-0.2, 1.1), min_size=D, max_size=D)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("step"), numbers, numbers, numbers),
        st.tuples(st.just("idle"), st.sampled_from([0.0, 1e-6, 0.9e-3, 4e-3, 25e-3])),
        st.tuples(st.just("refresh")),
        st.tuples(st.just("reset")),
    ),
    min_size=1,
    max_size=40,
)
policies = st.sampled_from(
    [
        Refresh(),
        Refresh("copy", every_tokens=3),
        Refresh("copy", every_seconds=1.3e-3),
        Refresh("reread", every_tokens=2),
        Refresh("reread", every_seconds=0.7e-3),
    ]
)


@pytest.mark.slow
@settings(max_examples=60)
@given(operations, policies)
def test_any_sequence_of_operations_matches_a_list_of_columns(ops: list[tuple], policy: Refresh) -> None:
    head = HeadArray(chip(), D, refresh=policy, write_slot=SLOT)
    lists = ListHead(policy)
    for name, *arguments in ops:
        if name == "step":
            expected = lists.step(*arguments)
            got = head.step(*(torch.tensor([[a]], dtype=torch.float64) for a in arguments))
            assert got[0, 0].tolist() == pytest.approx(expected, abs=1e-9)
        elif name == "idle":
            lists.idle(*arguments)
            head.idle(*arguments)
        elif name == "reset":
            lists.reset()
            head.reset()
        elif policy.kind != "none":
            lists.do_refresh()
            head.refresh()
        assert head.now == pytest.approx(lists.now, rel=1e-12)
        assert head.writes == lists.writes
        assert int(head.state.pointer[0]) == lists.pointer
        assert head.state.valid[0].tolist() == [column is not None for column in lists.columns]


def token(heads: int = 1, dim: int = D, value: float = 0.5) -> torch.Tensor:
    return torch.full((1, heads, dim), value, dtype=torch.float64)


def test_a_head_without_a_layer_is_refused() -> None:
    with pytest.raises(InputError, match="layer = -3; give the number of the layer, counted from 0"):
        HeadArray(chip(), D, layer=-3)


@pytest.mark.parametrize(
    ("q", "message"),
    [(token(dim=D + 1), r"this head takes \(1, 1, 3\)"), (token(value=math.nan), "finite numbers")],
)
def test_a_bad_query_is_refused_and_nothing_is_written(q: torch.Tensor, message: str) -> None:
    head = HeadArray(chip(), D)
    with pytest.raises(InputError, match=message):
        head.step(q, token(), token())
    assert head.writes == 0
    assert not bool(head.state.valid.any())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"idle for -1.0 s"):
        HeadArray(chip(), D).idle(-1.0)
    with pytest.raises(InputError, match="needs one period"):
        Refresh("copy")
    with pytest.raises(InputError, match="choose one of none, copy, reread"):
        Refresh("often", every_tokens=1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no refresh policy"):
        HeadArray(chip(), D).refresh()
    with pytest.raises(InputError, match="takes longer than its period"):
        HeadArray(chip(), D, refresh=Refresh("copy", every_seconds=8 * SLOT), write_slot=SLOT)
    with pytest.raises(InputError, match="multiple of kv_heads"):
        HeadArray(chip(), D, heads=3, kv_heads=2)
    with pytest.raises(InputError, match="design is 'leroux2025'; give a Design"):
        HeadArray("leroux2025")  # type: ignore[arg-type]


def test_the_trace_speaks_in_volts_charge_units_and_shares_of_a_pulse() -> None:
    design = chip()
    head = HeadArray(design, D)
    head.step(token(value=1.0), token(value=0.9), token(value=0.9))
    trace = head.trace
    assert trace is not None
    assert trace.key[0, 0, 0].tolist() == pytest.approx([0.9 - design.v_offset] * D)
    assert trace.query[0, 0].tolist() == pytest.approx([1.0] * D)
    assert float(trace.scores[0, 0, 0]) == pytest.approx(D * current(0.45))
    assert float(trace.pulses[0, 0, 0]) == pytest.approx(1.0)
    assert trace.tile_codes[0, 0, 0].tolist() == [15] * D
    assert trace.tile_codes[0, 0, 1].tolist() == [0] * D
