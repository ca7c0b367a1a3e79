"""Put the tables and figures of README.md in place, from result files alone.

    python docs/readme.py

Reads docs/results/NAME.json (the run.json of a mapping), docs/results/pauses/CHIP.json (of evaluate --at),
docs/results/context/context.json (of recipes/depth.py) and benchmarks/results/*.json; rewrites what stands
between `<!-- NAME:table -->` and `<!-- end -->` in README.md, and draws docs/figures. The figures of one step
are simulated on the way.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gaincell.files import write_atomic, write_text
from gaincell.reports import figures, hardware, results, tables

ROOT = Path(__file__).parents[1]


def main() -> None:
    readme = (ROOT / "README.md").read_text()
    for path in sorted((ROOT / "docs" / "results").glob("*.json")):
        run = results.read(path)
        lines = "\n".join(f"* {line}" for line in tables.adaptation_lines(run))
        readme = replaced(readme, path.stem, tables.perplexity_markdown(run) + "\n" + lines + "\n")
        with tempfile.TemporaryDirectory() as folder:
            for drawn in figures.draw_all(run, Path(folder)):
                drawn.rename(ROOT / "docs" / "figures" / f"{path.stem}-{drawn.name}")
    found = ROOT / "docs" / "figures"
    draw_pauses(ROOT / "docs" / "results" / "pauses", found / "pauses.png")
    draw(
        hardware.context,
        json.loads((ROOT / "docs/results/context/context.json").read_text()),
        found / "context.png",
    )
    simulate(found)
    bench = json.loads((ROOT / "benchmarks" / "results" / "attention.json").read_text())
    readme = replaced(readme, "bench", benchmark_table(bench))
    draw(hardware.speed, bench, found / "speed.png")
    models = json.loads((ROOT / "benchmarks" / "results" / "models.json").read_text())
    readme = replaced(readme, "models", models_table(models))
    write_text(ROOT / "README.md", readme)


def draw_pauses(folder: Path, figure: Path) -> None:
    """The curves of all results in `folder`, which are of `gaincell evaluate --at`."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    draw(hardware.pauses, found, figure)


def draw(make: Callable[[Any], Figure], result: Any, figure: Path) -> None:
    """One figure of one result."""
    with matplotlib.rc_context(figures.STYLE):
        write_atomic(figure, make(result).savefig)


def simulate(folder: Path) -> None:
    """Timeline and waveforms of one step, by the command that users have."""
    command = str(Path(sys.executable).with_name("gaincell"))
    for options in (["head", "--group", "2", "--layers", "6", "--tokens", "64"], ["tile"]):
        with tempfile.TemporaryDirectory() as out:
            subprocess.run([command, "simulate", *options, "--figures", out], check=True, capture_output=True)
            for drawn in Path(out).glob("*.png"):
                if drawn.stem != "trace":
                    shutil.copy(drawn, folder / drawn.name)


def replaced(readme: str, name: str, content: str) -> str:
    """`readme` with `content` between the marks of `name`."""
    pattern = re.compile(rf"(<!-- {name}:table -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{content}{found[2]}", readme)


def benchmark_table(bench: Mapping[str, Any]) -> str:
    """Time of every contender as a multiple of SDPA's in the same run, one thread."""
    tables = {
        part.removesuffix(", 1 thread"): rows
        for part, rows in bench["results"].items()
        if part.endswith(", 1 thread")
    }
    names = dict.fromkeys(name for rows in tables.values() for name in rows if name != "softmax, float32")
    lines = [["× torch's float32 softmax attention", *tables], ["---", *["---:"] * len(tables)]]
    for name in names:
        cells = (rows.get(name) for rows in tables.values())
        lines.append([name, *(f"{cell['times_sdpa']:.2f}" if cell else "–" for cell in cells)])
    memory = "; ".join(
        f"{name} " + ", ".join("–" if mib is None else f"{mib:.0f}" for mib in row.values())
        for name, row in bench["extra_memory_MiB"].items()
    )
    lengths = ", ".join(next(iter(bench["extra_memory_MiB"].values())))
    exponents = ", ".join(f"{name} {value:.2f}" for name, value in bench["exponent_in_T"].items())
    cpu = bench["provenance"]["hardware"]["cpu"]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + (
        f"\n\nMeasured, 1 thread, {cpu}: B = 1, H = 12, D = 64, window 1024; cubic cell unless another is "
        "named; paired and interleaved in one process, medians. Extra peak memory at T = "
        f"{lengths}, MiB, output included: {memory}. Exponent of T in the time from 4096 to 16384 tokens: "
        f"{exponents}.\n"
    )


def models_table(bench: Mapping[str, Any]) -> str:
    """Tokens per second of whole models."""
    lines = [
        "| model | work | hardware, tokens/s | softmax, tokens/s | time × softmax |",
        "|---|---|---:|---:|---:|",
    ]
    for name, work in bench["models"].items():
        for what, row in work.items():
            rates = " | ".join(f"{row['tokens_per_second'][kind]:,.0f}" for kind in ("hardware", "softmax"))
            lines.append(f"| {name} | {what} | {rates} | {row['times_softmax']:.2f} |")
    return "\n".join(lines) + f"\n\nMeasured, {bench['threads']} thread; {bench['provenance']['protocol']}.\n"


if __name__ == "__main__":
    main()
