"""Seeds of one recipe as one column, and the control beside an adapter: shown where there are results."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded_recipes import recipe_of
from seeds import check_seeds, quotients, read_seeds, seeds_markdown, trials_markdown
from token_curve import TokenPoint, token_markdown

from gaincell.results import read, write
from gaincell.results.common import Provenance
from gaincell.results.evaluation import TasksResult
from gaincell.results.run import BlockLosses, TrainedResult

DOCS = Path(__file__).parents[2] / "docs"
RUN = read(DOCS / "results" / "training" / "tiny-table.json", TrainedResult)


def seeded(
    seed: int,
    factor: float,
    stages: tuple[str, ...] = (),
    changes: dict[str, str] | None = None,
    run: TrainedResult = RUN,
) -> TrainedResult:
    """A run with another seed, whose perplexities are `factor` as large, of some stages only."""
    kept = (stage for stage in run.stages if not stages or stage.name in stages)
    scaled = tuple(
        replace(
            stage,
            perplexity=factor * stage.perplexity,
            nll=stage.nll + stage.predictions * math.log(factor),
            ratio_to_software=factor * (stage.ratio_to_software or 0.0),
        )
        for stage in kept
    )
    made = replace(run.provenance, seed=seed)
    return replace(run, stages=scaled, provenance=made, set=changes or {})


def other_text(made: Provenance) -> Provenance:
    return replace(made, inputs={**made.inputs, "evaluation text": "0"})


def rows(table: str) -> dict[str, list[str]]:
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line
    ]
    return {line[0]: line[1:] for line in cells}


def test_what_was_changed_in_a_recipe_has_a_row_each() -> None:
    common = {"stage.linear.steps": "7"}
    base = [seeded(0, 1.0, changes=common)]
    more = {**common, "stage.linear.states": "2.0"}
    other = [seeded(n, factor, changes={**more, "seed": str(n)}) for n, factor in ((0, 0.98), (1, 1.0))]
    table = trials_markdown({"states": other, "base": base})
    found = rows(table)
    places = {heading: n for n, heading in enumerate(found["what is set"])}
    linear = places["linear hardware, × software"]
    ratio = quotients(base, "linear", None)[0]
    assert found["nothing"][linear] == f"{ratio:.3f}"
    assert found["`stage.linear.states = 2.0`"][linear].startswith(f"{0.99 * ratio:.3f} ± ")
    assert [found[row][-1] for row in ("nothing", "`stage.linear.states = 2.0`")] == ["0", "0, 1"]
    assert list(found)[2] == "nothing"
    assert "with `stage.linear.steps = 7`; tokens" in table
    assert not any("continued" in heading for heading in places)


def test_a_change_is_compared_with_nothing_changed_block_by_block() -> None:
    def with_losses(seed: int, more: float) -> TrainedResult:
        stages = [
            replace(stage, blocks=BlockLosses(nll=(300.0, 500.0 + more), predictions=(100, 100)))
            for stage in RUN.stages
        ]
        return replace(seeded(seed, 1.0, changes={"mixing": "True"} if more else {}), stages=tuple(stages))

    table = trials_markdown(
        {"base": [with_losses(0, 0.0), with_losses(1, 0.0)], "mixing": [with_losses(1, 4.0)]}
    )
    column = next(n for n, heading in enumerate(rows(table)["what is set"]) if "nothing set" in heading)
    ratio = math.exp(4 / 200)  # the second block alone is worse: its error is as large as the change
    assert rows(table)["`mixing = True`"][column] == f"{ratio:.3f} ± {0.02 * ratio:.3f}"
    assert rows(table)["nothing"][column] == "–"


def test_a_run_under_an_earlier_name_of_its_recipe_is_a_seed_of_todays() -> None:
    narrow = {"rotated_values": "false", "lora.rank": "14"}

    def run(seed: int, recipe: str, changes: dict[str, str], more: float = 0.0) -> TrainedResult:
        losses = BlockLosses(nll=(300.0, 500.0 + more), predictions=(100, 100))
        made = replace(seeded(seed, 1.0, changes=changes), recipe=recipe)
        return replace(made, stages=tuple(replace(stage, blocks=losses) for stage in made.stages))

    base = [run(0, "low-tokens-balanced.toml", {}), run(1, "low-tokens.toml", narrow)]
    rank = run(1, "low-tokens-balanced.toml", {"lora.rank": "64"})
    both = run(1, "low-tokens.toml", narrow | {"lora.rank": "64", "mixing": "false"}, 4.0)
    check_seeds(base, "base")
    table = trials_markdown({"base": base, "rank": [rank], "both": [both]})
    assert list(rows(table))[2:] == ["nothing", "`lora.rank = 64`", "`lora.rank = 64`, `mixing = false`"]
    assert "`recipes/low-tokens.toml` with `rotated_values = false`, `lora.rank = 14`; tokens" in table
    found, own = math.exp(4 / 200), "`lora.rank = 64`, `mixing = false`"
    assert f"Last stage: {own} is × {found:.3f} ± {0.02 * found:.3f} of `lora.rank = 64`." in table
    assert f"Less than 2 of these errors, or 0.7 %, from nothing set: `lora.rank = 64`; {own}. Last" in table


def test_seeds_are_one_column_and_a_single_run_is_called_one() -> None:
    runs = [RUN, seeded(5, 1.01, ("linear", "adapted")), seeded(6, 1.02, ("linear", "adapted"))]
    table = seeds_markdown({"": runs})
    found = rows(table)
    linear = RUN.stage("linear")
    assert linear is not None
    ratio = linear.ratio_to_software or 0.0  # mean 1.01, standard deviation 0.01 of it
    assert found["stage"] == ["tokens", "perplexity", "× software", "× compared", "runs"]
    assert found["linear hardware"][2] == f"{1.01 * ratio:.3f} ± {0.01 * ratio:.3f}"
    assert found["linear hardware"][-1] == "3"
    straight = found["nonlinear, straight from software"]
    assert straight[-1] == "a single run"
    assert "±" not in "".join(straight)
    both = rows(seeds_markdown({"GPT-2": runs, "Llama": [RUN]}))
    assert "Llama: × software" in both["stage"]
    assert both["linear hardware"].count("a single run") == 1
    assert quotients(runs, "adapted", "linear") == pytest.approx(
        [quotients([RUN], "adapted", "linear")[0]] * 3
    )
    assert quotients(runs, "linear", None) == pytest.approx([ratio, 1.01 * ratio, 1.02 * ratio])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: replace(run, model=replace(run.model, sha256="0")), "differ in pretrained model"),
        (lambda run: replace(run, design=replace(run.design, hash="0")), "differ in design"),
        (lambda run: replace(run, set={"seed": "5", "training.batch": "4"}), "differ in what was set"),
        (lambda run: replace(run, provenance=RUN.provenance), "have the seeds"),
        (lambda run: replace(run, provenance=other_text(run.provenance)), "differ in text"),
    ],
)
def test_what_is_no_other_seed_of_a_recipe_is_refused(change: Any, message: str) -> None:
    other = seeded(5, 1.0)
    check_seeds([RUN, replace(other, set={"seed": "5", "model.run": "first"})], "tiny-table")
    with pytest.raises(ValueError, match=f"tiny-table {message}"):
        check_seeds([RUN, change(other)], "tiny-table")


def test_files_of_one_recipe_are_read_together(tmp_path: Path) -> None:
    for name, run in (("a", RUN), ("a.seed5", seeded(5, 1.1)), ("a-b", RUN), ("a.seed12", seeded(12, 1.1))):
        write(run, tmp_path / f"{name}.json")
    found = read_seeds(tmp_path)
    assert {name: [run.provenance.seed for run in runs] for name, runs in found.items()} == {
        "a": [RUN.provenance.seed, 5, 12],
        "a-b": [RUN.provenance.seed],
    }


def test_a_control_is_shown_where_it_was_run() -> None:
    point = TokenPoint(1e6, 50.0, 1.3, 0.01, continued=(1.5, 0.01))
    assert "ontrol" not in token_markdown([point])
    table = token_markdown([point, TokenPoint(2e6, 48.0, 1.2, 0.01, control=(1.004, 0.002))])
    assert rows(table)["tokens"] == ["word perplexity", "× software", "control, × software", "× continued"]
    assert rows(table)["1,000,000"][2:] == ["–", "1.500 ± 0.010"]
    assert rows(table)["2,000,000"][1:] == ["1.200 ± 0.010", "1.004 ± 0.002", "–"]


@pytest.mark.parametrize("rows", ["paired", "balanced"])
def test_recorded_names_stand_for_what_was_run(rows: str) -> None:
    """Today's recipes with the values of recorded_recipes.py have the rows and the tokens of the results."""
    for path in (DOCS / "results" / "training" / "ideas" / f"{rows}-rows").glob("*.json"):
        run = read(path, TrainedResult)
        recipe = recipe_of(run)
        for key, own in (("paired", recipe.paired), ("balanced", recipe.balanced)):
            assert str(own).lower() == run.set.get(key, str(rows == key).lower())
        assert recipe.lora is not None
        assert recipe.lora.rank == int(run.set.get("lora.rank", 14))
        for stage in run.stages:
            assert stage.training_tokens == recipe.tokens_of(recipe.stage(stage.name))


