"""GPUs: what the authors of the paper measured on them, what their makers state, and results of a user's own.

The released files hold, of a run of `batch` sequences of `tokens` tokens, time and power divided by batch x
tokens. The run is put together again, and divided as an energy:

    E per token = (p n) (t n) / n,    n = batch x tokens

Their program's mask, clock and meter are faulty (baselines/measurement.py, docs/costs.md); the latency of a
token is that of a batch divided by the batch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from gaincell.costs.data import FOLDER, Sourced, all_packaged
from gaincell.errors import InputError, RunError
from gaincell.quantity import read_numbers
from gaincell.results import read
from gaincell.results.common import Result
from gaincell.results.cost import RELEASED, CostResult
from gaincell.results.system_cost import BaselineResult, Measured
from gaincell.units import BytePerSecond, PerSecond, Second, Watt

FILE = "gpus.toml"
BYTES_PER_NUMBER = 2.0
"""Of keys and values in a cache: bfloat16."""


@dataclass(frozen=True)
class Stated(Sourced):
    """What a maker states: operations per second, the most that the board draws."""

    title: str
    memory: str
    bandwidth: BytePerSecond
    arithmetic: PerSecond
    power: Watt


@dataclass(frozen=True)
class _Run(Sourced):
    title: str
    batch: int
    tokens: int
    heads: int
    head_dim: int
    latency_per_token: Second
    power_per_token: Watt


@lru_cache(maxsize=1)
def published() -> Mapping[str, Measured]:
    """The authors' measurements, by name."""
    found = {}
    for name, run in all_packaged(_Run, FILE, "measured").items():
        n = run.batch * run.tokens
        power, duration = run.power_per_token * n, run.latency_per_token * n
        found[name] = Measured(
            run.title, run.heads, run.heads, run.head_dim, run.tokens, duration / n, power * duration / n,
            "cited", RELEASED.source, run.batch,
        )  # fmt: skip
    return found


def printed() -> dict[str, float]:
    """Ratios as the paper prints them, rounded."""
    return {key: float(entry["value"]) for key, entry in read_numbers(FOLDER / FILE)["printed"].items()}


@lru_cache(maxsize=1)
def stated() -> Mapping[str, Stated]:
    """Makers' figures, by name."""
    return all_packaged(Stated, FILE, "stated")


def floor(gpu: Stated, heads: int, kv_heads: int, head_dim: int, context: int) -> Measured:
    """Reading keys and values of a sequence once from memory, at the stated bandwidth and the largest power.

    The time is a lower bound only where they do not fit the GPU's L2. The power is more than such a step
    draws, so the energy bounds nothing.
    """
    time = 2 * kv_heads * head_dim * context * BYTES_PER_NUMBER / gpu.bandwidth
    title, source = f"{gpu.title}, reading its cache once", gpu.provenance["bandwidth"].note
    return Measured(title, heads, kv_heads, head_dim, context, time, time * gpu.power, "simulated", source)


def compared(heads: int, kv_heads: int, head_dim: int, context: int) -> list[Measured]:
    """The authors' measurements, and every stated GPU reading once a cache of these sizes."""
    own = (floor(gpu, heads, kv_heads, head_dim, context) for gpu in stated().values())
    return [*published().values(), *own]


def read_measured(path: str | os.PathLike[str]) -> list[Measured]:
    """All machines that were measured, not cited, of a result of `gaincell baseline`, or of `gaincell cost`.

    Raises:
        InputError: the file is none, or none was measured.
    """
    name = Path(path).name
    try:
        found = read(path, Result, "the result of gaincell baseline --json")
    except RunError as error:
        raise InputError(str(error)) from error
    if not isinstance(found, (BaselineResult, CostResult)):
        raise InputError(f"{name} holds no measurements; give the result of gaincell baseline --json")
    machines = [
        Measured(m.title, *m.sizes, m.latency, m.energy, m.kind, m.source, m.batch) for m in found.machines
    ]
    there = found.provenance.hardware
    names = {"this cpu": there.cpu, "this cuda": there.accelerator or "another GPU"}
    for generic, own in names.items():  # which is not this one, where the file comes from elsewhere
        machines = [replace(machine, title=machine.title.replace(generic, own)) for machine in machines]
    measured = [machine for machine in machines if machine.kind == "measured"]
    if not measured:
        raise InputError(
            f"{name} holds no machine that was measured, only cited or computed ones; give the result of "
            "gaincell baseline --json"
        )
    return measured
