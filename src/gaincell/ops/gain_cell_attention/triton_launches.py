"""How the kernels of codes (triton_kernels.py) are launched: queries of a program, warps, stages.

`triton_launches.json`, where it is there, holds what was fastest when `python -m benchmarks.gpu --tune` tried
all `CANDIDATES`, by GPU, pass and sizes; all else is launched as `DEFAULT`. A launch changes the order of the
sums of gradients over queries, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from gaincell.chips.design_file import Design

Pass = Literal["forward", "backward"]
MEASURED = Path(__file__).with_name("triton_launches.json")


class Launch(NamedTuple):
    rows: int = 64
    """Queries of a program, a power of two from 16 on."""
    warps: int = 4
    stages: int = 3


DEFAULT = Launch()
CANDIDATES = tuple(Launch(*numbers) for numbers in product((32, 64, 128), (4, 8), (1, 2, 3, 4)))


def name_of(which: Pass, device: torch.device, design: Design, dim: int, half: bool) -> str:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    operands = "float16" if half else "float32"
    return f"{gpu}, {which}, D = {dim}, N = {design.tile}, M = {design.window}, {operands}"


@lru_cache(maxsize=1)
def read_table() -> dict[str, Launch]:
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    return {name: Launch(**launch) for name, launch in measured.items()}


_forced: ContextVar[dict[Pass, Launch] | None] = ContextVar("launches", default=None)


@contextmanager
def launched(which: Pass, launch: Launch) -> Iterator[None]:
    """Within the context, launch the kernels of a pass so, whatever the table says."""
    before = _forced.set({**(_forced.get() or {}), which: launch})
    try:
        yield
    finally:
        _forced.reset(before)


def launch_of(which: Pass, device: torch.device, design: Design, dim: int, half: bool) -> Launch:
    forced = (_forced.get() or {}).get(which)
    return forced or read_table().get(name_of(which, device, design, dim, half), DEFAULT)
