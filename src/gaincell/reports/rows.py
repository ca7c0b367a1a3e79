"""A table, for a terminal and for a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rows:
    """A table. The first column is text, the others are aligned right."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


def for_terminal(table: Rows, *, texts: int = 1, total: bool = False) -> Any:
    """A table of rich.

    texts: columns that are text.  total: whether the last row stands apart.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(
        title=table.title,
        caption=table.caption or None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for n, heading in enumerate(table.headings):
        made.add_column(heading, justify="left" if n < texts else "right")
    for n, row in enumerate(table.rows):
        made.add_row(*row, end_section=total and n == len(table.rows) - 2)
    return made


def as_markdown(table: Rows) -> str:
    """For a document; indentation of parts is kept."""
    rule = ["---", *["---:"] * (len(table.headings) - 1)]
    rows = [[row[0].replace("  ", "&emsp;"), *row[1:]] for row in table.rows]
    lines = ["| " + " | ".join(row) + " |" for row in (table.headings, rule, *rows)]
    return "\n".join([*lines, *(("", table.caption) if table.caption else ())]) + "\n"
