"""`gaincell spice characterise|verify|wires|write|mixed|energy`: circuits in ngspice, open models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from gaincell.cli import _spice_options as options
from gaincell.cli._json import (
    FigureFile,
    JsonFile,
    check_apart,
    check_output,
    command_line,
    directory,
    output,
    show,
    show_result,
)
from gaincell.cli._options import (
    check_needed,
    chip_of,
    flag,
    group,
    needing_amaranth,
    option,
    was_given,
    with_groups,
)
from gaincell.cli._spice_options import simulating, with_design_file
from gaincell.cli.device import check_replaced
from gaincell.errors import InputError
from gaincell.files import write_text

OF_FILE = ("--head", "--token")
RANDOM = ("random", "centred")

spice = group("Simulate cell and circuits in ngspice with open transistor models (docs/spice.md).")


@spice.command()
@with_groups
def write(
    context: typer.Context,
    *,
    circuits: options.Circuits,
    workers: options.Workers = None,
    json: JsonFile = None,
) -> None:
    """Simulate the write path: two write DACs, discharge and write gate for every code, word-line drivers.

    From a code to the stored voltage and to the charge that the cell then gives: settling, linearity,
    energy and noise, for a resistor string and for charge redistribution.

    Example: gaincell spice write --json write.json
    """
    from gaincell.reports import spice_tables
    from gaincell.spice.write_path import characterise_write_path

    chip, technology, where = circuits.load(context)
    with simulating():
        result = characterise_write_path(technology, chip, command_line(), corner=where, jobs=workers)
    result = with_design_file(result, circuits.design)
    show_result(result, json, spice_tables.write(result))


@spice.command()
@with_groups
def mixed(
    context: typer.Context,
    *,
    head_dim: Annotated[int, option("Number of rows, and of columns in the ring.", "N", min=2, max=16)] = 8,
    tokens: Annotated[int, option("Tokens, more than columns: the ring wraps.", "TOKENS", min=3)] = 12,
    out: Annotated[
        Path | None, directory("Keep the netlist, its models and the Verilog of the digital block.")
    ] = None,
    figure: FigureFile = None,
    circuits: options.Circuits,
    seed: options.Seed = 0,
    json: JsonFile = None,
) -> None:
    """Simulate a sub-tile in ngspice with its generated digital block, from input to output codes.

    Cells, write path and word lines use transistors, the readouts are behavioural; the Verilog of the head
    runs in the same simulation. Exit code 1 if the codes are not those of HeadArray within the
    readout's stated error. Needs the extra rtl, yosys, Verilator, make and a C++ compiler besides
    ngspice.

    Example: gaincell spice mixed --figure mixed.png

    Example: gaincell spice mixed --head-dim 4 --tokens 6 --out runs/mixed
    """
    from gaincell.reports import spice_tables
    from gaincell.reports.spice import mixed_figure

    with needing_amaranth():
        from gaincell.rtl.mixed_signal import simulate_sub_tile

    chip, technology, where = circuits.load(context)
    with simulating() as stages:
        result, circuit, verilog = simulate_sub_tile(
            technology, chip, command_line(), size=head_dim, tokens=tokens, corner=where, seed=seed,
            stages=stages,
        )  # fmt: skip
    result = with_design_file(result, circuits.design)
    show_result(result, json, spice_tables.mixed(result), figure=figure, draw=mixed_figure)
    if out is not None:
        texts = {"circuit.cir": circuit.text, "sub_tile.v": verilog, **circuit.files}
        show(*(write_text(out / name, text) for name, text in texts.items()))
        show("In it: ngspice vlnggen -- -Wno-fatal sub_tile.v; ngspice -b -r out.raw circuit.cir")
    if not result.passed:
        raise typer.Exit(1)


@spice.command()
@with_groups
def characterise(
    context: typer.Context,
    *,
    out: Annotated[Path, output("File to write; measurements and figure beside it.", "DEVICE.toml")] = Path(
        "cell.toml"
    ),
    models: options.ModelOptions,
    cells: Annotated[int, option("Cells of the Monte Carlo.", "N", min=2, max=1000)] = 50,
    tau: Annotated[
        float | None, option("Retention time, set by a leak; by default as the models leak.", "SECONDS")
    ] = None,
    design: options.DesignName = "leroux2025",
    seed: options.Seed = 0,
    workers: options.Workers = None,
    json: JsonFile = None,
) -> None:
    """Simulate one cell and write it as DEVICE.toml: current, charge, write, retention, disturb, mismatch.

    The curve of the device is the charge of a full pulse, of many cells with mismatch. Retention comes from
    the models' own leakage without gate tunnelling, or is set by --tau; if the simulated cell holds too long
    for a fit, the device states no retention, and a chip keeps that of its design.

    Example: gaincell spice characterise --out freepdk45.toml

    Example: gaincell adapt tiny --cell freepdk45.toml
    """
    from gaincell.reports.spice import cell_figure
    from gaincell.reports.spice_tables import cells as table_of
    from gaincell.reports.style import save
    from gaincell.spice.characterise import characterise as simulate
    from gaincell.spice.characterise import device_of, measured_files
    from gaincell.spice.result import rounded

    if out.suffix != ".toml":
        raise InputError(f"--out {out}: give a file name that ends with .toml")
    if not was_given(context, "out"):
        check_replaced(out)
    stem = out.with_suffix("")
    beside = [out.with_suffix(".png"), *measured_files(stem)]
    for place in beside:
        check_output("--out", place)
    check_apart(context.command, context.params, [("--out", place) for place in beside])
    chip, technology = chip_of(design), models.load(context)
    with simulating() as stages:
        found = simulate(
            technology, chip, command_line(), cells=cells, seed=seed, tau=tau, jobs=workers, stages=stages
        )
    result = with_design_file(rounded(found), design)
    figure = save(cell_figure(result), out.with_suffix(".png"))
    on = "" if design == "leroux2025" else f" --design {design}"
    show_result(result, json, table_of({stem.name: result}))
    try:
        device, without = device_of(found, chip, stem, tau)
    except InputError as error:
        raise InputError(
            f"{error}. The simulation is kept; to fit it otherwise: gaincell device fit {stem}-curve.csv "
            f"--rescale --out {out}{on}"
        ) from None
    device.save(out)
    cubic = " ".join(f"{c:.4g}" for c in device.cell.coefficients or ())
    r_squared = f"{device.quality['r_squared_of_own_curves']:.4f}"
    show(f"Its cubic: {cubic} (charge units/V^p); R² of the cells about their own cubics: {r_squared}")
    if without:
        typer.echo(f"No retention in the device: {without}")
    typer.echo(f"Device and figure: {out}, {figure}. Use it: gaincell adapt tiny --cell {out}{on}")


@spice.command()
@with_groups
def verify(
    context: typer.Context,
    *,
    inputs: Annotated[
        str, option("random, centred, or a FILE of gaincell evaluate ... --dump.", "random|centred|FILE")
    ] = "random",
    dump: options.DumpOptions,
    full: Annotated[bool, flag("--full", "Simulate all columns: minutes instead of seconds.")] = False,
    columns: Annotated[int, option("Simulated lines of each array, without --full.", "N", min=1)] = 8,
    transistors: Annotated[
        bool, flag("--transistors", "Simulate readouts of transistors, with their own error.")
    ] = False,
    write_dac: Annotated[
        Literal["string", "charge"] | None,
        option("Store what this simulated DAC writes; by default ideal levels."),
    ] = None,
    figure: FigureFile = None,
    circuits: options.Circuits,
    seed: options.Seed = 0,
    workers: options.Workers = None,
    json: JsonFile = None,
) -> None:
    """Simulate the two chained dot products of a 64 x 64 array and compare them with the behavioural model.

    Exit code 1 if a stated tolerance is not met. In the examples
    layer3.safetensors is what `gaincell evaluate runs/tiny --dump layer3.safetensors
    --layer 3` writes, and runs/tiny is what `gaincell map tiny` writes.

    Example: gaincell spice verify

    Example: gaincell spice verify --full --inputs layer3.safetensors --figure verify.png
    """
    from gaincell.reports.spice import verification_figure
    from gaincell.reports.spice_tables import verified
    from gaincell.spice.inputs import random_inputs
    from gaincell.spice.technology import Site
    from gaincell.spice.verify import verify as compare
    from gaincell.spice.write_path import stored_levels

    chip, technology, where = circuits.load(context)
    check_needed(context, ("--columns",), "a simulation of part of the array, without --full", not full)
    check_needed(context, OF_FILE, "--inputs FILE", inputs not in RANDOM)
    check_needed(context, ("--seed",), "random inputs", inputs in RANDOM)
    if inputs in RANDOM:
        chosen = random_inputs(chip, seed, centred=inputs == "centred")
    else:
        chosen = dump.read(inputs, chip)
    columns = max(chosen.values.shape) if full else columns
    with simulating() as stages:
        written = None
        if write_dac is not None:
            written = stored_levels(Site(technology, where), chip, write_dac)
        result, _ = compare(
            technology, chip, chosen, command_line(), seed=seed, corner=where, written=written,
            columns=columns, group=8 if columns > 8 else 4, transistor_readout=transistors, jobs=workers,
            stages=stages,
        )  # fmt: skip
    result, draw = with_design_file(result, circuits.design), verification_figure
    show_result(result, json, *verified(result), figure=figure, draw=draw, passed=result.passed)


@spice.command()
@with_groups
def wires(
    context: typer.Context,
    *,
    most: Annotated[int, option("Lines of 16, 32, 64 ... cells up to N.", "N", min=16, max=512)] = 512,
    figure: FigureFile = None,
    circuits: options.Circuits,
    workers: options.Workers = None,
    json: JsonFile = None,
) -> None:
    """Error against array size and wire resistance, for bit line and word line separately.

    Prints key_drop and value_drop for the table [wires] of a design, and the resistance at which 64 cells
    reach one half step of the output counter.

    Example: gaincell spice wires --figure wires.png
    """
    from gaincell.reports import spice_tables
    from gaincell.reports.spice import wires_figure
    from gaincell.spice.wires import study

    chip, technology, where = circuits.load(context)
    with simulating() as stages:
        result = study(technology, chip, command_line(), corner=where, most=most, jobs=workers, stages=stages)
    result = with_design_file(result, circuits.design)
    show_result(result, json, *spice_tables.wires(result), figure=figure, draw=wires_figure)


@spice.command()
@with_groups
def energy(
    context: typer.Context,
    *,
    inputs: Annotated[
        list[Path] | None, option("File of gaincell evaluate ... --dump; may be repeated.", "FILE")
    ] = None,
    dump: options.DumpOptions,
    transistors: Annotated[bool, flag("--transistors", "Simulate readouts of transistors.")] = False,
    columns: Annotated[int, option("Lines of each array that are simulated.", "N", min=1)] = 8,
    circuits: options.Circuits,
    seed: options.Seed = 0,
    workers: options.Workers = None,
    json: JsonFile = None,
) -> None:
    """Integrate the supplies: energy of both dot products per cell, column, array and head.

    The energy depends on the inputs: first random ones (centred, and covering the converters' range), then
    those of every FILE. In the example
    layer3.safetensors is what `gaincell evaluate runs/tiny --dump layer3.safetensors
    --layer 3` writes, and runs/tiny is what `gaincell map tiny` writes.

    Example: gaincell spice energy --inputs layer3.safetensors --json energy.json
    """
    from gaincell.reports.spice_tables import energy as table_of
    from gaincell.spice.inputs import random_inputs
    from gaincell.spice.verify import energy_result
    from gaincell.spice.verify import verify as simulate

    chip, technology, where = circuits.load(context)
    check_needed(context, OF_FILE, "--inputs FILE", inputs)
    every = [random_inputs(chip, seed, centred=True), random_inputs(chip, seed)]
    every += dump.read_all(inputs or [], chip)
    runs = []
    with simulating() as stages:
        for chosen in every:
            found = simulate(
                technology, chip, chosen, corner=where, columns=columns, transistor_readout=transistors,
                jobs=workers,
                stages=lambda title, name=chosen.name: stages(f"{name}, {title}"),  # type: ignore[misc]
            )  # fmt: skip
            runs.append(found)
    result = with_design_file(energy_result(runs, chip, command_line(), seed), circuits.design)
    title = f"{result.technology}, {result.readout} readout, energy of a read; {result.corner}"
    show_result(result, json, replace(table_of({"": result}), title=title))
