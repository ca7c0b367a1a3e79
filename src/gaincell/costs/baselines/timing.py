"""The clock and the meters around many steps of the same work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from gaincell.costs.baselines.meters import Meter, PowerSampler
from gaincell.units import Joule, Second, Watt

WARM_UP = 3
MOST_STEPS = 10_000
FEWEST_RUNS = 3
"""Of which there are as many on a machine that is slower than it seemed."""


class Timed(NamedTuple):
    """runs: time of a step in every run, s.  processor: time for which every thread of it ran, s.
    joules: of all runs, idle power subtracted.  power, idle: W.  samples: of the power.
    """

    runs: list[Second]
    steps: int
    processor: list[Second]
    joules: Joule | None
    power: Watt | None
    idle: Watt | None
    samples: int


def time_steps(
    some: Callable[[int], None],
    device: torch.device,
    meter: Meter | None,
    as_published: bool,
    runs: int,
    seconds: Second,
    idle_seconds: Second,
) -> Timed:
    """Warm up, then do `runs` runs of as many steps as take `seconds` in all, by either protocol.

    some: does so many steps.  device: waited for.  meter: of the device, or None.
    """
    idle = None if meter is None else _idle(meter, idle_seconds)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    some(WARM_UP)
    wait()
    steps = _steps(some, wait, seconds / runs)
    times: list[Second] = []
    processor: list[Second] = []
    powers: list[Watt] = []
    started = time.perf_counter()
    with Metered(meter, as_published) as metered:
        while len(times) < runs and not (len(times) >= FEWEST_RUNS and _late(started, seconds)):
            before = time.process_time()
            times.append(_duration(some, steps, (lambda: None) if as_published else wait) / steps)
            processor.append((time.process_time() - before) / steps / torch.get_num_threads())
            watts = meter.power() if meter is not None and as_published else None
            powers += [] if watts is None else [watts]
            wait()
    if as_published:
        power = sum(powers) / len(powers) if powers else None
        spent = None if power is None else power * sum(times) * steps
        joules = _above(spent, idle, sum(times) * steps)
        return Timed(times, steps, processor, joules, power, idle, len(powers))
    joules = metered.joules
    power = None if joules is None else joules / metered.seconds
    above = _above(joules, idle, metered.seconds)
    return Timed(times, steps, processor, above, power, idle, metered.samples)


def _steps(some: Callable[[int], None], wait: Callable[[], None], seconds: Second) -> int:
    """Steps that take about `seconds`, by doing them for a tenth of it."""
    count, spent = 0, 0.0
    while spent < seconds / 10:
        spent += _duration(some, max(1, count), wait)
        count += max(1, count)
    return max(1, min(MOST_STEPS, round(seconds * count / spent)))


def _late(started: Second, seconds: Second) -> bool:
    return time.perf_counter() - started > 2 * seconds


def _duration(some: Callable[[int], None], count: int, wait: Callable[[], None]) -> Second:
    started = time.perf_counter()
    some(count)
    wait()
    return time.perf_counter() - started


class _Reading:
    """Energy of a stretch of time: from the counter, else from the sampled power."""

    joules: Joule | None = None
    seconds: Second = 0.0
    samples: int = 0


class Metered:
    """Context in which a `_Reading` is taken; it is complete when the context ends."""

    def __init__(self, meter: Meter | None, without_samples: bool = False) -> None:
        self._meter, self._reading = meter, _Reading()
        self._sampler = None if meter is None or without_samples else PowerSampler(meter)

    def __enter__(self) -> _Reading:
        self._before = None if self._meter is None else self._meter.energy()
        self._started = time.perf_counter()
        if self._sampler is not None:
            self._sampler.__enter__()
        return self._reading

    def __exit__(self, *error: Any) -> None:
        reading, sampler = self._reading, self._sampler
        reading.seconds = time.perf_counter() - self._started
        after = None if self._meter is None else self._meter.energy()
        if sampler is not None:
            sampler.__exit__(None, None, None)
            reading.samples = len(sampler.samples)
            if sampler.mean is not None:
                reading.joules = sampler.mean * reading.seconds
        if self._before is not None and after is not None:
            reading.joules = after - self._before


def _idle(meter: Meter, seconds: Second) -> Watt | None:
    """Mean power of the machine before the work."""
    with Metered(meter) as reading:
        time.sleep(seconds)
    return None if reading.joules is None else reading.joules / reading.seconds


def _above(joules: Joule | None, idle: Watt | None, seconds: Second) -> Joule | None:
    return None if joules is None or idle is None else joules - idle * seconds
