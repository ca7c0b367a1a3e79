"""What a result of the baseline says of its protocol, and of the machine's own cache."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from gaincell.costs.baselines.attention import PUBLISHED
from gaincell.results.system_cost import Timing

CORES = Path("/sys/devices/system/cpu")
"""Where Linux describes the caches of each."""


def protocol(measured: Iterable[Timing], device: torch.device) -> str:
    """Of all measurements on a device, in words."""
    read = [m.caches * m.cache_bytes for m in measured if m.protocol != PUBLISHED]
    caches = _in_turn(min(read), device) if read else ""
    return (
        f"fair: all keys seen, warm-up,{caches} device waited for, idle power subtracted; published: as the "
        "authors did."
    )


def _in_turn(read: int, device: torch.device) -> str:
    """How many bytes are read in turn, and whether the last level of cache holds them."""
    own, known = last_level_cache(device), "the machine does not say what its last level of cache holds"
    if own is not None:
        verb = "exceeds" if read > own else "may stay in"
        known = f"which {verb} the last level of cache of {_mebibytes(own)}"
    return f" caches of {_mebibytes(read)} or more in turn ({known}),"


def last_level_cache(device: torch.device) -> int | None:
    """Bytes of a GPU's L2, or of the last level that the cores of this process have, all parts together; None
    where the machine does not say.
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    found: dict[tuple[int, str], int] = {}
    used = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    try:
        for place in (place for core in used for place in CORES.glob(f"cpu{core}/cache/index*")):
            level, size, shared = (
                (place / key).read_text(encoding="ascii").strip()
                for key in ("level", "size", "shared_cpu_list")
            )
            found[int(level), shared] = int(size.removesuffix("K")) * 2**10
    except (OSError, ValueError):
        return None
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last) or None


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.4g} MiB"
