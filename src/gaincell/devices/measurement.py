"""Measured currents and decays from text files, as cells are measured: several, with units, now and then odd.

A file is a table separated by tabs, semicolons, commas or blanks, in UTF-8, UTF-16 or Windows' own code. What
stands behind `#`, `%`, `//` or `!` at the beginning of a line is a comment, and so is what stands before the
line that names the columns:

    # IGZO test cells, wafer 3, 27 C
    cell, read, voltage [mV], current [nA]
    W3-A7, 1, 0, -3120
    ...

Columns: `voltage` (the stored voltage) and `current` of a curve, `time` and `voltage` of a decay; `cell`
tells cells apart (one cell if it is missing), `read` repeated reads of one cell at one voltage: any text.
Other names are given by `Columns` (columns.py), which also knows usual ones. Further columns are ignored. Of
a wide file several columns of the current are one cell each; a blank entry there is a point that was not
measured. Numbers have decimal points or decimal commas, in one file either; commas then separate no columns.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from gaincell.devices.columns import SIMULATED, UNITS, Column, Columns, find_columns, names_columns
from gaincell.errors import InputError
from gaincell.files import open_file
from gaincell.quantity import one_of

Numbers: TypeAlias = npt.NDArray[np.float64]
Words: TypeAlias = npt.NDArray[Any]  # of text

MOST_BYTES = 16 * 2**20
"""Files beyond are refused, which would take minutes; thousands of cells fit into a few megabytes."""
SHOWN_LINES = 5
COMMENTS = ("#", "%", "//", "!")
PREAMBLE = 100
"""Lines of an instrument's own, at the most, before the one that names the columns."""
PLAUSIBLE = {"voltage": 10.0, "current": 1e-3}
"""Largest magnitudes that one cell of any technology has, V and A: beyond, the unit is wrong."""

GROUPED = re.compile(r"[-+−]?[1-9]\d{0,2}([.,]\d{3})+")
"""A number that may have thousands separators."""


@dataclass(frozen=True)
class Table:
    """Rows of one file, in SI units: `cell` and `read` are words, the others floats. All have one length.

    Attributes:
        path: The file.
        sha256: Of its bytes.
        left_out: Why rows were left out, one line each.
        simulated: By what, where its first line says so; empty for measurements.
    """

    path: Path
    sha256: str
    cell: Words
    read: Words
    columns: Mapping[str, Numbers]
    left_out: tuple[str, ...] = ()
    simulated: str = ""

    def __len__(self) -> int:
        return len(self.cell)

    def cells(self) -> Iterator[tuple[str, dict[str, Numbers]]]:
        """(name of the cell, its rows by column) of every cell, as they follow in the file."""
        for name in dict.fromkeys(self.cell.tolist()):
            rows = self.cell == name
            yield name, {key: values[rows] for key, values in self.columns.items()}


def read_curve(
    path: str | os.PathLike[str], columns: Columns | None = None, *, skip_bad_rows: bool = False
) -> Table:
    """Current against stored voltage.

    Args:
        path: The file, see the head of this one.
        columns: Where they have other names than usual.
        skip_bad_rows: Leave out rows that hold something else than numbers, and say which (`left_out`).

    Raises:
        InputError: a file that cannot be used; with line and remedy.
    """
    table = _read(path, ("voltage", "current"), columns or Columns(), skip_bad_rows)
    voltage, current = table.columns["voltage"], table.columns["current"]
    where = f"{table.path}"
    if _swapped(table):
        raise InputError(
            f"{where}: the columns look swapped: 'voltage' goes from {_span(voltage)} V and 'current' from "
            f"{_span(current)} A; exchange the names in the first line, or give --voltage and --current"
        )
    for name, values in table.columns.items():
        if float(np.abs(values).max()) > PLAUSIBLE[name]:
            raise InputError(
                f"{where}: {name} goes from {_span(values)} {next(iter(UNITS[name]))}, more than one cell "
                f"can have; is the unit right? Allowed are {one_of(UNITS[name])}"
            )
    if float(np.ptp(current)) == 0.0:
        raise InputError(f"{where}: all currents are {current[0]:.4g} A; a curve must rise")
    _check_once(table, "voltage", "V", "; of a sweep up and down keep one direction")
    return table


