"""Co-design against the fixed design: circuits of the chip learned by gradients, on `tiny`.

    python recipes/codesign.py [--out docs/results/sweeps/codesign.json] [--runs runs/codesign]

For every chip of CHIPS (codes of queries and of storage) and everything of VARIANTS that is learned, the same
model is adapted to the chip and trained on the same blocks with the same schedule. Perplexities are compared
with those of the fixed chip, block by block. Points that are finished in RUNS are kept, and a training that
was interrupted goes on, so the same command goes on. `python docs/readme.py` writes the section of
docs/sweeps.md and its figure. About 15 minutes on one core.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from gaincell.cli._options import keep_freed_memory
from gaincell.cli._progress import progress_bars
from gaincell.config import load_design
from gaincell.design import Design
from gaincell.errors import RunError
from gaincell.mapping.codesign import CodesignSettings, codesign_model
from gaincell.reports import results
from gaincell.reports.results import Json, value
from gaincell.training.codesign import with_zero_code

ROOT = Path(__file__).parents[1]
MODEL, DESIGN = "tiny", "leroux2025"
CHIPS = ((4, 4), (16, 8))
"""Levels of queries, of storage."""
VARIANTS: dict[str, tuple[bool, tuple[str, ...]]] = {
    "fixed": (False, ()),
    "all": (True, ("saturations", "levels")),
    "levels": (True, ("levels",)),
    "saturations": (False, ("saturations",)),
    "zero": (True, ()),
}
"""Name -> whether the write DAC has a zero code to begin with, and what is learned."""
STEPS, BATCH = 32, 2
EVALUATED = 24 * 1024


def main(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The result.")] = ROOT
    / "docs/results/sweeps/codesign.json",
    runs: Annotated[Path, typer.Option(metavar="DIRECTORY", help="Where a RUN a point is kept.")] = ROOT
    / "runs/codesign",
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Learn circuits of the chip with `tiny`, and compare with the fixed chip."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    points: list[Json] = []
    for query, storage in CHIPS:
        for name, (zero, learn) in VARIANTS.items():
            chip = load_design(DESIGN).replace(query_levels=query, storage_levels=storage)
            if zero:
                chip = chip.replace(levels=with_zero_code(chip))
            found = point(runs / f"{query}-{storage}-{name}", chip, learn)
            numbers = {"query": value(query, "1", "simulated"), "storage": value(storage, "1", "simulated")}
            points.append({"name": name, "levels": numbers, **found})
            results.write(whole(points), out)


def whole(points: list[Json]) -> Json:
    """All points that are finished, as one result."""
    about = {"command": ["python", *sys.argv], "design_hash": load_design(DESIGN).hash}
    return {
        "schema": results.SCHEMA,
        "command": "codesign comparison",
        "model": points[0]["model"],
        "text": points[0]["text"],
        "points": points,
        "provenance": points[0]["provenance"] | about,
    }


def point(folder: Path, chip: Design, learn: tuple[str, ...]) -> Json:
    """One training, or what it gave before with the same settings."""
    settings = CodesignSettings(MODEL, chip, learn, STEPS, BATCH, evaluation_tokens=EVALUATED)
    rates = (settings.learning_rate, settings.scale_learning_rate, settings.rate)
    command = ["codesign", chip.hash, *learn, f"{STEPS} x {BATCH}", *map(str, rates)]
    try:
        before = results.read(folder)
        if before["provenance"]["command"] == command:
            return before
    except RunError:
        pass
    with progress_bars() as progress:

        def named(step: str):  # type: ignore[no-untyped-def]
            return progress(f"{folder.name}: {step}")

        return codesign_model(settings, load_design(DESIGN), folder, command=command, progress=named)


if __name__ == "__main__":
    typer.run(main)
