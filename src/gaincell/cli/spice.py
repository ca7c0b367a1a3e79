"""`gaincell spice characterise|verify|wires|energy`: circuits in ngspice, with open transistor models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from gaincell.cli._json import JsonFile, write_json
from gaincell.cli._progress import progress_bars

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Simulate cell and circuits in ngspice with open transistor models (docs/spice.md).",
)

TechnologyName: TypeAlias = Annotated[
    str, typer.Option("--technology", metavar="NAME", help="freepdk45, generic28 or oxide.")
]
Library: TypeAlias = Annotated[
    Path | None, typer.Option("--lib", metavar="FILE", help="Your own models instead; with --nmos and --pmos.")
]
Section: TypeAlias = Annotated[str | None, typer.Option("--section", help="Of --lib, where it has sections.")]
Nmos: TypeAlias = Annotated[str, typer.Option("--nmos", help="Name of the n transistor in --lib.")]
Pmos: TypeAlias = Annotated[str, typer.Option("--pmos", help="Name of the p transistor in --lib.")]
Subcircuits: TypeAlias = Annotated[
    bool, typer.Option("--subcircuits", help="Transistors of --lib are subcircuits with w and l.")
]
Nodes: TypeAlias = Annotated[str, typer.Option("--nodes", help="Order of their nodes, letters d g s b.")]
DesignName: TypeAlias = Annotated[str, typer.Option("--design", metavar="DESIGN", help="Chip it is for.")]
Jobs: TypeAlias = Annotated[
    int | None, typer.Option("--jobs", min=1, help="Simulations at a time; by default one a core.")
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", min=0, help="Of every random choice.")]


@app.command()
def characterise(
    out: Annotated[
        Path, typer.Option("--out", metavar="DEVICE.toml", help="Where to; measurements and figure beside it.")
    ] = Path("cell.toml"),
    technology: TechnologyName = "freepdk45",
    lib: Library = None,
    section: Section = None,
    nmos: Nmos = "nmos",
    pmos: Pmos = "pmos",
    subcircuits: Subcircuits = False,
    nodes: Nodes = "dgsb",
    cells: Annotated[int, typer.Option("--cells", min=2, max=1000, help="Of the Monte Carlo.")] = 50,
    tau: Annotated[
        float | None,
        typer.Option("--tau", metavar="SECONDS", help="Set retention by a leak; by default as the models leak."),
    ] = None,
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    jobs: Jobs = None,
    json: JsonFile = None,
) -> None:
    """Simulate one cell and write it as DEVICE.toml: current, charge, write, retention, disturb, mismatch.

    The curve of the device is the charge of a full pulse, of many cells with mismatch. Retention comes from
    the models' own leakage without gate tunnelling, or is set by --tau; where the simulated cell holds too long
    to be fitted the device states none, and a chip keeps its design's.

    Example: gaincell spice characterise --out freepdk45.toml

    Example: gaincell adapt tiny --cell freepdk45.toml
    """
    import tempfile

    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.errors import InputError
    from gaincell.files import write_atomic
    from gaincell.reports import spice as report
    from gaincell.spice.characterise import characterise as simulate
    from gaincell.spice.characterise import write_measurements
    from gaincell.spice.device import device_of
    from gaincell.spice.runner import version

    if out.suffix != ".toml":
        raise InputError(f"--out {out}: give a file with the ending .toml")
    chip, models = load_design(design), _technology(technology, lib, section, nmos, pmos, subcircuits, nodes)
    with progress_bars() as stages:
        found = simulate(models, chip, cells=cells, seed=seed, tau=tau, jobs=jobs, stages=stages)
    with tempfile.TemporaryDirectory() as name:
        measured = write_measurements(found, Path(name), chip.t_pulse_max)
        kept = [
            write_atomic(out.with_name(f"{out.stem}-{file.name}"), lambda t, file=file: t.write_bytes(file.read_bytes()))  # type: ignore[misc]
            for file in measured
        ]
    device, without = device_of(found, kept[0], kept[1], chip, out.stem, version())
    device.save(out)
    result = report.describe_cell(found, version(), ["gaincell", *sys.argv[1:]], chip.hash, seed)
    figure = report.draw_cell(result, out.with_suffix(".png"))
    console = Console()
    console.print(_cell_table(result, device))
    if without:
        console.print(f"No retention in the device: {without}", soft_wrap=True)
    console.print(f"Device and figure: {out}, {figure}. Use it: gaincell adapt tiny --cell {out}", soft_wrap=True)
    write_json(json, result)


@app.command()
def verify(
    inputs: Annotated[
        str, typer.Option("--inputs", help="random, centred, or a FILE of gaincell evaluate ... --dump.")
    ] = "random",
    head: Annotated[int, typer.Option("--head", min=0, help="Of FILE.")] = 0,
    token: Annotated[int | None, typer.Option("--token", min=0, help="Query of FILE; by default the last.")] = None,
    full: Annotated[bool, typer.Option("--full", help="All columns (minutes) instead of 8 (seconds).")] = False,
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
    figure: Annotated[Path | None, typer.Option("--figure", metavar="FILE.png", help="Draw the comparison.")] = None,
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    jobs: Jobs = None,
    json: JsonFile = None,
) -> None:
    """Simulate the two chained dot products of a 64 x 64 array and compare them with the behavioural model.

    Leaves with exit code 1 if a stated tolerance is not met.

    Example: gaincell spice verify

    Example: gaincell spice verify --full --inputs layer0.safetensors --figure verify.png
    """
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.reports import spice as report
    from gaincell.spice.inputs import random_inputs, real_inputs
    from gaincell.spice.runner import version
    from gaincell.spice.verify import verify as compare

    chip, models = load_design(design), _technology(technology, lib, section, nmos, pmos, subcircuits, nodes)
    if inputs in ("random", "centred"):
        chosen = random_inputs(chip, seed, centred=inputs == "centred")
    else:
        chosen = real_inputs(inputs, chip, head=head, token=token)
    columns = min(chosen.values.shape) if full else 8
    with progress_bars() as stages:
        found = compare(
            models,
            chip,
            chosen,
            columns=columns,
            group=8 if full else 4,
            transistor_readout=transistors,
            jobs=jobs,
            stages=stages,
        )
    result = report.describe_verification(found, version(), ["gaincell", *sys.argv[1:]], chip.hash, seed)
    Console().print(_verify_table(result))
    if figure is not None:
        report.draw_verification(result, figure)
    write_json(json, result)
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def wires(
    technology: TechnologyName = "freepdk45",
    most: Annotated[int, typer.Option("--most", min=16, max=1024, help="Cells on the longest line.")] = 512,
    figure: Annotated[Path | None, typer.Option("--figure", metavar="FILE.png", help="Draw error over size.")] = None,
    design: DesignName = "leroux2025",
    jobs: Jobs = None,
    json: JsonFile = None,
) -> None:
    """Error against array size and wire resistance, bit line and word line separately.

    Prints key_drop and value_drop for the table [wires] of a design, and at which resistance 64 cells reach
    one half step of the output counter.

    Example: gaincell spice wires --figure wires.png
    """
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.reports import spice as report
    from gaincell.spice.runner import version
    from gaincell.spice.technology import technology as named
    from gaincell.spice.wires import study

    chip = load_design(design)
    with progress_bars() as stages:
        found = study(named(technology), chip, most=most, jobs=jobs, stages=stages)
    result = report.describe_wires(found, version(), ["gaincell", *sys.argv[1:]], chip.hash)
    console = Console()
    for table in _wire_tables(result):
        console.print(table)
    if figure is not None:
        report.draw_wires(result, figure)
    write_json(json, result)


@app.command()
def energy(
    files: Annotated[
        list[Path] | None, typer.Option("--inputs", metavar="FILE", help="Of gaincell evaluate ... --dump; may be repeated.")
    ] = None,
    head: Annotated[int, typer.Option("--head", min=0, help="Of FILE.")] = 0,
    token: Annotated[int | None, typer.Option("--token", min=0, help="Query of FILE; by default the last.")] = None,
    transistors: Annotated[bool, typer.Option("--transistors", help="With readouts of transistors.")] = False,
    columns: Annotated[int, typer.Option("--columns", min=1, help="Lines of each array that are simulated.")] = 8,
    technology: TechnologyName = "freepdk45",
    design: DesignName = "leroux2025",
    seed: Seed = 0,
    jobs: Jobs = None,
    json: JsonFile = None,
) -> None:
    """Integrate the supplies: energy of both dot products per cell, column, array and head.

    Always with random inputs (centred, and covering the converters' range), which the energy depends on, and
    with those of every FILE.

    Example: gaincell spice energy --inputs layer0.safetensors --json energy.json
    """
    from rich.console import Console

    from gaincell.config import load_design
    from gaincell.reports import spice as report
    from gaincell.spice.energy import of_verification
    from gaincell.spice.inputs import random_inputs, real_inputs
    from gaincell.spice.runner import version
    from gaincell.spice.technology import technology as named
    from gaincell.spice.verify import verify as simulate

    chip, models = load_design(design), named(technology)
    inputs = [random_inputs(chip, seed, centred=True), random_inputs(chip, seed)]
    inputs += [real_inputs(file, chip, head=head, token=token) for file in files or ()]
    runs = []
    with progress_bars() as stages:
        for chosen in inputs:
            found = simulate(
                models,
                chip,
                chosen,
                columns=columns,
                transistor_readout=transistors,
                jobs=jobs,
                stages=lambda title, name=chosen.name: stages(f"{name}, {title}"),  # type: ignore[misc]
            )
            runs.append((found, of_verification(found, chip)))
    result = report.describe_energy(runs, version(), ["gaincell", *sys.argv[1:]], chip.hash, seed)
    Console().print(_energy_table(result))
    write_json(json, result)


def _technology(
    name: str, lib: Path | None, section: str | None, nmos: str, pmos: str, subcircuits: bool, nodes: str
) -> Any:
    from gaincell.spice.technology import technology, user_technology

    if lib is None:
        return technology(name)
    return user_technology(
        lib, nmos, pmos, section=section, subcircuits=subcircuits, nodes=nodes, like=name
    )


def _plain_table(title: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _cell_table(result: dict[str, Any], device: Any) -> Any:
    table = _plain_table(f"{result['technology']}, {result['ngspice']}", "", "value", "unit")
    charge = [c * 1e15 for c in result["curve"]["charge"]["value"]]
    table.add_row("charge of a full pulse, from lowest to highest voltage", f"{charge[0]:.1f} to {charge[-1]:.1f}", "fC")
    coefficients = device.cell.coefficients or ()
    table.add_row("its cubic", " ".join(f"{c:.4g}" for c in coefficients), "charge units/V^p")
    table.add_row("R² of the cells about their own cubics", f"{device.quality['r_squared']:.4f}", "")
    spread = result["mismatch"]["std_of_full_scale"]["value"]
    for name, at in (("lowest", 0), ("middle", len(spread) // 2), ("highest", -1)):
        table.add_row(f"mismatch at the {name} voltage", f"{100 * spread[at]:.2f}", "% of full scale")
    times = [t for t in result["write"]["settled_within_9_mV"]["value"] if isinstance(t, float)]
    table.add_row("slowest write to within 9 mV", f"{max(times) * 1e9:.2f}", "ns")
    errors = result["write"]["error_after_switching_off"]["value"]
    table.add_row("error when the write gate closes", f"{min(errors) * 1e3:.1f} to {max(errors) * 1e3:.1f}", "mV")
    held = result["retention"]
    when = held["time"]["value"][-1] * 1e3
    table.add_row(f"lowest, highest voltage after {when:.3g} ms", f"{held['held']['value'][0][-1]:.3f}, {held['held']['value'][-1][-1]:.3f}", "V")
    for key, title in (("after_8_reads", "change by 8 reads"), ("half_selected", "change of a half-selected cell")):
        shift = [s * 1e3 for s in result["disturb"][key]["value"]]
        table.add_row(title, f"{min(shift):.2f} to {max(shift):.2f}", "mV")
    return table


def _verify_table(result: dict[str, Any]) -> Any:
    title = f"{result['technology']}, {result['readout']} readout, {result['inputs']} inputs, {result['columns']['value']} columns"
    table = _plain_table(title, "", "first", "second", "unit")
    for name, word in (("own", "the cell's own curve"), ("cubic", "its cubic"), ("linear", "the linear cell")):
        found = [result[s]["rms"][name]["value"] * 1e9 for s in ("first", "second")]
        share = [100 * result[s]["rms_of_full_scale"][name]["value"] for s in ("first", "second")]
        cells = [f"{f:.3f} ({p:.2f} %)" for f, p in zip(found, share, strict=True)]
        table.add_row(f"rms against {word}", *cells, "ns (of full scale)")
    fits = [result[s]["affine_calibration"] for s in ("first", "second")]
    for key, word, factor, unit in (
        ("gain", "gain", 1.0, ""),
        ("offset", "offset", 1e9, "ns"),
        ("rms_in_range", "rms in range after affine calibration", 1e9, "ns"),
    ):
        table.add_row(word, *(f"{f[key]['value'] * factor:.4f}" if key in f else "-" for f in fits), unit)
    table.add_row("integrators that touched a rail", *(str(result[s]["integrators_at_a_rail"]["value"]) for s in ("first", "second")), "")
    codes = result["codes"]
    table.add_row("codes that differ, by more than one", "", f"{codes['differ']['value']}, {codes['differ_by_more_than_one']['value']}", "")
    table.add_section()
    for check in result["checks"]:
        factor = 1e9 if check["found"]["unit"] == "s" else 1.0
        words = "pass" if check["passed"] else "FAIL"
        unit = "ns" if factor > 1 else check["found"]["unit"].replace("1", "of all")
        table.add_row(check["name"], f"{check['found']['value'] * factor:.4g} ≤ {check['allowed']['value'] * factor:.4g}", words, unit)
    return table


def _wire_tables(result: dict[str, Any]) -> list[Any]:
    bit = _plain_table("Bit line: current lost", "Ω per cell", "cells", "error (%)", "first order (%)", "drop")
    for p in result["bit_line"]:
        bit.add_row(
            f"{p['resistance']['value']:g}",
            str(p["cells"]["value"]),
            f"{100 * p['error']['value']:.3f}",
            f"{100 * p['first_order_error']['value']:.3f}",
            f"{p['drop']['value']:.4g}",
        )
    word = _plain_table("Word line: farthest cell", "Ω per cell", "cells", "1 ns pulse (%)", "15 ns pulse (%)")
    for p in result["word_line"]:
        word.add_row(
            f"{p['resistance']['value']:g}",
            str(p["cells"]["value"]),
            f"{100 * p['error']['value']:.3f}",
            f"{100 * p['long_error']['value']:.3f}",
        )
    limits = _plain_table("64 cells reach the tolerance at", "", "Ω per cell")
    for name, limit in result["limits"].items():
        shown = limit["value"]
        limits.add_row(name, f"{shown:.3g}" if isinstance(shown, float) else "above the range")
    return [bit, word, limits]


def _energy_table(result: dict[str, Any]) -> Any:
    title = f"{result['technology']}, {result['readout']} readout, energy of a read"
    table = _plain_table(title, "inputs, dot product", "activity", "cell (fJ)", "drivers (pJ)", "array (pJ)", "head (pJ)")
    for run in result["runs"]:
        for name in ("first", "second"):
            part = run[name]
            table.add_row(
                f"{run['inputs']}, {name}",
                f"{part['activity']['value']:.2f}",
                f"{part['cell_read']['value'] * 1e15:.2f}",
                f"{part['blocks']['drivers']['value'] * 1e12:.2f}",
                f"{part['array']['value'] * 1e12:.2f}",
                f"{part['head']['value'] * 1e12:.0f}",
            )
    return table
