"""The clock and the meters around many steps of the same work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from gaincell.costs.baselines.meters import Meter
from gaincell.units import Joule, Second, Watt

WARM_UP = 3
MOST_STEPS = 10_000
FEWEST_RUNS = 3
"""Of which there are as many on a machine that is slower than it seemed."""
SAMPLING: Second = 0.02
"""From sample to sample of the power: about as often as NVML renews it."""


class Timed(NamedTuple):
    """What the runs of a step took.

    Attributes:
        runs: Time of a step in every run, s.
        processor: Processor time of the process, s; of several threads their sum.
        joules: Of all runs, idle power subtracted.
        power: Mean while they ran, W.
        idle: Mean before, W.
        samples: Number of samples of the power.
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

    `some` does so many steps. The idle power is read over `idle_seconds` before them.
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
            processor.append((time.process_time() - before) / steps)
            watts = meter.power() if meter is not None and as_published else None
            powers += [] if watts is None else [watts]
            wait()
    if as_published:
        elapsed, samples = sum(times) * steps, len(powers)
        power = sum(powers) / len(powers) if powers else None
        spent = None if power is None else power * sum(times) * steps
    else:
        elapsed, samples, spent = metered.seconds, len(metered.samples), metered.joules
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
    """Context whose energy is read: from the counter, else from the power, sampled in a thread. Complete when
    it ends.
    """

    joules: Joule | None = None
    seconds: Second = 0.0

    def __init__(self, meter: Meter | None, without_samples: bool = False) -> None:
        self._meter, self._sampled = meter, meter is not None and not without_samples
        self.samples: list[tuple[Second, Watt]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Metered:
        self._before = None if self._meter is None else self._meter.energy()
        self._started = time.perf_counter()
        if self._sampled:
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._started
        after = None if self._meter is None else self._meter.energy()
        if self._sampled:
            self._done.set()
            self._thread.join()
        if self.samples:
            self.joules = mean_power(self.samples) * self.seconds
        if self._before is not None and after is not None:
            self.joules = after - self._before

    def _sample(self) -> None:
        assert self._meter is not None
        while (watts := self._meter.power()) is not None:
            self.samples.append((time.perf_counter(), watts))
            if self._done.wait(SAMPLING):
                return

    @property
    def power(self) -> Watt | None:
        """Mean over the context."""
        return None if self.joules is None else self.joules / self.seconds


def mean_power(samples: Sequence[tuple[Second, Watt]]) -> Watt:
    """Over time, of one sample or more."""
    times, watts = np.array(samples).T
    return float(watts[0] if len(samples) == 1 else np.trapezoid(watts, times) / (times[-1] - times[0]))
