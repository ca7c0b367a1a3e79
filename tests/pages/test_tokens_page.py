"""Tokens against quality: points of figure and table are those of the files, and new ones show up."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conversions import ConversionPoint, Conversions, conversions_markdown, draw_conversions
from tests import drawing

from gaincell.errors import RunError
from gaincell.mapping.recipe_file import load_recipe
from gaincell.results.codec import to_json

ROOT = Path(__file__).parents[2]
TOKENS = ROOT / "docs" / "results" / "training" / "tokens"
BATCH, BLOCK, PUBLIC = 1920, 1024, 22.2
"""Sequences of an iteration and their length by the paper's text; public GPT-2 by its released code."""


@pytest.fixture(scope="module")
def page() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import tokens_page

        yield tokens_page
    finally:
        sys.path.remove(str(ROOT / "docs"))


@pytest.fixture(scope="module")
def table(page: ModuleType) -> str:
    """The table of the published results."""
    return str(page.table())


def _word_perplexity(path: Path) -> float:
    tasks = json.loads(path.read_text())["tasks"]
    wiki = next(task for task in tasks if task["task"].startswith("wikitext"))
    return float(wiki["metrics"]["word_perplexity"]["score"]["value"])


def _drawn(found: list[Conversions]) -> dict[str, list[tuple[float, float]]]:
    """Points of the figure by the text of their legend."""
    figure = draw_conversions(found)
    assert drawing.faults(figure) == []
    axes, ours = figure.axes
    closer = {bar.get_label(): bar.lines[0].get_xydata().tolist() for bar in ours.containers}
    assert closer == {bar.get_label(): bar.lines[0].get_xydata().tolist() for bar in axes.containers}
    bars = {bar.get_label(): bar.lines[0] for bar in axes.containers}
    lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    return {
        " ".join(label.split()): list(zip(*line.get_data(), strict=True))
        for label, line in (lines | bars).items()
    }


def test_the_paper_s_points_are_those_of_its_released_losses(page: ModuleType) -> None:
    lines = (ROOT / "docs" / "data" / "training_curves.csv").read_text().splitlines()
    known = [line.rpartition('",')[2].split(",") for line in lines if line.startswith('"linear, from GPT-2"')]
    expected = [
        (int(n) * BATCH * BLOCK, math.exp(float(loss)) / PUBLIC) for n, _, loss in known if int(n) > 0
    ]
    drawn = _drawn(page.every())
    (curve,) = (points for label, points in drawn.items() if "released early run" in label)
    assert curve == [pytest.approx(point, rel=1e-12) for point in expected]
    at = dict(expected)
    assert [round(at[n * BATCH * BLOCK], 2) for n in (100, 500, 2000)] == [34.33, 2.2, 1.06]


def test_our_points_are_those_of_the_results(page: ModuleType) -> None:
    expected = []
    for place in TOKENS.glob("*/*/"):
        own = place.parent / "software.json"
        usual = ROOT / "docs" / "results" / "evaluation" / "tasks" / "smollm2-software.json"
        in_float32 = json.loads((place / "tasks.json").read_text())["dtype"] == "float32"
        software = _word_perplexity(own if in_float32 else usual)
        for path in (place / "tasks.json", *place.glob("software-*.json")):
            expected.append((int(place.name), _word_perplexity(path) / software))
    drawn = _drawn(page.every())
    ours = [point for label, points in drawn.items() if label.startswith("SmolLM2") for point in points]
    assert sorted(ours) == [pytest.approx(point, rel=1e-6) for point in sorted(expected)]
    assert all(point.half for series in page.ours() for point in series.points)


def test_the_table_has_what_the_figure_has(page: ModuleType, table: str) -> None:
    found = page.every()
    drawn = _drawn(found)
    for series in found:
        assert f"| {series.label} |" in table
        own = "" if series.measure == found[0].measure else f": {series.measure}"
        assert series.label + own in drawn


def test_what_our_trainings_learn_from_is_that_of_their_recipes(page: ModuleType, table: str) -> None:
    control = load_recipe(ROOT / "recipes" / "low-tokens-control.toml")
    distilled = control.stage("software-distilled")
    assert distilled.weight < 1

    def taught(**changes: float) -> list[str]:
        return page._taught([replace(control, stages=(replace(distilled, **changes),))])

    assert taught(weight=1.0) == ["the pretrained model's distribution"]
    assert taught() == [*taught(weight=1.0), "in part the next token"]
    assert "(in `low-tokens-control.toml` where `states` is set) its hidden states" in taught(states=2.0)
    (said,) = (line for line in table.splitlines() if line.startswith("* Teacher"))
    own = [one.recipe for chip in TOKENS.glob("*/") for one in page.trainings(chip)]
    assert ("hidden states" in said) is any(stage.states > 0 for one in own for stage in one.stages)


