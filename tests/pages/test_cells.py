"""recipes/cells.py: what follows from a design alone, and the page written from results alone."""

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cells_page
import pytest
import torch

from gaincell.chips.design_file import load_design
from gaincell.progress import silent_stages
from gaincell.results import read, write
from gaincell.results.common import Provenance, Value, Values
from gaincell.results.run import (
    Adaptation,
    AdaptationHistory,
    AdaptedResult,
    CellAdaptationResult,
    CellDesignResult,
    CellStage,
)

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results" / "cells"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cells_recipe", ROOT / "recipes" / "cells.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_refresh_keeps_every_level_within_half_a_step(recipe: ModuleType) -> None:
    design = load_design("leroux2025")
    found = recipe.cell_numbers(design)
    step = 0.9 / 7
    left = math.exp(-found["refresh_interval"] / design.retention_time)
    assert 0.45 * (1 - left) == pytest.approx(step / 2)
    assert found["refresh_tokens"] == pytest.approx(988, abs=1)  # just under a window of 1024
    assert found["tokens_to_1_e"] == pytest.approx(5e-3 / 780e-9)


def test_deviation_and_current_at_the_offset(recipe: ModuleType) -> None:
    line = recipe.cell_numbers(load_design("leroux2025").replace(cell="linear"))
    assert line["deviation"] == pytest.approx(0, abs=1e-12)
    assert line["current_at_offset"] == 0
    square = recipe.cell_numbers(load_design("oxide-2t-saturated"))
    # K u^2 against its mean K 0.45^2 / 3: at the ends 2/3 of it, the span being 4 K 0.45^2
    assert square["deviation"] == pytest.approx(1 / 6, rel=1e-2)
    assert square["current_at_offset"] == 0
    assert recipe.cell_numbers(load_design("oxide-2t-unipolar"))["current_at_offset"] > 0.3


@pytest.mark.parametrize("name", ["linear", "polynomial", "x3", "x5", "sigmoid", "exponential"])
def test_every_cell_of_the_paper_and_its_supplement_is_in(recipe: ModuleType, name: str) -> None:
    title, place = recipe.CELLS[name]
    assert title
    assert place(load_design("leroux2025")).cell.name == name


def test_the_chips_say_what_the_released_study_left_out(recipe: ModuleType) -> None:
    _, _, released = recipe.chips()["released-study"]
    assert (released.retention_time, released.query_levels, released.readout) == (None, None, "none")
    assert released.storage_levels == 8
    assert recipe.chips()["leroux2025"][2] == load_design("leroux2025")


def stages(*names: str) -> dict[str, CellStage]:
    return {name: CellStage(100.0 + n, 2.5) for n, name in enumerate(names)}


def adapted(residual: float) -> Adaptation:
    return replace(
        read(RESULTS / "adaptation" / "leroux2025" / "x3.json", CellAdaptationResult).adaptation["published"],
        converged=residual < 1e-6,
        residual=Value(residual, "fraction of sigma", "simulated"),
        iterations=2,
        calibration_perplexity=101.0,
        history=AdaptationHistory(
            (0.0, 1.0, 2.0),
            Values((1.0, 0.1, residual), "fraction of sigma", "simulated"),
            (400.0, 150.0, 101.0),
        ),
    )


def test_the_page_shows_what_results_and_literature_hold(recipe: ModuleType) -> None:
    literature = cells_page.read_literature(ROOT / "docs/data/cells.toml")
    designs = {}
    for name in ("leroux2025", "igzo"):
        stored = read(RESULTS / "designs" / f"{name}.json", CellDesignResult)
        made = replace(stored, **recipe.cell_numbers(load_design(name)))
        designs[name] = replace(made, stages=stages("linear", "unadapted", "adapted"))
    x3 = read(RESULTS / "adaptation" / "leroux2025" / "x3.json", CellAdaptationResult)
    one = replace(
        x3,
        stages=stages("linear", "unadapted", "published", "closed-form"),
        adaptation={"published": adapted(1e-3), "closed-form": adapted(1e-16)},
    )
    linear = replace(one, cell=replace(one.cell, title="linear"))
    page = cells_page.page(literature, designs, {"a chip": [one]})
    (row,) = (line for line in page.splitlines() if "`igzo`" in line and "100.00 ± 2.50" in line)
    for shown in ("4,800 s (100 s to 10,000 s)", "6.2·10⁹", "1 µm²", "101.00 ± 2.50", "102.00 ± 2.50"):
        assert shown in row
    assert "oxide-2t`" not in page.split("References")[0]  # no result, no line
    assert "**over 4,800 s**" in page
    assert "Y. Lee" in page
    assert "| x³ | 100.00 ± 2.50 | 101.00 ± 2.50 | 102.00 ± 2.50 | 2, not converged | 1.0e-03 |" in page
    assert page == cells_page.page(literature, designs, {"a chip": [one]})
    figure = cells_page.adaptation({"a chip": [one], "another": [one, linear]})
    drawn = [len(axes.lines) for axes in figure.axes]
    assert drawn[0] == 5  # both methods on two chips, the linear level on one
    assert set(drawn[1:]) == {0}


