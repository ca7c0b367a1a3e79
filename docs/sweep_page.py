"""docs/sweeps.md: its tables and figures, from docs/results/sweeps, the results of recipes/sweeps."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from gaincell.files import write_text
from gaincell.reports import results, sweep, sweep_figures

FIGURES = {
    "constraints": ("tornado",),
    "levels": ("curves",),
    "arrays": ("curves",),
    "retention": ("curves",),
    "mismatch": ("curves",),
    "noise": ("curves",),
    "front": ("pareto", "parallel"),
}
"""Those that the page shows, by sweep."""


def write_sweeps(docs: Path, replaced: Callable[[str, str, str], str]) -> None:
    """docs/sweeps.md and its figures; replaced: puts content between the marks of a name."""
    page = docs / "sweeps.md"
    text = page.read_text()
    for path in sorted((docs / "results" / "sweeps").glob("*.json")):
        name, found = path.stem, results.read(path)
        text = replaced(text, f"{name}-sweep", table(found))
        if found["sampler"] == "each":
            lines = "\n".join(f"* {line}" for line in sweep.answers(found))
            text = replaced(text, f"{name}-answers", lines + "\n")
        with tempfile.TemporaryDirectory() as folder:
            for drawn in sweep_figures.draw_all(found, Path(folder), f"sweep-{name}-"):
                if drawn.stem.rpartition("-")[2] in FIGURES.get(name, ()):
                    shutil.copy(drawn, docs / "figures" / drawn.name)
    write_text(page, text)


def table(found: results.Json) -> str:
    """Changes of one thing as ratios; of others all points, or the front and the unchanged design."""
    if found["sampler"] == "each":
        return sweep.changes_markdown(found)
    if found["sampler"] == "grid":
        return sweep.sweep_markdown(found)
    shown = sorted(sweep.front(found), key=lambda p: results.number(p["values"]["energy"]))
    if "reference" in found:
        own = results.number(found["reference"])
        shown += [p for p in sweep.complete(found) if results.number(p["point"]) == own and p not in shown]
    return sweep.sweep_markdown(found, shown)
