"""Measured curves as files: reading, checking units, ranges and order, with line numbers in every complaint.

A file is a table of comma, semicolon or tab separated numbers. `#` begins a comment, and the first line that
is none names the columns with their units:

    # IGZO test cells, wafer 3, 27 C
    cell, read, voltage [mV], current [nA]
    1, 1, 0, -3120
    ...

Columns: `voltage` (the stored voltage) and `current` of a curve, `time` and `voltage` of a decay; `cell`
tells cells apart (one cell if it is missing), `read` repeated reads of one cell at one voltage. Further
columns are ignored. Units: V, mV; A, mA, uA, nA, pA; s, ms, us, ns; for ratios nothing.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gaincell.errors import InputError
from gaincell.quantity import did_you_mean, one_of

Numbers: TypeAlias = npt.NDArray[np.float64]

MOST_BYTES = 64 * 2**20
"""Files beyond are refused: thousands of cells fit into a few megabytes."""
SHOWN_LINES = 5
UNITS: Mapping[str, Mapping[str, float]] = {
    "voltage": {"V": 1.0, "mV": 1e-3},
    "current": {"A": 1.0, "mA": 1e-3, "uA": 1e-6, "µA": 1e-6, "μA": 1e-6, "nA": 1e-9, "pA": 1e-12},
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9},
}
COUNTERS = ("cell", "read")
PLAUSIBLE = {"voltage": 10.0, "current": 1e-3}
"""Largest magnitudes that one cell of any technology has, V and A: beyond, the unit is wrong."""


@dataclass(frozen=True)
class Table:
    """Rows of one file, in SI units: `cell` and `read` whole numbers, the others floats. All have one length.

    path: the file.  sha256: of its bytes.
    """

    path: Path
    sha256: str
    cell: npt.NDArray[np.int64]
    read: npt.NDArray[np.int64]
    columns: Mapping[str, Numbers]

    def __len__(self) -> int:
        return len(self.cell)

    def cells(self) -> Iterator[tuple[int, dict[str, Numbers]]]:
        """(number of the cell, its rows by column) of every cell."""
        for number in np.unique(self.cell):
            rows = self.cell == number
            yield int(number), {name: values[rows] for name, values in self.columns.items()}


def read_curve(path: str | os.PathLike[str]) -> Table:
    """Current against stored voltage. Raises InputError for what cannot be used, with line and remedy."""
    table = _read(path, ("voltage", "current"))
    voltage, current = table.columns["voltage"], table.columns["current"]
    where = f"{table.path}"
    if _swapped(voltage, current):
        raise InputError(
            f"{where}: the columns look swapped: 'voltage' goes from {_span(voltage)} V and 'current' from "
            f"{_span(current)} A; exchange the names in the first line"
        )
    for name, values in (("voltage", voltage), ("current", current)):
        largest = float(np.abs(values).max())
        if largest > PLAUSIBLE[name]:
            unit = "V" if name == "voltage" else "A"
            raise InputError(
                f"{where}: {name} goes from {_span(values)} {unit}, more than one cell can have; "
                f"is the unit right? Allowed are {one_of(UNITS[name])}"
            )
    if float(np.ptp(current)) == 0.0:
        raise InputError(f"{where}: all currents are {current[0]:.4g} A; a curve must rise")
    keys = np.rec.fromarrays([table.cell, table.read, voltage])
    _, first, count = np.unique(keys, return_index=True, return_counts=True)
    if (count > 1).any():
        row = int(first[count > 1][0])
        raise InputError(
            f"{where}: cell {table.cell[row]} has voltage {voltage[row]:.6g} V {int(count[count > 1][0])} "
            "times; number repeated reads in a column 'read', and cells in a column 'cell'"
        )
    return table


def read_decay(path: str | os.PathLike[str]) -> Table:
    """Stored voltage against time. Raises InputError for what cannot be used, with line and remedy."""
    table = _read(path, ("time", "voltage"))
    time, voltage = table.columns["time"], table.columns["voltage"]
    if float(time.min()) < 0.0:
        raise InputError(f"{table.path}: time goes from {_span(time)} s; count it from the write, 0")
    if float(np.abs(voltage).max()) > PLAUSIBLE["voltage"]:
        raise InputError(f"{table.path}: voltage goes from {_span(voltage)} V; is the unit right?")
    return table


def _swapped(voltage: Numbers, current: Numbers) -> bool:
    """Whether 'voltage' is as small as currents are, and 'current' as large as voltages; or whether 'current'
    goes in equal steps, as voltages do that are set, and 'voltage' does not.
    """
    if float(np.abs(voltage).max()) < 5e-3 and float(np.abs(current).max()) > 2e-2:
        return True
    return _in_equal_steps(current) and not _in_equal_steps(voltage)


def _in_equal_steps(values: Numbers) -> bool:
    steps = np.diff(np.unique(values))
    return len(steps) > 3 and float(np.ptp(steps)) < 1e-3 * float(steps.max())


def _span(values: Numbers) -> str:
    return f"{values.min():.4g} to {values.max():.4g}"


def _read(path: str | os.PathLike[str], needed: Sequence[str]) -> Table:
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: this is a directory; give a file")
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(
            f"{path}: {size / 2**20:.0f} MiB; give at most {MOST_BYTES // 2**20} MiB: fewer cells, or fewer "
            "points a cell"
        )
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8 (byte {error.start})") from None
    lines = [(n, line.split("#", 1)[0].strip()) for n, line in enumerate(text.splitlines(), 1)]
    lines = [(n, line) for n, line in lines if line]
    if len(lines) < 2:
        raise InputError(f"{path}: a line that names the columns and lines of numbers are needed")
    separator = next((s for s in ("\t", ";", ",") if s in lines[0][1]), ",")
    header = _header(
        [part.strip() for part in lines[0][1].split(separator)], needed, f"{path}: line {lines[0][0]}"
    )
    values = _numbers(lines[1:], separator, header, path)
    counters = {name: values.pop(name, None) for name in COUNTERS}
    for name, numbers in counters.items():
        if numbers is not None and (numbers != np.round(numbers)).any():
            odd = numbers[numbers != np.round(numbers)][0]
            raise InputError(f"{path}: column {name!r} holds {odd}; give whole numbers")
    count = len(next(iter(values.values())))
    whole = {n: np.zeros(count, int) if x is None else x.astype(np.int64) for n, x in counters.items()}
    return Table(path, hashlib.sha256(raw).hexdigest(), whole["cell"], whole["read"], values)


def _header(names: list[str], needed: Sequence[str], where: str) -> list[tuple[str, float] | None]:
    """For every column its name and what its unit is in SI; None for one that is not used."""
    found: list[tuple[str, float] | None] = []
    seen: dict[str, float] = {}
    for text in names:
        match = re.fullmatch(r"(\w[\w ]*?)\s*(?:[\[(]\s*([^\])]*?)\s*[\])])?", text)
        name, unit = (match[1].lower(), match[2]) if match else (text, None)
        if name in COUNTERS:
            found.append((name, 1.0))
        elif name in needed:
            if unit is None or unit not in UNITS[name]:
                given = f"has no unit, {name!r}" if unit is None else f"has the unit {unit!r}"
                example = next(iter(UNITS[name]))
                raise InputError(
                    f"{where}: column {name} {given}; write '{name} [{example}]', allowed are "
                    f"{one_of(UNITS[name])}"
                )
            found.append((name, UNITS[name][unit]))
        else:
            found.append(None)
            seen[name] = 1.0
            continue
        if found.count(found[-1]) > 1 or sum(c is not None and c[0] == name for c in found) > 1:
            raise InputError(f"{where}: column {name!r} is there twice")
    missing = [name for name in needed if not any(c is not None and c[0] == name for c in found)]
    if missing:
        near = did_you_mean(missing[0], seen) if seen else ""
        raise InputError(
            f"{where}: there is no column {missing[0]!r}; found {', '.join(names)}{near}. "
            f"The first line names the columns: {', '.join(f'{n} [{next(iter(UNITS[n]))}]' for n in needed)}"
        )
    return found


def _numbers(
    lines: list[tuple[int, str]], separator: str, header: list[tuple[str, float] | None], path: Path
) -> dict[str, Numbers]:
    """The used columns, in SI units; complains of all lines that hold something else than numbers."""
    columns: dict[str, list[float]] = {c[0]: [] for c in header if c is not None}
    bad: list[str] = []
    for number, line in lines:
        parts = [part.strip() for part in line.split(separator)]
        if len(parts) != len(header):
            bad.append(f"line {number} has {len(parts)} entries instead of {len(header)}")
            continue
        for column, part in zip(header, parts, strict=True):
            if column is None:
                continue
            try:
                value = float(part)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                bad.append(f"line {number}: {column[0]} is {part or 'empty'!r}")
            columns[column[0]].append(value * column[1])
    if bad:
        more = f" and {len(bad) - SHOWN_LINES} more" if len(bad) > SHOWN_LINES else ""
        raise InputError(
            f"{path}: {'; '.join(bad[:SHOWN_LINES])}{more}. Every entry must be a finite number; "
            "put a # before lines to be left out"
        )
    return {name: np.array(values) for name, values in columns.items()}
