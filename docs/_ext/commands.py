"""The reference of the command line, from the commands themselves.

    ```{commands}
    ```

gives every command and subcommand a section: usage, what `--help` says, examples, arguments and options.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args, get_origin

import typer
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from gaincell.cli import app as gaincell


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its name on the command line, groups before what they hold."""
    root = typer.main.get_command(gaincell)
    context: Any = root.make_context("gaincell", ["--debug"], resilient_parsing=True)
    yield "gaincell", root
    for name in root.list_commands(context):  # type: ignore[attr-defined]
        command = root.get_command(context, name)  # type: ignore[attr-defined]
        yield f"gaincell {name}", command
        for inner in getattr(command, "commands", {}).values():
            yield f"gaincell {name} {inner.name}", inner


class Commands(SphinxDirective):
    """All of them."""

    def run(self) -> list[nodes.Node]:
        return [self.section(name, command) for name, command in commands()]

    def section(self, name: str, command: Any) -> nodes.section:
        """One command."""
        identifier = nodes.make_id(name)
        section = nodes.section(ids=[identifier], names=[identifier])
        section += nodes.title(name, "", nodes.literal(name, name))
        section += literal(usage(name, command), "text")
        prose, examples = help_of(command)
        section += self.markdown(prose)
        if examples:
            section += literal("\n".join(examples), "shell")
        listed = nodes.definition_list(classes=["options"])
        for parameter in command.params:
            listed += self.option(parameter)
        if len(listed):
            section += listed
        return section

    def option(self, parameter: Any) -> nodes.definition_list_item:
        """An argument or option: its names, what it takes, what it is for, its default."""
        names = parameter.metavar or parameter.name.upper()
        if parameter.param_type_name == "option":
            names = ", ".join(sorted(parameter.opts, key=len, reverse=True))
            names += f" {value_of(parameter)}" if value_of(parameter) else ""
            if parameter.secondary_opts:
                names = f"{parameter.opts[0]} / {parameter.secondary_opts[0]}"
        text = " ".join((getattr(parameter, "help", None) or "").split())
        default = parameter.default
        if parameter.required:
            text += " Required."
        elif (
            isinstance(default, (int, float, str)) and not isinstance(default, bool) and not callable(default)
        ):
            text += f" Default: `{getattr(default, 'value', default)}`."
        return nodes.definition_list_item(
            "", nodes.term("", "", nodes.literal(names, names)), nodes.definition("", *self.markdown(text))
        )

    def markdown(self, text: str) -> list[nodes.Node]:
        """Nodes of Markdown."""
        around = nodes.Element()
        self.state.nested_parse(StringList(text.splitlines(), "commands"), 0, around)
        return list(around.children)


def literal(text: str, language: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language=language)


def usage(name: str, command: Any) -> str:
    """The first line of `--help`."""
    words = [p.metavar or p.name.upper() for p in command.params if p.param_type_name == "argument"]
    inner = ["COMMAND"] if getattr(command, "commands", None) or name == "gaincell" else []
    options = ["[OPTIONS]"] if any(p.param_type_name == "option" for p in command.params) else []
    return " ".join([name, *options, *words, *inner])


def value_of(option: Any) -> str:
    """What an option takes."""
    if option.is_flag or option.metavar:
        return option.metavar or ""
    kind = option.type_descriptor.annotation
    if get_origin(kind) is list:  # an option that may be repeated
        (kind,) = get_args(kind)
    if choices := get_args(kind):
        return "|".join(choices)
    if issubclass(kind, Enum):
        return "|".join(str(choice.value) for choice in kind)
    return {int: "N", float: "X"}.get(kind, "TEXT")


def help_of(command: Any) -> tuple[str, list[str]]:
    """The prose and the examples of a docstring."""
    text = inspect.cleandoc(command.help or "").replace("\b", "")
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    prose = [part for part in paragraphs if not part.startswith("Example: ")]
    examples = [part.removeprefix("Example: ") for part in paragraphs if part.startswith("Example: ")]
    return "\n\n".join(prose), examples


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
