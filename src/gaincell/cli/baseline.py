"""`gaincell baseline`: softmax attention over a KV cache, timed on this machine."""

from __future__ import annotations

from typing import Annotated

from gaincell.cli import _options as options
from gaincell.cli._json import FigureFile, JsonFile, command_line, show_result
from gaincell.cli._options import LARGEST_SEED, command, option
from gaincell.errors import InputError
from gaincell.quantity import whole_number


@command
def baseline(
    batches: Annotated[str, option("Sequences decoded together.", "N,N,...", "--batch")] = "1,4,16,64,256",
    contexts: Annotated[
        str, option("Numbers of keys: the chip's window, and a full context.", "T,T,...", "--context")
    ] = "1024,8192",
    implementations: Annotated[
        str | None,
        option(
            "Implementations, such as flash:float32,int8:bfloat16; by default published, matmul, flash, int8 "
            "and, on a GPU, sdpa, efficient, cudnn, flex.",
            "NAME:TYPE,...",
        ),
    ] = None,
    heads: Annotated[int, option("Query heads.", "N", min=1)] = 12,
    kv_heads: Annotated[
        int | None, option("Key/value heads; by default as many as query heads.", "N", min=1)
    ] = None,
    head_dim: options.HeadDim = 64,
    seconds: Annotated[float, option("Time per configuration.", "SECONDS", min=0.01)] = 1.0,
    runs: Annotated[int, option("Repetitions; the median is taken.", "N", min=1)] = 5,
    figure: FigureFile = None,
    seed: Annotated[int, option("Seed of the random inputs.", "N", min=0, max=LARGEST_SEED)] = 0,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    json: JsonFile = None,
) -> None:
    """Measure the attention of one new token over its KV cache, as a decoder computes it on this machine.

    `published` repeats the protocol of the paper's GPU measurements, which masks all keys but the first. The
    others are fair: correct masking, several types, flash decoding, an int8 cache. Energy comes from RAPL
    (CPU) or NVML (GPU), less the idle power, where the machine allows it. The authors' published numbers for
    an RTX 4090 and a Jetson Nano are shown alongside.

    Example: gaincell baseline --threads 1 --json baseline.json --figure baseline.png

    Example: gaincell baseline --device cuda --batch 1,64 --context 1024,16384,131072 --seconds 3
    """
    options.use(threads, device)
    import torch

    from gaincell.cli._progress import progress_bars
    from gaincell.costs.baselines.grid import fastest, sweep
    from gaincell.costs.baselines.protocol import protocol
    from gaincell.costs.gpus import published
    from gaincell.reports import baseline as report
    from gaincell.results.provenance import made
    from gaincell.results.system_cost import BaselineResult, Sizes

    with progress_bars() as progress:
        found = sweep(
            None if implementations is None else _pairs(implementations),
            batches=_numbers(batches, "--batch"),
            contexts=_numbers(contexts, "--context"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            device=device,
            progress=progress("measure"),
            runs=runs,
            seconds=seconds,
            seed=seed,
        )
    place = torch.device(device)
    on_gpu = place.type == "cuda"
    fair = (one.as_measured() for one in fastest(found.measured))
    entry = BaselineResult(
        machine=torch.cuda.get_device_name(device) if on_gpu else None,
        sizes=Sizes(heads, kv_heads or heads, head_dim),
        provenance=made(command=command_line(), seed=seed, protocol=protocol(found.measured, place)),
        measurements=tuple(one.as_timing() for one in found.measured),
        skipped=found.skipped,
        machines=(*published().values(), *fair),
    )
    tables = [rows.terminal(no_wrap=True) for rows in report.baseline_rows(entry)]
    passed = bool(found.measured)
    shown = [report.title(entry), *tables] if passed else []
    draw = report.baseline_figure if passed else None
    shown += report.skipped_lines(entry)
    show_result(entry, json, *shown, figure=figure, draw=draw, passed=passed)


def _numbers(text: str, option: str) -> list[int]:
    parts = [whole_number(part.strip()) for part in text.split(",") if part.strip()]
    numbers = {number for number in parts if number}
    if not parts or not all(parts):
        raise InputError(f"{option} {text!r}: give whole numbers above 0, separated by commas, such as 1,64")
    return sorted(numbers)


def _pairs(text: str) -> list[tuple[str, str]]:
    from gaincell.costs.baselines.attention import IMPLEMENTATIONS

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
