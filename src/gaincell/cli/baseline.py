"""`gaincell baseline`: softmax attention over a KV cache, timed on this machine."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincell.cli._json import FigureFile, JsonFile, write_json
from gaincell.cli._options import LARGEST_SEED, Device, Threads, use

if TYPE_CHECKING:
    from gaincell.costs.baselines import Measurement, Sweep
    from gaincell.costs.gpus import Measured
    from gaincell.reports.results import Kind

app = typer.Typer()


@app.command()
def baseline(
    batches: Annotated[
        str, typer.Option("--batch", metavar="N,N,...", help="Sequences decoded together.")
    ] = "1,4,16,64,256",
    contexts: Annotated[
        str, typer.Option("--context", metavar="T,T,...", help="Keys: the chip's window, and a full context.")
    ] = "1024,8192",
    implementations: Annotated[
        str | None,
        typer.Option(
            "--implementations",
            metavar="NAME:TYPE,...",
            help="Such as flash:float32,int8:bfloat16; by default published, matmul, flash, int8 and, on a "
            "GPU, sdpa, efficient, cudnn, flex.",
        ),
    ] = None,
    heads: Annotated[int, typer.Option("--heads", metavar="N", min=1, help="Query heads.")] = 12,
    kv_heads: Annotated[
        int | None,
        typer.Option(
            "--kv-heads", metavar="N", min=1, help="Key/value heads; by default as many as query heads."
        ),
    ] = None,
    head_dim: Annotated[
        int, typer.Option("--head-dim", metavar="N", min=1, help="D, the dimension of a head.")
    ] = 64,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="SECONDS", min=0.01, help="Time for one configuration.")
    ] = 1.0,
    runs: Annotated[
        int, typer.Option("--runs", metavar="N", min=1, help="Repetitions; the median is taken.")
    ] = 5,
    figure: FigureFile = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="Seed of the numbers.")
    ] = 0,
    threads: Threads = None,
    device: Device = "cpu",
    json: JsonFile = None,
) -> None:
    """Attention of one new token over its KV cache, as a decoder on this machine computes it in every layer.

    `published` repeats the protocol of the paper's GPU measurements, which masks all keys but the first; the
    others are a fair set: correct masking, several types, flash decoding, an int8 cache. Energy by RAPL (CPU)
    or NVML (GPU) with the idle power subtracted, where the machine allows. What the paper's authors published
    of an RTX 4090 and a Jetson Nano stands beside.

    Example: gaincell baseline --threads 1 --json baseline.json --figure baseline.png

    Example: gaincell baseline --device cuda --batch 1,64 --context 1024,16384,131072 --seconds 3
    """
    use(threads, device)
    from rich.console import Console

    from gaincell.cli._progress import progress_bars
    from gaincell.costs.baselines import sweep
    from gaincell.reports import baseline as report

    chosen = None if implementations is None else _pairs(implementations)
    with progress_bars() as progress:
        found = sweep(
            chosen,
            _numbers(batches, "--batch"),
            _numbers(contexts, "--context"),
            heads,
            kv_heads,
            head_dim,
            device,
            progress("measure"),
            runs=runs,
            seconds=seconds,
            seed=seed,
        )
    entry = _result(found, heads, kv_heads or heads, head_dim, device, seed)
    console = Console()
    if found.measured:
        console.print(report.title(entry))
        for table in report.baseline_tables(entry):
            console.print(table)
    for line in report.skipped_lines(entry):
        console.print(line)
    write_json(json, entry)
    if figure is not None and found.measured:
        report.draw_baseline(entry, figure)
    if not found.measured:
        raise typer.Exit(1)


PROTOCOL = (
    "fair: all keys seen, warm-up, caches larger than the processor's go round, device waited for, idle "
    "power subtracted; published: as the authors did."
)


def _result(found: Sweep, heads: int, kv_heads: int, head_dim: int, device: str, seed: int) -> dict[str, Any]:
    from gaincell.reports import results
    from gaincell.reports.results import value

    sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    result: dict[str, Any] = {
        "schema": results.SCHEMA,
        "command": "baseline",
        "machine": _gpu(device),
        "sizes": {key: value(number, "1", "measured") for key, number in sizes.items()},
        "provenance": results.provenance(
            command=["gaincell", *sys.argv[1:]], seed=seed, protocol=PROTOCOL, inputs={}
        ),
        "measurements": [_entry(m) for m in found.measured],
        "skipped": [
            {
                "implementation": s.implementation,
                "dtype": s.dtype,
                "context": value(s.context, "tokens", "measured"),
                "batch": value(s.batch, "1", "measured"),
                "reason": s.reason,
            }
            for s in found.skipped
        ],
        "machines": _machines(found),
    }
    results.check(result)
    return result


def _entry(m: Measurement) -> dict[str, Any]:
    from gaincell.reports.results import value

    optional = {
        "busy": (m.busy, "1"),
        "processor_per_token": (None if not m.processor_latency else m.processor_latency / m.batch, "s"),
        "energy": (m.energy, "J"),
        "power": (m.power, "W"),
        "idle_power": (m.idle_power, "W"),
        **{key: (number, "W" if key == "power_limit" else "Hz") for key, number in m.state.items()},
    }
    entry: dict[str, Any] = {
        "implementation": m.implementation,
        "dtype": m.dtype,
        "protocol": m.protocol,
        "context": value(m.context, "tokens", "measured"),
        "batch": value(m.batch, "1", "measured"),
        "latency": value(m.latency, "s", "measured"),
        "latency_per_token": value(m.latency_per_token, "s", "measured"),
        "runs": value(list(m.runs), "s", "measured"),
        "steps": value(m.steps, "1", "measured"),
        "caches": value(m.caches, "1", "measured"),
        "cache_bytes": value(m.cache_bytes, "byte", "measured"),
        "bandwidth": value(m.bandwidth, "byte/s", "measured"),
        "error": value(m.error, "1", "measured"),
        "meter": m.meter or None,
        "no_energy": m.no_energy or None,
    }
    if m.processor:
        entry["processor"] = value(list(m.processor), "s", "measured")
    if m.samples:
        entry["power_samples"] = value(m.samples, "1", "measured")
    found = {
        key: value(number, unit, "measured") for key, (number, unit) in optional.items() if number is not None
    }
    return entry | found


def _machines(found: Sweep) -> list[dict[str, Any]]:
    """What `gaincell cost --baseline` compares with: the published GPUs, the fastest fair measurements."""
    from gaincell.costs.baselines.grid import fastest
    from gaincell.costs.data import FOLDER, read_toml
    from gaincell.costs.gpus import FILE, published

    raw = read_toml(FOLDER / FILE)["measured"]
    batches = {name: int(entry["batch"]["value"]) for name, entry in raw.items()}
    cited = [_machine(machine, batches[name]) for name, machine in published().items()]
    return cited + [_machine(m.as_measured(), m.batch) for m in fastest(found.measured)]


def _machine(machine: Measured, batch: int) -> dict[str, Any]:
    from gaincell.reports.results import value

    numbers: dict[str, tuple[float, str]] = {
        "heads": (machine.heads, "1"),
        "kv_heads": (machine.kv_heads, "1"),
        "head_dim": (machine.head_dim, "1"),
        "context": (machine.context, "tokens"),
        "batch": (batch, "1"),
        "latency": (machine.latency, "s"),
    }
    if machine.energy is not None:
        numbers["energy"] = (machine.energy, "J")
    kind: Kind = "cited" if machine.kind == "cited" else "measured"
    source = machine.source if kind == "cited" else None
    return {"title": machine.title, "source": machine.source} | {
        key: value(number, unit, kind, source) for key, (number, unit) in numbers.items()
    }


def _gpu(device: str) -> str | None:
    import torch

    place = torch.device(device)
    return torch.cuda.get_device_name(place) if place.type == "cuda" else None


def _numbers(text: str, option: str) -> list[int]:
    from gaincell.errors import InputError
    from gaincell.quantity import whole_number

    parts = [whole_number(part.strip()) for part in text.split(",") if part.strip()]
    numbers = {number for number in parts if number}
    if not parts or not all(parts):
        raise InputError(
            f"{option} {text!r}: give whole numbers above 0 with commas between them, such as 1,64"
        )
    return sorted(numbers)


def _pairs(text: str) -> list[tuple[str, str]]:
    from gaincell.costs.baselines import IMPLEMENTATIONS
    from gaincell.errors import InputError

    pairs = []
    for part in text.split(","):
        name, colon, dtype = part.strip().partition(":")
        if name not in IMPLEMENTATIONS or (colon and not dtype):
            raise InputError(
                f"--implementations {part.strip()!r}: give NAME or NAME:TYPE, NAME one of "
                f"{', '.join(IMPLEMENTATIONS)}"
            )
        pairs.append((name, dtype or "float32"))
    return pairs
