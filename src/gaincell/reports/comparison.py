"""The table of the paper for any models: as text, for LaTeX, Markdown and a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

from gaincell.reports.paper import cited_table
from gaincell.reports.tables import Rows, number_and_error
from gaincell.results.comparison import HEADINGS, PERPLEXITIES, Column, Comparison, Entry, unit_of

if TYPE_CHECKING:
    from rich.table import Table

DIFFERENCES = {"%": "points", "1": "ratio"}
"""Unit -> what a difference in it is called."""


def cited_rows(columns: Collection[Column] = HEADINGS) -> dict[str, dict[Column, Entry]]:
    """The paper's table, for some columns."""
    table = cited_table()
    return {
        name: {
            column: Entry(x) for column, x in zip(table.columns, numbers, strict=True) if column in columns
        }
        for name, numbers in table.rows.items()
    }


def as_csv(comparison: Comparison) -> str:
    """One line a model, task and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ("model", "task", "metric", "value", "error", "unit", "difference", "difference_error", "kind")
    writer.writerow((*names, "source"))
    for name, entries in comparison.rows.items():
        for (task, metric), entry in entries.items():
            written = ["" if x is None else f"{x:.6g}" for x in astuple(entry)]
            unit, of_difference = unit_of(metric), DIFFERENCES.get(unit_of(metric), "difference")
            source = "cited" if name in comparison.cited else "ours"
            writer.writerow((name, task, metric, *written[:2], unit, *written[2:], of_difference, source))
    return file.getvalue()


def as_latex(comparison: Comparison) -> str:
    """A table for a paper (package booktabs)."""
    lines = [
        "\\begin{tabular}{l" + "r" * len(comparison.columns) + "}",
        "\\toprule",
        " & ".join(["", *(_escaped(heading(column)) for column in comparison.columns)]) + " \\\\",
        "\\midrule",
    ]
    for name, entries in comparison.rows.items():
        found = [(column, entries.get(column)) for column in comparison.columns]
        cells = ["--" if entry is None else _latex(_score(entry)) for _, entry in found]
        changes = [_latex(_change(entry, column)) if entry else "" for column, entry in found]
        lines.append(" & ".join([_escaped(name), *cells]) + " \\\\")
        if any(changes):
            lines.append(" & ".join(["", *changes]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", *(f"% {note}" for note in comparison.notes)]
    return "\n".join(lines) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """For documents; differences in a second line of every row but the reference's."""
    rows = [
        [name, *("–" if c not in entries else cell(entries[c], c, "<br>") for c in comparison.columns)]
        for name, entries in comparison.rows.items()
    ]
    headings = ("model", *map(heading, comparison.columns))
    return Rows("", headings, rows, " ".join(comparison.notes)).markdown()


def terminal_table(comparison: Comparison) -> Table:
    """For a terminal: a line for every score and model."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    caption = "\n".join(comparison.notes)
    table = Table(box=SIMPLE_HEAD, caption=caption, caption_justify="left")
    for name in ("score", "model"):
        table.add_column(name)
    for name in ("value", "difference"):
        table.add_column(name, justify="right")
    for column in comparison.columns:
        first = heading(column)
        for name, entries in comparison.rows.items():
            if column in entries:
                value, _, change = cell(entries[column], column, "\n").partition("\n")
                table.add_row(first, name, value, change, style="dim" if name in comparison.cited else None)
                first = ""
        table.add_section()
    return table


def heading(column: Column) -> str:
    task, metric = column
    return HEADINGS.get(column, f"{task} {metric}")


def cell(entry: Entry, column: Column, line: str) -> str:
    """A number with its error, and the difference in a line of its own."""
    shown = " ± ".join(_score(entry))
    if not (change := _change(entry, column)):
        return shown
    if entry.difference_error == 0 and entry.difference == (1.0 if column[1] in PERPLEXITIES else 0.0):
        return f"{shown}{line}{change[0]} (no item differs)"
    return f"{shown}{line}{' ± '.join(change)}"


def _score(entry: Entry) -> Sequence[str]:
    """A number, and its error if it has one: two decimals, or the digits that the error leaves, where that is
    too small for two or the number too large.
    """
    if entry.error is not None and 0 < entry.error < 0.005:
        return number_and_error(entry.number, entry.error)
    if abs(entry.number) < 1000:
        return [f"{x:.2f}" for x in (entry.number, entry.error) if x is not None]
    return [f"{entry.number:,.0f}"] if entry.error is None else number_and_error(entry.number, entry.error)


def _change(entry: Entry, column: Column) -> list[str]:
    """A difference in points, or a ratio, and its error if it has one; empty without a difference."""
    amount, error = entry.difference, entry.difference_error
    if amount is None:
        return []
    if column[1] not in PERPLEXITIES:
        digits = 1 if unit_of(column[1]) == "%" else 4
        return [f"{amount:+.{digits}f}", *([] if error is None else [f"{error:.{digits}f}"])]
    if not error:
        return [f"×{amount:.3f}"] + ([] if error is None else ["0"])
    ratio, spread = number_and_error(amount, error)
    return [f"×{ratio}", spread]


def _latex(numbers: Sequence[str]) -> str:
    shown = " \\pm ".join(numbers).replace("×", "\\times ").replace(",", "{,}")
    return f"${shown}$" if numbers else ""


def _escaped(text: str) -> str:
    return text.translate({ord(character): f"\\{character}" for character in "&%_#"})
