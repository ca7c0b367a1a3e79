"""The command line: `gaincell COMMAND ...`.

A command is a file in this folder: `cli/<command>.py` with an app of its name, of one command (`@command`) or
of several (a `typer.Typer`). It is imported when it is called, or when `gaincell --help` lists it, so it must
be cheap to import: torch, transformers and matplotlib are imported inside the command's function. Files
beginning with an underscore are no commands.

How a command ends:

    returns                        0   done
    raise typer.Exit(1)            1   it ran and the result is bad: not converged, a check failed
    raise GaincellError, OSError   2   wrong input: one line on stderr, the traceback only with --debug; so do
                                       a wrong option, and memory that does not suffice
    raise KeyboardInterrupt(hint)  130 Ctrl-C: the hint says how to resume
"""

from __future__ import annotations

import functools
import math
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any
from unicodedata import category

import typer
from typer.core import TyperGroup

from gaincell import __version__
from gaincell.cli._json import check_apart, check_names
from gaincell.cli._renamed import with_new_names, without_debug
from gaincell.errors import GaincellError, InputError, one_line

UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""Of typer, or of the click it stands on; `NO_ARGUMENTS` is one that shows the help."""
NO_ARGUMENTS = "NoArgsIsHelpError"
LARGEST = 2**32 - 1
"""Of whole numbers."""
LONGEST_LABEL = 100
"""Characters of a name or a title."""

RESUME_HINT = "no file was left half-written; run the same command again"


def _leaves(command: Any) -> list[Any]:
    """A command and, if it is a group, its subcommands."""
    return [command, *getattr(command, "commands", {}).values()]


class CommandFolder(TyperGroup):
    """The files of this folder as commands, and the one place where exceptions become exit codes."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(__path__))
        return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        command = typer.main.get_command(getattr(import_module(f"gaincell.cli.{name}"), name))
        command.name = cmd_name
        for each in _leaves(command):
            each.rich_markup_mode = None  # plain text cuts no name and no sentence however narrow it is
            each.short_help = " ".join((each.help or "").strip().partition("\n\n")[0].split())
            if each.callback is not None:
                _check_given(each)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[:2] == ["cost", "baseline"] and not os.path.exists("baseline"):  # there it is a model
            args = args[1:]
        name, command, rest = super().resolve_command(ctx, args)
        if command is None:
            return name, command, rest
        parameters = [p for leaf in _leaves(command) for p in leaf.params]
        options = (p for p in parameters if p.param_type_name == "option")
        valued = {name for p in options if not getattr(p, "is_flag", False) for name in p.opts}
        renamed = with_new_names(str(name), rest, valued)
        rest = without_debug(renamed, valued)
        check_names(parameters, rest)
        ctx.params["debug"] |= len(rest) < len(renamed)
        return name, command, rest

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **more: Any) -> Any:
        try:
            _check_words(args)
            return super().make_context(info_name, args, *rest, **more)
        except (InputError, UsageError) as error:
            _refuse(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except Exception as error:
            _refuse(error, debug=ctx.params["debug"])
            raise
        except KeyboardInterrupt as interrupt:
            if ctx.params["debug"]:
                traceback.print_exc()
            print(f"\ngaincell: interrupted; {str(interrupt) or RESUME_HINT}", file=sys.stderr)
            raise SystemExit(130) from None


def _refuse(error: Exception, *, debug: bool = False) -> None:
    """Leave with one line on stderr, unless the error is a defect of the program."""
    message = _message(error)
    if message is None:
        return
    if debug:
        traceback.print_exc()
    print(f"gaincell: error: {one_line(message)}", file=sys.stderr)
    raise SystemExit(2) from None


def _message(error: Exception) -> str | None:
    """What a user is told of an error; None of a defect of the program, which stays a traceback."""
    text = str(error)
    if isinstance(error, UsageError) and type(error).__name__ != NO_ARGUMENTS:
        path = error.ctx.command_path if error.ctx is not None else "gaincell"
        checker = getattr(error.__cause__, "errors", None)  # of an option; it may say only what is allowed
        said = error.format_message().rstrip(".").replace("Value error, ", "")
        value = "" if checker is None else repr(checker()[0]["input"])
        given = "" if checker is None or value in said else f", not {value}"
        return f"{said}{given}; see {path} --help"
    if isinstance(error, (GaincellError, OSError)) or text.startswith("Symlink loop"):
        return text  # (that is a RuntimeError of pathlib, as is the next)
    if text.startswith("Could not determine home directory"):
        return "cannot find the home directory that ~ refers to; give the full path"
    full = "can't allocate memory" in text or "out of memory" in text
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and full):
        return "this machine does not have enough memory; give smaller numbers, or a smaller model"
    if isinstance(error, RuntimeError) and "closed by peer" in text:
        return "another process of this run has stopped; its own message says why"
    return None


def _check_given(command: Any) -> None:
    """Let a command refuse numbers that nothing can be done with (infinite, no number, beyond 32 bits), names
    that are blank or hold control characters, and outputs in the place of what it reads.
    """
    run = command.callback
    names = {parameter.name: (*parameter.opts, parameter.name)[0] for parameter in command.params}

    @functools.wraps(run)
    def checked(**given: Any) -> Any:
        for key, value in given.items():
            for number in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(number, float) and not math.isfinite(number):
                    raise InputError(f"{names[key]} {number}: give a finite number")
                if isinstance(number, int) and abs(number) > LARGEST:
                    raise InputError(f"{names[key]} {number}: give at most {LARGEST}")
            if key in ("name", "title") and value is not None:
                control = any(category(letter) == "Cc" for letter in value)
                if not value.strip() or len(value) > LONGEST_LABEL or control:
                    allowed = f"1 to {LONGEST_LABEL} visible characters without line breaks"
                    raise InputError(f"{names[key]} {value!r}: give {allowed}")
        check_apart(command, given)
        return run(**given)

    command.callback = checked


app = typer.Typer(
    cls=CommandFolder,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gaincell {__version__}")
        raise typer.Exit


@app.callback()
def gaincell(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error. Accepted anywhere."),
) -> None:
    """Run language models on simulated analog gain-cell attention, and measure quality and cost.

    Pages called docs/... are at https://github.com/gaincell/gaincell.

    Example: gaincell map tiny
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script; leaves with the exit code."""
    app(args=arguments, prog_name="gaincell")


def _check_words(given: Sequence[str]) -> None:
    """Raise InputError for an argument that is empty, as an unset variable gives it, or is no text."""
    for place, word in enumerate(given):
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if not value and (equals or not name):
            before = name or (given[place - 1] if place and given[place - 1].startswith("-") else "")
            what = f"{before} is empty" if before else f"argument {place + 1} is empty"
            raise InputError(f"{what}, perhaps because a variable is not set; give a value, or leave it out")
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(f"argument {place + 1}, {word!a}, is not UTF-8; convert it") from None
