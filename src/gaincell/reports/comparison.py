"""The table of the paper for any models: as text, for LaTeX, Markdown and a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gaincell.reports.paper import cited_table
from gaincell.reports.tables import Rows, number_and_error
from gaincell.results.common import Value
from gaincell.results.comparison import HEADINGS, Column, ComparedScore, Comparison, task_and_metric, unit_of

if TYPE_CHECKING:
    from rich.table import Table

DIFFERENCES = {"%": "points", "1": "ratio"}
"""Unit -> what a difference in it is called."""


def cited_rows() -> dict[str, dict[Column, ComparedScore]]:
    """The paper's table, by model."""
    table, source = cited_table(), "Leroux et al. 2025, Table 1"
    return {
        name: {
            f"{task}/{metric}": ComparedScore(Value(number, unit_of(metric), "cited", source))
            for (task, metric), number in zip(table.columns, numbers, strict=True)
        }
        for name, numbers in table.rows.items()
    }


def as_csv(comparison: Comparison) -> str:
    """One line a model, task and metric."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ("model", "task", "metric", "value", "error", "unit", "difference", "difference_error", "kind")
    writer.writerow((*names, "source"))
    for row in comparison.rows:
        for column, entry in row.entries.items():
            written = ["" if x is None else f"{x:.6g}" for x in entry.numbers]
            unit, source = entry.score.unit, "cited" if row.cited else "ours"
            change = (*written[2:], DIFFERENCES.get(unit, "difference"))
            writer.writerow((row.name, *task_and_metric(column), *written[:2], unit, *change, source))
    return file.getvalue()


def as_latex(comparison: Comparison) -> str:
    """A table for a paper (package booktabs)."""
    lines = [
        "\\begin{tabular}{l" + "r" * len(comparison.columns) + "}",
        "\\toprule",
        " & ".join(["", *(_escaped(heading(column)) for column in comparison.columns)]) + " \\\\",
        "\\midrule",
    ]
    for row in comparison.rows:
        found = [row.entries.get(column) for column in comparison.columns]
        cells = ["--" if entry is None else _latex(_score(entry)) for entry in found]
        changes = [_latex(_change(entry)) if entry else "" for entry in found]
        lines.append(" & ".join([_escaped(row.name), *cells]) + " \\\\")
        if any(changes):
            lines.append(" & ".join(["", *changes]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", *(f"% {note}" for note in comparison.notes)]
    return "\n".join(lines) + "\n"


def as_markdown(comparison: Comparison) -> str:
    """For documents; differences in a second line of every row but the reference's."""
    rows = []
    for row in comparison.rows:
        found = (row.entries.get(column) for column in comparison.columns)
        rows.append([row.name, *("–" if entry is None else cell(entry, "<br>") for entry in found)])
    headings = ("model", *map(heading, comparison.columns))
    return Rows("", headings, rows, " ".join(comparison.notes)).markdown()


def terminal_table(comparison: Comparison) -> Table:
    """For a terminal: a line for every score and model."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    caption = "\n".join(comparison.notes)
    numbers = (Column(name, justify="right") for name in ("value", "difference"))
    table = Table("score", "model", *numbers, box=SIMPLE_HEAD, caption=caption, caption_justify="left")
    for column in comparison.columns:
        first = heading(column)
        for row in comparison.rows:
            if column in row.entries:
                value, _, change = cell(row.entries[column], "\n").partition("\n")
                table.add_row(first, row.name, value, change, style="dim" if row.cited else None)
                first = ""
        table.add_section()
    return table


def heading(column: Column) -> str:
    return HEADINGS.get(column, " ".join(task_and_metric(column)))


def cell(entry: ComparedScore, line: str) -> str:
    """A number with its error, and the difference in a line of its own."""
    shown = " ± ".join(_score(entry))
    if not (change := _change(entry)):
        return shown
    *_, difference, error = entry.numbers
    if error == 0 and difference == (1.0 if entry.score.unit == "1" else 0.0):
        return f"{shown}{line}{change[0]} (no item differs)"
    return f"{shown}{line}{' ± '.join(change)}"


def _score(entry: ComparedScore) -> Sequence[str]:
    """A number, and its error if it has one: two decimals, or the digits that the error leaves, where that is
    too small for two or the number too large.
    """
    number, error, *_ = entry.numbers
    if error is not None and (0 < error < 0.005 or abs(number) >= 1000):
        return number_and_error(number, error)
    if abs(number) < 1000:
        return [f"{x:.2f}" for x in (number, error) if x is not None]
    return [f"{number:,.0f}"]


def _change(entry: ComparedScore) -> list[str]:
    """A difference in points, or a ratio, and its error if it has one; empty without a difference."""
    *_, amount, error = entry.numbers
    if amount is None:
        return []
    if entry.score.unit != "1":
        digits = 4 if entry.score.unit != "%" else 2 if error and error < 0.05 else 1
        return [f"{amount:+.{digits}f}", *([] if error is None else [f"{error:.{digits}f}"])]
    if not error:
        return [f"×{amount:.3f}"] + ([] if error is None else ["0"])
    ratio, spread = number_and_error(amount, error)
    return [f"×{ratio}", spread]


_ESCAPES = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%_#${}"},
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "\\": r"\textbackslash{}",
    }
)


def _latex(numbers: Sequence[str]) -> str:
    shown = " \\pm ".join(numbers).replace("×", "\\times ").replace(",", "{,}")
    return f"${shown}$" if numbers else ""


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)
