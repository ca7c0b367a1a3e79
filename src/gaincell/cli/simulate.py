"""`gaincell simulate`: the arrays at work, token by token, and what an oscilloscope would show."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gaincell.cli import _options as options
from gaincell.cli._json import JsonFile, command_line, directory, run_folder, show_result
from gaincell.cli._options import LARGEST_SEED, check_needed, option, was_given
from gaincell.errors import InputError

if TYPE_CHECKING:
    from gaincell.arrays.simulation import Signals
    from gaincell.chips.design import Design
    from gaincell.reports.tables import Rows
    from gaincell.results.simulation import HeadResult

simulate = options.group("Simulate the arrays token by token: schedule, trace and waveforms.")

RANDOM = ("--group", "--head-dim", "--seed")
"""Options of random signals."""


@dataclass(frozen=True)
class Source:
    """The chip, the signals it gets, and where figures of them go."""

    design: Annotated[
        str | None, option("A chip; by default that of the inputs, or leroux2025.", "DESIGN")
    ] = None
    cell: options.CellName = None
    inputs: Annotated[Path | None, option("Codes of a real layer, by gaincell evaluate --dump.", "FILE")] = (
        None
    )
    head_dim: Annotated[int, option("D, the dimension of a head (random signals).", "N", min=1)] = 64
    seed: Annotated[int, option("Seed of the random signals.", "N", min=0, max=LARGEST_SEED)] = 0
    figures: Annotated[
        Path | None, directory("Save figures in this directory; by default runs/simulate/DESIGN.")
    ] = None

    def read(self, context: typer.Context, tokens: int, group: int = 1) -> tuple[Design, int, Signals]:
        """The chip, layers of the model, and what a head of it gets: random signals, or those of a file of
        gaincell evaluate --dump, with its chip unless another is named.
        """
        from gaincell.arrays.simulation import random_signals

        check_needed(context, RANDOM, "random signals, without --inputs", self.inputs is None)
        if self.inputs is None:
            chip = options.chip_of(self.design or "leroux2025", self.cell)
            return chip, chip.layers, random_signals(chip, tokens, group, self.head_dim, self.seed)
        own, layers, signals = _dumped(self.inputs, tokens)
        if (held := signals.q.shape[2]) < tokens and was_given(context, "tokens"):
            raise InputError(f"--tokens {tokens}: {self.inputs} holds {held} tokens; give at most as many")
        return options.chip_of(self.design or own, self.cell), layers, signals

    def hashes(self) -> dict[str, str]:
        """Name -> SHA-256 of the files that were given."""
        from gaincell.chips.design_file import inputs_of_design
        from gaincell.chips.device_file import inputs_of_cell
        from gaincell.text import sha256

        signals = {} if self.inputs is None else {self.inputs.name: sha256(self.inputs)}
        return signals | inputs_of_design(self.design) | inputs_of_cell(self.cell)

    def folder(self, context: typer.Context, chip: Design) -> Path:
        """Where figures go.

        Raises:
            InputError: nothing can be written there.
        """
        name = re.sub(r"[^\w+-]+", "-", chip.name)  # a file may call its design anything
        return run_folder(context, self.figures, f"simulate/{name}", "--figures")


def _dumped(file: Path, tokens: int) -> tuple[Design, int, Signals]:
    """Chip, layers, and codes of one layer of a real model, as pulse widths and volts."""
    import torch

    from gaincell.arrays.simulation import Signals
    from gaincell.circuits.levels import pulse_widths, stored_volts
    from gaincell.spice.inputs import read_dump

    found = read_dump(file)
    q, k, v = (codes[:1, :, :tokens].long() for codes in (found.q, found.k, found.v))
    design = found.design
    u = torch.tensor(stored_volts(design.dac_levels or 16, design.v_min, design.v_max))
    widths = torch.tensor(pulse_widths(design.driver_levels or 16))
    volts = (design.v_offset + u[code] for code in (k, v))
    return design, found.layers, Signals(widths[q.abs()] * q.sign(), *volts)


@simulate.command()
@options.with_groups
def head(
    context: typer.Context,
    *,
    source: Source,
    tokens: Annotated[int, option("Tokens read, one per step.", "TOKENS", min=1)] = 2048,
    group: Annotated[int, option("Query heads that share the arrays (random signals).", "N", min=1)] = 1,
    refresh: options.RefreshOptions,
    layers: Annotated[
        int | None,
        option("Layers between two tokens; by default those of the inputs or the chip.", "N", min=1),
    ] = None,
    other_latency: Annotated[
        float | None, option("Latency of the rest of a layer; by default 0.", "SECONDS", min=0.0)
    ] = None,
    json: JsonFile = None,
) -> None:
    """Simulate a head token by token: its schedule, and a trace of many steps.

    Prints the phases of a step (computed or assumed), what depends on the assumed latency, and the head at
    some of its tokens; draws the timeline and the trace. The time between two tokens is the step by the
    schedule and --other-latency, both once for every layer; if the design states a token_period and neither
    --layers nor --other-latency is given, it is that period.

    Example: gaincell simulate head --tokens 3000 --design leroux2025-oxide

    Example: gaincell simulate head --group 3 --other-latency 10e-6
    """
    from gaincell.arrays import Schedule
    from gaincell.arrays.simulation import head_result, step_through
    from gaincell.cli._progress import progress_bars
    from gaincell.reports.simulation import timeline, trace
    from gaincell.reports.style import save_all

    chip, layers_of_it, signals = source.read(context, tokens, group)
    figures = source.folder(context, chip)
    group, others = signals.q.shape[1] // signals.k.shape[1], other_latency or 0.0
    stated = chip.explicit_token_period if layers is None and other_latency is None else None
    layers = layers or layers_of_it
    chip = chip.replace(token_period=stated or Schedule(chip, group).token_period(layers, others))
    with progress_bars() as progress:
        arrays, steps = step_through(chip, signals, refresh.policy, progress)
    schedule = Schedule(chip, group)
    result = head_result(
        arrays, steps, schedule, layers, others, command_line(), source.seed, source.hashes()
    )
    drawn = save_all({"timeline": timeline, "trace": trace}, result, figures)
    show_result(result, json, *_tables(result), *drawn)


@simulate.command()
@options.with_groups
def tile(
    context: typer.Context,
    *,
    source: Source,
    tokens: Annotated[int, option("Tokens read; the last is shown.", "TOKENS", min=1)] = 48,
    column: Annotated[
        int | None,
        option("Key column shown; by default that with the longest pulse, of several the first.", "N", min=0),
    ] = None,
    row: Annotated[
        int | None, option("Value bit line shown; by default that with most charge.", "N", min=0)
    ] = None,
    json: JsonFile = None,
) -> None:
    """Draw waveforms of one token: word lines, stored voltages, bit-line currents, integrators, counter.

    They are behavioural, from the same functions as everything else; an integrator ends at exactly the charge
    that the attention computes with.

    Example: gaincell simulate tile --tokens 60 --row 3
    """
    from gaincell.arrays import Schedule
    from gaincell.arrays.simulation import step_through, tile_result
    from gaincell.arrays.waveforms import waveforms
    from gaincell.cli._progress import progress_bars
    from gaincell.reports import simulation, style

    chip, layers, signals = source.read(context, tokens)
    figures = source.folder(context, chip)
    period = Schedule(chip, signals.q.shape[1] // signals.k.shape[1]).token_period(layers)
    if chip.explicit_token_period is None and not math.isclose(period, chip.token_period):
        chip = chip.replace(token_period=period)
    with progress_bars() as progress:
        arrays, _ = step_through(chip, signals, None, progress)
    assert arrays.trace is not None
    if column is not None and column >= chip.window:
        raise InputError(f"there is no column {column}; allowed: 0 to {chip.window - 1}")
    column = int(arrays.trace.pulses[0, 0].argmax()) if column is None else column
    row = int(arrays.trace.tile_charge[0, 0, column // chip.tile].abs().argmax()) if row is None else row
    found = waveforms(arrays.trace, column=column, row=row)
    result = tile_result(found, chip, command_line(), source.seed, source.hashes())
    said = (
        f"key column {column}: {found.key_charge[-1] * 1e15:.1f} fC; "
        f"value bit line {row}: {found.value_charge[-1] * 1e15:.1f} fC, count {found.count[-1]}"
    )
    drawn = style.save_all({"waveforms": simulation.waveforms}, result, figures)
    show_result(result, json, said, *drawn)


def _tables(result: HeadResult) -> list[Rows]:
    """Phases of a step, what depends on the assumed latency, the head at some of its tokens."""
    from gaincell.reports.tables import Rows

    schedule, steps = result.schedule, result.trace
    caption = (
        f"A step takes {schedule.latency * 1e9:.4g} ns, a token (all layers) "
        f"{schedule.token_period * 1e9:.4g} ns. The key write begins "
        "with the discharge; conversion happens within the reads and the count. What is assumed is an input: "
        "in designs of the paper it completes the published step."
    )
    phases = Rows.of(
        "Phases of a step",
        schedule.phases,
        {
            "phase": lambda phase: phase.name,
            "ns": lambda phase: f"{phase.duration * 1e9:.3g}",
            "basis": lambda phase: phase.basis,
            "circuits": lambda phase: ", ".join(phase.circuits),
        },
        caption=caption,
        text=(0, 2, 3),
    )
    others = Rows.of(
        "If the assumed latency were another (all layers)",
        result.sensitivity,
        {
            "assumed, ns": lambda row: f"{row.unstated_latency * 1e9:.3g}",
            "step, ns": lambda row: f"{row.latency * 1e9:.4g}",
            "tokens/s, without refresh": lambda row: f"{row.tokens_per_second:.3g}",
            "lost per token": lambda row: f"{1 - row.decay_per_token:.2e}",
        },
        text=(),
    )
    shown = sorted({min(len(steps) - 1, round(len(steps) * part / 8)) for part in range(9)})
    trace = Rows.of(
        "The head at some of its tokens",
        [steps[n] for n in shown],
        {
            "token": lambda step: str(step.token),
            "time, µs": lambda step: f"{step.time * 1e6:,.3f}",
            "columns": lambda step: str(step.columns_held),
            "oldest left": lambda step: f"{step.oldest_left:.3f}",
            "pulses > 0": lambda step: f"{step.pulses_above_zero:.1%}",
            "full": lambda step: f"{step.pulses_full:.1%}",
            "output rms": lambda step: f"{step.output_rms:.3f}",
        },
        text=(),
    )
    return [phases, *([others] if result.sensitivity else []), trace]
