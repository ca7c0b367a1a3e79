"""`gaincell cost`: energy, latency and area of a token, cited and bottom-up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import JsonFile, command_line, directory, show, show_result
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
    chip_of,
    use,
)

if TYPE_CHECKING:
    from gaincell.chips.design import Design
    from gaincell.costs.activity import Activity
    from gaincell.costs.simulated import SimulatedArrays, SimulatedDigital, SimulatedWrites
    from gaincell.reports.tables import Rows
    from gaincell.results.cost import CostResult

app = typer.Typer()

TOKENS = 512
"""Most tokens of the text that an activity is measured on by default: seconds for SmolLM2-135M."""


Gpu: TypeAlias = Literal["h100", "rtx-4090"]
"""Of the whole-model view, see costs/gpus.toml."""


@dataclass(frozen=True)
class ActivityOptions:
    """Whose activity the energies are of."""

    activity: Annotated[
        Path | None,
        typer.Option(
            "--activity", metavar="FILE", help="Result of gaincell activity --json, instead of a measurement."
        ),
    ] = None
    assumed: Annotated[
        bool, typer.Option("--assumed", help="Measure no activity; assume that every code is equally likely.")
    ] = False
    text: TextName = "sample"
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens", metavar="TOKENS", min=1,
            help="Tokens read, where the activity is measured; by default up to 512.",
        ),
    ] = None  # fmt: skip

    def measured_of(self, model: str) -> bool:
        """Whether it is measured here: the model is attached, or has a shipped linear version.

        Raises InputError: options exclude each other.
        """
        from gaincell.errors import InputError
        from gaincell.integrations.hf.size import run_design
        from gaincell.mapping.ready import find_shipped

        if self.assumed and self.activity is not None:
            raise InputError("--assumed and --activity exclude each other: give one of them")
        known = self.assumed or self.activity is not None
        return not known and (run_design(model) is not None or find_shipped(model) is not None)

    def known(self, model: str) -> Activity | None:
        """Of a file, or as it comes with the package; None: assumed."""
        from gaincell.costs.activity import Activity, packaged

        if self.activity is not None:
            return Activity.read(self.activity)
        return None if self.assumed else packaged(model)

    def measure(self, model: str, chip: Design | None, device: str) -> tuple[Activity, str]:
        """Of an attached model, or of an embedded one in its shipped linear version, on one sequence of a
        text. Behind it, in words, whose activity it is. chip: another than its own.
        """
        from gaincell.cli._activity import observe_model
        from gaincell.integrations.hf.size import run_design

        attached = run_design(model) is not None
        if chip is not None and not attached:
            chip = chip.replace(cell="linear")
        seen = observe_model(model, chip, self.text, self.tokens, most=TOKENS, device=device)
        found = seen.found if attached else replace(seen.found, source=f"{seen.text}, linear cells")
        return found, f"{seen.ready.how}; "


@dataclass(frozen=True)
class SimulationFiles:
    """Results of other commands that take the place of a formula."""

    spice: Annotated[
        Path | None, typer.Option("--spice", metavar="FILE", help="Result of gaincell spice energy --json.")
    ] = None
    rtl: Annotated[
        Path | None, typer.Option("--rtl", metavar="FILE", help="Of gaincell rtl --verify: result.json.")
    ] = None
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Result of gaincell spice write --json.")
    ] = None

    def read(self) -> tuple[SimulatedArrays | None, SimulatedDigital | None, SimulatedWrites | None]:
        """Of those that are given. Raises InputError."""
        from gaincell.costs.simulated import read_rtl, read_spice, read_write

        return (
            None if self.spice is None else read_spice(self.spice),
            None if self.rtl is None else read_rtl(self.rtl),
            None if self.write is None else read_write(self.write),
        )


@dataclass(frozen=True)
class Views:
    """Tables that are shown on demand."""

    whole_model: Annotated[
        bool, typer.Option("--whole-model", help="With linear layers on a GPU, or analog: Amdahl's law.")
    ] = False
    why: Annotated[bool, typer.Option("--why", help="The cache on a GPU, and other memories.")] = False
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Every parameter up and down by 20 %.")
    ] = False

    def tables(self, result: CostResult, stack: int) -> list[Rows]:
        """All that are shown."""
        from gaincell.reports import costs as tables
        from gaincell.reports import costs_around as around

        shown = [tables.summary(result), tables.energy(result), tables.area(result), around.machines(result)]
        shown += [around.whole_model(result)] if self.whole_model else []
        shown += [around.cache(result), around.memories(result)] if self.why else []
        shown += [tables.variants(result)] if stack > 1 else []
        shown += [tables.sensitivity(result)] if self.sensitivity else []
        shown += [tables.layers(result)] if len(result.model_cost.heads) > 1 else []
        return [*shown, tables.left_out(result)]


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
    observed: ActivityOptions,
    simulated: SimulationFiles,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", metavar="FILE", help="Result of gaincell baseline --json.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure", help="Time softmax attention of these sizes here, for two seconds."
        ),
    ] = True,
    gpu: Annotated[Gpu, typer.Option("--gpu", help="GPU of --whole-model and --why.")] = "h100",
    views: Views,
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
    measured_here = observed.measured_of(model)
    on_text = "an activity measured here, of a RUN or of tiny"
    check_needed(context_, ("--text", "--tokens", "--device"), on_text, measured_here)
    check_needed(context_, ("--gpu",), "--whole-model or --why", views.whole_model or views.why)
    use(threads, device)
    from gaincell.costs.baselines import measure_here
    from gaincell.costs.measured_file import read_measured
    from gaincell.costs.result import Question, answer
    from gaincell.costs.technology import load_technology
    from gaincell.integrations.hf.size import model_size, run_design
    from gaincell.reports.costs import basis
    from gaincell.reports.costs_figures import draw_all

    size, chip = model_size(model), chip_of(design or run_design(model) or "leroux2025", cell, window)
    process, (arrays, digital, writes) = load_technology(technology), simulated.read()
    measured = [] if baseline is None else read_measured(baseline)
    found, how = observed.known(model), ""
    if measured_here:
        found, how = observed.measure(model, chip if design or cell or window else None, device)
    if measure:
        seen = min(context or chip.window, chip.window)
        measured += measure_here(size.heads, size.kv_heads, size.head_dim, seen)
    asked = Question(
        size, chip, process, found, context=context, batch=batch, refresh=refresh.policy, layers=stack,
        spice=arrays, rtl=digital, write=writes, measured=measured, gpu=gpu,
    )  # fmt: skip
    result = answer(asked, command_line())
    typer.echo(f"{model}: {how}{basis(result)}")
    show_result(result, json, *views.tables(result, stack), *(f"* {note}" for note in result.notes))
    if figures is not None:
        show(*draw_all(result, figures))
