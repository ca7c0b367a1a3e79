"""Figures: one style sheet, nothing over anything else, axes that name what they show."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cells_page
import codesign_page
import conversions
import matplotlib
import numpy as np
import pytest
import speed
import token_curve
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator
from PIL import Image
from tests import drawing
from tests.tiers import slow

from gaincell.reports import (
    baseline,
    comparison_figure,
    costs_figures,
    evaluation,
    figures,
    heads,
    simulation,
    spice,
    sweep_figures,
    training,
)
from gaincell.reports.style import STYLE, styled
from gaincell.reports.tables import Rows, headings_and_rows
from gaincell.results import parse, read
from gaincell.results.comparison import compare
from gaincell.results.cost import CostResult
from gaincell.results.evaluation import ChipsResult, PausesResult, TasksResult
from gaincell.results.run import AdaptedResult, CellAdaptationResult, MappedResult, TrainedResult
from gaincell.results.spice_cell import CharacterisationResult

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
PICTURES = sorted((ROOT / "docs" / "figures").glob("*.png"))
Draw = Callable[[Path], Any]
DRAWING = sorted(
    path
    for folder in ("src/gaincell", "docs", "recipes")
    for path in (ROOT / folder).rglob("*.py")
    if "matplotlib" in (text := path.read_text(encoding="utf-8")) or "savefig" in text
)
"""Files that draw."""


def _result(path: str) -> Any:
    content = json.loads((RESULTS / f"{path}.json").read_text())
    return parse(content, path) or content


def _drawn(run: MappedResult, name: str) -> Figure:
    figure = figures.FIGURES[name](run)
    assert figure is not None
    return figure


def _of(path: str, draw: Callable[..., Any], *rest: Any) -> Draw:
    """Draws one result file."""
    return lambda _: draw(_result(path), *rest)


def _into(path: str, draw: Callable[..., Any]) -> Draw:
    """The same, of what saves its figure itself."""
    return lambda folder: draw(_result(path), folder / "figure.png")


def _several(pattern: str, draw: Callable[..., Any], name: Callable[[Path], str]) -> Draw:
    return lambda _: draw(
        {name(p): _result(str(p.relative_to(RESULTS))[:-5]) for p in sorted(RESULTS.glob(pattern))}
    )


def _mismatch(path: Path) -> str:
    return f"{100 * read(path, ChipsResult).chips.spread['current_offset_std'].value:g} %"


def _cells(_: Path) -> Figure:
    found: dict[str, list[CellAdaptationResult]] = {}
    for path in sorted(RESULTS.glob("cells/adaptation/*/*.json"), key=cells_page.order):
        one = read(path, CellAdaptationResult)
        found.setdefault(one.chip.name, []).append(one)
    return cells_page.adaptation(found)


def _tasks(scored: str, _: Path) -> Any:
    paths = sorted(RESULTS.glob(f"evaluation/{scored}-*.json"))
    runs = {path.stem.partition("-")[2]: read(path, TasksResult) for path in paths}
    return comparison_figure.differences(compare(runs, "software"))


def _tokens(chip: str, _: Path) -> Figure:
    import training_page

    return token_curve.draw_tokens(training_page.token_points(chip))


def _starts(_: Path) -> Figure:
    import reproduction

    return cells_page.starts(reproduction.starts(), reproduction.tokens_page.adaptation_curve())


def _conversions(_: Path) -> Figure:
    import tokens_page

    return conversions.draw_conversions(tokens_page.every())


@cache
def _simulation(*what: str) -> Any:
    from gaincell.cli import main

    with TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        with pytest.raises(SystemExit):
            main(["simulate", *what, "--json", str(out), "--figures", folder])
        return parse(json.loads(out.read_text()), out.name)


def _simulated(name: str, _: Path) -> Figure:
    head = ["head", "--group", "2", "--layers", "6", "--tokens", "64"]
    figure: Figure = getattr(simulation, name)(_simulation(*(["tile"] if name == "waveforms" else head)))
    return figure


def _reproduction(name: str, _: Path) -> Figure:
    import reproduction_figures as drawn

    from gaincell.chips.design_file import load_design

    chip = load_design("leroux2025")
    cell = read(RESULTS / "spice" / "cell-freepdk45.json", CharacterisationResult)
    return drawn.draw_cell(chip, cell) if name == "cell" else getattr(drawn, f"draw_{name}")(chip)


def _bench(_: Path) -> Figure:
    return speed.speed(json.loads((ROOT / "benchmarks" / "results" / "attention.json").read_text()))


FIGURES: dict[str, Draw] = {
    **{
        f"{run}-{name}": _of(run, _drawn, name)
        for run in ("tiny", "smollm2")
        for name in ("perplexity", "adaptation", "mismatch", "codes", "cell")
    },
    "adaptation-starts": _starts,
    "ablation": _of("evaluation/ablation", evaluation.ablation_figure),
    "fidelity": _of("evaluation/fidelity", heads.fidelity_figure),
    "why-constraints": _of("why/ablation", evaluation.ablation_figure),
    "why-heads": _of("why/fidelity", heads.fidelity_figure),
    **{
        f"activity-smollm2-135m{chip}": _of(f"costs/activity-smollm2-135m{chip}", heads.activity_figure)
        for chip in ("", "-extended")
    },
    "baseline-cpu": _of("costs/baseline-cpu", baseline.baseline_figure),
    "pauses": lambda _: evaluation.pauses(
        [read(path, PausesResult) for path in sorted(RESULTS.glob("pauses/*.json"))]
    ),
    "context": _of("context/context", evaluation.context),
    "chips": _several("evaluation/chips-*.json", evaluation.draw_chips, _mismatch),
    "adaptation-cells": _cells,
    "tasks-tiny": partial(_tasks, "tasks/tiny"),
    "tasks-smollm2": partial(_tasks, "tasks/smollm2"),
    "tasks-all-items": partial(_tasks, "all-items/smollm2"),
    **{
        f"spice-{p.stem}": _of(f"spice/{p.stem}", draw)
        for pattern, draw in (
            ("cell", spice.cell_figure),
            ("verify", spice.verification_figure),
            ("mixed", spice.mixed_figure),
        )
        for p in sorted((RESULTS / "spice").glob(f"{pattern}-*.json"))
    },
    "spice-wires": _of("spice/wires-freepdk45", spice.wires_figure),
    **{
        f"sweep-{p.stem}-{name}": _of(f"sweeps/{p.stem}", draw)
        for p in sorted((RESULTS / "sweeps").glob("*.json"))
        if p.stem != "codesign"
        for name, draw in sweep_figures.FIGURES.items()
        if (ROOT / f"docs/figures/sweep-{p.stem}-{name}.png").exists()
    },
    "sweep-codesign-levels": _of("sweeps/codesign", codesign_page.levels_figure),
    **{
        f"training-{p.stem}": _of(f"training/{p.stem}", training.curves)
        for p in sorted((RESULTS / "training").glob("*.json"))
        if (ROOT / f"docs/figures/training-{p.stem}.png").exists()
    },
    **{
        f"training-tokens-{chip.name}": partial(_tokens, chip.name)
        for chip in sorted(RESULTS.glob("training/tokens/*/"))
    },
    "tokens": _conversions,
    "speed": _bench,
    **{name: partial(_simulated, name) for name in ("timeline", "waveforms", "trace")},
    **{f"reproduction-{name}": partial(_reproduction, name) for name in ("cell", "converters", "ring")},
}
"""By the name of the picture in docs/figures."""
OTHERS = {"serve", "floorplan", "rtl-timeline"}
"""Pictures that are not drawn from one result here: a page in a browser, and those of costs."""


@pytest.fixture(scope="module", autouse=True)
def generators() -> Iterator[None]:
    """Modules of docs can be imported."""
    sys.path.insert(0, str(ROOT / "docs"))
    yield
    sys.path.remove(str(ROOT / "docs"))


def _kind(name: str) -> str:
    """The same for pictures of one kind, of several models, sweeps, trainings ..."""
    words = name.split("-")
    match words[0]:
        case "tiny" | "smollm2" | "sweep":
            return words[-1]
        case "spice" | "reproduction" | "adaptation":
            return " ".join(words[:2])
        case "training" if "tokens" in words:
            return "tokens of training"
    return words[0]


OF_EVERY_KIND = {_kind(name): name for name in reversed(FIGURES)}.values()
COSTLY = {"waveforms", "fidelity", "spice-mixed-freepdk45", "adaptation-starts"}
"""Whose kind is drawn in the slow tier alone."""


@pytest.mark.parametrize(
    "name", [name if name in OF_EVERY_KIND and name not in COSTLY else slow(name) for name in FIGURES]
)
def test_nothing_lies_over_anything_else(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn = drawing.saved(monkeypatch, lambda: FIGURES[name](tmp_path))
    assert drawn
    for figure in drawn:
        assert drawing.faults(figure) == []
        for axes in set(figure.axes) - _colour_bars(figure):
            assert not axes.axison or _is_named(axes), f"axes of {axes.get_title(loc='left')!r}"


def _colour_bars(figure: Figure) -> set[Axes]:
    named = {axes for axes in figure.axes if axes.get_label() == "<colorbar>"}
    return named | {image.colorbar.ax for axes in figure.axes for image in axes.images if image.colorbar}


def _is_named(axes: Axes) -> bool:
    """Whether panels say what their axes are, or those of their row and column do; words at ticks do too."""
    row = [other for other in axes.figure.axes if abs(other.bbox.y0 - axes.bbox.y0) < 1]
    column = [other for other in axes.figure.axes if abs(other.bbox.x0 - axes.bbox.x0) < 1]
    return all(
        isinstance(axis.get_major_locator(), FixedLocator) or any(labels)
        for axis, labels in (
            (axes.yaxis, [other.get_ylabel() for other in row]),
            (axes.xaxis, [other.get_xlabel() for other in column]),
        )
    )


def test_a_fault_is_found() -> None:
    with styled():
        figure = Figure(figsize=(3, 3))
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], label="the diagonal")
        axes.legend(loc="center")
        axes.text(0.2, 0.8, "one")
        axes.text(0.21, 0.8, "two")
        axes.text(0.2, 2.0, "beyond")
    found = drawing.faults(figure)
    assert [fault.split(" lies ")[0] for fault in found if " lies " in fault] == [
        "the legend (the diagonal)",
        "'one'",
    ]
    assert "'beyond' is cut off" in found


def test_every_picture_is_drawn_by_a_figure_that_is_looked_at() -> None:
    pictures = {path.stem for path in PICTURES}
    assert {name for name in pictures - FIGURES.keys() if "-costs-" not in name} <= OTHERS


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_pictures_lie_on_opaque_white_paper(path: Path) -> None:
    """A dark page shows them as they are."""
    picture = np.asarray(Image.open(path).convert("RGBA"))
    assert (picture[..., 3] == 255).all()
    if path.stem != "serve":
        assert (picture[:2] == 255).mean() > 0.95


@pytest.mark.parametrize("path", DRAWING, ids=lambda path: path.stem)
def test_every_figure_is_drawn_and_saved_by_the_style_sheet(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "rcParams" not in text
    assert "rc_context" not in text
    tree = ast.parse(text)
    styled_parts = {
        inner
        for node in ast.walk(tree)
        if any(_is_style(entry) for entry in _entered(node))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        makes = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Figure"
        saves = isinstance(node, ast.Attribute) and node.attr == "savefig"
        if makes or saves:
            assert node in styled_parts, f"line {node.lineno}"


def _entered(node: ast.AST) -> list[ast.expr]:
    """What a function is decorated with, or a block entered with."""
    if isinstance(node, ast.With):
        return [item.context_expr for item in node.items]
    return node.decorator_list if isinstance(node, ast.FunctionDef) else []


def _is_style(entry: ast.expr) -> bool:
    return isinstance(entry, ast.Call) and isinstance(entry.func, ast.Name) and entry.func.id == "styled"


def test_the_style_sheet_does_not_depend_on_the_users_own() -> None:
    with matplotlib.rc_context({"font.size": 30, "figure.facecolor": "black", "axes.grid": False}), styled():
        assert {key: matplotlib.rcParams[key] for key in STYLE} == STYLE


def test_figures_of_a_training_name_every_loss() -> None:
    """Cross-entropy of 4, attention transfer of 0.8 and distillation of 0.07 share no axis."""
    kinds = {
        "pretrain": (4.0, "cross-entropy", "nats per token"),
        "linear 1": (0.8, "attention transfer", "relative squared error"),
        "linear 2": (0.07, "KL to the teacher", "nats per token"),
        "tuned": (0.0002, "KL to the teacher", "nats per token"),
    }
    lines = [
        {
            "stage": stage,
            "step": n,
            "tokens": 64 * n,
            "loss": loss * (1 + 1 / (n + 1)),
            "loss_name": name,
            "loss_unit": unit,
        }
        for stage, (loss, name, unit) in kinds.items()
        for n in range(200)
    ]
    named = training.losses(lines)
    assert named is not None
    labels = [" ".join(axes.get_ylabel().split()) for axes in named.axes]
    assert labels == [
        "cross-entropy (nats per token)",
        "attention transfer (relative squared error)",
        "KL to the teacher (nats per token)",
    ]
    assert drawing.faults(named) == []
    assert _words(named).isdisjoint({"loss", "Loss", "Training loss"})
    assert "bold" in named.axes[0].get_title(loc="left")
    short = training.losses(lines[:9])
    assert short is not None
    assert short.axes[0].get_title(loc="left") == "Training"  # nothing is averaged, and nothing says so
    old = [{key: entry for key, entry in line.items() if not key.startswith("loss_")} for line in lines]
    unnamed = training.losses(old)
    assert unnamed is not None
    assert [axes.get_ylabel().split(",")[0] for axes in unnamed.axes] == [
        f"loss of {stage}" for stage in kinds
    ]


def _words(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)}


def test_ticks_are_labelled_with_the_numbers_they_stand_at(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (figures, training):
        monkeypatch.setattr(module, "readable_ticks", lambda low, high: [87.5, 1250.0])
    for figure in (
        training.curves(read(RESULTS / "training" / "tiny-table.json", TrainedResult)),
        figures.perplexities(read(RESULTS / "smollm2.json", MappedResult)),
    ):
        assert figure is not None
        axes = figure.axes[0]
        axis = axes.yaxis if axes.get_yscale() == "log" else axes.xaxis
        figure.canvas.draw()
        assert [label.get_text() for label in axis.get_ticklabels()] == ["87.5", "1,250"]


def test_an_adaptation_alone_is_compared_with_its_first_row() -> None:
    """It has no software model."""
    run = read(RESULTS / "adaptation/smollm2-135m/trained/polynomial.json", AdaptedResult)
    for table in (figures.stage_rows(run), Rows("", *headings_and_rows(run))):
        assert table.headings[4:] == ("× linear",)
        assert [row[4:] for row in table.rows] == [("1.000",), ("22.543",), ("1.153",)]


def test_a_title_speaks_of_dashes_only_where_there_are_some() -> None:
    run = read(RESULTS / "training" / "tiny-table.json", TrainedResult)
    simulated = tuple(stage for stage in run.stages if stage.numbers == "simulated")
    both, arrays = training.curves(run), training.curves(replace(run, stages=simulated))
    assert both is not None
    assert arrays is not None
    assert "dashed" in both.axes[0].get_title(loc="left")
    assert "dashed" not in arrays.axes[0].get_title(loc="left")


def test_a_logarithmic_axis_has_dots_and_no_bars() -> None:
    for name, bars in (("smollm2", 0), ("tiny", 7)):
        (axes,) = figures.perplexities(read(RESULTS / f"{name}.json", MappedResult)).axes
        assert axes.get_xscale() == ("linear" if bars else "log")
        assert len(axes.patches) == bars


def test_stages_without_variance_are_no_perfect_matches() -> None:
    """The 92 silent heads of SmolLM2 have residuals of 0 in the result; none is drawn, before or after."""
    run = read(RESULTS / "smollm2.json", MappedResult)
    silent = run.adaptation["closed-form"].skipped
    assert run.mismatch is not None
    figure = figures.mismatch(run)
    assert figure is not None
    _, exact_before, after, exact_after, *_ = figure.axes[3].lines
    drawn = np.asarray(after.get_ydata())
    assert np.isnan(drawn).sum() == len(silent) > 0
    assert exact_before.get_markerfacecolor() == exact_after.get_markerfacecolor() == "white"
    found = run.mismatch["before"]["out"].std
    exact = [
        len(found[layer]) * layer + head
        for layer, head in np.argwhere(np.asarray(found) == 0)
        if f"layer {layer}, head {head}, stage out" not in silent
    ]
    assert list(exact_before.get_xdata()) == exact != []
    assert "hollow where exactly 0" in figure.legends[0].get_texts()[1].get_text()
    assert figure.get_suptitle() == f"{len(silent)} stages without variance are left out"
    published = replace(run, adaptation={"published": run.adaptation["closed-form"]})
    assert figures.mismatch(published).get_suptitle() == figure.get_suptitle()


def test_maps_of_one_kind_share_a_scale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (figure,) = drawing.saved(monkeypatch, lambda: FIGURES["fidelity"](tmp_path))
    scales: dict[str, set[tuple[float, float]]] = {}
    for axes in figure.axes:
        for image in axes.images:
            kind = next(k for k, keys in heads.MAPS.items() if axes.get_title(loc="left") in keys)
            scales.setdefault(kind, set()).add(image.get_clim())
    assert scales.keys() == heads.MAPS.keys()
    assert all(len(found) == 1 for found in scales.values())
    assert {bar.get_ylabel() for bar in _colour_bars(figure)} == heads.MAPS.keys()


@pytest.mark.parametrize("draw", [costs_figures.machines, costs_figures.sweeps])
def test_axes_of_costs_are_named(draw: Any) -> None:
    figure = draw(read(RESULTS / "costs" / "cost-gpt2.json", CostResult))
    for axes in figure.axes:
        if axes.yaxis.get_ticks_position() != "right":  # an axis of its own for the throughput
            assert len(axes.get_xlabel()) > 1
    named = {axes.get_xlabel() for axes in figure.axes}
    assert named & {"time per token, s", "retention time, s"}
