"""`gaincell device fit|show`: bring a measured cell, look at one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.table import Column, Table

from gaincell.cli._json import JsonFile, check_apart, check_output, command_line, output, show_result
from gaincell.cli._options import argument, bounds, check_needed, chip_of, flag, group, option, with_groups
from gaincell.errors import InputError

if TYPE_CHECKING:
    from gaincell.devices.columns import Columns
    from gaincell.quantity import Quantity
    from gaincell.reports.tables import Rows
    from gaincell.results.device import DeviceResult

SHOWN_NUMBERS = 6

device = group("Fit a cell to measurements, or show one.")


@dataclass(frozen=True)
class ColumnOptions:
    """Which columns of the files are read."""

    voltage: Annotated[str | None, option("Column of the stored voltage.", "COLUMN")] = None
    current: Annotated[
        list[str] | None,
        option("Column of the current; in a wide file '*', or one --current per cell.", "COLUMN"),
    ] = None
    decay_voltage: Annotated[
        str | None,
        option("Column of the stored voltage in DECAY.csv, if not named as in CURVE.csv.", "COLUMN"),
    ] = None
    time: Annotated[str | None, option("Column of the time in DECAY.csv.", "COLUMN")] = None
    cell: Annotated[str | None, option("Column of the cells' names (any text).", "COLUMN")] = None
    read: Annotated[str | None, option("Column that tells repeated reads apart.", "COLUMN")] = None

    @property
    def chosen(self) -> Columns:
        """As the reader takes them."""
        from gaincell.devices.columns import Columns

        return Columns(
            self.voltage, tuple(self.current or ()), self.time, self.cell, self.read, self.decay_voltage
        )


@dataclass(frozen=True)
class Fitting:
    """How a cell is fitted; fields as the arguments of `gaincell.chips.device.fit_device`."""

    decay: Annotated[
        Path | None, option("Stored voltage against time, of one or many cells.", "DECAY.csv")
    ] = None
    skip_bad_rows: Annotated[
        bool, flag("--skip-bad-rows", "Leave out rows without numbers, and say how many.")
    ] = False
    kind: Annotated[
        Literal["polynomial", "tabulated"], option("A polynomial, or a table with monotone interpolation.")
    ] = "polynomial"
    order: Annotated[int, option("Order of the polynomial.", "N", min=1, max=9)] = 3
    law: Annotated[
        Literal["exponential", "stretched", "two-times"] | None,
        option("Law of the decay; by default the one that describes it best."),
    ] = None
    rescale: Annotated[
        bool, flag("--rescale", "Size the chip's converters for the currents of this cell.")
    ] = False
    name: Annotated[str | None, option("Name of the device; by default that of the file.", "NAME")] = None


@device.command()
@with_groups
def fit(
    context: typer.Context,
    *,
    curve: Annotated[
        Path,
        typer.Argument(
            metavar="CURVE.csv", dir_okay=False, help="Current against stored voltage, of one or many cells."
        ),
    ],
    columns: ColumnOptions,
    fitting: Fitting,
    design: Annotated[
        str, option("Chip whose voltages, pulses and charge unit are used.", "DESIGN")
    ] = "leroux2025",
    out: Annotated[Path | None, output("File to write; by default beside CURVE.csv.", "DEVICE.toml")] = None,
    json: JsonFile = None,
) -> None:
    """Fit a cell to measured currents and decays, and write it as DEVICE.toml with a figure beside it.

    CURVE.csv names its columns in one line, each with its unit in brackets: voltage (V, mV) and current (A,
    mA, uA, nA, pA, fA), and for several cells or reads also cell and read. DECAY.csv has time (s, ms, us,
    ns), voltage and cell. Columns with other names are chosen with --voltage, --current, ...: by name, with
    the unit if the file states none ('Vg [mV]'), or by number. Columns are separated by commas, semicolons,
    tabs or blanks; decimal commas are understood. A wide file has one current column for every cell
    (--current '*', or '* [A]' if the headings state no unit), or for every bias (--current COLUMN). Lines
    that begin with # are comments. Without --out, a file that is no device, or a figure without its device,
    is not replaced.

    Give the result as --cell DEVICE.toml, or the curve itself as --cell CURVE.csv, to adapt, cost, evaluate,
    generate, map, serve, simulate or design show. In the examples MY_CURVE.csv, MY_WIDE.csv and MY_DECAY.csv
    are your own measurements, and MY_CELL.toml is made from them.

    Example: gaincell device fit MY_CURVE.csv --decay MY_DECAY.csv --out MY_CELL.toml

    Example: gaincell device fit MY_WIDE.csv --voltage 'V_SN [mV]' --current 'cell A' --current 'cell B'
    --out MY_CELL.toml

    Example: gaincell adapt tiny --cell MY_CELL.toml
    """
    check_needed(context, ("--law", "--time", "--decay-voltage"), "--decay DECAY.csv", fitting.decay)
    from gaincell.chips.device import fit_device
    from gaincell.reports.device import describe, device_figure
    from gaincell.reports.style import save

    path = out or curve.with_suffix(".toml")
    check_output("--out", path)
    if path.suffix != ".toml":
        raise InputError(f"--out {path}: give a file name that ends with .toml")
    beside = [("--out", path.with_suffix(".png"))] + ([] if out else [("--out", path)])
    check_apart(context.command, context.params, beside)
    if out is None:
        check_replaced(path)
    chip = chip_of(design)
    found, fitted, held = fit_device(curve, chip, columns=columns.chosen, **vars(fitting))
    polynomials = fitting.kind == "polynomial" or fitted.cells > 1
    check_needed(context, ("--order",), "--kind polynomial, or a curve of several cells", polynomials)
    found.save(path)
    result = describe(found, fitted, held, command_line(), chip.hash)
    figure = save(device_figure(result), path.with_suffix(".png"))
    show_result(result, json, _fit_table(result), *_matrix_tables(found.covariance))
    if left_out := found.origin.get("rows_left_out"):
        rows = "1 row that does" if left_out == 1 else f"{left_out} rows that do"
        typer.echo(f"Left out: {rows} not hold a number in every column.")
    if beyond := found.origin.get("points_beyond_the_storage_range"):
        stored = f"{chip.v_min:g} to {chip.v_max:g} V"
        typer.echo(f"Not fitted: {beyond} points far beyond the {stored} that {chip.name} stores.")
    on = "" if design == "leroux2025" else f" --design {design}"
    typer.echo(f"Device and figure: {path}, {figure}. Use it: gaincell adapt tiny --cell {path}{on}")


@device.command()
def show(
    device: Annotated[Path, argument("A file of gaincell device fit.", "DEVICE.toml")], json: JsonFile = None
) -> None:
    """Show every number of a device with unit, source and range.

    Example: gaincell device show docs/data/compressive.toml
    """
    from gaincell.chips.device import load_device
    from gaincell.chips.device_file import TABLES
    from gaincell.resources import resolve
    from gaincell.results.description import ShownDevice, Stated
    from gaincell.results.provenance import made
    from gaincell.text import sha256

    found = load_device(device)
    words = {"cell": ("kind", found.cell.name), "retention": ("law", found.law)}
    tables: list[Table] = []
    for section in TABLES:
        table = Table(Column(f"{section}.", no_wrap=True), "value", "source", "range", "note", box=box.SIMPLE)
        if (word := words.get(section)) and word[1] is not None:
            table.add_row(*word)
        for key, quantity in found.numbers.items():
            if key.startswith(f"{section}."):
                low, high = quantity.range
                known = "" if low == high else bounds(low, high)
                shown = _readable(quantity)
                table.add_row(key.partition(".")[2], shown, quantity.source, known, quantity.note)
        tables.append(table)
    for section in ("origin", "quality"):
        table = Table(Column(f"{section}.", no_wrap=True), Column("value", overflow="fold"), box=box.SIMPLE)
        for key, value in getattr(found, section).items():
            table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
        tables.append(table)
    result = ShownDevice(
        provenance=made(
            command=command_line(),
            seed=0,
            protocol="the numbers of a device",
            inputs={f"device {found.name}": sha256(resolve(device))},
        ),
        name=found.name,
        kind=found.cell.name,
        law=found.law,
        numbers={key: Stated.of(number) for key, number in found.numbers.items()},
        origin=found.origin,
        quality=found.quality,
        covariance=found.covariance,
    )
    described = [f"{found.name}: {found.description}", *(table for table in tables if table.rows)]
    show_result(result, json, *described, *_matrix_tables(found.covariance))


def check_replaced(path: Path) -> None:
    """Raise InputError where a device and its figure, whose name nobody gave, would replace other files."""
    from gaincell.chips.device_file import SCHEMA
    from gaincell.files import read_toml

    held, figure = path, path.with_suffix(".png")
    try:
        is_device = read_toml(path).get("schema") == SCHEMA
    except FileNotFoundError:
        held, is_device = figure, not figure.exists()
    except (OSError, ValueError):
        is_device = False
    if not is_device:
        raise InputError(
            f"{held} is there already and no device of gaincell; give --out DEVICE.toml, or move it"
        )


def _matrix_tables(covariance: Mapping[str, Any]) -> list[Rows]:
    """The covariance of the coefficients, where there is one."""
    from gaincell.reports.tables import Rows

    rows: Sequence[Sequence[float]] = covariance.get("coefficients", ())
    orders = [f"C{p}" for p in range(len(rows))]
    shown = [(order, *(f"{entry:.3g}" for entry in row)) for order, row in zip(orders, rows, strict=True)]
    return [Rows("Covariance of the coefficients over cells", ("", *orders), shown)] if shown else []


def _readable(quantity: Quantity) -> str:
    """The number or numbers of a device, the first few of many."""
    values = quantity.value if isinstance(quantity.value, tuple) else (quantity.value,)
    text = ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values[:SHOWN_NUMBERS])
    more = f", ... ({len(values)} in all)" if len(values) > SHOWN_NUMBERS else ""
    return text + more + ("" if quantity.unit == "1" else f" {quantity.unit}")


def _fit_table(result: DeviceResult) -> Rows:
    """The fit for people: value and 95 % confidence interval."""
    from gaincell.reports.tables import Rows

    rows = []
    for key, entry in result.fit.items():
        if not isinstance(entry.value, tuple):  # a matrix is a table of its own
            shown = f"{entry.value:.5g}" if isinstance(entry.value, float) else str(entry.value)
            ends = "" if entry.interval is None else " to ".join(f"{end:.4g}" for end in entry.interval)
            rows.append((key, shown, ends, "" if entry.unit == "1" else entry.unit))
    return Rows(result.title, ("", "value", "95 %", "unit"), rows, text=(0, 3))
