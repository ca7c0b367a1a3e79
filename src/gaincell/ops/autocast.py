"""Keeps the precision of a tensor where a caller has switched autocast on."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which operations on the device of ``x`` compute in the types that they are given.

    Where autocast is off nothing is entered: leaving it takes a lock of torch without Python's, and a process
    forked at that moment would wait for it for ever.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