def test_pages_show_results_that_are_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(DOCS), *sys.path])
    import tokens_page
    import training_page

    place = tmp_path / "leroux2025-fitted" / "999424"
    own = DOCS / "results" / "training" / "tokens" / "leroux2025-fitted"
    for path in (own / "999424").iterdir():
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).write_bytes(path.read_bytes())
    alike = own / "software.json"
    (place.parent / "software.json").write_bytes(alike.read_bytes())
    control = replace(read(alike, TasksResult), stage="software-distilled")
    write(control, place / "software-distilled.json")
    monkeypatch.setattr(tokens_page, "TOKENS", tmp_path)
    adapter = read(place, TrainedResult)
    said = training_page.control_sentence(adapter)
    assert "on 999,424 tokens at a learning rate of 0.0025, is at × 1.000" in said
    assert "had 98,304 of these tokens in attention transfer" in said
    assert said.endswith("the others in distillation at 0.0025.")
    elsewhere = replace(adapter, design=replace(adapter.design, name="no-such-chip"))
    assert training_page.control_sentence(elsewhere) == ""
    small = read(DOCS / "results" / "training" / "small-gpt2.json", TrainedResult)
    section = training_page.architectures({"GPT-2": [small, seeded(5, 1.01, run=small)], "Llama": [small]})
    assert section.startswith("## GPT-2's architecture")
    at = {stage.name: stage.perplexity for stage in small.stages}
    adapted = f"{at['adapted'] / at['linear']:.3f}"
    assert f"against linear hardware, at most × 1.10 in every run: GPT-2 × {adapted}" in section
    assert f"Llama × {at['fine-tuned'] / small.software:.3f} (**missed**, a single run)" in section
    assert "that ended by schedule, perhaps before a plateau." in section
    assert section.endswith("about the paper's × 1.07 after 25.6 G tokens (Table 1, cited).\n")
    assert ": all weights, cross-entropy," in section
    rate = "stage.linear.training.learning_rate"
    frozen = replace(small, values={**small.values, "embeddings": "false", rate: "0.0006"})
    assert training_page.weights_rates({"GPT-2": [small], "Llama": [small]}) == "0.0002"
    both = training_page.weights_rates({"GPT-2": [small], "Llama": [frozen]})
    assert both == "0.0002 (GPT-2) and 0.0006 (Llama)"
    told = "all weights (of Llama but the token embeddings, which are the output layer, too)"
    assert training_page.weights_trained({"GPT-2": [small], "Llama": [small, frozen]}) == told
    ratio = f"× {at['fine-tuned'] / at['nonlinear-straight']:.3f} (a single run)"
    assert f", Llama {ratio}. Arrays over softmax from scratch" in section
    scratch = f"× {at['nonlinear-scratch'] / at['software-scratch']:.3f} (a single run)"
    assert f" (2 seeds), Llama {scratch}." in section
    (stage,) = (one for one in small.stages if one.name == "software-continued-more")
    named = replace(stage, name=training_page.CONTINUED_LONGER)
    longer = replace(small, stages=(*small.stages, named))
    said = training_page.architectures({"GPT-2": [seeded(5, 1.0, run=small), longer], "Llama": [small]})
    ratio = f"{stage.perplexity / small.software:.3f}"
    told = f"GPT-2 goes on to × {ratio} of its perplexity in 1,024,000 more tokens."
    assert f"ended by schedule; with softmax attention {told}" in said
