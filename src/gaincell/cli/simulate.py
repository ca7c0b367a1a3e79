"""`gaincell simulate`: the arrays at work, token by token, and what an oscilloscope would show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from gaincell.cli._groups import with_groups
from gaincell.cli._json import JsonFile, command_line, directory, show_result
from gaincell.cli._options import LARGEST_SEED, CellName, RefreshOptions, check_needed

if TYPE_CHECKING:
    from gaincell.reports.tables import Rows
    from gaincell.results.simulation import HeadResult

app = typer.Typer(
    no_args_is_help=True, help="Simulate the arrays token by token: schedule, trace and waveforms."
)

RANDOM = ("--group", "--head-dim", "--seed")
"""Options of random signals."""
ChipName: TypeAlias = Annotated[
    str | None,
    typer.Option("--design", metavar="DESIGN", help="A chip; by default that of the inputs, or leroux2025."),
]
Signals: TypeAlias = Annotated[
    Path | None,
    typer.Option("--inputs", metavar="FILE", help="Codes of a real layer, of gaincell evaluate --dump."),
]
Group: TypeAlias = Annotated[
    int,
    typer.Option("--group", metavar="N", min=1, help="Query heads that share the arrays (random signals)."),
]
HeadDim: TypeAlias = Annotated[
    int, typer.Option("--head-dim", metavar="N", min=1, help="D (random signals).")
]
Figures: TypeAlias = Annotated[Path, directory("--figures", "DIR", "Draw figures into this directory.")]
Seed: TypeAlias = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="Of the random signals.")
]


@app.command()
@with_groups
def head(
    context: typer.Context,
    *,
    design: ChipName = None,
    cell: CellName = None,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="TOKENS", min=1, help="Tokens read, one a step.")
    ] = 2048,
    group: Group = 1,
    head_dim: HeadDim = 64,
    refresh: RefreshOptions,
    layers: Annotated[
        int | None,
        typer.Option("--layers", metavar="N", min=1, help="Computed between two tokens; by default 12."),
    ] = None,
    other_latency: Annotated[
        float, typer.Option("--other-latency", min=0.0, metavar="SECONDS", help="Of the rest of a layer.")
    ] = 0.0,
    signals: Signals = None,
    figures: Figures = Path("runs/simulate"),
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """A head token by token: its schedule, and a trace of many steps.

    Prints the phases of a step (computed or assumed), what depends on the assumed latency, and the head at
    some of its tokens; draws the timeline and the trace.

    Example: gaincell simulate head --tokens 3000 --design leroux2025-oxide

    Example: gaincell simulate head --group 3 --other-latency 10e-6
    """
    from gaincell.arrays import Schedule
    from gaincell.arrays.simulation import head_result, step_through
    from gaincell.cli._progress import progress_bars
    from gaincell.cli._signals import read_source
    from gaincell.reports.simulation import draw_head

    check_needed(context, RANDOM, "random signals, without --inputs", signals is None)
    source = read_source(signals, design, cell, tokens, group, head_dim, seed)
    chip, layers = source.chip, layers or source.layers
    group = source.signals.q.shape[1] // source.signals.k.shape[1]
    schedule = Schedule(chip, group)
    period = schedule.token_period(layers, other_latency)
    chip = chip.replace(token_period=period)
    schedule = Schedule(chip, group)
    with progress_bars() as progress:
        arrays, steps = step_through(chip, source.signals, refresh.policy, progress)
    result = head_result(arrays, steps, schedule, layers, other_latency, command_line(), seed)
    show_result(result, json, *_tables(result), *draw_head(result, figures))


@app.command()
def tile(
    context: typer.Context,
    design: ChipName = None,
    cell: CellName = None,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="TOKENS", min=1, help="Tokens read; the last is shown.")
    ] = 48,
    head_dim: HeadDim = 64,
    column: Annotated[
        int | None,
        typer.Option(
            "--column", metavar="N", min=0, help="Key column shown; by default that of most charge."
        ),
    ] = None,
    row: Annotated[
        int | None,
        typer.Option("--row", metavar="N", min=0, help="Value bit line; by default that of most charge."),
    ] = None,
    signals: Signals = None,
    figures: Figures = Path("runs/simulate"),
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Waveforms of one token: word lines, stored voltages, bit-line currents, integrators, counter.

    Behavioural, from the same functions as everything else; an integrator ends at exactly the charge that the
    attention computes with.

    Example: gaincell simulate tile --tokens 60 --row 3
    """
    from gaincell.arrays.simulation import step_through, tile_result
    from gaincell.arrays.waveforms import waveforms
    from gaincell.cli._progress import progress_bars
    from gaincell.cli._signals import read_source
    from gaincell.errors import InputError
    from gaincell.reports.simulation import draw_tile

    check_needed(context, RANDOM, "random signals, without --inputs", signals is None)
    source = read_source(signals, design, cell, tokens, 1, head_dim, seed)
    chip = source.chip
    with progress_bars() as progress:
        arrays, _ = step_through(chip, source.signals, None, progress)
    assert arrays.trace is not None
    if column is not None and column >= chip.window:
        raise InputError(f"there is no column {column}; allowed: 0 to {chip.window - 1}")
    column = int(arrays.trace.pulses[0, 0].argmax()) if column is None else column
    row = int(arrays.trace.tile_charge[0, 0, column // chip.tile].abs().argmax()) if row is None else row
    found = waveforms(arrays.trace, column=column, row=row)
    result = tile_result(found, chip, arrays.head_dim, command_line(), seed)
    ends = (
        f"key column {column}: {float(found.key_charge[-1]) * 1e15:.1f} fC; "
        f"value bit line {row}: {float(found.value_charge[-1]) * 1e15:.1f} fC, count {int(found.count[-1])}"
    )
    show_result(result, json, ends, *draw_tile(result, figures))


def _tables(result: HeadResult) -> list[Rows]:
    """Phases of a step, what depends on the assumed latency, the head at some of its tokens."""
    from gaincell.reports.tables import Rows

    schedule, steps = result.schedule, result.trace
    phases = [
        (phase.name, f"{phase.duration * 1e9:.3g}", phase.basis, ", ".join(phase.circuits))
        for phase in schedule.phases
    ]
    caption = (
        f"A step takes {schedule.latency * 1e9:.4g} ns, a token (all layers) "
        f"{schedule.token_period * 1e9:.4g} ns. The key write begins "
        "with the discharge; conversion happens within the reads and the count. What is assumed is an input: "
        "in designs of the paper it completes the published step."
    )
    others = [
        (
            f"{row.unstated_latency * 1e9:.3g}",
            f"{row.latency * 1e9:.4g}",
            f"{row.tokens_per_second:.3g}",
            f"{1 - row.decay_per_token:.2e}",
        )
        for row in result.sensitivity
    ]
    shown = sorted({min(len(steps) - 1, round(len(steps) * part / 8)) for part in range(9)})
    trace = [
        (
            str(step.token),
            f"{step.time * 1e6:.4g}",
            str(step.columns_held),
            f"{step.oldest_left:.3f}",
            f"{step.pulses_above_zero:.1%}",
            f"{step.pulses_full:.1%}",
            f"{step.output_rms:.3f}",
        )
        for step in (steps[n] for n in shown)
    ]
    sensitivity = ("assumed, ns", "step, ns", "tokens/s", "lost per token")
    observed = ("token", "time, µs", "columns", "oldest left", "pulses > 0", "full", "output rms")
    return [
        Rows("Phases of a step", ("phase", "ns", "basis", "circuits"), phases, caption, text=(0, 2, 3)),
        Rows("If the assumed latency were another (all layers)", sensitivity, others, text=()),
        Rows("The head at some of its tokens", observed, trace, text=()),
    ]
