"""A design as a commented file, to be edited."""

from __future__ import annotations

import dataclasses
import tomllib
from importlib import resources

from gaincell.chips.design import Design
from gaincell.chips.fields import TABLE_NUMBERS, TABLES
from gaincell.devices.cell import CELL_KINDS
from gaincell.quantity import SOURCES, toml_value

COMMENTED = "leroux2025"
"""The shipped file whose comments and order are taken."""


def commented(design: Design, name: str) -> str:
    """The design under another name, every number with its provenance, and the comments of the file of
    `COMMENTED`; in comments, too, what is off. Loading it gives the design.
    """
    stated = tomllib.loads(dataclasses.replace(design, name=name).to_toml())
    entries = {
        f"{table}.{key}".lstrip("."): entry
        for table, values in [("", stated), *((t, v) for t, v in stated.items() if t in ("cell", *TABLES))]
        for key, entry in values.items()
        if not (isinstance(entry, dict) and "value" not in entry)
    }
    known = {key: quantity.to_toml() for key, quantity in design.provenance.items()}
    blocks = _blocks(entries, known)
    head = [
        f"# {name}, begun as {design.name}. Every number states its unit (SI, no prefixes), its source, and",
        "# the range in which it may be set. Change value, and set source to U: chosen by you.",
        *(f"#   {tag}: {meaning}" for tag, meaning in SOURCES.items()),
        f"# Kinds of cell: {', '.join(CELL_KINDS)}.",
        "# Check it: gaincell design validate FILE. What changed: gaincell design diff DESIGN FILE.",
        "",
    ]
    return "\n".join([*head, *blocks, *_off(entries)]) + "\n"


def _blocks(entries: dict[str, object], known: dict[str, str]) -> list[str]:
    """The lines of the commented file with the entries of another design, and below each table what only
    that one has.
    """
    text = (resources.files("gaincell") / "designs" / f"{COMMENTED}.toml").read_text(encoding="utf-8")
    lines: list[str] = []
    table, left = "", dict(entries)

    def line(key: str) -> str:
        entry = left.pop(key)
        return f"{key.rpartition('.')[2]} = {known.get(key) or toml_value(entry)}"

    def rest() -> list[str]:
        return [line(key) for key in [*left] if key.rpartition(".")[0] == table]

    body = text.partition("\n\n")[2]  # its head speaks of that chip
    for each in body.splitlines():
        key = f"{table}.{each.partition('=')[0].strip()}".lstrip(".")
        if each.startswith("["):
            trailing: list[str] = []
            while lines and (not lines[-1] or lines[-1].startswith("#")):
                trailing.insert(0, lines.pop())
            lines += [*rest(), *trailing, each]
            table = each.strip("[] ")
        elif each.startswith("#") or not each.strip():
            lines.append(each)
        elif key in left:
            comment = each.rpartition("  # ")[2] if "  # " in each and key not in known else ""
            lines.append(line(key) + (f"  # {comment.strip()}" if comment else ""))
    lines += rest()
    for table in dict.fromkeys(key.rpartition(".")[0] for key in left):
        lines += ["", *_about(table), f"[{table}]", *rest()]
    return lines


def _off(entries: dict[str, object]) -> list[str]:
    """Tables that the design does not state, in comments: what each is for and its keys."""
    lines = []
    for table in TABLES:
        if not any(key.startswith(f"{table}.") for key in entries):
            keys = ", ".join(f"{key} [{kind.unit}]" for key, kind in TABLE_NUMBERS[table].items())
            lines += ["", *_about(table), f"# Off. [{table}] takes: {keys}"]
    return lines


def _about(table: str) -> list[str]:
    """The first sentence about a table, as comments."""
    first = (TABLES[table].__doc__ or table).strip().partition("\n\n")[0]
    return [f"# {line.strip()}" for line in first.splitlines()]
