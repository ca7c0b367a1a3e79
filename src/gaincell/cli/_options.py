"""Options that several commands share."""

from __future__ import annotations

import contextlib
import ctypes
from enum import StrEnum
from typing import Annotated, TypeAlias

import typer


class Impl(StrEnum):
    """Implementations of the arrays."""

    auto = "auto"
    naive = "naive"
    blocked = "blocked"
    decode = "decode"


MODEL_HELP = (
    "tiny (embedded), smollm2-135m, a hub id such as openai-community/gpt2, a model directory, a .gguf file"
)
TEXT_HELP = "A .txt or .txt.gz file, a directory of them, a data set id, or sample (embedded)."

DesignName: TypeAlias = Annotated[
    str,
    typer.Option("--design", metavar="DESIGN", help="Shipped chip (gaincell design list) or a .toml file."),
]
TextName: TypeAlias = Annotated[str, typer.Option("--text", metavar="TEXT", help=TEXT_HELP)]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", help="Of the order of the text.")]
Threads: TypeAlias = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads of torch; by default all cores.")
]
ImplName: TypeAlias = Annotated[Impl, typer.Option("--impl", help="Implementation of the arrays.")]
Device: TypeAlias = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]


def keep_freed_memory() -> None:
    """Let the C library keep freed buffers: returned to the system, each costs its page faults again.

    Training on a CPU is about a fifth faster. Does nothing where the library is not glibc.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 2**30)
        library.mallopt(trim_threshold, 2**31 - 1)


def use(threads: int | None, device: str) -> None:
    """Set torch's threads; check that there is such a device. Raises InputError."""
    import torch

    from gaincell.errors import InputError

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        torch.empty(1, device=device)
    except Exception as error:  # torch raises RuntimeError, AssertionError and others
        raise InputError(
            f"there is no device {device!r} here; give cpu, or cuda where torch finds a GPU"
        ) from error
