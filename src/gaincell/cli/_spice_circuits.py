"""`gaincell spice write|mixed`: the write path; a sub-tile with its digital block in the same simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import FigureFile, JsonFile, command_line, directory, show, show_result
from gaincell.cli._options import needing_amaranth
from gaincell.cli._spice_options import CornerOptions, DesignName, ModelOptions, Seed, Workers, simulating


@with_groups
def write(
    context: typer.Context,
    *,
    models: ModelOptions,
    corner: CornerOptions,
    design: DesignName = "leroux2025",
    workers: Workers = None,
    json: JsonFile = None,
) -> None:
    """The write path: two write DACs, discharge and write gate for every code, and the word-line drivers.

    From a code to the stored voltage and to the charge that the cell then gives: settling, linearity,
    energy, noise, of a resistor string and of charge redistribution.

    Example: gaincell spice write --json write.json
    """
    from gaincell.chips.design_file import load_design
    from gaincell.reports.spice_tables import write as write_rows
    from gaincell.spice.write_path import characterise_write_path

    chip, where = load_design(design), corner.load()
    technology = models.load(context)
    with simulating():
        result = characterise_write_path(technology, chip, command_line(), corner=where, jobs=workers)
    show_result(result, json, write_rows(result))


@with_groups
def mixed(
    context: typer.Context,
    *,
    head_dim: Annotated[
        int,
        typer.Option("--head-dim", metavar="N", min=2, max=16, help="Rows and columns, which are the ring."),
    ] = 8,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="TOKENS", min=3, help="More than columns: around the ring.")
    ] = 12,
    models: ModelOptions,
    corner: CornerOptions,
    out: Annotated[
        Path | None,
        directory("--out", "DIR", "Keep the netlist, its models and the Verilog of the digital block."),
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
    from gaincell.chips.design_file import load_design
    from gaincell.files import write_text
    from gaincell.reports.spice import mixed_figure
    from gaincell.reports.spice_tables import mixed as mixed_rows

    with needing_amaranth():
        from gaincell.rtl.mixed_signal import simulate_sub_tile

    chip, where = load_design(design), corner.load()
    technology = models.load(context)
    with simulating() as stages:
        result, circuit, verilog = simulate_sub_tile(
            technology, chip, command_line(), size=head_dim, tokens=tokens, corner=where, seed=seed,
            stages=stages,
        )  # fmt: skip
    show_result(result, json, mixed_rows(result), figure=figure, draw=mixed_figure)
    if out is not None:
        texts = {"circuit.cir": circuit.text, "sub_tile.v": verilog, **circuit.files}
        show(*(write_text(out / name, text) for name, text in texts.items()))
        show("In it: ngspice vlnggen -- -Wno-fatal sub_tile.v; ngspice -b -r out.raw circuit.cir")
    if not all(check.passed for check in result.checks):
        raise typer.Exit(1)
