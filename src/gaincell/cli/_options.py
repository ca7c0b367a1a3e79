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
    native = "native"
    native_portable = "native-portable"
    native_avx2 = "native-avx2"
    native_avx512 = "native-avx512"
    native_amx = "native-amx"
    triton = "triton"
    decode = "decode"


class RefreshKind(StrEnum):
    """How columns are made fresh, see `gaincell.arrays.Refresh`."""

    none = "none"
    copy = "copy"
    reread = "reread"


class GradientName(StrEnum):
    """Derivatives of the cells in a backward pass."""

    exact = "exact"
    surrogate = "surrogate"


class Redraw(StrEnum):
    """What every step of a training draws anew, see `gaincell.training.settings.REDRAWS`."""

    nothing = "nothing"
    noise = "noise"
    chip = "chip"


MODEL_HELP = (
    "tiny (embedded), smollm2-135m, a hub id such as openai-community/gpt2, a model directory, a .gguf file"
)
TEXT_HELP = "A .txt or .txt.gz file, a directory of them, a data set id, or sample (embedded)."

DesignName: TypeAlias = Annotated[
    str,
    typer.Option("--design", metavar="DESIGN", help="Shipped chip (gaincell design list) or a .toml file."),
]
RunName: TypeAlias = Annotated[str, typer.Argument(metavar="RUN", help="A RUN directory, such as runs/tiny.")]
OtherDesign: TypeAlias = Annotated[
    str | None, typer.Option("--design", metavar="DESIGN", help="Another chip than the RUN's own.")
]
CellName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--cell",
        metavar="CELL",
        help="polynomial, x3, x5, sigmoid, exponential or linear, a DEVICE.toml, or a measured CURVE.csv; "
        "by default the chip's own.",
    ),
]
TextName: TypeAlias = Annotated[str, typer.Option("--text", metavar="TEXT", help=TEXT_HELP)]
LARGEST_SEED = 2**32 - 1
Seed: TypeAlias = Annotated[
    int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Of the order of the text.")
]
Threads: TypeAlias = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads of torch; by default all cores.")
]
ImplName: TypeAlias = Annotated[Impl, typer.Option("--impl", help="Implementation of the arrays.")]
Device: TypeAlias = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]


class Dtype(StrEnum):
    """Types of a model's weights; gains, offsets and the arrays have at least float32."""

    float32 = "float32"
    bfloat16 = "bfloat16"


DtypeName: TypeAlias = Annotated[
    Dtype, typer.Option("--dtype", help="Of the weights; bfloat16 is faster and rounds log-likelihoods.")
]
RefreshKindName: TypeAlias = Annotated[
    RefreshKind,
    typer.Option(
        "--refresh", help="How columns are made fresh: from a digital copy, or reread and rewritten."
    ),
]
RefreshTokens: TypeAlias = Annotated[
    int | None, typer.Option("--refresh-tokens", metavar="N", min=1, help="Refresh after so many tokens.")
]
RefreshSeconds: TypeAlias = Annotated[
    float | None, typer.Option("--refresh-seconds", metavar="SECONDS", help="Refresh after so much time.")
]
OtherLatency: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--other-latency", metavar="SECONDS", min=0.0, help="Of the rest of a layer; see the schedule."
    ),
]


def fraction(text: str, option: str) -> float:
    """A share as a user writes it: 5%, 5 % or 0.05. Raises InputError."""
    from gaincell.errors import InputError

    number = text.strip()
    scale = 0.01 if number.endswith("%") else 1.0
    try:
        found = float(number.removesuffix("%")) * scale
    except ValueError:
        found = -1.0
    if not 0 <= found < 100:
        raise InputError(f"{option} {text!r}: give a share such as 5% or 0.05")
    return found


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
        torch.ones(1, device=device).item()
    except Exception as error:  # torch raises RuntimeError, AssertionError and others
        raise InputError(
            f"there is no device {device!r} here; give cpu, or cuda where torch finds a GPU"
        ) from error
