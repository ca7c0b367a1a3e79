"""`gaincell spice characterise|verify|wires|energy`: circuits in ngspice, with open transistor models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli._json import FigureFile, JsonFile, check_outputs, write_json
from gaincell.cli._spice_options import (
    DesignName,
    Jobs,
    Library,
    Nmos,
    Nodes,
    Pmos,
    Process,
    Section,
    Seed,
    Subcircuits,
    Supply,
    TechnologyName,
    Temperature,
    Vdd,
    models,
    simulating,
)
from gaincell.cli._spice_tables import cell_table, energy_table, verify_table, wire_tables

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Simulate cell and circuits in ngspice with open transistor models (docs/spice.md).",
)


@app.command()
def characterise(
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DEVICE.toml", help="Where to; measurements and figure beside it."),
    ] = Path("cell.toml"),
    technology: TechnologyName = "freepdk45",
    lib: Library = None,
    section: Section = None,
    nmos: Nmos = "nmos",
    pmos: Pmos = "pmos",
    subcircuits: Subcircuits = False,
    nodes: Nodes = "dgsb",
    vdd: Vdd = None,
    cells: Annotated[int, typer.Option("--cells", min=2, max=1000, help="Of the Monte Carlo.")] = 50,
    tau: Annotated[
        float | None,
        typer.Option(
            "--tau", metavar="SECONDS", help="Set retention by a leak; by default as the models leak."
        ),
    ] = None,
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    jobs: Jobs = None,
    json: JsonFile = None,
) -> None:
    """Simulate one cell and write it as DEVICE.toml: current, charge, write, retention, disturb, mismatch.

    The curve of the device is the charge of a full pulse, of many cells with mismatch. Retention comes from
    the models' own leakage without gate tunnelling, or is set by --tau; where the simulated cell holds too
    long to be fitted the device states none, and a chip keeps its design's.

    Example: gaincell spice characterise --out freepdk45.toml

    Example: gaincell adapt tiny --cell freepdk45.toml
    """
    import torch
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.errors import InputError
    from gaincell.reports import spice as report
    from gaincell.spice.characterise import characterise as simulate
    from gaincell.spice.characterise import write_measurements
    from gaincell.spice.device import device_of
    from gaincell.spice.runner import version

    check_outputs(json, out)
    if out.suffix != ".toml":
        raise InputError(f"--out {out}: give a file with the ending .toml")
    chip = load_design(design)
    found_models = models(technology, lib, section, nmos, pmos, subcircuits, nodes, vdd)
    with simulating() as stages:
        found = simulate(found_models, chip, cells=cells, seed=seed, tau=tau, jobs=jobs, stages=stages)
    curve, decay = write_measurements(found, out.with_suffix(""), chip.t_pulse_max)
    device, without = device_of(found, curve, decay, chip, out.stem, version())
    device.save(out)
    u = torch.tensor(found.levels, dtype=torch.float64) - chip.v_offset
    expected = chip.cell.current(u).numpy() * chip.charge_unit
    result = report.describe_cell(found, chip, expected, version(), ["gaincell", *sys.argv[1:]], seed)
    figure = report.draw_cell(result, out.with_suffix(".png"))
    write_json(json, result)
    console = Console()
    console.print(cell_table(result, device))
    if without:
        console.print(f"No retention in the device: {without}", soft_wrap=True)
    console.print(
        f"Device and figure: {out}, {figure}. Use it: gaincell adapt tiny --cell {out}", soft_wrap=True
    )


@app.command()
def verify(
    inputs: Annotated[
        str, typer.Option("--inputs", help="random, centred, or a FILE of gaincell evaluate ... --dump.")
    ] = "random",
    head: Annotated[int, typer.Option("--head", min=0, help="Of FILE.")] = 0,
    token: Annotated[
        int | None, typer.Option("--token", min=0, help="Query of FILE; by default the last.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="All columns: minutes instead of seconds.")] = False,
    some: Annotated[
        int, typer.Option("--columns", min=1, help="Without --full: lines of each array that are simulated.")
    ] = 8,
    transistors: Annotated[
        bool, typer.Option("--transistors", help="Readouts of transistors, with their own error.")
    ] = False,
    technology: TechnologyName = "freepdk45",
    lib: Library = None,
    section: Section = None,
    nmos: Nmos = "nmos",
    pmos: Pmos = "pmos",
    subcircuits: Subcircuits = False,
    nodes: Nodes = "dgsb",
    vdd: Vdd = None,
    process: Process = "nominal",
    temperature: Temperature = 27.0,
    supply: Supply = 1.0,
    figure: FigureFile = None,
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    jobs: Jobs = None,
    json: JsonFile = None,
) -> None:
    """Simulate the two chained dot products of a 64 x 64 array and compare them with the behavioural model.

    Leaves with exit code 1 if a stated tolerance is not met. In the examples
    layer3.safetensors is what `gaincell evaluate runs/tiny --dump layer3.safetensors
    --layer 3` writes, and runs/tiny what `gaincell map tiny` does.

    Example: gaincell spice verify

    Example: gaincell spice verify --full --inputs layer3.safetensors --figure verify.png
    """
    check_outputs(json, figure=figure)
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.reports import spice as report
    from gaincell.spice.inputs import random_inputs, real_inputs
    from gaincell.spice.runner import version
    from gaincell.spice.technology import Corner
    from gaincell.spice.verify import verify as compare

    chip = load_design(design)
    found_models = models(technology, lib, section, nmos, pmos, subcircuits, nodes, vdd)
    if inputs in ("random", "centred"):
        chosen = random_inputs(chip, seed, centred=inputs == "centred")
    else:
        chosen = real_inputs(inputs, chip, head=head, token=token)
    columns = min(chosen.values.shape) if full else some
    with simulating() as stages:
        found = compare(
            found_models,
            chip,
            chosen,
            corner=Corner(process, temperature, supply),
            columns=columns,
            group=8 if columns > 8 else 4,
            transistor_readout=transistors,
            jobs=jobs,
            stages=stages,
        )
    result = report.describe_verification(found, version(), ["gaincell", *sys.argv[1:]], chip.hash, seed)
    write_json(json, result)
    Console().print(verify_table(result))
    if figure is not None:
        report.draw_verification(result, figure)
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def wires(
    technology: TechnologyName = "freepdk45",
    lib: Library = None,
    section: Section = None,
    nmos: Nmos = "nmos",
    pmos: Pmos = "pmos",
    subcircuits: Subcircuits = False,
    nodes: Nodes = "dgsb",
    vdd: Vdd = None,
    process: Process = "nominal",
    temperature: Temperature = 27.0,
    supply: Supply = 1.0,
    most: Annotated[int, typer.Option("--most", min=16, max=1024, help="Cells on the longest line.")] = 512,
    figure: FigureFile = None,
    design: DesignName = "leroux2025",
    jobs: Jobs = None,
    json: JsonFile = None,
) -> None:
    """Error against array size and wire resistance, bit line and word line separately.

    Prints key_drop and value_drop for the table [wires] of a design, and at which resistance 64 cells reach
    one half step of the output counter.

    Example: gaincell spice wires --figure wires.png
    """
    check_outputs(json, figure=figure)
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.reports import spice_wires as report
    from gaincell.spice.runner import version
    from gaincell.spice.technology import Corner
    from gaincell.spice.wires import study

    chip, corner = load_design(design), Corner(process, temperature, supply)
    found_models = models(technology, lib, section, nmos, pmos, subcircuits, nodes, vdd)
    with simulating() as stages:
        found = study(found_models, chip, corner=corner, most=most, jobs=jobs, stages=stages)
    result = report.describe_wires(found, version(), ["gaincell", *sys.argv[1:]], chip.hash)
    write_json(json, result)
    console = Console()
    for table in wire_tables(result):
        console.print(table)
    if figure is not None:
        report.draw_wires(result, figure)


@app.command()
def energy(
    files: Annotated[
        list[Path] | None,
        typer.Option("--inputs", metavar="FILE", help="Of gaincell evaluate ... --dump; may be repeated."),
    ] = None,
    head: Annotated[int, typer.Option("--head", min=0, help="Of FILE.")] = 0,
    token: Annotated[
        int | None, typer.Option("--token", min=0, help="Query of FILE; by default the last.")
    ] = None,
    transistors: Annotated[bool, typer.Option("--transistors", help="With readouts of transistors.")] = False,
    columns: Annotated[
        int, typer.Option("--columns", min=1, help="Lines of each array that are simulated.")
    ] = 8,
    technology: TechnologyName = "freepdk45",
    lib: Library = None,
    section: Section = None,
    nmos: Nmos = "nmos",
    pmos: Pmos = "pmos",
    subcircuits: Subcircuits = False,
    nodes: Nodes = "dgsb",
    vdd: Vdd = None,
    process: Process = "nominal",
    temperature: Temperature = 27.0,
    supply: Supply = 1.0,
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    jobs: Jobs = None,
    json: JsonFile = None,
) -> None:
    """Integrate the supplies: energy of both dot products per cell, column, array and head.

    Always with random inputs (centred, and covering the converters' range), which the energy depends on, and
    with those of every FILE. In the example
    layer3.safetensors is what `gaincell evaluate runs/tiny --dump layer3.safetensors
    --layer 3` writes, and runs/tiny what `gaincell map tiny` does.

    Example: gaincell spice energy --inputs layer3.safetensors --json energy.json
    """
    check_outputs(json)
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.reports import spice as report
    from gaincell.spice.energy import of_verification
    from gaincell.spice.inputs import random_inputs, real_inputs
    from gaincell.spice.runner import version
    from gaincell.spice.technology import Corner
    from gaincell.spice.verify import verify as simulate

    chip, corner = load_design(design), Corner(process, temperature, supply)
    found_models = models(technology, lib, section, nmos, pmos, subcircuits, nodes, vdd)
    inputs = [random_inputs(chip, seed, centred=True), random_inputs(chip, seed)]
    inputs += [real_inputs(file, chip, head=head, token=token) for file in files or ()]
    runs = []
    with simulating() as stages:
        for chosen in inputs:
            found = simulate(
                found_models,
                chip,
                chosen,
                corner=corner,
                columns=columns,
                transistor_readout=transistors,
                jobs=jobs,
                stages=lambda title, name=chosen.name: stages(f"{name}, {title}"),  # type: ignore[misc]
            )
            runs.append((found, of_verification(found, chip)))
    result = report.describe_energy(runs, version(), ["gaincell", *sys.argv[1:]], chip.hash, seed)
    write_json(json, result)
    Console().print(energy_table(result))