def test_table_1_is_compared_on_its_own_text(page: ModuleType) -> None:
    final = page.paper()[1]
    assert final.measure.startswith("word perplexity, WikiText-2")
    assert {point.tokens for point in final.points} == {13_000 * BATCH * BLOCK}
    tuned = next(point for point in final.points if point.note == page.TUNED)
    assert tuned.ratio == pytest.approx(39.97 / 37.37)


@pytest.mark.slow
def test_new_results_show_up(page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays without additions, and a software model that has nothing but its own result."""
    shutil.copytree(TOKENS, tmp_path / "tokens")
    monkeypatch.setattr(page, "TOKENS", tmp_path / "tokens")
    before = {series.title: len(series.points) for series in page.ours()}

    def add(folder: str, tokens: int, recipe: str, **tasks: Any) -> None:
        place = tmp_path / "tokens" / folder / str(tokens)
        shutil.copytree(TOKENS / "leroux2025-balanced" / "999424", place)
        run = json.loads((place / "run.json").read_text()) | {"recipe": recipe}
        run["stages"][-1]["training_tokens"]["value"] = tokens
        (place / "run.json").write_text(json.dumps(run))
        scored = json.loads((place / "tasks.json").read_text()) | tasks
        (place / "tasks.json").write_text(json.dumps(scored))

    add("plain", 5_000_000, "tiny-table.toml", dtype="bfloat16")
    add("software", 6_000_000, "low-tokens.toml", dtype="bfloat16", design=None, stage="software-continued")
    plain = "SmolLM2-135M on the paper's arrays"
    control = "SmolLM2-135M in software, trained by cross-entropy, rank 64"
    after = {series.title: len(series.points) for series in page.ours()}
    assert after == before | {name: before.get(name, 0) + 1 for name in (plain, control)}
    assert any(label.startswith(f"{plain} (simulated)") for label in _drawn(page.every()))
    assert f"| {plain} (simulated) | 5 M |" in page.front_table()
    assert control not in page.front_table()


def test_a_result_that_no_training_has_keeps_its_own_name(page: ModuleType, tmp_path: Path) -> None:
    """It is not taken for the mapping of another on the same chip."""
    found = json.loads((TOKENS / "leroux2025-fitted" / "999424" / "tasks.json").read_text())
    known, other = tmp_path / "smollm2-leroux2025.json", tmp_path / "smollm2-leroux2025-plain.json"
    known.write_text(json.dumps(found))
    other.write_text(json.dumps(found | {"dtype": "bfloat16"}))
    names = list(page.by_mapping([known, other]))
    assert names == [page.mapping(page.trainings(TOKENS / "leroux2025-fitted")[0].run), "leroux2025-plain"]


def test_a_result_on_more_items_has_the_mapping_of_the_training(page: ModuleType, tmp_path: Path) -> None:
    """Of the same score on WikiText-2, but for rounding of what was saved; another is of another model."""
    (training,) = page.trainings(TOKENS / "leroux2025-paper")
    path = tmp_path / "smollm2-leroux2025-paper.json"
    title = f"{page.mapping(training.run)}, nonlinear, adapted, fine-tuned"
    for factor, name in ((1.0004, title), (1.01, "leroux2025-paper")):
        scored = to_json(replace(training.tasks, stage=None))
        (wikitext,) = (task for task in scored["tasks"] if task["task"] == "wikitext2")
        wikitext["metrics"]["word_perplexity"]["score"]["value"] *= factor
        path.write_text(json.dumps(scored))
        assert list(page.by_mapping([path])) == [name]


def test_a_second_series_of_a_mapping_says_what_is_different(page: ModuleType) -> None:
    titles = [series.title for series in page.ours()]
    (other,) = (title for title in titles if title.endswith(page.UNLIKE))
    assert other.removesuffix(page.UNLIKE) in titles
    assert other not in page.front_table()
    with pytest.raises(RunError, match="name what is different"):
        page._unlike(page.trainings(TOKENS / "leroux2025-rotated")[0])


def test_a_result_of_another_stage_has_the_title_of_the_stage(page: ModuleType, tmp_path: Path) -> None:
    found = json.loads((TOKENS / "leroux2025-paper" / "999424" / "tasks.json").read_text())
    linear = tmp_path / "smollm2-leroux2025-paper-linear.json"
    linear.write_text(json.dumps(found | {"stage": "linear"}))
    (name,) = page.by_mapping([linear])
    assert name == f"{page.mapping(page.trainings(TOKENS / 'leroux2025-paper')[0].run)}, linear hardware"


def test_results_stand_in_the_order_of_their_stages(page: ModuleType) -> None:
    folder = ROOT / "docs" / "results" / "evaluation" / "all-items"
    names = [name for name in page.by_mapping(sorted(folder.glob("smollm2-*.json"))) if ", rank 14" in name]
    ends = [name.partition("rank 14, ")[2] for name in names]
    assert ends == ["linear hardware", "nonlinear, adapted", "nonlinear, adapted, fine-tuned"]


def test_the_readme_has_figure_and_table(page: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- tokens:table -->\n{page.front_table()}\n<!-- end -->" in readme, "python docs/readme.py"
    assert "](docs/figures/tokens.png)" in readme


def test_a_figure_has_room_for_many_series() -> None:
    points = [ConversionPoint(10.0 ** (5 + n), 1.1 + n, 0.1, "made up") for n in range(3)]
    found = [Conversions(f"model {n} on a chip", "word perplexity", points, "simulated") for n in range(9)]
    assert len(_drawn(found)) == 10
    assert conversions_markdown(found).count("\n") == 1 + 27


def test_a_row_says_what_was_set_for_its_stage(page: ModuleType) -> None:
    """Not what another stage has, what another seed, adapter or an equal value says."""
    (run,) = (
        one.run
        for one in page.trainings(TOKENS / "leroux2025-rotated")
        if one.run.saved == "fine-tuned" and one.run.set
    )
    recipe = load_recipe(ROOT / "recipes" / "low-tokens.toml")
    steps = recipe.stage("fine-tuned").steps
    for given, said in (
        ({"stage.fine-tuned.steps": "197"}, "`low-tokens.toml`, `stage.fine-tuned.steps = 197`"),
        (
            {"stage.fine-tuned.steps": str(steps), "stage.transfer.steps": "9", "seed": "3"},
            "`low-tokens.toml`",
        ),
        ({"training.learning_rate": "1e-3"}, "`low-tokens.toml`, other rates"),
        ({"stage.fine-tuned.rate_factor": "0.1"}, "`low-tokens.toml`, other rates"),
        ({"lora.rank": "8"}, "`low-tokens.toml`, `lora.rank = 8`"),
    ):
        assert page.shown(replace(run, set=given)) == said


def test_a_training_without_the_one_it_went_on_from(page: ModuleType) -> None:
    *_, last = page.trainings(TOKENS / "leroux2025-rotated")
    with pytest.raises(page.RunError, match="went on from"):
        list(page.of_wikipedia([last]))


def test_a_control_with_its_run_has_rates_tokens_and_text_of_that(page: ModuleType, tmp_path: Path) -> None:
    """Not those that the recipe of controls has; a run on another text is no control."""
    chip = TOKENS / "leroux2025-rotated"
    said = "\n".join(page._controls(page.trainings(chip)))
    first, second, last = said.splitlines()
    assert "`stage.software-distilled.steps = 293`" in first
    assert first.count("on as many tokens of the same text") == 1
    assert "times the row's rates" not in first
    assert "at 2 times the row's rates (at the row's own it may end lower); that it had" in second
    assert last == "Control: rows after more than 0.999 M tokens have none."
    titles = [series.title for series in page.ours() if series.points[0].tokens == 300_032]
    assert "SmolLM2-135M in software, trained by distillation, rank 64" in titles

    shutil.copytree(chip / "300032", tmp_path / "chip" / "300032")
    path = tmp_path / "chip" / "300032" / "control.json"
    control = json.loads(path.read_text())
    control["provenance"]["inputs"]["training text"] = "another"
    path.write_text(json.dumps(control))
    with pytest.raises(RunError, match=r"control\.json: of another text or number of tokens"):
        page.trainings(tmp_path / "chip")
