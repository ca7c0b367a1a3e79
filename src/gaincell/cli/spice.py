"""`gaincell spice characterise|verify|wires|write|mixed|energy`: circuits in ngspice, open models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import FigureFile, JsonFile, check_apart, command_line, output, show_result
from gaincell.cli._options import check_needed
from gaincell.cli._spice_circuits import mixed, write
from gaincell.cli._spice_options import (
    CornerOptions,
    DesignName,
    DumpOptions,
    ModelOptions,
    Seed,
    Workers,
    WriteDac,
    simulating,
)
from gaincell.cli._spice_tables import cell_table, energy_table, verify_tables, wire_tables

OF_FILE = ("--head", "--token")
RANDOM = ("random", "centred")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Simulate cell and circuits in ngspice with open transistor models (docs/spice.md).",
)
app.command()(write)
app.command()(mixed)


@app.command()
@with_groups
def characterise(
    context: typer.Context,
    *,
    out: Annotated[
        Path, output("--out", "Where to; measurements and figure beside it.", "DEVICE.toml")
    ] = Path("cell.toml"),
    models: ModelOptions,
    cells: Annotated[
        int, typer.Option("--cells", metavar="N", min=2, max=1000, help="Of the Monte Carlo.")
    ] = 50,
    tau: Annotated[
        float | None,
        typer.Option(
            "--tau", metavar="SECONDS", help="Set retention by a leak; by default as the models leak."
        ),
    ] = None,
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    workers: Workers = None,
    json: JsonFile = None,
) -> None:
    """Simulate one cell and write it as DEVICE.toml: current, charge, write, retention, disturb, mismatch.

    The curve of the device is the charge of a full pulse, of many cells with mismatch. Retention comes from
    the models' own leakage without gate tunnelling, or is set by --tau; where the simulated cell holds too
    long to be fitted the device states none, and a chip keeps its design's.

    Example: gaincell spice characterise --out freepdk45.toml

    Example: gaincell adapt tiny --cell freepdk45.toml
    """
    from gaincell.chips.design_file import load_design
    from gaincell.errors import InputError
    from gaincell.reports.spice import cell_figure
    from gaincell.reports.style import save
    from gaincell.spice.characterise import characterise as simulate
    from gaincell.spice.characterise import device_of
    from gaincell.spice.result import rounded

    if out.suffix != ".toml":
        raise InputError(f"--out {out}: give a file with the ending .toml")
    check_apart(context.command, context.params, [("--out", out.with_suffix(".png"))])
    chip = load_design(design)
    technology = models.load(context)
    with simulating() as stages:
        found = simulate(
            technology, chip, command_line(), cells=cells, seed=seed, tau=tau, jobs=workers, stages=stages
        )
    device, without = device_of(found, chip, out.with_suffix(""), tau)
    device.save(out)
    result = rounded(found)
    figure = save(cell_figure(result), out.with_suffix(".png"))
    show_result(result, json, cell_table(result, device))
    if without:
        typer.echo(f"No retention in the device: {without}")
    typer.echo(f"Device and figure: {out}, {figure}. Use it: gaincell adapt tiny --cell {out}")


@app.command()
@with_groups
def verify(
    context: typer.Context,
    *,
    inputs: Annotated[
        str,
        typer.Option(
            "--inputs",
            metavar="random|centred|FILE",
            help="random, centred, or a FILE of gaincell evaluate ... --dump.",
        ),
    ] = "random",
    dump: DumpOptions,
    full: Annotated[bool, typer.Option("--full", help="All columns: minutes instead of seconds.")] = False,
    some: Annotated[
        int,
        typer.Option(
            "--columns", metavar="N", min=1, help="Without --full: lines of each array that are simulated."
        ),
    ] = 8,
    transistors: Annotated[
        bool, typer.Option("--transistors", help="Readouts of transistors, with their own error.")
    ] = False,
    write_dac: WriteDac = None,
    models: ModelOptions,
    corner: CornerOptions,
    figure: FigureFile = None,
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    workers: Workers = None,
    json: JsonFile = None,
) -> None:
    """Simulate the two chained dot products of a 64 x 64 array and compare them with the behavioural model.

    Exit code 1 if a stated tolerance is not met. In the examples
    layer3.safetensors is what `gaincell evaluate runs/tiny --dump layer3.safetensors
    --layer 3` writes, and runs/tiny what `gaincell map tiny` does.

    Example: gaincell spice verify

    Example: gaincell spice verify --full --inputs layer3.safetensors --figure verify.png
    """
    from gaincell.chips.design_file import load_design
    from gaincell.reports.spice import verification_figure
    from gaincell.spice.inputs import random_inputs
    from gaincell.spice.technology import Site
    from gaincell.spice.verify import verify as compare
    from gaincell.spice.write_path import stored_levels

    chip = load_design(design)
    technology = models.load(context)
    check_needed(context, ("--columns",), "a part of the array, without --full", not full)
    check_needed(context, OF_FILE, "--inputs FILE", inputs not in RANDOM)
    check_needed(context, ("--seed",), "random inputs", inputs in RANDOM)
    if inputs in RANDOM:
        chosen = random_inputs(chip, seed, centred=inputs == "centred")
    else:
        chosen = dump.read(inputs, chip)
    columns = min(chosen.values.shape) if full else some
    where = corner.load()
    with simulating() as stages:
        written = None
        if write_dac is not None:
            written = stored_levels(Site(technology, where), chip, write_dac)
        result, _ = compare(
            technology,
            chip,
            chosen,
            command_line(),
            seed=seed,
            corner=where,
            written=written,
            columns=columns,
            group=8 if columns > 8 else 4,
            transistor_readout=transistors,
            jobs=workers,
            stages=stages,
        )
    show_result(result, json, *verify_tables(result), figure=figure, draw=verification_figure)
    if not all(check.passed for check in result.checks):
        raise typer.Exit(1)


@app.command()
@with_groups
def wires(
    context: typer.Context,
    *,
    models: ModelOptions,
    corner: CornerOptions,
    most: Annotated[
        int, typer.Option("--most", metavar="N", min=16, max=1024, help="Cells on the longest line.")
    ] = 512,
    figure: FigureFile = None,
    design: DesignName = "leroux2025",
    workers: Workers = None,
    json: JsonFile = None,
) -> None:
    """Error against array size and wire resistance, bit line and word line separately.

    Prints key_drop and value_drop for the table [wires] of a design, and at which resistance 64 cells reach
    one half step of the output counter.

    Example: gaincell spice wires --figure wires.png
    """
    from gaincell.chips.design_file import load_design
    from gaincell.reports.spice import wires_figure
    from gaincell.spice.wires import study

    chip, where = load_design(design), corner.load()
    technology = models.load(context)
    with simulating() as stages:
        result = study(technology, chip, command_line(), corner=where, most=most, jobs=workers, stages=stages)
    show_result(result, json, *wire_tables(result), figure=figure, draw=wires_figure)


@app.command()
@with_groups
def energy(
    context: typer.Context,
    *,
    files: Annotated[
        list[Path] | None,
        typer.Option("--inputs", metavar="FILE", help="Of gaincell evaluate ... --dump; may be repeated."),
    ] = None,
    dump: DumpOptions,
    transistors: Annotated[bool, typer.Option("--transistors", help="With readouts of transistors.")] = False,
    columns: Annotated[
        int, typer.Option("--columns", metavar="N", min=1, help="Lines of each array that are simulated.")
    ] = 8,
    models: ModelOptions,
    corner: CornerOptions,
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    workers: Workers = None,
    json: JsonFile = None,
) -> None:
    """Integrate the supplies: energy of both dot products per cell, column, array and head.

    The energy depends on the inputs. They are random (centred, and covering the converters' range), and then
    those of every FILE. In the example
    layer3.safetensors is what `gaincell evaluate runs/tiny --dump layer3.safetensors
    --layer 3` writes, and runs/tiny what `gaincell map tiny` does.

    Example: gaincell spice energy --inputs layer3.safetensors --json energy.json
    """
    from gaincell.chips.design_file import load_design
    from gaincell.spice.inputs import random_inputs
    from gaincell.spice.verify import energy_result
    from gaincell.spice.verify import verify as simulate

    chip, where = load_design(design), corner.load()
    technology = models.load(context)
    check_needed(context, OF_FILE, "--inputs FILE", files)
    inputs = [random_inputs(chip, seed, centred=True), random_inputs(chip, seed)]
    inputs += [dump.read(file, chip) for file in files or ()]
    runs = []
    with simulating() as stages:
        for chosen in inputs:
            found = simulate(
                technology,
                chip,
                chosen,
                corner=where,
                columns=columns,
                transistor_readout=transistors,
                jobs=workers,
                stages=lambda title, name=chosen.name: stages(f"{name}, {title}"),  # type: ignore[misc]
            )
            runs.append(found)
    result = energy_result(runs, chip, command_line(), seed)
    show_result(result, json, energy_table(result))