def read_decay(
    path: str | os.PathLike[str], columns: Columns | None = None, *, skip_bad_rows: bool = False
) -> Table:
    """Stored voltage against time, see `read_curve`. A column that `columns` names is looked for under its
    usual names where this file has no such column: the curve has it. Its `decay_voltage` must be here.
    """
    columns = columns or Columns()
    if columns.decay_voltage is not None:
        columns = dataclasses.replace(columns, voltage=columns.decay_voltage)
    table = _read(path, ("time", "voltage"), columns, skip_bad_rows)
    time, voltage = table.columns["time"], table.columns["voltage"]
    if float(time.min()) < 0.0:
        raise InputError(f"{table.path}: time goes from {_span(time)} s; count it from the write, 0")
    if float(np.abs(voltage).max()) > PLAUSIBLE["voltage"]:
        raise InputError(f"{table.path}: voltage goes from {_span(voltage)} V; is the unit right?")
    _check_once(table, "time", "s")
    return table


def _check_once(table: Table, of: str, unit: str, else_: str = "") -> None:
    """Raise InputError where one read of a cell has a value of a column twice or more; `else_`: remedy."""
    values = table.columns[of]
    keys = np.rec.fromarrays([table.cell, table.read, values])
    _, first, count = np.unique(keys, return_index=True, return_counts=True)
    if (count > 1).any():
        row = int(first[count > 1][0])
        raise InputError(
            f"{table.path}: cell {table.cell[row] or 1} has {of} {values[row]:.6g} {unit} "
            f"{int(count[count > 1][0])} times; number repeated reads in a column 'read' (or --read COLUMN) "
            f"and cells in a column 'cell' (or --cell COLUMN){else_}"
        )


def _swapped(table: Table) -> bool:
    """Whether 'voltage' is as small as currents are, and 'current' as large as voltages; or whether 'current'
    goes in equal steps, as voltages do that are set, and 'voltage' does not. Currents that are rounded do,
    too, but are more than the voltages in all, or come twice in one read.
    """
    voltage, current = table.columns["voltage"], table.columns["current"]
    if float(np.abs(voltage).max()) < 5e-3 and float(np.abs(current).max()) > 2e-2:
        return True
    once = len(np.unique(np.rec.fromarrays([table.cell, table.read, current]))) == len(table)
    few = len(np.unique(current)) <= len(np.unique(voltage))
    return _in_equal_steps(current) and not _in_equal_steps(voltage) and once and few


def _in_equal_steps(values: Numbers) -> bool:
    steps = np.diff(np.unique(values))
    return len(steps) > 3 and float(np.ptp(steps)) < 1e-3 * float(steps.max())


def _span(values: Numbers) -> str:
    return f"{values.min():.4g} to {values.max():.4g}"


def _read(path: str | os.PathLike[str], needed: Sequence[str], wanted: Columns, skip_bad_rows: bool) -> Table:
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    try:
        with open_file(path) as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}; give a file") from None
    if len(raw) > MOST_BYTES:
        raise InputError(
            f"{path}: {path.stat().st_size / 2**20:.0f} MiB; give at most {MOST_BYTES // 2**20} MiB: fewer "
            "cells, or fewer points a cell"
        )
    try:
        return _table(raw, path, needed, wanted, skip_bad_rows)
    except csv.Error as error:
        raise InputError(f"{path}: no table of numbers: {error}") from None


def _table(raw: bytes, path: Path, needed: Sequence[str], wanted: Columns, skip_bad_rows: bool) -> Table:
    lines = [(n, line) for n, line in enumerate(_text(raw, path).splitlines(), 1) if line.strip("\t;, ")]
    simulated = lines[0][1].removeprefix(SIMULATED) if lines and lines[0][1].startswith(SIMULATED) else ""
    if lines and lines[0][1].lower().startswith("sep="):  # a spreadsheet's own
        del lines[0]
    number, heading, lines = _heading(lines, needed, wanted)
    if not lines:
        raise InputError(f"{path}: a line that names the columns and lines of numbers are needed")
    separator, fields = _separator(heading), _entries(heading)
    while fields and not fields[-1]:
        del fields[-1]
    if needed[0] == "time":
        wanted = _only_there(wanted, fields)
    columns = find_columns(fields, needed, wanted, f"{path}: line {number}")
    table, left_out = _rows(lines, separator, len(fields), columns, path, skip_bad_rows)
    cell, read = (np.array(table.pop(kind), dtype=np.str_) for kind in ("cell", "read"))
    values = {name: np.array(entries, dtype=np.float64) for name, entries in table.items()}
    return Table(path, hashlib.sha256(raw).hexdigest(), cell, read, values, left_out, simulated)


