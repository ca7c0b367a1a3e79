"""The schedule: arithmetic of its phases, and no circuit that does two things at a time."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gaincell.arrays import Schedule
from gaincell.chips.design_file import load_design
from gaincell.errors import InputError

PAPER = load_design("leroux2025")


def test_the_paper_s_step_takes_65_ns() -> None:
    assert Schedule(PAPER).latency == pytest.approx(65e-9, rel=1e-12)
    assert Schedule(PAPER).latency == pytest.approx(PAPER.layer_latency, rel=1e-12)
    assert Schedule(PAPER).token_period(12) == pytest.approx(PAPER.token_period, rel=1e-12)


def test_the_timeline_moves_as_arithmetic_says() -> None:
    latency = Schedule(PAPER).latency
    longer = Schedule(PAPER.replace(t_pulse_max=20e-9))
    assert longer.latency - latency == pytest.approx(2 * 5e-9)
    slower = Schedule(PAPER.replace(counter_clock=0.5e9))
    assert slower.latency - latency == pytest.approx(15e-9 + 4e-9)
    more_tiles = Schedule(PAPER.replace(window=4096))
    assert more_tiles.latency - latency == pytest.approx(2e-9, rel=1e-6, abs=0)
    assert Schedule(PAPER.replace(readout="none")).latency - latency == pytest.approx(-15e-9)


def test_signed_queries_take_a_second_key_read() -> None:
    signed = Schedule(load_design("leroux2025-signed"))
    assert signed.latency == pytest.approx(80e-9)
    assert signed.latency == pytest.approx(signed.design.layer_latency)


def test_order_within_a_step() -> None:
    at = {event.phase.name: event for event in Schedule(PAPER).step}
    assert at["key write"].start == 0
    assert at["key read"].start == at["value write"].start == pytest.approx(16e-9)
    assert at["value read"].start == pytest.approx(31e-9)
    assert at["count"].start == pytest.approx(46e-9)
    assert at["add"].start == pytest.approx(61e-9)


@pytest.mark.parametrize("group", [1, 2, 3, 8])
def test_every_further_query_of_a_group_costs_two_reads(group: int) -> None:
    """The integrators of the scores are busy from key read to value read: 2 T_max a query."""
    schedule = Schedule(PAPER, group)
    assert schedule.latency == pytest.approx(65e-9 + (group - 1) * 30e-9)
    writes = [event for event in schedule.step if event.phase.once]
    assert [event.phase.name for event in writes] == ["key write", "value write"]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9), st.sampled_from([5e-9, 15e-9, 40e-9]))
def test_no_circuit_does_two_things_at_once(group: int, streams: int, tokens: int, t_max: float) -> None:
    schedule = Schedule(PAPER.replace(t_pulse_max=t_max), group)
    events = schedule.events(tokens, streams)
    for circuit in {c for event in events for c in event.phase.circuits}:
        busy = sorted((e.start, e.end) for e in events if circuit in e.phase.circuits)
        assert all(end <= start + 1e-15 for (_, end), (start, _) in itertools.pairwise(busy))
    for stream in range(streams):
        mine = [[e for e in events if e.token == t] for t in range(stream, tokens, streams)]
        for before, after in itertools.pairwise(mine):
            assert max(e.end for e in before) <= min(e.start for e in after) + 1e-15


def test_throughput_of_streams_that_take_turns() -> None:
    """One stream waits for its own result; several fill the gaps, up to what the busiest circuit allows."""
    schedule = Schedule(PAPER)
    assert schedule.throughput(1) == pytest.approx(1 / 65e-9, rel=1e-9)
    busiest = max(schedule.utilisation().values())
    bound = 1 / (busiest * schedule.latency)
    assert schedule.throughput(1) < schedule.throughput(2) <= bound * 1.02


def test_sensitivity_to_the_assumed_number() -> None:
    rows = Schedule(PAPER).sensitivity(12, 1e-6, (0.5, 1.0, 2.0))
    latencies = [57e-9, 65e-9, 81e-9]
    periods = [12 * (latency + 1e-6) for latency in latencies]
    assert [row.latency for row in rows] == pytest.approx(latencies)
    assert [row.tokens_per_second for row in rows] == pytest.approx([1 / period for period in periods])
    assert [row.decay_per_token for row in rows] == pytest.approx(
        [math.exp(-period / 5e-3) for period in periods], rel=1e-12
    )


def test_what_cannot_be_scheduled_is_refused() -> None:
    with pytest.raises(InputError, match="group = 0"):
        Schedule(PAPER, 0)
    with pytest.raises(InputError, match="tokens = 0"):
        Schedule(PAPER).events(0)
    with pytest.raises(InputError, match="layers = 0"):
        Schedule(PAPER).token_period(0)
