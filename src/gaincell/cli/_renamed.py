"""Options whose name has changed: the old one works for one release, with a line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

RENAMED: Mapping[str, Mapping[str, str | None]] = {
    "adapt": {"--evaluation-tokens": "--limit"},
    "codesign": {"--evaluation-tokens": "--limit", "--rate": "--circuit-learning-rate"},
    "floorplan": {"--out": "--figure"},
    "generate": {"--idle": "--at"},
    "map": {"--evaluation-tokens": "--limit"},
    "simulate": {"--signals": "--inputs"},
    "spice": {"--jobs": "--workers", "--temperature": "--celsius"},
    "sweep": {"--figures": None, "--weights": "--keep-models"},
}
"""Command -> old name -> new name; None for what is always done now."""


def with_new_names(command: str, arguments: Sequence[str], takes_value: Iterable[str]) -> list[str]:
    """The arguments of a command with the new names of its options.

    takes_value: the command's options that a value follows; it is left alone, whatever it is.
    """
    renamed, values = RENAMED.get(command, {}), set(takes_value)
    found: list[str] = []
    value_follows = False
    for n, argument in enumerate(arguments):
        if argument == "--":
            return [*found, *arguments[n:]]
        old, equals, value = argument.partition("=")
        if value_follows or old not in renamed:
            found.append(argument)
            value_follows = not value_follows and argument in values
            continue
        new = renamed[old]
        now = f"is called {new} now; the old name" if new else "is always done now; the option"
        print(f"gaincell: {old} {now} will be gone in the next release", file=sys.stderr)
        if new is not None:
            found.append(new + equals + value)
            value_follows = not equals and new in values
    return found
