"""Files that commands write: options for them, checks before any work, and how a result is shown."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gaincell import files
from gaincell.errors import InputError, RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gaincell.results.common import Part, Result

R = TypeVar("R", bound="Result")
FIGURES = (".png", ".svg", ".pdf")
LABELS = ("name", "title", "prompt", "reference")
"""Parameters whose text names no file."""
SHIPPED = {"MODEL": ("tiny", "smollm2-135m"), "TEXT": ("sample",)}
"""Words that name no file, by metavar."""
NAMES = ("DESIGN", "DESIGN...", "CELL", "NAME", "BACKEND", "START", "RULE", None)
"""Metavars of what names a file only with an ending; None: choices."""
PARTS = ("run.json", "design.toml", "hardware.safetensors", "sweep.json")
"""Files that commands write into a directory and read again."""


def output_file(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """Callback of an option: refuse, before any work, a file that could not be written after it."""
    if value is not None:
        check_output(param.opts[0], value)
    return value


def output_figure(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """As `output_file`; the ending must be that of a picture."""
    if value is not None and value.suffix.lower() not in FIGURES:
        raise InputError(f"{param.opts[0]} {value.name}: give a name that ends with {', '.join(FIGURES)}")
    return output_file(param, value)


def output_directory(param: typer.CallbackParam, value: Path | None) -> Path | None:
    """As `output_file`, of a directory."""
    if value is not None:
        check_output(param.opts[0], value, directory=True)
    return value


def output(help: str, metavar: str = "FILE", check: Callable[..., Path | None] = output_file) -> object:
    """An option for a file that a command writes."""
    return typer.Option(callback=check, metavar=metavar, dir_okay=False, help=help)


def directory(help: str, metavar: str = "DIR") -> object:
    """An option for a directory that a command writes into."""
    return typer.Option(callback=output_directory, metavar=metavar, file_okay=False, help=help)


JsonFile = Annotated[Path | None, output("Also write the result as JSON.")]
FigureFile = Annotated[Path | None, output("Also draw the result: .png, .svg or .pdf.", check=output_figure)]


def run_folder(context: typer.Context, out: Path | None, name: str, option: str = "--out") -> Path:
    """The directory of an option, by default runs/NAME.

    Raises:
        InputError: it cannot be written.
    """
    folder = out or Path("runs") / name
    check_output(option, folder, directory=True)
    check_apart(context.command, context.params, [] if out else [(option, folder)])
    return folder


def check_output(option: str, place: Path, *, directory: bool = False) -> None:
    """Raise InputError or RunError for a file, or a directory of files, that could not be written.

    Tried is the directory that is there, with all that is missing in a temporary one.
    """
    whole = place.absolute() / "file" if directory else place.absolute()
    parent = whole.parent
    try:
        if not directory:
            files.check_place(place)
        while not (parent.exists() or parent.is_symlink()):
            parent = parent.parent
        with tempfile.TemporaryDirectory(dir=parent, prefix=".gaincell-") as tried:
            missing = (part for part in whole.relative_to(parent).parts if part != "..")
            files.write_text(Path(tried, *missing), "")
    except (OSError, RunError) as error:
        reason = error if isinstance(error, OSError) else error.__cause__
        if reason is None:
            raise
        raise InputError(
            f"{option} {place}: nothing can be written in {parent} ({getattr(reason, 'strerror', reason)}); "
            "give another place"
        ) from None


def _check_of(parameter: Any) -> Any:
    """The function of this module that is the callback of a parameter."""
    return getattr(parameter.callback, "__wrapped__", None)


def check_names(parameters: Sequence[Any], words: Sequence[str]) -> None:
    """Raise InputError where the file of an option has the name of a directory, which paths do not keep."""
    options = {o for p in parameters if _check_of(p) in (output_file, output_figure) for o in p.opts}
    for word, after in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        place = value if equals else after
        if option in options and place.endswith(("/", "/.")):
            raise InputError(f"{option} {place} names a directory; give the name of a file")


def check_apart(command: Any, given: Mapping[str, Any], derived: Sequence[tuple[str, Path]] = ()) -> None:
    """Raise InputError where an output would replace a file that the command reads, or another output.

    In a directory that is read, an output may be a new file but not one that is there. Files that a recipe, a
    sweep or a design names inside are not looked at.

    Args:
        command: Of the command line.
        given: Values of the command's parameters, by name.
        derived: Outputs whose names follow from others, each with the option that changes it.
    """
    written = [p for p in command.params if _check_of(p) in (output_file, output_figure, output_directory)]
    directories = [p.opts[0] for p in written if _check_of(p) is output_directory]
    outputs = [(p.opts[0], given[p.name]) for p in written if given.get(p.name) is not None]
    read = [
        (p.metavar if p.param_type_name == "argument" else p.opts[0], place)
        for p in command.params
        if p not in written and p.name not in LABELS
        for place in _places(given.get(p.name), p.metavar)
    ]
    before: list[tuple[str, Path]] = []
    for option, place in [*outputs, *derived]:
        directory = option in directories
        for source, known in read:
            inside = place.exists() and known.is_dir() and _real(place).is_relative_to(_real(known))
            if _replaces(place, known, directory) or (inside and not directory):
                raise InputError(
                    f"{option} {place} would replace what the command reads ({source} {known}); "
                    "give another place"
                )
        for other, known in before:
            if _replaces(place, known, directory) or _replaces(known, place, other in directories):
                raise InputError(
                    f"{other} {known} and {option} {place} would be written to the same place; change one"
                )
        before.append((option, place))


def _places(value: Any, metavar: str | None) -> Iterator[Path]:
    """The files and directories that the value of a parameter names, NAME=FILE included."""
    for entry in value if isinstance(value, (list, tuple)) else (value,):
        if not isinstance(entry, (str, Path)):
            continue
        text = str(entry)
        if text in SHIPPED.get(metavar or "", ()) or (metavar in NAMES and not Path(text).suffix):
            continue
        yield from (Path(name) for name in {text, text.partition("=")[2]} if name and os.path.exists(name))


def _replaces(place: Path, known: Path, directory: bool) -> bool:
    """Whether an output, maybe a directory, takes the place of a file or directory."""
    real, other = _real(place), _real(known)
    inside = directory and other.parent == real and other.name in PARTS
    return inside or real == other or (real.exists() and other.exists() and real.samefile(other))


def _real(place: Path) -> Path:
    return Path(os.path.realpath(place))


def show_result(
    result: R | Sequence[Part],
    json: Path | None,
    *shown: object,
    figure: Path | None = None,
    draw: Callable[[R], Figure] | None = None,
    passed: bool = True,
) -> None:
    """The end of a command: print tables and lines, write the result (or a list of entries) and draw it if
    files were asked for, and leave with exit code 1 if it did not pass.
    """
    if json is not None:
        from gaincell.results.codec import to_json

        listed = [to_json(one) for one in result] if isinstance(result, Sequence) else to_json(result)
        files.write_json(json, listed, indent=2)
    show(*shown)
    if figure is not None and draw is not None and not isinstance(result, Sequence):
        from gaincell.reports.style import save

        save(draw(result), figure)
    if not passed:
        raise typer.Exit(1)


def show(*shown: object) -> None:
    """Print tables and lines; a line as it is, the path of a file without a break."""
    from rich.console import Console

    console = Console(markup=False, emoji=False)  # a name may have [brackets] or :colons:
    for part in shown:
        console.print(part, soft_wrap=isinstance(part, Path))


def command_line() -> list[str]:
    """As results state it; of the processes that torchrun started, those of this node."""
    from gaincell.results.provenance import launched

    processes = launched("LOCAL_WORLD_SIZE")
    torchrun = [] if processes is None else ["torchrun", "--nproc_per_node", str(processes), "-m"]
    return [*torchrun, "gaincell", *sys.argv[1:]]
