"""Memory that a training has freed stays with the process, since the next step needs as much again.

Without it glibc hands large tensors back to the system, which gives them again page by page: 3 % of a
training step of SmolLM2-135M on one core (measured).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt(3)."""


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within the context freed memory stays with the process; after it, it goes back.

    Nothing happens where the C library is not glibc. What an accelerator allocates is not affected.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        yield
        return
    libc.mallopt(MMAP_MAX, 0)  # all from the heap,
    libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)  # whose end stays
    try:
        yield
    finally:  # the most that glibc adapts its thresholds to by itself
        libc.mallopt(MMAP_MAX, 65536)
        libc.mallopt(MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(TRIM_THRESHOLD, 64 << 20)
        libc.malloc_trim(0)
