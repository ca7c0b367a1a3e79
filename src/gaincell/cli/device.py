"""`gaincell device fit|show`: bring a measured cell, look at one."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from gaincell.cli._json import JsonFile, check_outputs, write_json

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Fit a cell to measurements; show one.")


class Kind(StrEnum):
    """What a curve is fitted by, see `gaincell.devices.fit`."""

    polynomial = "polynomial"
    tabulated = "tabulated"


class LawName(StrEnum):
    """Laws of retention, see `gaincell.devices.decay`."""

    exponential = "exponential"
    stretched = "stretched"
    two_times = "two-times"


@app.command()
def fit(
    curve: Annotated[
        Path,
        typer.Argument(metavar="CURVE.csv", help="Current against stored voltage, of one or many cells."),
    ],
    decay: Annotated[
        Path | None,
        typer.Option(
            "--decay", metavar="DECAY.csv", help="Stored voltage against time, of one or many cells."
        ),
    ] = None,
    kind: Annotated[
        Kind, typer.Option("--kind", help="A polynomial, or a table with monotone interpolation.")
    ] = Kind.polynomial,
    order: Annotated[int, typer.Option("--order", min=1, max=9, help="Of the polynomial.")] = 3,
    law: Annotated[
        LawName | None, typer.Option("--law", help="Of the decay; by default the one that describes it best.")
    ] = None,
    design: Annotated[
        str,
        typer.Option(
            "--design", metavar="DESIGN", help="Chip whose voltages, pulses and charge unit it gets."
        ),
    ] = "leroux2025",
    rescale: Annotated[
        bool,
        typer.Option("--rescale", help="Dimension the chip's converters for the currents of this cell."),
    ] = False,
    name: Annotated[str | None, typer.Option("--name", help="Of the device; by default of the file.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DEVICE.toml", help="Where to; by default beside CURVE.csv."),
    ] = None,
    json: JsonFile = None,
) -> None:
    """Fit a cell to measured currents and decays, and write it as DEVICE.toml with a figure beside it.

    CURVE.csv names its columns in the first line, each with its unit in square brackets: voltage (V, mV) and
    current (A, mA, uA, nA, pA), and if there are several cells or reads also cell, read. DECAY.csv: time (s,
    ms, us, ns), voltage, cell. Lines after # are comments. Every command takes the result by --cell
    DEVICE.toml, or the curve itself by --cell CURVE.csv. In the examples MY_CURVE.csv and MY_DECAY.csv are
    measurements of yours, and MY_CELL.toml is made of them.

    Example: gaincell device fit MY_CURVE.csv --decay MY_DECAY.csv --out MY_CELL.toml

    Example: gaincell adapt tiny --cell MY_CELL.toml
    """
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.device import fit_device
    from gaincell.errors import InputError
    from gaincell.reports.device import describe, draw

    path = out or curve.with_suffix(".toml")
    check_outputs(json, path)
    chip = load_design(design)
    if path.suffix != ".toml" or path.resolve() in (curve.resolve(), decay and decay.resolve()):
        raise InputError(f"--out {path}: give another file than the measurements, with the ending .toml")
    found, fitted, held = fit_device(
        curve,
        chip,
        decay=decay,
        kind=kind.value,
        order=order,
        law=None if law is None else law.value,
        rescale=rescale,
        name=name,
    )
    found.save(path)
    result = describe(found.name, fitted, held, ["gaincell", *sys.argv[1:]], chip.hash, dict(found.origin))
    figure = draw(result, path.with_suffix(".png"))
    console = Console()
    console.print(_fit_table(result))
    console.print(
        f"Device and figure: {path}, {figure}. Use it: gaincell adapt tiny --cell {path}", soft_wrap=True
    )
    write_json(json, result)


@app.command()
def show(
    device: Annotated[Path, typer.Argument(metavar="DEVICE.toml", help="A file of gaincell device fit.")],
    json: JsonFile = None,
) -> None:
    """Show every number of a device with unit, source and range.

    Example: gaincell device show docs/data/compressive.toml
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from gaincell.device import load_device
    from gaincell.quantity import plain

    check_outputs(json)
    found = load_device(device)
    table = Table("key", "value", "source", "range", "note", box=box.SIMPLE, title=found.description)
    table.add_row("cell.kind", found.cell.name)
    if found.law is not None:
        table.add_row("retention.law", found.law)
    for key, quantity in found.numbers.items():
        values = quantity.value if isinstance(quantity.value, tuple) else (quantity.value,)
        text = ", ".join(f"{v:.6g}" if isinstance(v, float) else str(v) for v in values[:6])
        text += f", ... ({len(values)})" if len(values) > 6 else ""
        unit = "" if quantity.unit == "1" else f" {quantity.unit}"
        low, high = quantity.range
        table.add_row(key, text + unit, quantity.source, f"{low:.6g} to {high:.6g}", quantity.note)
    for section in ("origin", "quality", "covariance"):
        for key, value in getattr(found, section).items():
            table.add_row(f"{section}.{key}", f"{value:.6g}" if isinstance(value, float) else str(value))
    Console().print(table)
    numbers = {
        key: {
            "value": plain(q.value),
            "unit": q.unit,
            "source": q.source,
            "range": list(q.range),
            "note": q.note,
        }
        for key, q in found.numbers.items()
    }
    words = {"name": found.name, "kind": found.cell.name, "law": found.law}
    write_json(json, words | {"numbers": numbers, "origin": found.origin, "quality": found.quality})


def _fit_table(result: dict[str, Any]) -> Any:
    """The fit for people: value and half width of the 95 % confidence interval."""
    from rich import box
    from rich.table import Table

    table = Table("", "value", "± 95 %", "unit", box=box.SIMPLE, title=result["title"])
    for column in (1, 2):
        table.columns[column].justify = "right"
    for key, entry in result["fit"].items():
        half = entry.get("half_width")
        shown = f"{entry['value']:.5g}" if isinstance(entry["value"], float) else str(entry["value"])
        if isinstance(entry["value"], list):
            shown = "\n".join(" ".join(f"{c:.3g}" for c in row) for row in entry["value"])
        unit = "" if entry["unit"] == "1" else entry["unit"]
        table.add_row(key, shown, "" if half is None else f"{half:.2g}", unit)
    return table
