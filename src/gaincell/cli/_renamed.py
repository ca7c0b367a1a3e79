"""Options that a command does not know itself: old names, which work for one release with a line on stderr,
and --debug.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

RENAMED: Mapping[str, Mapping[str, str | None]] = {
    "adapt": {"--evaluation-tokens": "--limit"},
    "codesign": {"--evaluation-tokens": "--limit", "--rate": "--circuit-learning-rate"},
    "floorplan": {"--out": "--figure"},
    "generate": {"--idle": "--at"},
    "map": {"--evaluation-tokens": "--limit"},
    "simulate": {"--signals": "--inputs"},
    "spice": {"--jobs": "--workers", "--monte-carlo": "--cells", "--temperature": "--celsius"},
    "sweep": {"--figures": None, "--weights": "--keep-models"},
}
"""Command -> old name -> new name; None for what is always on now. In every command --impl is --backend."""
DEBUG = "--debug"
"""Of every command."""


def with_new_names(command: str, arguments: Sequence[str], takes_value: Collection[str]) -> list[str]:
    """The arguments of a command with the new names of its options.

    Args:
        command: Its name.
        arguments: As they were typed.
        takes_value: The command's options that a value follows; it is left alone, whatever it is.
    """
    renamed = dict(RENAMED.get(command, {}))
    if "--backend" in takes_value:
        renamed["--impl"] = "--backend"
    old_with_value = {old for old, new in renamed.items() if new in takes_value}
    found: list[str] = []
    for argument, is_option in _options_in(arguments, {*takes_value, *old_with_value}):
        old, equals, value = argument.partition("=")
        if not is_option or old not in renamed:
            found.append(argument)
            continue
        new = renamed[old]
        now = f"is called {new} now; the old name" if new else "is always on now; the option"
        print(f"gaincell: {old} {now} will be gone in the next release", file=sys.stderr)
        if new is not None:
            found.append(new + equals + value)
    return found


def without_debug(arguments: Sequence[str], takes_value: Collection[str]) -> list[str]:
    """The arguments without the option --debug; a value, or what stands behind --, is left alone."""
    marked = _options_in(arguments, takes_value)
    return [argument for argument, is_option in marked if not (is_option and argument == DEBUG)]


def _options_in(arguments: Sequence[str], takes_value: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Every argument, and whether it can be an option: it is no value of the one before, nor behind --."""
    value_follows = ended = False
    for argument in arguments:
        ended |= argument == "--" and not value_follows
        is_option = not (ended or value_follows)
        yield argument, is_option
        value_follows = is_option and argument in takes_value
