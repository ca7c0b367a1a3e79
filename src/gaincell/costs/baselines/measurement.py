"""Time and energy of one configuration of single-query attention, with a stated protocol.

    fair        Steps go round over copies of the cache, together of COLD_BYTES or more, as over the layers of
                a model; protocol.py compares them with the machine's own cache. Warm-up, then `runs` runs of
                many steps; the GPU is waited for before the clock is read. Latency is the median run over its
                steps; of a token: over the batch as well, since a batch comes out together. Energy is that of
                all runs, from the energy counter if there is one, else from the power sampled meanwhile, less
                the idle power before.
    published   As the authors of the paper did [R]: mask of a causal square (see attention.py), float32, one
                copy of the cache, the clock read without waiting for the GPU, the power once after each run.
                Faulty.

Every measurement carries the largest error of its output against the equation in float64.
Not modelled: that other programs share the machine (`busy` says how much of its processor one thread got).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from itertools import cycle
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gaincell.costs.baselines.attention import PUBLISHED, Cache, Step, implementation, quantised, reference
from gaincell.costs.baselines.meters import Meter, meter_for
from gaincell.costs.baselines.timing import Timed, time_steps
from gaincell.errors import InputError
from gaincell.results.common import Value
from gaincell.results.system_cost import Measured, Timing
from gaincell.units import Joule, Second

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
COLD_BYTES = {"cpu": 2**27, "cuda": 2**28}
"""Caches together are at least so large: more than the last level of most processors and GPUs, not of all."""
MOST_CACHES = 256
"""Which small ones need not fill."""
PATTERN = 2**20
"""Random numbers drawn; larger caches repeat them, which no kernel notices."""


class Measurement(Timing, kw_only=True):
    """One configuration on one machine.

    Attributes:
        implementation: Of attention.IMPLEMENTATIONS.
        dtype: Of queries and arithmetic.
        device: cpu, cuda, ...
        context: Keys T.
        runs: Time of one step of the whole batch, in every run, s.
        steps: Of a run.
        latency: Of a step of the whole batch: the median run.
        latency_per_token: Over the batch: the inverse throughput, not what one sequence waits.
        bandwidth: Bytes of the cache read per second.
        caches: Copies that the steps went round.
        cache_bytes: Read by a step.
        error: Largest difference to the exact output over the largest output.
        processor: Time of a step, in every run, for which its one thread ran, s; below `runs` where other
            programs share the processor. Empty on a GPU, and of several threads, some of which wait for one
            another or for a core.
        processor_per_token: Its median over the batch.
        busy: Share of the time that its thread ran; well below 1: the machine was shared.
        energy: Of one token (a step over the batch), idle power subtracted, J; None: `no_energy` says why.
        power: Mean while it ran, W.
        idle_power: Mean before, W.
        power_samples: Number of samples of the power.
        meter: RAPL, NVML.
        state: Clocks and limits of a GPU at the end.
    """

    device: str
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def undisturbed_per_token(self) -> Second:
        """Of a token with the processor to itself, as nearly as is known."""
        return min(self.latency_per_token, self.processor_per_token or self.latency_per_token)

    def as_measured(self) -> Measured:
        """The measurement as the comparisons of gaincell.costs take it: undisturbed, energy of all heads. Its
        latency is one for batch 1 only.
        """
        return Measured(
            title=f"this {self.device}, {self.implementation} {self.dtype}, batch {self.batch}",
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            context=self.context,
            latency=self.undisturbed_per_token,
            energy=self.energy,
            kind="measured",
            source=f"measured here, {self.protocol} protocol, {len(self.runs)} runs",
            batch=self.batch,
        )

    def as_timing(self) -> Timing:
        """The measurement as a result states it."""
        return Timing(**{f.name: getattr(self, f.name) for f in fields(Timing)})


def check_dtype(dtype: str, name: str) -> None:
    if dtype not in DTYPES or (name == PUBLISHED and dtype != "float32"):
        allowed = "float32" if name == PUBLISHED else ", ".join(DTYPES)
        raise InputError(f"dtype {dtype!r} of {name!r}: allowed: {allowed}")


def _processor(timed: Timed, batch: int) -> dict[str, Any]:
    """What a processor is busy with; nothing of several threads."""
    if torch.get_num_threads() > 1:
        return {}
    return {
        "processor": tuple(timed.processor),
        "processor_per_token": median(timed.processor) / batch,
        "busy": sum(timed.processor) / sum(timed.runs),
    }


def measure(
    heads: int = 12,
    kv_heads: int | None = None,
    head_dim: int = 64,
    context: int = 1024,
    batch: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
    *,
    name: str = "sdpa",
    runs: int = 5,
    seconds: Second = 1.0,
    idle_seconds: Second = 0.5,
    seed: int = 0,
) -> Measurement:
    """Time one configuration; takes about `seconds`, and `idle_seconds` where power can be read.

    Args:
        heads: H.
        kv_heads: Hk; None: H.
        head_dim: D.
        context: Keys and values of every sequence.
        batch: Sequences decoded together.
        dtype: float32, bfloat16 or float16; of an int8 cache that of the arithmetic.
        device: cpu, cuda, cuda:1, ...
        name: Of the implementation, see attention.py. "published" pins float32 and its own protocol.
        runs: Of which the median is taken.
        seconds: Of all runs together, about; a run is one step at least.
        idle_seconds: Before them, over which idle power is read.
        seed: Of the random numbers.

    Raises:
        InputError: sizes below 1, heads that are no multiple of kv_heads, an unknown dtype or implementation,
            a device that is not there or has too little memory, a kernel that refuses the configuration.
    """
    kv_heads = heads if kv_heads is None else kv_heads
    _check_sizes(heads=heads, kv_heads=kv_heads, head_dim=head_dim, context=context, batch=batch, runs=runs)
    check_dtype(dtype, name)
    place = torch.device(device)
    step = implementation(name, place)
    try:
        with torch.no_grad():
            made = _make((batch, kv_heads, context, head_dim), heads, DTYPES[dtype], place, name, seed)
            error, steps = _error(step, made), _stepping(step, made)
            found, why = meter_for(place)
            timed = time_steps(steps, place, found, name == PUBLISHED, runs, seconds, idle_seconds)
    except (RuntimeError, AssertionError) as failure:  # torch: no such device, kernel, or memory
        what, reason = f"{name} in {dtype}, batch {batch}, context {context}", str(failure).strip()
        raise InputError(f"{what} on {device}: {reason.splitlines()[0]}") from failure
    energy, no_energy = _energy(timed, batch, found, why)
    latency, size = median(timed.runs), made.caches[0].bytes
    return Measurement(
        implementation=name,
        dtype=dtype,
        protocol=PUBLISHED if name == PUBLISHED else "fair",
        device=place.type,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=context,
        batch=batch,
        runs=tuple(timed.runs),
        latency=latency,
        latency_per_token=latency / batch,
        steps=timed.steps,
        caches=len(made.caches),
        cache_bytes=size,
        bandwidth=size / latency,
        error=error,
        **(_processor(timed, batch) if place.type == "cpu" else {}),
        energy=energy,
        power=timed.power,
        idle_power=timed.idle,
        power_samples=timed.samples or None,
        meter=None if found is None else found.name,
        no_energy=no_energy,
        state={} if found is None else _state(found),
    )


def _state(meter: Meter) -> dict[str, Value]:
    units = {"power_limit": "W"}
    return {name: Value(number, units.get(name, "Hz"), "measured") for name, number in meter.state().items()}


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"{name} = {size}: give 1 or more")
    if sizes["heads"] % sizes["kv_heads"]:
        raise InputError(f"heads = {sizes['heads']} must be a multiple of kv_heads = {sizes['kv_heads']}")


class _Made(NamedTuple):
    """Queries [B, H, 1, D], the caches, and what the first sequence of the first cache holds exactly."""

    q: Tensor
    caches: list[Cache]
    k: Tensor
    v: Tensor


def _make(
    shape: tuple[int, int, int, int],
    heads: int,
    dtype: torch.dtype,
    device: torch.device,
    name: str,
    seed: int,
) -> _Made:
    """Random numbers; `shape` is that of keys and values, [B, Hk, T, D]."""
    random = torch.Generator().manual_seed(seed)
    size = math.prod(shape)
    pattern = torch.randn(min(size, PATTERN), generator=random).to(device)
    repeats = -(-2 * size // len(pattern))
    both = pattern.repeat(repeats)[: 2 * size].to(dtype)
    k, v = both[:size].view(shape), both[size:].flip(0).view(shape)
    q = torch.randn((shape[0], heads, 1, shape[3]), generator=random).to(device, dtype)
    first = Cache(k, v)
    if name == "int8":
        (k8, k_scale), (v8, v_scale) = quantised(k, dtype), quantised(v, dtype)
        first = Cache(k8, v8, k_scale, v_scale)
    count = 1
    if name != PUBLISHED:
        count = min(MOST_CACHES, max(1, -(-COLD_BYTES.get(device.type, 2**28) // first.bytes)))
    copies = [first.each(Tensor.clone) for _ in range(count - 1)]
    return _Made(q, [first, *copies], k[:1].clone(), v[:1].clone())


def _stepping(step: Step, made: _Made) -> Callable[[int], None]:
    """Does so many steps, going round over the caches."""
    caches = cycle(made.caches)

    def steps(count: int) -> None:
        for _ in range(count):
            step(made.q, next(caches))

    return steps


def _error(step: Step, made: _Made) -> float:
    """Of the first sequence."""
    exact = reference(made.q[:1], made.k, made.v)
    out = step(made.q, made.caches[0])[:1].double().cpu()
    return float((out - exact).abs().max() / exact.abs().max())


def _energy(timed: Timed, batch: int, meter: Meter | None, why: str) -> tuple[Joule | None, str | None]:
    """Of one token, or None and the reason; `why` says why there is no meter."""
    if timed.joules is None:
        missing = "gives neither an energy counter nor the power"
        return None, why if meter is None else f"{meter.name} {missing}"
    if timed.joules <= 0:
        return None, "the power did not rise above the idle power"
    return timed.joules / (len(timed.runs) * timed.steps * batch), None
