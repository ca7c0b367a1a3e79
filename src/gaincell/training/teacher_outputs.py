"""What a teacher gave for a text, kept on disk for the next training that sees the same text.

Seeds, ablations and other recipes read the same blocks, in another order or with another student. What is
kept are the teacher's last hidden states, from which its distribution is one product of matrices: a file a
forward pass, T x width numbers a block in the type in which that product is computed. Files are named by a
digest of the teacher's weights, configuration and chip, the token ids, that type and the version of torch:
another of them is another file.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gaincell.errors import RunError
from gaincell.files import write_atomic
from gaincell.nn.attention import GainCellAttention

_STATES = "states"


class TeacherOutputs:
    """The files of one teacher.

    Args:
        folder: where they are, made if need be.
        teacher: its weights must not change any more.
    """

    def __init__(self, folder: Path, teacher: nn.Module) -> None:
        self._folder = folder
        digest = hashlib.sha256(f"{torch.__version__} {_made_as(teacher)}".encode())
        for name, tensor in teacher.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().flatten().cpu().view(torch.uint8).numpy().data)
        self._teacher = digest.hexdigest()
        self._full = False

    def hidden(
        self, ids: Int[Tensor, "B T"], dtype: torch.dtype, compute: Callable[[], Float[Tensor, "B T width"]]
    ) -> Float[Tensor, "B T width"]:
        """The teacher's last hidden states, read where they are kept, else computed and kept.

        A file that cannot be read is computed anew. Where nothing can be written, a warning says so once.
        """
        named = f"{self._teacher} {dtype} {tuple(ids.shape)}".encode() + ids.cpu().numpy().tobytes()
        path = self._folder / f"{hashlib.sha256(named).hexdigest()[:32]}.safetensors"
        try:
            return load_file(path, device=str(ids.device))[_STATES]
        except (OSError, SafetensorError):
            states = compute().to(dtype)
        if not self._full:
            try:
                write_atomic(path, partial(save_file, {_STATES: states.cpu().contiguous()}))
            except (RunError, SafetensorError) as error:
                self._full = True
                warnings.warn(f"the teacher's outputs are no longer kept: {error}", UserWarning, stacklevel=2)
        return states


def _made_as(teacher: nn.Module) -> str:
    """What a teacher computes with beside its weights: its configuration, and the chip of every layer."""
    config: Any = getattr(teacher, "config", None)
    stated = {} if config is None else {**config.to_dict(), "_name_or_path": None}  # wherever it was read
    chips = [m.design.hash for m in teacher.modules() if isinstance(m, GainCellAttention)]
    return json.dumps([stated, chips], sort_keys=True, default=str)
