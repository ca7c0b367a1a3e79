"""`gaincell device fit|show`: bring a measured cell, look at one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import JsonFile, check_apart, check_output, command_line, output, show_result
from gaincell.cli._options import bounds, check_needed

if TYPE_CHECKING:
    from gaincell.devices.columns import Columns
    from gaincell.quantity import Quantity
    from gaincell.reports.tables import Rows
    from gaincell.results.device import DeviceResult

SHOWN_NUMBERS = 6

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Fit a cell to measurements; show one.")


@dataclass(frozen=True)
class ColumnOptions:
    """Which columns of the files are read."""

    voltage: Annotated[
        str | None, typer.Option("--voltage", metavar="COLUMN", help="Column of the stored voltage.")
    ] = None
    current: Annotated[
        list[str] | None,
        typer.Option(
            "--current", metavar="COLUMN", help="Of the current; of a wide file '*', or several: a cell each."
        ),
    ] = None
    decay_voltage: Annotated[
        str | None,
        typer.Option(
            "--decay-voltage",
            metavar="COLUMN",
            help="Of the stored voltage in DECAY.csv, where it is not that of CURVE.csv.",
        ),
    ] = None
    time: Annotated[
        str | None, typer.Option("--time", metavar="COLUMN", help="Of the time, in DECAY.csv.")
    ] = None
    cell: Annotated[
        str | None, typer.Option("--cell", metavar="COLUMN", help="Of the cells' names, any text.")
    ] = None
    read: Annotated[
        str | None, typer.Option("--read", metavar="COLUMN", help="Column that tells repeated reads apart.")
    ] = None

    @property
    def chosen(self) -> Columns:
        """As the reader takes them."""
        from gaincell.devices.columns import Columns

        return Columns(
            self.voltage, tuple(self.current or ()), self.time, self.cell, self.read, self.decay_voltage
        )


@app.command()
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
    decay: Annotated[
        Path | None,
        typer.Option(
            "--decay", metavar="DECAY.csv", help="Stored voltage against time, of one or many cells."
        ),
    ] = None,
    columns: ColumnOptions,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out rows without numbers, and say how many.")
    ] = False,
    kind: Annotated[
        Literal["polynomial", "tabulated"],
        typer.Option("--kind", help="A polynomial, or a table with monotone interpolation."),
    ] = "polynomial",
    order: Annotated[int, typer.Option("--order", metavar="N", min=1, max=9, help="Of the polynomial.")] = 3,
    law: Annotated[
        Literal["exponential", "stretched", "two-times"] | None,
        typer.Option("--law", help="Of the decay; by default the one that describes it best."),
    ] = None,
    design: Annotated[
        str,
        typer.Option(
            "--design", metavar="DESIGN", help="Chip whose voltages, pulses and charge unit it gets."
        ),
    ] = "leroux2025",
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Dimension the chip's converters for the currents of this cell.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of the device; by default of the file.")
    ] = None,
    out: Annotated[
        Path | None, output("--out", "Where to; by default beside CURVE.csv.", "DEVICE.toml")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Fit a cell to measured currents and decays, and write it as DEVICE.toml with a figure beside it.

    CURVE.csv names its columns in a line, each with its unit in brackets: voltage (V, mV) and current (A, mA,
    uA, nA, pA, fA), and if there are several cells or reads also cell, read. DECAY.csv: time (s, ms, us, ns),
    voltage, cell. Columns of other names are chosen by --voltage, --current, ...: by their name, with the
    unit where the file states none ('Vg [mV]'), or by their number. Commas, semicolons, tabs or blanks
    separate columns; decimal commas are understood. A wide file has a column of the current for every cell
    (--current '*', or '* [A]' where the headings state no unit), or for every bias (--current COLUMN). Lines
    that begin with # are comments.

    Every command takes the result by --cell DEVICE.toml, or the curve itself by --cell CURVE.csv. In the
    examples MY_CURVE.csv, MY_WIDE.csv and MY_DECAY.csv are measurements of yours, and MY_CELL.toml is made of
    them.

    Example: gaincell device fit MY_CURVE.csv --decay MY_DECAY.csv --out MY_CELL.toml

    Example: gaincell device fit MY_WIDE.csv --voltage 'V_SN [mV]' --current 'cell A' --current 'cell B'
    --out MY_CELL.toml

    Example: gaincell adapt tiny --cell MY_CELL.toml
    """
    from gaincell.chips.design_file import load_design
    from gaincell.chips.device import fit_device
    from gaincell.errors import InputError
    from gaincell.reports.device import describe, draw

    check_needed(context, ("--law", "--time", "--decay-voltage"), "--decay DECAY.csv", decay)
    path = out or curve.with_suffix(".toml")
    check_output("--out", path)
    if path.suffix != ".toml":
        raise InputError(f"--out {path}: give a file with the ending .toml")
    beside = [("--out", path.with_suffix(".png"))] + ([] if out else [("--out", path)])
    check_apart(context.command, context.params, beside)
    chip = load_design(design)
    found, fitted, held = fit_device(
        curve,
        chip,
        decay=decay,
        kind=kind,
        order=order,
        law=law,
        rescale=rescale,
        name=name,
        columns=columns.chosen,
        skip_bad_rows=skip_bad_rows,
    )
    found.save(path)
    result = describe(found.name, fitted, held, command_line(), chip.hash, dict(found.origin))
    figure = draw(result, path.with_suffix(".png"))
    shown = [_fit_table(result)]
    if found.covariance:
        shown.append(_matrix_table(found.covariance["coefficients"]))
    show_result(result, json, *shown)
    if left_out := found.origin.get("rows_left_out"):
        typer.echo(f"{left_out} entries or rows that hold no numbers were left out.")
    typer.echo(f"Device and figure: {path}, {figure}. Use it: gaincell adapt tiny --cell {path}")


