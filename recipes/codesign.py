"""Co-design against the fixed design: circuits of the chip learned by gradients, on `tiny`.

    python recipes/codesign.py [--out docs/results/sweeps/codesign.json] [--runs runs/codesign] [--only NAME]

For every chip of CHIPS and everything of VARIANTS that is learned, the same model is adapted to the chip and
trained on the same blocks with the same schedule. Perplexities are compared with those of the fixed chip,
block by block. Points that are finished in RUNS are kept, and a training that was interrupted goes on, so the
same command goes on; with --only the other points can be left to other processes. The result is written once,
when all points are finished. `python docs/readme.py` writes the section of docs/sweeps.md and its figure.
More than an hour on one core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.cli._progress import progress_bars
from gaincell.errors import RunError
from gaincell.mapping.codesign import CodesignSettings, codesign_model
from gaincell.results import read, write
from gaincell.results.provenance import without_paths
from gaincell.results.run import CodesignComparison, CodesignResult, ComparedChip, LearnedChip
from gaincell.training.codesign import with_zero_code
from gaincell.training.machine import keep_freed_memory

ROOT = Path(__file__).parents[1]
MODEL, DESIGN = "tiny", "leroux2025"
CHIPS = {
    "coarse": {"query_levels": 4, "storage_levels": 4, "counter_levels": 4},
    "paper": {"query_levels": 16, "storage_levels": 8, "counter_levels": 16},
}
"""Levels of queries, storage and outputs: few, so that it matters where they are; and the paper's."""
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fixed": ("", ()),
    "all": ("above", ("saturations", "levels")),
    "saturations": ("", ("saturations",)),
    "levels": ("above", ("levels",)),
    "zero": ("above", ()),
    "all-below": ("below", ("saturations", "levels")),
    "levels-below": ("below", ("levels",)),
}
"""Name -> where the write DAC has one level more than on the other side of its zero code, to begin with; and
what is learned."""
STEPS, BATCH, RATE = 24, 2, 4e-2
EVALUATED = 16 * 1024


def main(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The result.")] = ROOT
    / "docs/results/sweeps/codesign.json",
    runs: Annotated[Path, typer.Option(metavar="DIRECTORY", help="Where a RUN a point is kept.")] = ROOT
    / "runs/codesign",
    only: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="coarse, paper, or a point such as paper-levels."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Learn circuits of the chip with `tiny`, and compare with the fixed chip."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    named = {f"{label}-{name}": label for label, name, _, _ in planned()}
    if only is not None and only not in {*named, *CHIPS}:
        raise typer.BadParameter(f"{only!r}; allowed: {', '.join((*CHIPS, *named))}", param_hint="--only")
    for label, name, chip, learn in planned():
        if only in (None, label, f"{label}-{name}"):
            point(runs / f"{label}-{name}", chip, learn)
    points: list[ComparedChip] = []
    done: list[CodesignResult] = []
    for label, name, chip, learn in planned():  # those of other processes, too
        found = point(runs / f"{label}-{name}", chip, learn, work=False)
        if found is not None:
            kept = {f.name: getattr(found, f.name) for f in fields(LearnedChip)}
            about = {"name": name, "chip": label, "levels": CHIPS[label], "command": found.command}
            points.append(ComparedChip(**about, **kept))
            done.append(found)
    if missing := len(named) - len(points):
        typer.echo(f"{missing} of {len(named)} points are missing; {out.name} is written with the last")
        return
    write(whole(done[0], points), out)


def planned() -> Iterator[tuple[str, str, Design, tuple[str, ...]]]:
    """Chip, name, design, and what is learned of every point."""
    for label, levels in CHIPS.items():
        for name, (zero, learn) in VARIANTS.items():
            chip = load_design(DESIGN).replace(**levels)
            if zero:
                chip = chip.replace(levels=with_zero_code(chip, more_below=zero == "below"))
            yield label, name, chip, learn


def whole(first: CodesignResult, points: list[ComparedChip]) -> CodesignComparison:
    """All points that are finished, as one result."""
    command = " ".join(without_paths(["python", *sys.argv]))
    return CodesignComparison(
        model=first.model,
        text=first.text,
        points=tuple(points),
        provenance=replace(first.provenance, command=command, design_hash=load_design(DESIGN).hash),
    )


def point(folder: Path, chip: Design, learn: tuple[str, ...], *, work: bool = True) -> CodesignResult | None:
    """One training, or what it gave before with the same settings; None where that is not to be made."""
    settings = CodesignSettings(
        MODEL, chip, learn, steps=STEPS, batch=BATCH, rate=RATE, evaluation_tokens=EVALUATED
    )
    rates = (settings.learning_rate, settings.scale_learning_rate, settings.rate)
    command = ["codesign", chip.hash, *learn, f"{STEPS} x {BATCH}", *map(str, rates)]
    try:
        before = read(folder, CodesignResult)
        if before.provenance.command == " ".join(command):
            return before
    except RunError:
        pass
    if not work:
        return None
    with progress_bars() as progress:

        def named(step: str):  # type: ignore[no-untyped-def]
            return progress(f"{folder.name}: {step}")

        return codesign_model(settings, load_design(DESIGN), folder, command=command, progress=named)


if __name__ == "__main__":
    typer.run(main)