def test_a_result_is_made_once(recipe: ModuleType, tmp_path: Path) -> None:
    job = object.__new__(recipe.Job)
    job.sha256 = "0"
    job.calibration = torch.zeros(8, 4, dtype=torch.long)
    job.evaluation = torch.zeros(recipe.BLOCK, dtype=torch.long)
    made: list[str] = []

    stored = read(RESULTS / "designs" / "igzo.json", CellDesignResult)

    def make(ready: Any, chip: Any, name: str, about: None, provenance: Provenance) -> CellDesignResult:
        made.append(name)
        return replace(stored, provenance=provenance)

    design = load_design("igzo")
    for chip in (design, design, design.replace(layers=3)):
        job.keep(tmp_path / "igzo.json", chip, make, design)
    assert made == ["igzo", "igzo"]
    assert (
        read(tmp_path / "igzo.json", CellDesignResult).provenance.design_hash == design.replace(layers=3).hash
    )


def test_starts_that_are_there_are_kept(recipe: ModuleType, tmp_path: Path) -> None:
    kept = list((RESULTS / "starts").glob("*/*.json"))
    assert kept
    wanted = recipe.Job(silent_stages).provenance(load_design("leroux2025"), recipe.STARTED)
    for path in kept:
        chip, start = recipe.CELLS[path.stem][1](load_design("leroux2025")), path.parent.name
        assert recipe._is_same_start(path, chip, start, wanted), path
        assert not recipe._is_same_start(path, chip.replace(retention_time=1.0), start, wanted)
    found = read(path, AdaptedResult)
    adapted = found.adaptation["published"]
    for stale in (
        {"adaptation": {"published": replace(adapted, start="trained" if start == "neutral" else "neutral")}},
        {"adaptation": {"published": replace(adapted, rule="relative")}},
        {"adaptation": {"closed-form": adapted}},
        {"provenance": replace(found.provenance, protocol="blocks-512")},
        *(
            {"provenance": replace(found.provenance, inputs={**found.provenance.inputs, name: "0"})}
            for name in ("model tiny", "calibration text", "evaluation text")
        ),
    ):
        write(replace(found, **stale), tmp_path / "stale.json")
        assert not recipe._is_same_start(tmp_path / "stale.json", chip, start, wanted), stale


def test_the_linear_model_keeps_its_cell_whatever_it_is_adapted_to(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table has a linear slope of its own, which the model was not trained for."""
    path = RESULTS / "starts" / "neutral" / "compressive.json"
    asked: dict[str, Any] = {}

    def adapt_model(settings: Any, default: Any, *, to: Any, **_: Any) -> AdaptedResult:
        asked.update(settings=settings, to=to)
        return read(path, AdaptedResult)

    monkeypatch.setattr(recipe, "adapt_model", adapt_model)
    title, place = recipe.CELLS["compressive"]
    recipe.start_result(place(load_design("leroux2025")), "neutral", title, silent_stages)
    assert (
        asked["settings"].design.replace(cell="linear").cell
        == load_design("leroux2025").replace(cell="linear").cell
    )
    assert asked["to"].cell.name == "tabulated"
    assert asked["settings"].evaluation_tokens == read(path, AdaptedResult).text.evaluation_tokens


def test_the_recipe_asks_for_every_design_and_every_cell_on_both_chips(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def keep(job: Any, path: Path, chip: Any, make: Any, start: Any, about: Any = None) -> None:
        asked.append(str(path.relative_to(tmp_path).with_suffix("")))
        assert chip.name.partition("+")[0] == start.name  # behind it the device
        assert chip.replace(cell="linear").cell.linear_slope > 0

    monkeypatch.setattr(recipe.Job, "__init__", lambda job, progress: None)
    kept = read(RESULTS / "starts" / "neutral" / "linear.json", AdaptedResult)
    monkeypatch.setattr(recipe.Job, "provenance", lambda *_: kept.provenance)

    def start_result(chip: Any, start: str, title: str, progress: Any) -> AdaptedResult:
        started.append((start, title))
        on_chip = replace(kept.design, hash=chip.replace(layers=kept.model.layers).hash)
        adapted = {"published": replace(kept.adaptation["published"], start=start)}
        return replace(kept, design=on_chip, adaptation=adapted, title=title)

    monkeypatch.setattr(recipe.Job, "keep", keep)
    monkeypatch.setattr(recipe, "start_result", start_result)
    started: list[tuple[str, str]] = []
    recipe.main(tmp_path)
    wanted = [(s, title) for s in ("trained", "neutral") for title, _ in recipe.CELLS.values()]
    wanted.remove(("trained", recipe.CELLS["linear"][0]))  # the model is on linear cells as it is
    assert sorted(started) == sorted(wanted)
    listed = {cell["design"] for cell in cells_page.read_literature(recipe.LITERATURE)["cells"]}
    assert {name.split("/")[1] for name in asked if name.startswith("designs/")} == listed
    for chip in recipe.chips():
        assert [f"adaptation/{chip}/{cell}" for cell in recipe.CELLS] == [
            name for name in asked if name.startswith(f"adaptation/{chip}/")
        ]
    assert {f"adaptation/leroux2025/{Path(stem).stem}" for stem in cells_page.ORDER} <= set(asked)
    recipe.main(tmp_path)
    assert len(started) == len(wanted), "those that are there are kept"