@app.command()
def show(
    device: Annotated[Path, typer.Argument(metavar="DEVICE.toml", help="A file of gaincell device fit.")],
    json: JsonFile = None,
) -> None:
    """Show every number of a device with unit, source and range.

    Example: gaincell device show docs/data/compressive.toml
    """
    from rich import box
    from rich.table import Table

    from gaincell.chips.device import load_device
    from gaincell.chips.device_file import TABLES

    found = load_device(device)
    shown: list[Any] = [f"{found.name}: {found.description}"]
    words = {"cell": ("kind", found.cell.name), "retention": ("law", found.law)}
    for section in TABLES:
        table = Table(f"{section}.", "value", "source", "range", "note", box=box.SIMPLE)
        table.columns[0].no_wrap = True
        if (word := words.get(section)) and word[1] is not None:
            table.add_row(*word)
        for key, quantity in found.numbers.items():
            if key.startswith(f"{section}."):
                low, high = quantity.range
                known = "" if low == high else bounds(low, high)
                table.add_row(
                    key.partition(".")[2], _readable(quantity), quantity.source, known, quantity.note
                )
        shown.append(table)
    for section in ("origin", "quality"):
        table = Table(f"{section}.", "value", box=box.SIMPLE)
        table.columns[0].no_wrap = True
        table.columns[1].overflow = "fold"
        for key, value in getattr(found, section).items():
            table.add_row(key, f"{value:.6g}" if isinstance(value, float) else str(value))
        shown.append(table)
    shown = [part for part in shown if isinstance(part, str) or part.rows]
    if rows := found.covariance.get("coefficients"):
        shown.append(_matrix_table(rows))
    numbers = {key: quantity.as_json() for key, quantity in found.numbers.items()}
    named = {"name": found.name, "kind": found.cell.name, "law": found.law}
    plain_tables = {section: getattr(found, section) for section in ("origin", "quality", "covariance")}
    show_result(named | {"numbers": numbers} | plain_tables, json, *shown)


def _matrix_table(rows: Sequence[Sequence[float]]) -> Rows:
    """The covariance of the coefficients."""
    from gaincell.reports.tables import Rows

    orders = [f"C{p}" for p in range(len(rows))]
    shown = [(order, *(f"{entry:.3g}" for entry in row)) for order, row in zip(orders, rows, strict=True)]
    return Rows("Covariance of the coefficients over cells", ("", *orders), shown)


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
    return Rows(result.title or "", ("", "value", "95 %", "unit"), rows, text=(0, 3))
