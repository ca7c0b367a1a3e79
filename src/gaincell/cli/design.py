"""`gaincell design list|show|new|validate|diff`: look at chips, begin one's own, check it, compare two."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from gaincell.cli._json import JsonFile, command_line, output, show_result
from gaincell.cli._options import CellName, argument, bounds, chip_of, group, option
from gaincell.errors import DesignError, InputError
from gaincell.files import write_text
from gaincell.quantity import SOURCES
from gaincell.units import with_prefix

if TYPE_CHECKING:
    from gaincell.chips.design import Design
    from gaincell.results.common import Value
    from gaincell.results.description import DesignResult, Stated

design = group("List, show, write, check and compare chip designs.")

DesignName = Annotated[str, argument("Shipped name or path of a .toml file.", "DESIGN")]
DesignNames = Annotated[list[str], argument("Shipped names or paths of .toml files.", "DESIGN...")]

DERIVED = {"token_period": "s", "decay_per_token": "1", "tiles": "1", "output_saturation": "charge units"}
"""Properties of a design that follow from its numbers, with their units; the C_p of the cell come on top."""


@design.command("list")
def list_(json: JsonFile = None) -> None:
    """List the designs shipped with the package.

    Example: gaincell design list
    """
    from gaincell.chips.design_file import list_designs, load_design
    from gaincell.reports.tables import Rows
    from gaincell.results.description import ListedDesign

    rows = [(d.name, d.cell.name, d.hash, d.description) for d in map(load_design, list_designs())]
    table = Rows("", ("name", "cell", "hash", "description"), rows, text=range(4))
    show_result([ListedDesign(*row) for row in rows], json, table)


@design.command()
def show(design: DesignName, cell: CellName = None, json: JsonFile = None) -> None:
    """Show every number of a design with unit, source and range, and what follows from them.

    Example: gaincell design show leroux2025

    Example: gaincell design show leroux2025 --cell docs/data/compressive.toml
    """
    chip = chip_of(design, cell)
    content = describe(chip)
    table = Table("key", "value", "source", "range", "note", box=box.SIMPLE, title=chip.description)
    table.columns[0].no_wrap = True
    for key, word in content.settings.items():
        table.add_row(key, str(word))
    for key, number in content.numbers.items():
        table.add_row(key, _readable(number), number.source, bounds(*number.range), number.note)
    table.add_section()
    for key, entry in content.derived.items():
        table.add_row(key, _readable(entry), "", "", "follows from the above")
    sources = "; ".join(f"{tag} = {meaning}" for tag, meaning in SOURCES.items())
    show_result(content, json, table, f"Sources: {sources}.", f"Hash {chip.hash}.", *_remarks(chip))


@design.command()
def new(
    name: Annotated[str, argument("Name of the chip, and of its file NAME.toml.", "NAME")],
    source: Annotated[
        str, option("Design to start from: a shipped name or a .toml file.", "DESIGN", "--from")
    ] = "leroux2025",
    out: Annotated[Path | None, output("File to write; by default NAME.toml in this directory.")] = None,
) -> None:
    """Write a complete design with a comment for every table, to be edited.

    An existing file is never replaced.

    Example: gaincell design new mine --from leroux2025
    """
    from gaincell.chips.design_file import list_designs, load_design
    from gaincell.chips.text import commented

    path = out or Path(f"{name}.toml")
    if path.suffix != ".toml" or name.split() != [Path(name).name] or name.startswith("."):
        raise InputError(f"{path}: give NAME as one word, and --out as a file name that ends with .toml")
    if name.endswith(".toml"):
        raise InputError(f"{name}: give NAME without .toml: {name.removesuffix('.toml')}")
    if name in list_designs():
        raise InputError(f"{name} is the name of a shipped design; choose another NAME")
    if path.exists():
        raise InputError(f"{path} already exists; choose another NAME, or --out FILE")
    text = commented(load_design(source), name)
    with TemporaryDirectory() as tried:
        load_design(write_text(Path(tried) / "design.toml", text))
    write_text(path, text)
    typer.echo(f"{path}: edit it, then gaincell design validate {path}, gaincell adapt tiny --design {path}")


@design.command()
def validate(designs: DesignNames, json: JsonFile = None) -> None:
    """Check design files. Exit code 2 if one is not acceptable, with a line for each on stderr. In
    the example MY_CHIP.toml is a design of your own.

    Example: gaincell design validate MY_CHIP.toml
    """
    from gaincell.chips.design_file import list_designs
    from gaincell.reports.tables import Rows
    from gaincell.results.description import CheckedDesign

    results, said = [], []
    for name in designs:
        try:
            chip = chip_of(name)
            said += [f"{name}: {remark}" for remark in _remarks(chip)]
            if chip.name in list_designs() and chip.hash != chip_of(chip.name).hash:
                said.append(f"{name}: NOTE: {chip.name} is the name of a shipped design with other values.")
            results.append(CheckedDesign(name, True, hash=chip.hash))
        except DesignError as error:
            results.append(CheckedDesign(name, False, error=str(error)))
            print(f"gaincell: error: {error}", file=sys.stderr)
    rows = [(one.design, "ok" if one.ok else "not acceptable", one.hash or "") for one in results]
    show_result(results, json, Rows("", ("design", "result", "hash"), rows, text=range(3)), *said)
    if not all(result.ok for result in results):
        raise typer.Exit(2)


@design.command()
def diff(first: DesignName, second: DesignName, json: JsonFile = None) -> None:
    """Show in which numbers and settings two designs differ.

    Example: gaincell design diff leroux2025 ideal
    """
    from gaincell.reports.tables import Rows
    from gaincell.results.description import Difference, DifferencesResult
    from gaincell.results.provenance import made

    chips = [chip_of(name) for name in (first, second)]
    one, other = map(_entries, chips)
    differences = {}
    for key in (key for key in {**one, **other} if _value(one.get(key)) != _value(other.get(key))):
        texts = [None if entry is None else _readable(entry) for entry in (one.get(key), other.get(key))]
        if texts[0] == texts[1]:  # they differ in a later digit
            texts = [repr(_value(found.get(key))) for found in (one, other)]
        differences[key] = Difference(*texts)
    rows = [(key, found.first or "-", found.second or "-") for key, found in differences.items()]
    table = Rows("", ("key", first, second), rows, text=range(3))
    which = ("first", "second")
    inputs = {f"{word} design {chip.name}": chip.hash for word, chip in zip(which, chips, strict=True)}
    result = DifferencesResult(
        provenance=made(command=command_line(), seed=0, protocol="two designs compared", inputs=inputs),
        differences=differences,
    )
    show_result(result, json, table if rows else "No difference.")


def _remarks(design: Design) -> list[str]:
    """What to say of a chip whose tokens come faster than its schedule gives them, whose codes stand for
    voltages outside its storage range, or whose cell's current falls within it.
    """
    import torch

    from gaincell.arrays import Schedule

    found = []
    step, period = Schedule(design).latency, design.token_period
    if period < design.layers * step * (1 - 1e-9):
        found.append(
            "NOTE: by its schedule (gaincell simulate head) a step of this chip takes "
            f"{with_prefix(step, 's')}, the {design.layers} layers of a token take "
            f"{with_prefix(design.layers * step, 's')}, more than its token_period of "
            f"{with_prefix(period, 's')}, with which voltages decay; state another layer_latency or "
            "token_period."
        )
    half, middle = (design.v_max - design.v_min) / 2, (design.v_max + design.v_min) / 2
    if design.storage_levels and not design.levels.storage and abs(design.v_offset - middle) > 1e-9 * half:
        found.append(
            f"NOTE: evenly spaced storage levels lie symmetrically about V_offset, here from "
            f"{design.v_offset - half:g} to {design.v_offset + half:g} V, not from v_min to v_max; state "
            "v_offset in their middle, or [levels] storage."
        )
    u = torch.linspace(design.v_min, design.v_max, 201, dtype=torch.float64) - design.v_offset
    if (falling := u[design.cell.slope(u) < 0]).numel():
        first, last = (float(end) + design.v_offset for end in (falling[0], falling[-1]))
        found.append(
            f"NOTE: the current of its {design.cell.name} cell falls with the stored voltage in places from "
            f"{first:.3g} to {last:.3g} V, so that two voltages read alike."
        )
    return found


def describe(design: Design) -> DesignResult:
    """Settings, numbers with provenance, derived values."""
    from gaincell.chips.fields import WORDS
    from gaincell.results.common import Value
    from gaincell.results.description import DesignResult, Stated
    from gaincell.results.provenance import made

    derived = {key: Value(getattr(design, key), unit, "simulated") for key, unit in DERIVED.items()}
    for power, coefficient in enumerate(design.cell.coefficients or ()):
        unit = ("charge units", "charge units/V")[power] if power < 2 else f"charge units/V^{power}"
        derived[f"C{power}"] = Value(coefficient, unit, "simulated")
    settings = {word: getattr(design, word) for word in WORDS if word not in ("name", "description")}
    return DesignResult(
        provenance=made(
            command=command_line(), seed=0, protocol="the numbers of a design", design_hash=design.hash
        ),
        name=design.name,
        description=design.description,
        hash=design.hash,
        settings={"cell.kind": design.cell.name, **settings},
        numbers={key: Stated.of(number) for key, number in design.provenance.items()},
        derived=derived,
    )


def _readable(entry: str | bool | Stated | Value) -> str:
    """A setting or number as a person reads it."""
    if isinstance(entry, (str, bool)):
        return str(entry)
    if isinstance(entry.value, tuple):
        return str([*entry.value])
    return entry.value if isinstance(entry.value, str) else with_prefix(entry.value, entry.unit)


def _entries(design: Design) -> dict[str, str | bool | Stated | Value]:
    """Every setting, number and derived value of a design, by key."""
    content = describe(design)
    return {**content.settings, **content.numbers, **content.derived}


def _value(entry: str | bool | Stated | Value | None) -> object:
    return entry if entry is None or isinstance(entry, (str, bool)) else entry.value
