"""Changes to a recipe from the command line: `--set seed=1 --set stage.linear.steps=500`.

They are put into the recipe as it was read, which is checked afterwards as if its file said so: there is no
second list of keys.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from gaincell.errors import InputError
from gaincell.files import parse_toml
from gaincell.quantity import did_you_mean, one_of

FORM = "give KEY=VALUE, such as seed=1, training.batch=4 or stage.linear.steps=500"


def parse_overrides(given: Sequence[str]) -> dict[str, Any]:
    """Dotted keys and their values. A value is TOML; what is no TOML is text, so that it needs no quotes.

    Raises:
        InputError: one is not of the form KEY=VALUE, or a key stands there twice.
    """
    found: dict[str, Any] = {}
    for entry in given:
        key, equals, text = (part.strip() for part in entry.partition("="))
        if not (equals and text and all(key.split("."))):
            raise InputError(f"--set {entry}: {FORM}")
        if key in found:
            raise InputError(f"--set {key} is given twice; give one value")
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        found = parse_toml(f"value = {text}")
    except ValueError:
        return text
    return found["value"] if len(found) == 1 else text


def override(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as read from its file, with other values under dotted keys: `stage.NAME.KEY` for a stage.
    `design.KEY` also changes a chip that is given by its name.

    Raises:
        InputError: a part of a key names no table, or no stage.
    """
    changed = copy.deepcopy(dict(raw))
    for dotted, value in changes.items():
        *tables, key = dotted.split(".")
        table = changed
        for depth, name in enumerate(tables):
            where = ".".join(tables[: depth + 1])
            if where == "design" and isinstance(table.get(name), str):
                table[name] = {"name": table[name]}
            if where == "stage" and isinstance(table.get(name), list):
                table = _by_name(table[name])
            elif depth == 1 and tables[0] == "stage" and name not in table:
                raise InputError(
                    f"--set {dotted}: there is no stage {name!r}{did_you_mean(name, table)}; "
                    f"it has {one_of(table)}"
                )
            else:
                table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise InputError(f"--set {dotted}: {where} = {table!r} is no table and has no {key!r}")
        table[key] = value
    return changed


def _by_name(stages: Sequence[Any]) -> dict[str, Any]:
    return {str(stage["name"]): stage for stage in stages if isinstance(stage, dict) and "name" in stage}