def _text(raw: bytes, path: Path) -> str:
    """The text of a file: UTF-16 with a mark, else UTF-8, else Windows' Western code."""
    marked = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for code in ("utf-16",) if marked else ("utf-8-sig", "cp1252"):
        try:
            text = raw.decode(code)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise InputError(f"{path}: not a text file; export the measurement as CSV")


def _heading(
    lines: Sequence[tuple[int, str]], needed: Sequence[str], wanted: Columns
) -> tuple[int, str, list[tuple[int, str]]]:
    """The line that names the columns, with its number, and the lines of numbers: those behind it that are no
    comments. It may be a comment itself; where none names columns, the first one is taken.
    """
    said = [(n, line.strip(" \r")) for n, line in lines]
    rows = [(n, line) for n, line in said if not line.startswith(COMMENTS)]
    comments = [(n, line.lstrip("".join(COMMENTS) + " ")) for n, line in said if line.startswith(COMMENTS)]
    for number, line in [*rows[:PREAMBLE], *reversed(comments[:PREAMBLE])]:
        fields = _entries(line)
        if names_columns(fields, needed, wanted):
            numbered = all(_value(field, ",") is not None for field in fields)  # and have no names
            return number, line, [row for row in rows if row[0] > number - numbered]
    # columns that are given by numbers: the line, maybe a comment, above the first row with numbers there; or
    # that row where no line of as many entries stands above it
    places = wanted.by_number(needed)
    for at, (number, line) in enumerate(rows[: PREAMBLE + 1] if places else ()):
        fields = _entries(line)
        if len(fields) <= max(places) or any(_value(fields[place], ",") is None for place in places):
            continue
        above = [(n, text.lstrip("".join(COMMENTS) + " ")) for n, text in said if n < number][-1:]
        if above and len(_entries(above[0][1])) == len(fields):
            number, line = above[0]
        return number, line, rows[at:]
    return (*rows[0], rows[1:]) if rows else (0, "", [])


def _entries(line: str) -> list[str]:
    """The entries of a line that may name the columns."""
    return _fields(line, _separator(line), last_is_number=True)


def _separator(line: str) -> str:
    outside = re.sub(r"\"[^\"]*\"|\[[^\]]*\]|\([^)]*\)", "", line)
    return next((separator for separator in "\t;," if separator in outside), " ")


def _fields(line: str, separator: str, *, last_is_number: bool) -> list[str]:
    """The entries of a line, without quotes, blanks around them, and a comment behind the last number."""
    if separator == " ":
        parts = re.findall(r'(?:"[^"]*"|\s+(?=[\[(])|\S)+', line)  # a unit belongs to its name
        fields = [part.replace('"', "").strip() for part in parts]
    else:
        fields = [field.strip() for field in next(csv.reader([line], delimiter=separator))]
    if last_is_number and fields:
        fields[-1] = re.sub(r"(^|\s)#.*", "", fields[-1])
    return fields


def _only_there(wanted: Columns, fields: Sequence[str]) -> Columns:
    """Of the names that a curve has, those that a decay has, too; what only a decay has must be there."""
    kept = {
        kind: name
        for kind in ("voltage", "cell", "read")
        if (name := getattr(wanted, kind)) is not None
        and names_columns(fields, (kind,), Columns(**{kind: name}))
    }
    usual = names_columns(fields, ("voltage",), Columns())
    if wanted.decay_voltage is not None or (wanted.by_number(("voltage",)) and not usual):
        kept["voltage"] = wanted.voltage
    return Columns(time=wanted.time, **kept)


