"""A head token by token, observed: what `gaincell simulate` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaincell.arrays.head import HeadArray
from gaincell.arrays.refresh import Refresh
from gaincell.arrays.schedule import Schedule
from gaincell.arrays.waveforms import Waveforms
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


def random_signals(tokens: int, group: int, head_dim: int, seed: int) -> Signals:
    """Signals whose scores are a little below zero on average, as after a conversion."""
    random = torch.Generator().manual_seed(seed)
    q = torch.randn(1, group, tokens, head_dim, generator=random) * 0.4 + 0.15
    k = torch.randn(1, 1, tokens, head_dim, generator=random) * 0.15 + 0.40
    v = torch.randn(1, 1, tokens, head_dim, generator=random) * 0.3 + 0.45
    return Signals(q, k, v)


def step_through(
    design: Design, signals: Signals, policy: Refresh | None, progress: StageProgress
) -> tuple[HeadArray, tuple[simulation.TracedStep, ...]]:
    """Step a head through tokens; the head, and what was observed."""
    q, k, v = signals
    heads = q.shape[1]
    arrays = HeadArray(
        design,
        q.shape[-1],
        heads=heads,
        kv_heads=k.shape[1],
        refresh=policy,
        write_slot=design.unstated_latency,
        dtype=torch.float32,
    )
    shown = progress("step")
    steps = []
    for t in range(q.shape[2]):
        output = arrays.step(q[:, :, t], k[:, :, t], v[:, :, t])
        trace = arrays.trace
        assert trace is not None
        held = int(trace.valid.sum())
        oldest, tau = arrays.oldest_age(trace.time), design.tau
        left = 1.0 if tau is None else float(torch.exp(torch.tensor(-oldest / tau)))
        above, full = (
            float(pulses.sum()) / (held * heads) for pulses in (trace.pulses > 0, trace.pulses >= 1)
        )
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
) -> simulation.HeadResult:
    """Of `gaincell simulate head`. layers, others: as in `Schedule.token_period`."""
    events = schedule.events(2)
    return simulation.HeadResult(
        command="simulate head",
        design=chip_of(schedule.design),
        schedule=simulation.StepSchedule(
            tuple(
                simulation.SchedulePhase(phase.name, phase.duration, phase.basis, phase.circuits)
                for phase in schedule.phases
            ),
            schedule.latency,
            schedule.token_period(layers, others),
            schedule.utilisation(),
        ),
        timeline=simulation.Timeline(
            tuple(
                simulation.ScheduleEvent(
                    event.phase.name,
                    event.token,
                    event.query,
                    event.start,
                    event.phase.duration,
                    event.phase.basis,
                    event.phase.circuits,
                )
                for event in events
            ),
            tuple(max(e.end for e in events if e.token == token) for token in (0, 1)),
        ),
        sensitivity=tuple(
            simulation.LatencySensitivity(**row) for row in schedule.sensitivity(layers, others)
        ),
        trace=steps,
        refreshes=arrays.clock.refreshes,
        writes=arrays.writes,
        chip_time=arrays.now,
        provenance=_made(schedule.design, command, seed),
    )


def tile_result(
    found: Waveforms, design: Design, head_dim: int, command: Sequence[str], seed: int
) -> simulation.TileResult:
    """Of `gaincell simulate tile`."""
    waves: dict[str, Any] = {name: _plain(tensor.tolist()) for name, tensor in vars(found).items()}
    return simulation.TileResult(
        command="simulate tile",
        design=chip_of(design),
        waveforms=simulation.Waveforms(
            **waves,
            score_saturation=design.score_saturation(head_dim) * design.charge_unit,
            output_saturation=design.output_saturation * design.charge_unit,
        ),
        provenance=_made(design, command, seed),
    )


def _plain(numbers: Any) -> Any:
    return tuple(map(_plain, numbers)) if isinstance(numbers, list) else numbers


def _made(design: Design, command: Sequence[str], seed: int) -> Provenance:
    return provenance.made(command=command, seed=seed, protocol="token by token", design_hash=design.hash)
