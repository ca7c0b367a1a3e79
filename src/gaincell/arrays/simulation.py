"""A head token by token, observed: what `gaincell simulate` shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gaincell.arrays.head import HeadArray
from gaincell.arrays.refresh import Refresh
from gaincell.arrays.schedule import Phase, Schedule
from gaincell.chips.design import Design
from gaincell.chips.design_file import chip_of
from gaincell.progress import StageProgress
from gaincell.results import provenance, simulation
from gaincell.results.common import Provenance
from gaincell.units import Second


class Signals(NamedTuple):
    """Of one sequence: query pulse widths [1, H, T, D], key and value voltages [1, Hk, T, D]."""

    q: Tensor
    k: Tensor
    v: Tensor


def random_signals(design: Design, tokens: int, group: int, head_dim: int, seed: int) -> Signals:
    """Signals whose scores are a little below zero on average, as after a conversion: 0.40 +- 0.15 V and
    0.45 +- 0.30 V of keys and values on the paper's chip, in proportion to its voltages on others.
    """
    random, span = torch.Generator().manual_seed(seed), (design.v_max - design.v_min) / 0.9
    q = torch.randn(1, group, tokens, head_dim, generator=random) * 0.4 + 0.15
    k = torch.randn(1, 1, tokens, head_dim, generator=random) * (0.15 * span) + (
        design.v_offset - 0.05 * span
    )
    v = torch.randn(1, 1, tokens, head_dim, generator=random) * (0.3 * span) + design.v_offset
    return Signals(q, k, v)


def step_through(
    design: Design, signals: Signals, policy: Refresh | None, progress: StageProgress
) -> tuple[HeadArray, tuple[simulation.TracedStep, ...]]:
    """Step a head through tokens; the head, and what was observed."""
    q, k, v = signals
    heads, kv_heads, tau = q.shape[1], k.shape[1], design.tau
    dim, slot = q.shape[-1], design.unstated_latency
    arrays = HeadArray(
        design, dim, heads=heads, kv_heads=kv_heads, refresh=policy, write_slot=slot, dtype=torch.float32
    )
    shown = progress("step")
    steps = []
    for t in range(q.shape[2]):
        output = arrays.step(q[:, :, t], k[:, :, t], v[:, :, t])
        trace = arrays.trace
        assert trace is not None
        held, oldest = int(trace.valid.sum()), arrays.oldest_age(trace.time)
        left = 1.0 if tau is None else float(torch.exp(torch.tensor(-oldest / tau)))
        pulses = (trace.pulses > 0, trace.pulses >= 1)
        above, full = (float(of_kind.sum()) / (max(held, 1) * heads) for of_kind in pulses)
        rms = float(output.square().mean().sqrt())
        steps.append(simulation.TracedStep(t, trace.time, held, left, above, full, rms))
        shown(t + 1, q.shape[2], {})
    return arrays, tuple(steps)


def head_result(
    arrays: HeadArray,
    steps: tuple[simulation.TracedStep, ...],
    schedule: Schedule,
    layers: int,
    others: Second,
    command: Sequence[str],
    seed: int,
    inputs: Mapping[str, str] | None = None,
) -> simulation.HeadResult:
    """Of `gaincell simulate head`.

    Args:
        arrays: The head after its steps.
        steps: Its steps.
        schedule: Of the head.
        layers: As in `Schedule.token_period`. Where the design states another period than follows from them,
            there is no sensitivity to the assumed latency.
        others: As in `Schedule.token_period`.
        command: The command line, for the provenance.
        seed: Of the random numbers.
        inputs: Files and their hashes, for the provenance.
    """
    phases = tuple(simulation.SchedulePhase(p.name, *_stated(p)) for p in schedule.phases)
    events = schedule.events(2)
    shown = (
        simulation.ScheduleEvent(e.phase.name, e.token, e.query, e.start, *_stated(e.phase)) for e in events
    )
    ends = tuple(max(e.end for e in events if e.token == token) for token in (0, 1))
    period = schedule.design.token_period
    follows = math.isclose(period, schedule.token_period(layers, others))
    return simulation.HeadResult(
        design=chip_of(schedule.design),
        schedule=simulation.StepSchedule(phases, schedule.latency, period, schedule.utilisation()),
        timeline=simulation.Timeline(tuple(shown), ends),
        sensitivity=schedule.sensitivity(layers, others) if follows else (),
        trace=steps,
        refreshes=arrays.clock.refreshes,
        writes=arrays.writes,
        chip_time=arrays.now,
        provenance=_made(schedule.design, command, seed, inputs),
    )


def _stated(phase: Phase) -> tuple[Second, str, tuple[str, ...]]:
    """What a result says of a phase beside its name."""
    return phase.duration, phase.basis, phase.circuits


def tile_result(
    found: simulation.Waveforms,
    design: Design,
    command: Sequence[str],
    seed: int,
    inputs: Mapping[str, str] | None = None,
) -> simulation.TileResult:
    """Of `gaincell simulate tile`.

    Args:
        found: Waveforms of the sub-tile.
        design: The chip.
        command: The command line, for the provenance.
        seed: Of the random numbers.
        inputs: Files and their hashes, for the provenance.
    """
    made = _made(design, command, seed, inputs)
    return simulation.TileResult(design=chip_of(design), waveforms=found, provenance=made)


def _made(design: Design, command: Sequence[str], seed: int, inputs: Mapping[str, str] | None) -> Provenance:
    return provenance.made(
        command=command, seed=seed, protocol="token by token", design_hash=design.hash, inputs=inputs
    )
