"""The tables and figures of docs/training.md, from docs/results/training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from gaincell.files import write_atomic, write_text
from gaincell.reports import results, tables, token_curve, training
from gaincell.reports.style import styled


def write_training(docs: Path, replaced: Callable[[str, str, str], str]) -> None:
    """NAME.json: the run.json of a recipe, its table and its curve.  tokens/CHIP/N: of an adapter of
    SmolLM2-135M after N tokens, its run.json and its tasks.json, and software-continued.json of the software
    model trained on the same tokens (both of evaluate --tasks); tokens/CHIP/software.json, where they were
    scored in another type than the software model.  replaced: content between marks.
    """
    page, folder = docs / "training.md", docs / "results" / "training"
    text = page.read_text()
    for path in sorted(folder.glob("*.json")):
        run = results.read(path)
        text = replaced(text, path.stem, tables.stages_markdown(run))
        with tempfile.TemporaryDirectory() as drawn:
            training.draw_stages(run, Path(drawn))
            (Path(drawn) / "training.png").rename(docs / "figures" / f"training-{path.stem}.png")
    software = results.read(docs / "results" / "evaluation" / "tasks" / "smollm2-software.json")
    for chip in sorted(folder.glob("tokens/*/")):
        trainings = []
        for place in chip.glob("*/"):
            other = place / "software-continued.json"
            continued = results.read(other) if other.is_file() else None
            trainings.append((results.read(place), results.read(place / "tasks.json"), continued))
        alike = chip / "software.json"
        found = token_curve.points(results.read(alike) if alike.is_file() else software, trainings)
        text = replaced(text, f"tokens-{chip.name}", token_curve.token_markdown(found))
        if len(found) >= token_curve.FEWEST:
            with styled():
                drawn_as = docs / "figures" / f"training-tokens-{chip.name}.png"
                write_atomic(drawn_as, token_curve.draw_tokens(found).savefig)
    write_text(page, text)
