"""The tables and figures of docs/training.md, from docs/results/training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import tokens_page

from gaincell.files import write_atomic, write_text
from gaincell.reports import conversions, results, tables, token_curve, training
from gaincell.reports.style import styled


def write_training(docs: Path, replaced: Callable[[str, str, str], str]) -> None:
    """NAME.json: the run.json of a recipe, its table and its curve.  tokens: as in tokens_page.py; and the
    figure of all of them beside the paper.  replaced: content between marks.
    """
    page, folder = docs / "training.md", docs / "results" / "training"
    text = page.read_text()
    for path in sorted(folder.glob("*.json")):
        run = results.read(path)
        text = replaced(text, path.stem, tables.stages_markdown(run))
        with tempfile.TemporaryDirectory() as drawn:
            training.draw_stages(run, Path(drawn))
            (Path(drawn) / "training.png").rename(docs / "figures" / f"training-{path.stem}.png")
    for chip in sorted(tokens_page.TOKENS.glob("*/")):
        known = tokens_page.trainings(chip)
        found = token_curve.points(
            known[0].software, [(one.run, one.tasks, one.controls.get("software-continued")) for one in known]
        )
        text = replaced(text, f"tokens-{chip.name}", token_curve.token_markdown(found))
        if token_curve.can_be_fitted(found):
            with styled():
                drawn_as = docs / "figures" / f"training-tokens-{chip.name}.png"
                write_atomic(drawn_as, token_curve.draw_tokens(found).savefig)
    with styled():
        drawn = conversions.draw_conversions(tokens_page.every())
        write_atomic(docs / "figures" / "tokens.png", drawn.savefig)
    write_text(page, text)
