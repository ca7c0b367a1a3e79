"""The command line: `gaincell COMMAND ...`.

A command is a file in this folder: `cli/<command>.py` holding `app = typer.Typer()` with one command, or with
several as subcommands. It is imported when it is called, or when `gaincell --help` lists it, so it must be
cheap to import: torch, transformers and matplotlib are imported inside the command's function. Files
beginning with an underscore are no commands.

How a command ends:

    returns                        0   done
    raise typer.Exit(1)            1   it ran and the result is bad: not converged, a check failed
    raise GaincellError, OSError   2   wrong input: one line on stderr, the traceback only with --debug
    raise KeyboardInterrupt(hint)  130 Ctrl-C: the hint says how to resume
"""

from __future__ import annotations

import pkgutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from gaincell import __version__
from gaincell.cli._renamed import with_new_names
from gaincell.errors import GaincellError

COMPLETION = ("install_completion", "show_completion")
"""Options that typer gives to every app of its own; no command of ours needs them."""

RESUME_HINT = "no file was left half-written; give the same command again"


def _leaves(command: Any) -> Iterator[Any]:
    """A command and, if it is a group, its subcommands."""
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from _leaves(inner)


def _make_legible(command: Any) -> None:
    """Help as plain text, which cuts no name and no sentence however narrow the terminal."""
    command.rich_markup_mode = None
    paragraph = (command.help or "").strip().partition("\n\n")[0]
    command.short_help = " ".join(paragraph.split())


class CommandFolder(TyperGroup):
    """The files of this folder as commands, and the one place where exceptions become exit codes."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(__path__))
        return sorted(name.replace("_", "-") for name in names if not name.startswith("_"))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        command = typer.main.get_command(import_module(f"gaincell.cli.{cmd_name.replace('-', '_')}").app)
        command.name = cmd_name
        command.params = [parameter for parameter in command.params if parameter.name not in COMPLETION]
        for each in _leaves(command):
            _make_legible(each)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if command is None:
            return name, command, rest
        valued = {
            name
            for leaf in _leaves(command)
            for p in leaf.params
            if p.param_type_name == "option" and not getattr(p, "is_flag", False)
            for name in p.opts
        }
        return name, command, with_new_names(str(name), rest, valued)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (GaincellError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            if ctx.params["debug"]:
                traceback.print_exc()
            print(f"gaincell: error: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt as interrupt:
            if ctx.params["debug"]:
                traceback.print_exc()
            print(f"\ngaincell: interrupted; {str(interrupt) or RESUME_HINT}", file=sys.stderr)
            raise SystemExit(130) from None


app = typer.Typer(
    cls=CommandFolder,
    no_args_is_help=True,
    add_completion=False,
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
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and leave."
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error. Allowed anywhere."),
) -> None:
    """What becomes of a language model when its attention runs in analog gain cells.

    Example: gaincell map tiny
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script; leaves with the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in given:
        given = ["--debug", *(argument for argument in given if argument != "--debug")]
    app(args=given, prog_name="gaincell")
