"""Figures: one style sheet, nothing over anything else, axes that name what they show."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from gaincell.reports import (
    ablation,
    activity,
    baseline,
    cells,
    chips,
    codesign,
    comparison,
    comparison_figure,
    fidelity,
    figures,
    hardware,
    results,
    spice,
    spice_wires,
    sweep_figures,
    token_curve,
    training,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
Draw = Callable[[Path], Any]


def _of(path: str, draw: Callable[..., Any], *rest: Any) -> Draw:
    """Draws one result file."""
    return lambda _: draw(json.loads((RESULTS / f"{path}.json").read_text()), *rest)


def _into(path: str, draw: Callable[..., Any]) -> Draw:
    """The same, of what saves its figure itself."""
    return lambda folder: draw(json.loads((RESULTS / f"{path}.json").read_text()), folder / "figure.png")


def _several(pattern: str, draw: Callable[..., Any], name: Callable[[Path], str]) -> Draw:
    return lambda _: draw({name(p): json.loads(p.read_text()) for p in sorted(RESULTS.glob(pattern))})


def _mismatch(path: Path) -> str:
    return f"{100 * results.number(results.read(path)['chips']['current_offset_std']):g} %"


def _cells(_: Path) -> Figure:
    found: dict[str, list[Any]] = {}
    for path in sorted(RESULTS.glob("cells/adaptation/*/*.json"), key=cells.order):
        one = results.read(path)
        found.setdefault(one["chip"]["name"], []).append(one)
    return cells.adaptation(found)


def _tasks(model: str, folder: Path) -> Any:
    paths = sorted(RESULTS.glob(f"evaluation/tasks/{model}-*.json"))
    runs = {path.stem.partition("-")[2]: results.read(path) for path in paths}
    return comparison_figure.draw_comparison(comparison.compare(runs, "software"), folder / "tasks.png")


def _tokens(chip: str, _: Path) -> Figure:
    software = results.read(RESULTS / "evaluation" / "tasks" / "smollm2-software.json")
    places = sorted(RESULTS.glob(f"training/tokens/{chip}/*/"))
    trainings = [(results.read(place), results.read(place / "tasks.json"), None) for place in places]
    return token_curve.draw_tokens(token_curve.points(software, trainings))


def _simulated(name: str, folder: Path) -> Any:
    from gaincell.cli import main

    what = ["tile"] if name == "waveforms" else ["head", "--group", "2", "--layers", "6", "--tokens", "64"]
    out = folder / "result.json"
    with pytest.raises(SystemExit):
        main(["simulate", *what, "--json", str(out), "--figures", str(folder)])
    return hardware.FIGURES[name](json.loads(out.read_text()))


def _reproduction(name: str, _: Path) -> Figure:
    import reproduction_figures as drawn

    from gaincell.config import load_design

    chip = load_design("leroux2025")
    cell = results.read(RESULTS / "spice" / "cell-freepdk45.json")
    return drawn.draw_cell(chip, cell) if name == "cell" else getattr(drawn, f"draw_{name}")(chip)


def _bench(_: Path) -> Figure:
    return hardware.speed(json.loads((ROOT / "benchmarks" / "results" / "attention.json").read_text()))


FIGURES: dict[str, Draw] = {
    **{
        f"{run}-{name}": _of(run, draw)
        for run in ("tiny", "smollm2")
        for name, (_, draw) in figures.FIGURES.items()
    },
    "ablation": _into("evaluation/ablation", ablation.draw_ablation),
    "fidelity": _into("evaluation/fidelity", fidelity.draw_fidelity),
    **{
        f"activity-smollm2-135m{chip}": _into(f"costs/activity-smollm2-135m{chip}", activity.draw_activity)
        for chip in ("", "-extended")
    },
    "baseline-cpu": _into("costs/baseline-cpu", baseline.draw_baseline),
    "pauses": _several("pauses/*.json", hardware.pauses, lambda path: path.stem),
    "context": _of("context/context", hardware.context),
    "chips": _several("evaluation/chips-*.json", chips.draw_chips, _mismatch),
    "adaptation-cells": _cells,
    "tasks-tiny": partial(_tasks, "tiny"),
    "tasks-smollm2": partial(_tasks, "smollm2"),
    **{
        f"spice-{p.stem}": _into(f"spice/{p.stem}", draw)
        for pattern, draw in (("cell", spice.draw_cell), ("verify", spice.draw_verification))
        for p in sorted((RESULTS / "spice").glob(f"{pattern}-*.json"))
    },
    "spice-wires": _into("spice/wires-freepdk45", spice_wires.draw_wires),
    **{
        f"sweep-{p.stem}-{name}": _of(f"sweeps/{p.stem}", draw)
        for p in sorted((RESULTS / "sweeps").glob("*.json"))
        if p.stem != "codesign"
        for name, (has_data, draw) in sweep_figures.FIGURES.items()
        if has_data(results.read(p))
    },
    "sweep-codesign-levels": _of("sweeps/codesign", codesign.levels_figure),
    **{
        f"training-{p.stem}": _of(f"training/{p.stem}", training.curves)
        for p in sorted((RESULTS / "training").glob("*.json"))
    },
    **{f"training-tokens-{chip}": partial(_tokens, chip) for chip in ("leroux2025-extended",)},
    "speed": _bench,
    **{name: partial(_simulated, name) for name in ("timeline", "waveforms", "trace")},
    **{f"reproduction-{name}": partial(_reproduction, name) for name in ("cell", "converters", "ring")},
}
"""By the name of the picture in docs/figures."""
