"""`gaincell spice write|mixed`: the write path; a sub-tile with its digital block in the same simulation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli._json import FigureFile, JsonFile, output_directory, write_json
from gaincell.cli._options import check_needed
from gaincell.cli._spice_options import (
    OF_LIBRARY,
    DesignName,
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
    Workers,
    models,
    simulating,
)
from gaincell.cli._spice_tables import rows_table


def write(
    context: typer.Context,
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
    workers: Workers = None,
    json: JsonFile = None,
) -> None:
    """The write path: two write DACs, discharge and write gate for every code, and the word-line drivers.

    From a code to the stored voltage and to the charge that the cell then gives: settling, linearity,
    energy, noise, of a resistor string and of charge redistribution.

    Example: gaincell spice write --json write.json
    """
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.reports import spice_write as report
    from gaincell.reports.results import check
    from gaincell.spice.runner import version
    from gaincell.spice.technology import Corner
    from gaincell.spice.write_path import characterise_write_path

    chip, corner = load_design(design), Corner(process, temperature, supply)
    check_needed(context, OF_LIBRARY, "--lib FILE", lib)
    found_models = models(technology, lib, section, nmos, pmos, subcircuits, nodes, vdd)
    with simulating():
        found = characterise_write_path(found_models, chip, corner=corner, jobs=workers)
    command = ["gaincell", *sys.argv[1:]]
    result = report.describe_write_path(found, corner, version(), command, chip.hash)
    check(result)
    write_json(json, result)
    Console().print(rows_table(result, report))


def mixed(
    context: typer.Context,
    head_dim: Annotated[
        int,
        typer.Option("--head-dim", metavar="N", min=2, max=16, help="Rows and columns, which are the ring."),
    ] = 8,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="TOKENS", min=3, help="More than columns: around the ring.")
    ] = 12,
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
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            file_okay=False,
            callback=output_directory,
            help="Keep the netlist, its models and the Verilog of the digital block.",
        ),
    ] = None,
    figure: FigureFile = None,
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """A sub-tile in ngspice with its generated digital block, from input codes to output codes.

    Cells, write path and word lines are of transistors, the readouts behavioural; the Verilog of the head
    runs in the same simulation. Leaves with exit code 1 if the codes are not those of HeadArray within the
    readout's stated error. Needs yosys, Verilator and a C++ compiler beside ngspice.

    Example: gaincell spice mixed --figure mixed.png

    Example: gaincell spice mixed --head-dim 4 --tokens 6 --out runs/mixed
    """
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.errors import InputError
    from gaincell.files import write_text
    from gaincell.reports import spice_mixed as report
    from gaincell.reports.results import check
    from gaincell.spice.runner import version
    from gaincell.spice.technology import Corner

    try:
        from gaincell.rtl.mixed_signal import simulate_sub_tile
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "amaranth":
            raise
        raise InputError("the RTL needs Amaranth: pip install 'gaincell[rtl]'") from error

    chip, corner = load_design(design), Corner(process, temperature, supply)
    check_needed(context, OF_LIBRARY, "--lib FILE", lib)
    found_models = models(technology, lib, section, nmos, pmos, subcircuits, nodes, vdd)
    with simulating() as stages:
        found = simulate_sub_tile(
            found_models, chip, size=head_dim, tokens=tokens, corner=corner, seed=seed, stages=stages
        )
    result = report.describe_mixed(found, version(), ["gaincell", *sys.argv[1:]], chip.hash, seed)
    check(result)
    write_json(json, result)
    console = Console()
    console.print(rows_table(result, report))
    if figure is not None:
        report.draw_mixed(result, figure)
    if out is not None:
        texts = {"circuit.cir": found.circuit.text, "sub_tile.v": found.verilog, **found.circuit.files}
        for name, text in texts.items():
            console.print(str(write_text(out / name, text)), markup=False, soft_wrap=True)
        console.print("In it: ngspice vlnggen -- -Wno-fatal sub_tile.v; ngspice -b -r out.raw circuit.cir")
    if not found.passed:
        raise typer.Exit(1)
