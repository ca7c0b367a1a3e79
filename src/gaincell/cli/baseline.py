"""`gaincell baseline`: softmax attention over a KV cache, timed on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gaincell.cli._json import FigureFile, JsonFile, command_line, show_result
from gaincell.cli._options import LARGEST_SEED, Device, HeadDim, Threads, use

if TYPE_CHECKING:
    from gaincell.costs.baselines import Sweep
    from gaincell.results.system_cost import BaselineResult, Timed

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
    head_dim: HeadDim = 64,
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
    """Measure the attention of one new token over its KV cache, as a decoder computes it on this machine.

    `published` repeats the protocol of the paper's GPU measurements, which masks all keys but the first. The
    others are fair: correct masking, several types, flash decoding, an int8 cache. Energy comes from RAPL
    (CPU) or NVML (GPU), less the idle power, where the machine allows it. The authors' published numbers of
    an RTX 4090 and a Jetson Nano stand beside.

    Example: gaincell baseline --threads 1 --json baseline.json --figure baseline.png

    Example: gaincell baseline --device cuda --batch 1,64 --context 1024,16384,131072 --seconds 3
    """
    use(threads, device)
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
    tables = [rows.terminal(no_wrap=True) for rows in report.baseline_rows(entry)]
    measured = [report.title(entry), *tables] if found.measured else []
    draw = report.baseline_figure if found.measured else None
    show_result(entry, json, *measured, *report.skipped_lines(entry), figure=figure, draw=draw)
    if not found.measured:
        raise typer.Exit(1)


PROTOCOL = (
    "fair: all keys seen, warm-up, caches larger than the processor's go round, device waited for, idle "
    "power subtracted; published: as the authors did."
)


def _result(found: Sweep, heads: int, kv_heads: int, head_dim: int, device: str, seed: int) -> BaselineResult:
    from gaincell.results.provenance import made
    from gaincell.results.system_cost import BaselineResult, Sizes

    return BaselineResult(
        command="baseline",
        machine=_gpu(device),
        sizes=Sizes(heads, kv_heads, head_dim),
        provenance=made(command=command_line(), seed=seed, protocol=PROTOCOL),
        measurements=tuple(one.as_timing() for one in found.measured),
        skipped=found.skipped,
        machines=tuple(_machines(found)),
    )


def _machines(found: Sweep) -> list[Timed]:
    """What `gaincell cost --baseline` compares with: the published GPUs, the fastest fair measurements."""
    from gaincell.costs.baselines.grid import fastest
    from gaincell.costs.data import FOLDER, read_toml
    from gaincell.costs.gpus import FILE, published
    from gaincell.results.system_cost import Timed

    raw = read_toml(FOLDER / FILE)["measured"]
    batches = {name: int(entry["batch"]["value"]) for name, entry in raw.items()}
    cited = [Timed(**vars(machine), batch=batches[name]) for name, machine in published().items()]
    return cited + [Timed(**vars(m.as_measured()), batch=m.batch) for m in fastest(found.measured)]


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
