"""The clock and the meters around many steps of the same work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

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
    idle = None
    if meter is not None:
        with Metered(meter) as before_work:
            time.sleep(idle_seconds)
        idle = before_work.power

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
        while len(times) < runs:
            if len(times) >= FEWEST_RUNS and time.perf_counter() - started > 2 * seconds:
                break
            before = time.process_time()
            times.append(_duration(some, steps, (lambda: None) if as_published else wait) / steps)
            processor.append((time.process_time() - before) / steps / torch.get_num_threads())
            watts = meter.power() if meter is not None and as_published else None
            powers += [] if watts is None else [watts]
            wait()
    if as_published:
        elapsed, samples = sum(times) * steps, len(powers)
        power = sum(powers) / len(powers) if powers else None
        spent = None if power is None else power * sum(times) * steps
    else:
        elapsed, samples, spent = metered.seconds, metered.samples, metered.joules
        power = metered.power
    above = None if spent is None or idle is None else spent - idle * elapsed
    return Timed(times, steps, processor, above, power, idle, samples)


def _steps(some: Callable[[int], None], wait: Callable[[], None], seconds: Second) -> int:
    """Steps that take about `seconds`, by doing them for a tenth of it."""
    count, spent = 0, 0.0
    while spent < seconds / 10:
        spent += _duration(some, max(1, count), wait)
        count += max(1, count)
    return max(1, min(MOST_STEPS, round(seconds * count / spent)))


def _duration(some: Callable[[int], None], count: int, wait: Callable[[], None]) -> Second:
    started = time.perf_counter()
    some(count)
    wait()
    return time.perf_counter() - started


class Metered:
    """Context whose energy is read: from the counter, else from the sampled power. Complete when it ends."""

    joules: Joule | None = None
    seconds: Second = 0.0
    samples: int = 0

    def __init__(self, meter: Meter | None, without_samples: bool = False) -> None:
        self._meter = meter
        self._sampler = None if meter is None or without_samples else PowerSampler(meter)

    def __enter__(self) -> Metered:
        self._before = None if self._meter is None else self._meter.energy()
        self._started = time.perf_counter()
        if self._sampler is not None:
            self._sampler.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._started
        after = None if self._meter is None else self._meter.energy()
        if self._sampler is not None:
            self._sampler.__exit__()
            self.samples, mean = len(self._sampler.samples), self._sampler.mean
            self.joules = None if mean is None else mean * self.seconds
        if self._before is not None and after is not None:
            self.joules = after - self._before

    @property
    def power(self) -> Watt | None:
        """Mean over the context."""
        return None if self.joules is None else self.joules / self.seconds