def _rows(
    lines: Sequence[tuple[int, str]],
    separator: str,
    width: int,
    columns: Mapping[str, Sequence[Column]],
    path: Path,
    skip_bad_rows: bool,
) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    """The entries of all rows by kind, in SI units, and what is wrong with those that were left out.

    Raise InputError, which names all bad rows, unless they are left out.
    """
    last_is_number = all(column.place != width - 1 for column in columns.get("cell", ()))
    decimal = _decimal(lines, separator, columns, path)
    table: dict[str, list[Any]] = {kind: [] for kind in (*columns, "cell", "read")}
    bad: list[str] = []
    for number, line in lines:
        fields = _fields(line, separator, last_is_number=last_is_number)
        while len(fields) > width and not fields[-1]:
            del fields[-1]
        if len(fields) != width:
            hint = "; decimal commas need ; or tabs between columns" if separator == "," else ""
            bad.append(f"line {number} has {len(fields)} entries instead of {width}{hint}")
            continue
        points, wrong = _points(fields, columns, decimal)
        bad += [f"line {number}: {', '.join(wrong)}"] if wrong else []
        for point in [] if wrong else points:
            for kind, entries in table.items():
                entries.append(point[kind])
    more = f" and {len(bad) - SHOWN_LINES} more" if len(bad) > SHOWN_LINES else ""
    listed = "; ".join(bad[:SHOWN_LINES]) + more
    if bad and not skip_bad_rows:
        raise InputError(
            f"{path}: {listed}. Every entry must be a finite number without thousands separators; "
            "put a # before lines to be left out, or give --skip-bad-rows"
        )
    if not table["cell"]:
        raise InputError(f"{path}: no row holds numbers: {listed}")
    return table, tuple(bad)


def _points(
    fields: Sequence[str], columns: Mapping[str, Sequence[Column]], decimal: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """The points of one row, several where one kind has several columns, and what is wrong with it."""
    row: dict[str, Any] = {"cell": "", "read": ""}
    points, wrong = [row], []
    for kind, found in columns.items():
        values = [(column, fields[column.place]) for column in found]
        if kind in row:
            row[kind] = values[0][1]
            continue
        numbers = [(c, _value(entry, decimal)) for c, entry in values if entry or len(found) == 1]
        wrong += [
            f"{kind if len(found) == 1 else c.name} is {fields[c.place] or 'empty'!r}"
            for c, x in numbers
            if x is None
        ]
        scaled = [(c, 0.0 if x is None else x * c.unit) for c, x in numbers]
        if len(found) == 1:
            row[kind] = scaled[0][1]
        else:
            points = [{kind: x, "wide": c.name} for c, x in scaled]
    return [row | p | {"cell": f"{row['cell']} {p.get('wide', '')}".strip()} for p in points], wrong


def _decimal(
    lines: Sequence[tuple[int, str]], separator: str, columns: Mapping[str, Sequence[Column]], path: Path
) -> str:
    """What the numbers of a file have before their decimals; InputError where it is now this, now that, or
    could be a thousands separator: 1,234 is then one number or another.
    """
    places = [c.place for kind, found in columns.items() if kind not in ("cell", "read") for c in found]
    seen: dict[str, str] = {}
    marked: dict[int, list[str]] = {place: [] for place in places}
    others: dict[int, list[str]] = {place: [] for place in places}
    for number, line in lines:
        fields = _fields(line, separator, last_is_number=False)
        for place in places:
            if place >= len(fields) or not re.match(r"[-+−.,\d]", fields[place]):
                continue
            marks = [mark for mark in ",." if mark in fields[place]]
            (marked if marks else others)[place].append(fields[place])
            for mark in marks:
                seen.setdefault(mark, f"{fields[place]!r} in line {number}")
        if len(seen) > 1:
            raise InputError(
                f"{path}: numbers with commas and with points, {seen[',']} and {seen['.']}; "
                "which are decimals? Write the file with one of them, and without thousands separators"
            )
    if all(GROUPED.fullmatch(entry) for entries in marked.values() for entry in entries):
        for place in places:
            short = all(re.fullmatch(r"[-+−]?\d{1,3}", entry) for entry in others[place])
            whole = next((entry for entry in others[place] if entry.strip("-+−0")), None)
            if marked[place] and short and whole:
                raise InputError(
                    f"{path}: {marked[place][0]!r} and {whole!r}: decimals or thousands? Write decimals in "
                    f"every entry ({whole}{next(iter(seen))}000), or leave the thousands separators out"
                )
    return "," if "," in seen else "."


def _value(entry: str, decimal: str) -> float | None:
    """A finite number, or None."""
    text = entry.replace("−", "-").replace(decimal, ".")
    try:
        value = math.nan if "_" in text else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
