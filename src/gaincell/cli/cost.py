"""`gaincell cost`: energy, latency and area of a token, cited and bottom-up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import JsonFile, command_line, directory, show, show_result
from gaincell.cli._options import argument, check_needed, command, flag, option
from gaincell.errors import InputError

if TYPE_CHECKING:
    from gaincell.chips.design import Design
    from gaincell.costs.activity import Activity
    from gaincell.reports.tables import Rows
    from gaincell.results.cost import CostResult


TOKENS = 512
"""Most tokens of the text that an activity is measured on by default: seconds for SmolLM2-135M."""


@dataclass(frozen=True)
class ActivityOptions:
    """Whose activity the energies are of."""

    activity: Annotated[
        Path | None, option("Result of gaincell activity --json, instead of a measurement.", "FILE")
    ] = None
    assumed: Annotated[
        bool, flag("--assumed", "Measure no activity; assume that every code is equally likely.")
    ] = False
    text: options.TextName = "sample"
    tokens: Annotated[
        int | None,
        option("Tokens read if the activity is measured; by default up to 512.", "TOKENS", min=1),
    ] = None

    def measured_of(self, model: str) -> bool:
        """Whether it is measured: of an attached model, or a shipped linear version.

        Raises:
            InputError: two options exclude each other.
        """
        from gaincell.integrations.hf.size import run_design
        from gaincell.mapping.load_hardware import find_shipped

        if self.assumed and self.activity is not None:
            raise InputError("--assumed and --activity exclude each other: give one of them")
        if self.assumed or self.activity is not None:
            return False
        return run_design(model) is not None or find_shipped(model) is not None

    def known(self, model: str) -> Activity | None:
        """Of a file, or as it comes with the package; None: assumed."""
        from gaincell.costs.activity import Activity, packaged

        if self.activity is not None:
            return Activity.read(self.activity)
        return None if self.assumed else packaged(model)

    def measure(self, model: str, chip: Design | None, device: str) -> tuple[Activity, str]:
        """Of an attached model, or of an embedded one in its shipped linear version, on one sequence of a
        text. Behind it, in words, whose activity it is. The linear version takes a chip other than its own
        with the cells that it was made for, all alike.
        """
        from gaincell.cli._models import observe_model
        from gaincell.devices.variability import Mismatch
        from gaincell.integrations.hf.size import run_design
        from gaincell.mapping.load_hardware import linear_chip

        attached = run_design(model) is not None
        if chip is not None and not attached:
            chip = chip.replace(cell=linear_chip().cell, mismatch=Mismatch())
        found, hardware, _ = observe_model(model, chip, self.text, self.tokens, most=TOKENS, device=device)
        if not attached:
            found = replace(found, source=f"{found.source}, linear cells")
        return found, hardware.origin


@dataclass(frozen=True)
class Costs:
    """What is costed, and with what it is compared."""

    design: Annotated[str | None, option("A chip; by default that of the RUN, or leroux2025.", "DESIGN")] = (
        None
    )
    cell: options.CellName = None
    window: options.Window = None
    context: Annotated[int | None, option("Tokens so far; by default a full ring.", "N", min=1)] = None
    batch: Annotated[int, option("Sequences, each with its own arrays.", "N", min=1)] = 1
    stack: options.Stack = 1
    technology: options.ProcessName = "28nm"
    observed: ActivityOptions = field(default_factory=ActivityOptions)
    spice: Annotated[Path | None, option("Result of gaincell spice energy --json.", "FILE")] = None
    rtl: Annotated[Path | None, option("result.json of gaincell rtl --verify.", "FILE")] = None
    write: Annotated[Path | None, option("Result of gaincell spice write --json.", "FILE")] = None
    baseline: Annotated[Path | None, option("Result of gaincell baseline --json.", "FILE")] = None
    measure: Annotated[
        bool, flag("--measure/--no-measure", "Time softmax attention of these sizes here, for two seconds.")
    ] = True
    gpu: Annotated[Literal["h100", "rtx-4090"], option("GPU for --whole-model and --why.")] = "h100"
    whole_model: Annotated[
        bool, flag("--whole-model", "Include linear layers on a GPU, or analog: Amdahl's law.")
    ] = False
    why: Annotated[bool, flag("--why", "Show the cache on a GPU, and other memories.")] = False
    sensitivity: Annotated[bool, flag("--sensitivity", "Vary every parameter by ±20 %.")] = False
    refresh: options.RefreshOptions = field(default_factory=options.RefreshOptions)

    def check(self, context: typer.Context, model: str) -> bool:
        """Whether the activity is measured here.

        Raises:
            InputError: two options do not go together.
        """
        measured_here = self.observed.measured_of(model)
        on_text = "an activity measured here, of a RUN or of tiny"
        check_needed(context, ("--text", "--tokens", "--device"), on_text, measured_here)
        measured = "a measurement, of the activity or without --no-measure"
        check_needed(context, ("--threads",), measured, measured_here or self.measure)
        compared = self.whole_model or self.why
        check_needed(context, ("--gpu",), "--whole-model or --why", compared)
        return measured_here

    def answer(self, model: str, measured_here: bool, device: str) -> CostResult:
        """The costs, after what is measured for them; a note says whose activity was measured."""
        from gaincell.costs.baselines.grid import measure_here
        from gaincell.costs.gpus import read_measured
        from gaincell.costs.result import answer
        from gaincell.costs.simulated import read_simulated
        from gaincell.costs.technology import load_technology
        from gaincell.integrations.hf.completeness import stored_types
        from gaincell.integrations.hf.size import hardware_files, model_size, run_design, with_parts
        from gaincell.results.rtl import RtlResult
        from gaincell.results.spice import EnergyResult, WriteResult

        size = model_size(model)
        chip = options.chip_of(self.design or run_design(model) or "leroux2025", self.cell, self.window)
        process = load_technology(self.technology)
        arrays = None if self.spice is None else read_simulated(self.spice, EnergyResult, "spice energy")
        digital = None if self.rtl is None else read_simulated(self.rtl, RtlResult, "rtl")
        writes = None if self.write is None else read_simulated(self.write, WriteResult, "spice write")
        measured = [] if self.baseline is None else read_measured(self.baseline)
        found, notes = self.observed.known(model), []
        if measured_here:
            other = chip if self.design or self.cell or self.window else None
            found, origin = self.observed.measure(model, other, device)
            notes.append(f"the activity is that of {origin}")
        elif found is not None and self.observed.activity is None:  # it comes with the package
            shipped = f"adapters/{model}"
            size = with_parts(size, stored_types(hardware_files(shipped)))
            notes.append(f"the activity is that of {shipped}, whose digital block is counted with it")
        if self.measure:
            seen = size.seen(min(self.context or chip.window, chip.window))
            measured += measure_here(size.heads, size.kv_heads, size.head_dim, seen)
        result = answer(
            size, chip, process, command_line(), activity=found, context=self.context, batch=self.batch,
            refresh=self.refresh.policy, layers=self.stack, spice=arrays, rtl=digital, write=writes,
            measured=measured, gpu=self.gpu, inputs=self.hashes(),
        )  # fmt: skip
        return replace(result, notes=(*notes, *result.notes))

    def hashes(self) -> dict[str, str]:
        """Of the files that were given."""
        from gaincell.chips.design_file import inputs_of_design
        from gaincell.chips.device_file import inputs_of_cell
        from gaincell.costs.technology import inputs_of_technology
        from gaincell.resources import resolve
        from gaincell.text import sha256

        files = {"spice": self.spice, "rtl": self.rtl, "write": self.write, "baseline": self.baseline}
        given = {name: resolve(path) for name, path in files.items() if path is not None}
        found = {f"{name} {path.name}": sha256(path) for name, path in given.items()}
        found |= inputs_of_design(self.design) | inputs_of_cell(self.cell)
        return found | inputs_of_technology(self.technology)

    def tables(self, result: CostResult) -> list[Rows]:
        """All that are shown, some of them on demand."""
        from gaincell.reports import costs as tables
        from gaincell.reports import system_costs as around

        shown = [tables.summary(result), tables.energy(result), tables.area(result), around.machines(result)]
        shown += [around.whole_model(result)] if self.whole_model else []
        shown += [around.cache(result), around.memories(result)] if self.why else []
        shown += [tables.variants(result)] if self.stack > 1 else []
        shown += [tables.sensitivity(result)] if self.sensitivity else []
        shown += [tables.layers(result)] if len(result.model_cost.heads) > 1 else []
        return [*shown, tables.left_out(result)]


@command
def cost(
    context_: typer.Context,
    *,
    model: Annotated[
        str,
        argument(
            f"{options.MODEL_HELP}, a RUN, or only the sizes of a model: gpt2, gpt2-xl, llama-2-7b, "
            "mistral-7b, llama-3-8b.",
            "MODEL|RUN",
        ),
    ] = "tiny",
    asked: Costs,
    figures: Annotated[Path | None, directory("Also save figures in this directory.")] = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    json: JsonFile = None,
) -> None:
    """Show what a token costs in gain cells: energy, latency and area, by block.

    The table has what the paper states (cited), what follows from activity, capacitances, clock, gates and
    cells (bottom-up), the factor between them, and the band in which it was expected. The activity of
    a RUN, and of tiny in its shipped linear version, is first measured on --text, in every layer and head.
    That of smollm2-135m was measured with its shipped RUN, whose digital block is counted with it. For other
    models it is assumed. In the examples runs/tiny is what `gaincell map tiny` writes.

    Example: gaincell cost adapters/smollm2-135m

    Example: gaincell cost smollm2-135m

    Example: gaincell cost mistral-7b --window 4096 --whole-model --why

    Example: gaincell cost runs/tiny --tokens 1024 --sensitivity --figures figures/
    """
    measured_here = asked.check(context_, model)
    options.use(threads, device)
    from gaincell.reports.costs import basis
    from gaincell.reports.costs_figures import FIGURES
    from gaincell.reports.style import save_all

    result = asked.answer(model, measured_here, device)
    typer.echo(f"{model}: {basis(result)}")
    notes = (f"* {note}" for note in result.notes)
    show_result(result, json, *asked.tables(result), *notes)
    if figures is not None:
        show(*save_all(FIGURES, result, figures, "costs-"))
