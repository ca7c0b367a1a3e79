"""`gaincell simulate`: the arrays at work, token by token, and what an oscilloscope would show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias

import typer

from gaincell.cli._json import JsonFile, output_directory, write_json
from gaincell.cli._options import (
    LARGEST_SEED,
    CellName,
    RefreshKind,
    RefreshKindName,
    RefreshSeconds,
    RefreshTokens,
    check_needed,
)

if TYPE_CHECKING:
    from gaincell.arrays import HeadArray, Schedule
    from gaincell.design import Design
    from gaincell.progress import StageProgress

app = typer.Typer(
    no_args_is_help=True, help="Simulate the arrays token by token: schedule, trace and waveforms."
)

DEFAULT_CHIP, DEFAULT_LAYERS = "leroux2025", 12
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
Figures: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--figures", callback=output_directory, metavar="DIR", help="Draw figures into this directory."
    ),
]
Seed: TypeAlias = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="Of the random signals.")
]


@app.command()
def head(
    context: typer.Context,
    design: ChipName = None,
    cell: CellName = None,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="TOKENS", min=1, help="Tokens read, one a step.")
    ] = 2048,
    group: Group = 1,
    head_dim: HeadDim = 64,
    refresh: RefreshKindName = RefreshKind.none,
    refresh_tokens: RefreshTokens = None,
    refresh_seconds: RefreshSeconds = None,
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
    from rich.console import Console

    from gaincell.arrays import Refresh, Schedule
    from gaincell.cli._progress import progress_bars
    from gaincell.reports.hardware import draw_all

    check_needed(context, RANDOM, "random signals, without --inputs", signals is None)
    source = _signals(signals, design, cell, tokens, group, head_dim, seed)
    chip, layers = source.chip, layers or source.layers
    group = source.q.shape[1] // source.k.shape[1]
    schedule = Schedule(chip, group)
    period = schedule.token_period(layers, other_latency)
    chip = chip.replace(token_period=period)
    schedule = Schedule(chip, group)
    policy = Refresh(refresh.value, refresh_tokens, refresh_seconds)
    with progress_bars() as progress:
        arrays, rows = _trace(chip, source, policy, progress)
    result = _begin(chip, "simulate head", seed)
    result |= _schedule_result(schedule, layers, other_latency)
    result["trace"] = rows
    result["refreshes"] = _value(arrays.clock.refreshes, "1")
    result["writes"] = _value(arrays.writes, "columns")
    result["chip_time"] = _value(arrays.now, "s")
    console = Console()
    for table in (_phase_table(result), _sensitivity_table(result), _trace_table(result)):
        console.print(table)
    _finish(result, json)
    for path in draw_all(result, figures):
        console.print(str(path))


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
    from rich.console import Console

    from gaincell.arrays.waveforms import waveforms
    from gaincell.cli._progress import progress_bars
    from gaincell.errors import InputError
    from gaincell.reports.hardware import draw_all

    check_needed(context, RANDOM, "random signals, without --inputs", signals is None)
    source = _signals(signals, design, cell, tokens, 1, head_dim, seed)
    chip = source.chip
    with progress_bars() as progress:
        arrays, _ = _trace(chip, source, None, progress)
    assert arrays.trace is not None
    if column is not None and column >= chip.window:
        raise InputError(f"there is no column {column}; allowed: 0 to {chip.window - 1}")
    column = int(arrays.trace.pulses[0, 0].argmax()) if column is None else column
    row = int(arrays.trace.tile_charge[0, 0, column // chip.tile].abs().argmax()) if row is None else row
    found = waveforms(arrays.trace, column=column, row=row)
    units = {"time": "s", "key_current": "A", "key_charge": "C", "value_current": "A", "value_charge": "C"}
    units |= {"stored_time": "s", "stored": "V"}
    result = _begin(chip, "simulate tile", seed)
    result["waveforms"] = {
        name: _value(tensor.tolist(), units.get(name, "1")) for name, tensor in vars(found).items()
    }
    result["waveforms"]["score_saturation"] = _value(
        chip.score_saturation(arrays.head_dim) * chip.charge_unit, "C"
    )
    result["waveforms"]["output_saturation"] = _value(chip.output_saturation * chip.charge_unit, "C")
    _finish(result, json)
    console = Console()
    console.print(
        f"key column {column}: {float(found.key_charge[-1]) * 1e15:.1f} fC; "
        f"value bit line {row}: {float(found.value_charge[-1]) * 1e15:.1f} fC, count {int(found.count[-1])}"
    )
    for path in draw_all(result, figures):
        console.print(str(path))


class _Source(NamedTuple):
    """Signals, and the chip and layers that go with them."""

    chip: Design
    layers: int
    q: Any
    k: Any
    v: Any


def _signals(
    file: Path | None, design: str | None, cell: str | None, tokens: int, group: int, head_dim: int, seed: int
) -> _Source:
    """Of a file of gaincell evaluate --dump, with its chip unless another is named; or random ones."""
    from gaincell.config import load_design
    from gaincell.device import with_cell

    if file is None:
        chip = load_design(design or DEFAULT_CHIP)
        chip = chip if cell is None else with_cell(chip, cell)
        return _Source(chip, DEFAULT_LAYERS, *_random(tokens, group, head_dim, seed))
    own, layers, signals = _dumped(file, tokens)
    chip = load_design(design) if design else own
    return _Source(chip if cell is None else with_cell(chip, cell), layers, *signals)


def _trace(
    design: Design, source: _Source, policy: Any, progress: StageProgress
) -> tuple[HeadArray, dict[str, Any]]:
    """Step a head through tokens; the head, and what was observed."""
    import torch

    from gaincell.arrays import HeadArray

    q, k, v = source.q, source.k, source.v
    arrays = HeadArray(
        design,
        q.shape[-1],
        heads=q.shape[1],
        kv_heads=k.shape[1],
        refresh=policy,
        write_slot=design.unstated_latency,
        dtype=torch.float32,
    )
    shown = progress("step")
    rows: dict[str, list[float]] = {name: [] for name in TRACE_UNITS}
    for t in range(q.shape[2]):
        output = arrays.step(q[:, :, t], k[:, :, t], v[:, :, t])
        trace = arrays.trace
        assert trace is not None
        held = int(trace.valid.sum())
        oldest = arrays.oldest_age(trace.time)
        tau = design.tau
        rows["token"].append(t)
        rows["time"].append(trace.time)
        rows["columns_held"].append(held)
        rows["oldest_left"].append(1.0 if tau is None else float(torch.exp(torch.tensor(-oldest / tau))))
        rows["pulses_above_zero"].append(float((trace.pulses > 0).sum()) / (held * q.shape[1]))
        rows["pulses_full"].append(float((trace.pulses >= 1).sum()) / (held * q.shape[1]))
        rows["output_rms"].append(float(output.square().mean().sqrt()))
        shown(t + 1, q.shape[2], {})
    return arrays, {name: _value(column, TRACE_UNITS[name]) for name, column in rows.items()}


TRACE_UNITS = {
    "token": "1",
    "time": "s",
    "columns_held": "1",
    "oldest_left": "1",
    "pulses_above_zero": "1",
    "pulses_full": "1",
    "output_rms": "full scales",
}


def _random(tokens: int, group: int, head_dim: int, seed: int) -> tuple[Any, Any, Any]:
    """Signals whose scores are a little below zero on average, as after a conversion."""
    import torch

    random = torch.Generator().manual_seed(seed)
    q = torch.randn(1, group, tokens, head_dim, generator=random) * 0.4 + 0.15
    k = torch.randn(1, 1, tokens, head_dim, generator=random) * 0.15 + 0.40
    v = torch.randn(1, 1, tokens, head_dim, generator=random) * 0.3 + 0.45
    return q, k, v


def _dumped(file: Path, tokens: int) -> tuple[Design, int, list[Any]]:
    """Design, layers, and codes of one layer of a real model, as pulse widths and volts."""
    import json as json_text
    import tempfile

    import torch
    from safetensors import SafetensorError, safe_open

    from gaincell.config import load_design
    from gaincell.errors import DesignError, InputError
    from gaincell.files import check_file
    from gaincell.spice.inputs import check_codes

    try:
        check_file(file)
        with safe_open(file, framework="pt") as found, tempfile.TemporaryDirectory() as folder:
            metadata = found.metadata()
            codes = [found.get_tensor(f"{name}_code")[:1, :, :tokens].float() for name in "qkv"]
            own = Path(folder) / "design.toml"
            own.write_text(metadata["design"])
            design, layers = load_design(own), int(json_text.loads(metadata["layers"]))
        q, k, v = codes
        check_codes(q, k, v, design)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, DesignError) as error:
        raise InputError(
            f"{file.name} is not a file of gaincell evaluate --dump ({type(error).__name__}: {error})"
        ) from error
    steps, levels = (design.query_levels or 16) - 1, (design.storage_levels or 16) - 1
    span = (design.v_max - design.v_min) / levels
    u = torch.tensor(design.levels.storage or [(code - levels / 2) * span for code in range(levels + 1)])
    widths = torch.tensor(design.levels.query or [code / steps for code in range(steps + 1)])
    x = widths[codes[0].abs().long()] * codes[0].sign()
    return design, layers, [x, *(design.v_offset + u[code.long()] for code in codes[1:])]


def _value(number: Any, unit: str) -> dict[str, Any]:
    from gaincell.reports.results import value

    return value(number, unit, "simulated")


def _begin(design: Design, command: str, seed: int) -> dict[str, Any]:
    from gaincell.mapping.summary import design as describe_design
    from gaincell.reports import results

    return {
        "schema": results.SCHEMA,
        "command": command,
        "design": describe_design(design),
        "provenance": results.provenance(
            command=["gaincell", *sys.argv[1:]],
            seed=seed,
            protocol="token by token",
            design_hash=design.hash,
            inputs={},
        ),
    }


def _finish(result: dict[str, Any], json: Path | None) -> None:
    from gaincell.reports import results

    results.check(result)
    write_json(json, result)


def _schedule_result(schedule: Schedule, layers: int, others: float) -> dict[str, Any]:
    events = schedule.events(2)
    ends = [max(e.end for e in events if e.token == token) for token in (0, 1)]
    return {
        "schedule": {
            "phases": [
                {
                    "name": phase.name,
                    "duration": _value(phase.duration, "s"),
                    "basis": phase.basis,
                    "circuits": list(phase.circuits),
                }
                for phase in schedule.phases
            ],
            "latency": _value(schedule.latency, "s"),
            "token_period": _value(schedule.token_period(layers, others), "s"),
            "utilisation": {name: _value(share, "1") for name, share in schedule.utilisation().items()},
        },
        "timeline": {
            "events": [
                {
                    "phase": event.phase.name,
                    "token": _value(event.token, "1"),
                    "query": _value(event.query, "1"),
                    "start": _value(event.start, "s"),
                    "duration": _value(event.phase.duration, "s"),
                    "basis": event.phase.basis,
                    "circuits": list(event.phase.circuits),
                }
                for event in events
            ],
            "token_ends": _value(ends, "s"),
        },
        "sensitivity": [
            {
                "unstated_latency": _value(row["unstated_latency"], "s"),
                "latency": _value(row["latency"], "s"),
                "tokens_per_second": _value(row["tokens_per_second"], "1/s"),
                "decay_per_token": _value(row["decay_per_token"], "1"),
            }
            for row in schedule.sensitivity(layers, others)
        ],
    }


def _phase_table(result: dict[str, Any]) -> Any:
    from gaincell.reports.tables import Rows

    schedule = result["schedule"]
    latency, period = (schedule[key]["value"] * 1e9 for key in ("latency", "token_period"))
    caption = (
        f"A step takes {latency:.4g} ns, a token (all layers) {period:.4g} ns. The key write begins "
        "with the discharge; conversion happens within the reads and the count. What is assumed is an input: "
        "in designs of the paper it completes the published step."
    )
    rows = [
        (
            phase["name"],
            f"{phase['duration']['value'] * 1e9:.3g}",
            phase["basis"],
            ", ".join(phase["circuits"]),
        )
        for phase in schedule["phases"]
    ]
    headings = ("phase", "ns", "basis", "circuits")
    return Rows("Phases of a step", headings, rows, caption, text=(0, 2, 3)).terminal()


def _sensitivity_table(result: dict[str, Any]) -> Any:
    from gaincell.reports.tables import Rows

    rows = [
        (
            f"{row['unstated_latency']['value'] * 1e9:.3g}",
            f"{row['latency']['value'] * 1e9:.4g}",
            f"{row['tokens_per_second']['value']:.3g}",
            f"{1 - row['decay_per_token']['value']:.2e}",
        )
        for row in result["sensitivity"]
    ]
    headings = ("assumed, ns", "step, ns", "tokens/s", "lost per token")
    return Rows("If the assumed latency were another (all layers)", headings, rows, text=()).terminal()


def _trace_table(result: dict[str, Any]) -> Any:
    from gaincell.reports.tables import Rows

    found = {name: column["value"] for name, column in result["trace"].items()}
    count = len(found["token"])
    rows = [
        (
            str(found["token"][n]),
            f"{found['time'][n] * 1e6:.4g}",
            str(found["columns_held"][n]),
            f"{found['oldest_left'][n]:.3f}",
            f"{found['pulses_above_zero'][n]:.1%}",
            f"{found['pulses_full'][n]:.1%}",
            f"{found['output_rms'][n]:.3f}",
        )
        for n in sorted({min(count - 1, round(count * part / 8)) for part in range(9)})
    ]
    headings = ("token", "time, µs", "columns", "oldest left", "pulses > 0", "full", "output rms")
    return Rows("The head at some of its tokens", headings, rows, text=()).terminal()
