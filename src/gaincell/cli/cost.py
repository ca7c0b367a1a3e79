"""`gaincell cost`: energy, latency and area of a token, cited and bottom-up."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaincell.cli._json import JsonFile, command_line, directory, write_json
from gaincell.cli._options import (
    MODEL_HELP,
    CellName,
    Device,
    ProcessName,
    RefreshOptions,
    Stack,
    TextName,
    Threads,
    Window,
    check_needed,
    use,
    with_groups,
)

if TYPE_CHECKING:
    from gaincell.chips.design import Design
    from gaincell.costs.activity import Activity

app = typer.Typer()

DEFAULT_CHIP = "leroux2025"
TOKENS = 512
"""Most tokens of the text that an activity is measured on by default: seconds for SmolLM2-135M."""


class Gpu(StrEnum):
    """Of the whole-model view, see costs/gpus.toml."""

    h100 = "h100"
    rtx_4090 = "rtx-4090"


@app.command()
@with_groups
def cost(
    context_: typer.Context,
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RUN",
            help=f"{MODEL_HELP}, a RUN, or sizes alone: gpt2, gpt2-xl, llama-2-7b, mistral-7b, llama-3-8b.",
        ),
    ],
    design: Annotated[
        str | None,
        typer.Option("--design", metavar="DESIGN", help="A chip; by default that of the RUN, or leroux2025."),
    ] = None,
    cell: CellName = None,
    window: Window = None,
    context: Annotated[
        int | None,
        typer.Option("--context", metavar="N", min=1, help="Tokens so far; by default a full ring."),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, help="Sequences, each with arrays of its own.")
    ] = 1,
    stack: Stack = 1,
    technology: ProcessName = "28nm",
    activity: Annotated[
        Path | None,
        typer.Option(
            "--activity", metavar="FILE", help="Result of gaincell activity --json, instead of a measurement."
        ),
    ] = None,
    assumed: Annotated[
        bool, typer.Option("--assumed", help="Measure no activity; assume that every code is equally likely.")
    ] = False,
    text: TextName = "sample",
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            metavar="TOKENS",
            min=1,
            help="Tokens read, where the activity is measured; by default up to 512.",
        ),
    ] = None,
    spice: Annotated[
        Path | None, typer.Option("--spice", metavar="FILE", help="Result of gaincell spice energy --json.")
    ] = None,
    rtl: Annotated[
        Path | None, typer.Option("--rtl", metavar="FILE", help="Of gaincell rtl --verify: result.json.")
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Result of gaincell spice write --json.")
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="FILE", help="Result of gaincell baseline --json."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Time softmax attention of these sizes here, for two seconds.",
        ),
    ] = True,
    gpu: Annotated[Gpu, typer.Option("--gpu", help="GPU of --whole-model and --why.")] = Gpu.h100,
    whole_model: Annotated[
        bool, typer.Option("--whole-model", help="With linear layers on a GPU, or analog: Amdahl's law.")
    ] = False,
    why: Annotated[bool, typer.Option("--why", help="The cache on a GPU, and other memories.")] = False,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Every parameter up and down by 20 %.")
    ] = False,
    refresh: RefreshOptions,
    figures: Annotated[
        Path | None, directory("--figures", "DIR", "Also draw figures into this directory.")
    ] = None,
    threads: Threads = None,
    device: Device = "cpu",
    json: JsonFile = None,
) -> None:
    """What a token costs in gain cells: energy, latency and area, by block.

    The table has what the paper states (cited), what follows from activity, capacitances, clock, gates and
    cells (bottom-up), the factor between both, and the band in which the factor was expected. The activity of
    a RUN, and of tiny in its shipped linear version, is first measured on --text, in every layer and head.
    That of smollm2-135m was measured with its shipped RUN. For other models it is assumed. In the examples
    runs/tiny is what `gaincell map tiny` writes.

    Example: gaincell cost adapters/smollm2-135m

    Example: gaincell cost smollm2-135m

    Example: gaincell cost mistral-7b --window 4096 --whole-model --why

    Example: gaincell cost runs/tiny --tokens 1024 --sensitivity --figures figures/
    """
    from rich.console import Console

    from gaincell.errors import InputError

    if assumed and activity is not None:
        raise InputError("--assumed and --activity exclude each other: give one of them")
    measured_here = activity is None and not assumed and _can_be_measured(model)
    check_needed(
        context_,
        ("--text", "--tokens", "--device"),
        "an activity measured here, of a RUN or of tiny",
        measured_here,
    )
    check_needed(context_, ("--gpu",), "--whole-model or --why", whole_model or why)
    use(threads, device)
    from gaincell.costs.activity import Activity, packaged
    from gaincell.costs.measured_file import read_measured
    from gaincell.costs.result import Question, answer
    from gaincell.costs.simulated import read_rtl, read_spice, read_write
    from gaincell.costs.technology import load_technology
    from gaincell.integrations.hf.size import model_size
    from gaincell.reports import costs as tables
    from gaincell.reports import costs_around as around

    process, policy = load_technology(technology), refresh.policy
    simulated = None if spice is None else read_spice(spice)
    synthesised = None if rtl is None else read_rtl(rtl)
    written = None if write is None else read_write(write)
    measured = [] if baseline is None else read_measured(baseline)
    found_activity = None if activity is None else Activity.read(activity)
    size, chip = model_size(model), _chip(model, design, cell, window)
    how = ""
    if measured_here:
        other = chip if design or cell or window else None
        found_activity, how = _measured_activity(model, other, text, tokens, device)
    elif found_activity is None and not assumed:
        found_activity = packaged(model)
    if measure:
        from gaincell.costs.baselines import measure_here

        seen = min(context or chip.window, chip.window)
        measured += measure_here(size.heads, size.kv_heads, size.head_dim, seen)
    asked = Question(
        size,
        chip,
        process,
        found_activity,
        context=context,
        batch=batch,
        refresh=policy,
        layers=stack,
        spice=simulated,
        rtl=synthesised,
        write=written,
        measured=measured,
        gpu=gpu.value,
    )
    result = answer(asked, command_line())
    typer.echo(f"{model}: {how}{tables.basis(result)}")
    console = Console()
    shown = [tables.summary(result), tables.energy(result), tables.area(result), around.machines(result)]
    shown += [around.whole_model(result)] if whole_model else []
    shown += [around.cache(result), around.memories(result)] if why else []
    shown += [tables.variants(result)] if stack > 1 else []
    shown += [tables.sensitivity(result, tables.MOST)] if sensitivity else []
    shown += [tables.layers(result)] if len(result.model_cost.heads) > 1 else []
    shown.append(tables.left_out(result))
    for table in shown:
        console.print(table.terminal())
    for note in result.notes:
        console.print(f"* {note}", markup=False)
    write_json(json, result)
    if figures is not None:
        from gaincell.reports.costs_figures import draw_all

        for path in draw_all(result, figures):
            console.print(str(path))


def _chip(model: str, design: str | None, cell: str | None, window: int | None) -> Design:
    from gaincell.chips.design_file import load_design
    from gaincell.chips.device import with_cell
    from gaincell.integrations.hf.size import run_design

    chip = load_design(design or run_design(model) or DEFAULT_CHIP)
    chip = chip if cell is None else with_cell(chip, cell)
    return chip if window is None else chip.replace(window=window)


def _can_be_measured(model: str) -> bool:
    """Whether a model is attached, or embedded with a shipped linear version."""
    from gaincell.integrations.hf.size import run_design
    from gaincell.mapping.ready import find_shipped

    return run_design(model) is not None or find_shipped(model) is not None


def _measured_activity(
    model: str, chip: Design | None, text: str, tokens: int | None, device: str
) -> tuple[Activity, str]:
    """Of an attached model, or of an embedded one in its shipped linear version, on one sequence of a text.
    Behind it, in words, whose activity it is.
    """
    from dataclasses import replace

    from gaincell.cli._activity import observe_model
    from gaincell.integrations.hf.size import run_design

    if run_design(model) is not None:
        seen = observe_model(model, chip, text, tokens, most=TOKENS, device=device)
        return seen.found, f"{seen.ready.how}; "
    linear = None if chip is None else chip.replace(cell="linear")
    seen = observe_model(model, linear, text, tokens, most=TOKENS, device=device)
    return replace(seen.found, source=f"{seen.text}, linear cells"), f"{seen.ready.how}; "
