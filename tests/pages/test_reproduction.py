"""docs/reproduction.md holds what its generator writes, and everything that it points to is there."""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from gaincell.reports.system_costs import by_movement, energy_verdict
from gaincell.results import read
from gaincell.results.cost import CostResult
from gaincell.results.run import TrainedResult
from gaincell.results.system_cost import Machine

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "reproduction.md").read_text(encoding="utf-8")
NAMES = re.findall(r"<!-- ([\w-]+):table -->", PAGE)


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    sys.path.insert(0, str(DOCS))
    try:
        import reproduction

        yield reproduction
    finally:
        sys.path.remove(str(DOCS))


def test_every_part_has_its_place(generator: ModuleType) -> None:
    assert sorted(NAMES) == sorted(generator.PARTS)


@pytest.mark.parametrize("name", NAMES)
def test_parts_are_those_of_the_results(name: str, generator: ModuleType) -> None:
    written = re.search(rf"<!-- {name}:table -->\n(.*?)\n<!-- end -->", PAGE, re.DOTALL)
    assert written is not None
    made = generator.PARTS[name]()
    assert written[1] == made, "python docs/reproduction.py"
    rows = [line for line in made.splitlines() if line.startswith("|")]
    assert len({row.count(" | ") for row in rows}) <= 1, "rows of different lengths"


def test_what_a_short_fine_tuning_costs_is_said_with_its_control(generator: ModuleType) -> None:
    said = generator.short_fine_tuning()
    assert "makes `tiny` worse: " in said
    assert "the softmax control by × 1.0045 (1.0029 to 1.0062)" in said
    assert (
        "the arrays' teacher in this stage is this control, and an effect of the chip beyond that is not"
        in said
    )
    assert said in (DOCS / "mapping.md").read_text(encoding="utf-8")
    assert said in PAGE


@pytest.mark.parametrize(
    ("cited", "ours", "verdict"),
    [
        ([20_000.0, 30_000.0], [40_000.0, 50_000.0], "reached {}; reached {}; reached {}"),
        (
            [8_907.0, 19_029.0],
            [15_369.0, 32_850.0],
            "**not reached** against GPU 0 (× 8,907) {}; reached {}; "
            "**not reached** against GPU 0 (× 7,637) {}",
        ),
        (
            [15_376.0, 32_850.0],
            [8_907.0, 9_029.0],
            "reached {}; **not reached** against GPU 0 (× 8,907) and GPU 1 (× 9,029) {}; "
            "**not reached** against GPU 0 (× 4,426) and GPU 1 (× 4,486) {}",
        ),
    ],
)
def test_a_verdict_needs_every_computed_gpu_and_both_energies(
    generator: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    cited: list[float],
    ours: list[float],
    verdict: str,
) -> None:
    machines = [
        Machine(f"GPU {n}, {which}", 1, 1, 64, 1024, 1e-6, 1e-6, energy_over_cited=a, energy_over_bottom_up=b)
        for which in ("measured", "reading its cache once")
        for n, (a, b) in enumerate(zip(cited, ours, strict=True))
    ]
    page = generator.reproduction_claims
    energies = (f"with {title}" for title in (*page.OURS.values(), page.MIXED))
    gpt2 = replace(generator.costs("gpt2"), machines=tuple(machines))
    monkeypatch.setattr(page, "costs", lambda model: gpt2 if model == "gpt2" else generator.costs(model))
    measured, computed, grouped = page.against_gpus("energy", 4)
    assert computed[-1] == verdict.format(*energies)
    paper, own = page.OURS.values()
    enough = "reached" if max(ours) >= 1e4 else "**not reached**"
    assert measured[-1] == f"reached with {paper}; {enough} with {own}"
    assert "**not reached** against H100 SXM (× 3,079)" in grouped[-1]  # of a result, not of these machines
    assert [f"× {min(one):,.0f} to {max(one):,.0f}" for one in (cited, ours)] == computed[3:5]


@pytest.mark.parametrize("part", ["headline", "negative"])
def test_what_is_said_against_gpus_is_said_with_both_energies(part: str, generator: ModuleType) -> None:
    against = [
        line
        for line in generator.PARTS[part]().splitlines()
        if line.startswith(("| energy of", "| latency of")) or "on an H100" in line
    ]
    assert against
    page = generator.reproduction_claims
    for line in against:
        titles = page.GROUPED if "of attention, SmolLM2-135M" in line else page.OURS
        assert all(title in line for title in titles.values())


def test_ends_of_early_runs_stand_only_where_they_are_called_so(generator: ModuleType) -> None:
    """How far the released trainings were when they were stopped is no result of the paper."""
    last: dict[str, float] = {}
    lowest: dict[str, float] = {}
    with (DOCS / "data" / "training_curves.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found = math.exp(float(row["cross_entropy"])) / 22.2
            last[row["run"]] = found
            lowest[row["run"]] = min(found, lowest.get(row["run"], math.inf))
    table = generator.PARTS["training"]()
    column = [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| ")]
    assert column[0] == "released early run, last (lowest) (c)"
    assert column[2:] == [
        *(
            f"{last[run]:.2f} ({lowest[run]:.2f})"
            for run in ("linear, from GPT-2", "nonlinear, from the linear model")
        ),
        *(
            f"{last[run]:.2f} ({lowest[run]:.2f})"
            for run in ("nonlinear, straight from GPT-2", "nonlinear, from scratch")
        ),
        "–",
    ]
    elsewhere = PAGE.replace(table, "")
    for run in ("nonlinear, straight from GPT-2", "nonlinear, from scratch"):
        assert f"× {lowest[run]:.2f}" not in elsewhere
        assert re.search(rf"× {lowest[run]:.1f} (?!to )", elsewhere) is None


@pytest.mark.parametrize("stage", ["linear", "linear-neutral"])
@pytest.mark.parametrize("model", ["tiny", "SmolLM2-135M"])
def test_every_cell_is_compared_with_the_linear_model_as_trained(
    model: str, stage: str, generator: ModuleType
) -> None:
    """Its perplexity does not depend on the cell that it is adapted to, nor on the start."""
    runs = [
        generator.perplexities(of[start])
        for title, of in generator.starts().items()
        for start in of
        if title.startswith(f"{model}, ")
    ]
    found = [at[stage] for at in runs if stage in at]
    assert found
    assert found == pytest.approx(
        [found[0]] * len(found), rel=1e-3
    )  # other versions of the kernel round otherwise


def test_what_did_not_converge_is_named_with_both_tolerances(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = generator.reproduction_models
    said = models.stopped()
    assert "calibration code, 0.0001 of means and of standard deviations, each absolute (c);" in said
    assert "training script asks for 0.001 of both (c);" in said
    assert "the paper's text speaks of a tolerance ratio (c)." in said
    assert said.endswith("All iterations here did.")
    found = models.starts()
    of = found["small-gpt2, cubic"]
    ended = replace(of["linear"].adaptation["published"], converged=False, iterations=25)
    of["linear"] = replace(of["linear"], adaptation={"published": ended})
    monkeypatch.setattr(models, "starts", lambda: found)
    assert "Not so: small-gpt2, linear, neutral start: **not converged** in 25 iterations" in models.stopped()


def test_what_discarded_gains_cost_with_a_cell_is_told_apart_from_the_cell(generator: ModuleType) -> None:
    """From the trained start with that cell to the neutral one with it, not from the linear model."""
    at = generator.perplexities(generator.starts()["SmolLM2-135M, cubic"]["neutral"])
    ratio = at["unadapted-neutral"] / at["unadapted"]
    assert ratio > 10
    assert f"with the linear cell and by {float(f'{ratio:.2g}'):,.0f} with this cell" in PAGE


def test_the_paper_s_adaptation_is_that_of_its_released_losses(generator: ModuleType) -> None:
    with (DOCS / "data" / "adaptation_curve.csv").open(encoding="utf-8", newline="") as file:
        found = [math.exp(float(row["cross_entropy"])) for row in csv.DictReader(file)]
    assert len(found) == 13
    assert f"{found[0]:,.0f} to {found[-1]:.3g}, × {found[0] / found[-1]:.0f}" in PAGE
    assert f"| {found[-1]:.3g}, 12 iterations |" in generator.PARTS["adaptation"]()


def test_the_page_says_which_model_a_row_is_of(generator: ModuleType) -> None:
    """Rows of one table have other numbers of tokens, and a recipe another name today."""
    table = generator.tasks()
    assert "fine-tuned row is after 999,424 tokens, the linear and the adapted row after 552,960" in table
    assert "The fine-tuned row has 0.10 times the tokens of the included adapter" in table
    assert "cross-entropy alone, which is no control by the same loss" in generator.PARTS["training"]()
    recipe = read(DOCS / "results" / "training" / "tiny-table-paired.json", TrainedResult).recipe
    assert f"names its recipe `{recipe}`" in PAGE


def test_commands_that_draw_a_figure_have_a_place_for_it() -> None:
    commands = re.findall(r"^    gaincell adapt .*$", PAGE, re.MULTILINE)
    assert commands
    assert all(" --out runs/" in command for command in commands)


@pytest.mark.parametrize("page", ["cells.md", "mapping.md", "concepts/attention.md"])
def test_pages_name_the_start_of_an_unadapted_model(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert re.search(r"unadapted.{,200}trained start", text, re.DOTALL | re.IGNORECASE)
    assert "reproduction.md#fig-4c-adaptation" in text


@pytest.mark.parametrize("part", ["timing", "area"])
def test_inputs_that_come_out_again_have_no_ratio(part: str, generator: ModuleType) -> None:
    rows = [line.split(" | ") for line in generator.PARTS[part]().splitlines()[2:]]
    inputs = [row for row in rows if "made to agree" in row[2]]
    assert inputs
    assert all(row[3] == "–" and row[4].startswith("circular, no reproduction") for row in inputs)
    assert all(float(row[3]) > 0 for row in rows if row not in inputs)


def test_what_the_page_points_to_is_there() -> None:
    headings = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        assert (DOCS / path).exists(), target
        assert not anchor or path or anchor in anchors, target


@pytest.mark.parametrize(
    "figure", ["1b", "1e", "2a", "2c", "3a", "4c", "4d", "5a", "5c", "5e", "Table 1", "Supplement"]
)
def test_every_figure_of_the_paper_is_named(figure: str) -> None:
    where = PAGE.partition("## Where each figure is")[2].partition("\n## ")[0]
    name = figure if not figure[0].isdigit() else rf"Fig\. {figure[0]}\w?[^|]*"
    rows = re.findall(rf"^\| {name}.*$", where, re.MULTILINE)
    assert rows
    assert all(len(row.strip("|").split(" | ")) == 4 for row in rows)


@pytest.mark.parametrize(
    ("cited", "bottom_up", "short"),
    [
        (8_907.0, 30_000.0, ("GPU, reading (× 8,907)", "none", "none")),
        (15_376.0, 15_369.0, ("none", "none", "GPU, reading (× 7,637)")),
        (0.0164, 0.26, ("GPU, reading (× 0.016)", "GPU, reading (× 0.26)", "GPU, reading (× 0.13)")),
    ],
)
def test_rows_short_of_the_claim_are_named_for_each_energy(
    cited: float, bottom_up: float, short: tuple[str, ...]
) -> None:
    other = Machine("of other sizes", 12, 12, 64, 1024, 1e-5)
    row = replace(other, title="GPU, reading", energy_over_cited=cited, energy_over_bottom_up=bottom_up)
    found = read(DOCS / "results" / "costs" / "cost-gpt2.json", CostResult)
    verdict = energy_verdict(replace(found, machines=(row, other)))
    whose = ("the paper's own energy", "ours", "ours but the paper's digital part")
    said = "; ".join(f"with {energy}, {rows}" for energy, rows in zip(whose, short, strict=True))
    assert verdict.endswith(f"Rows below that: {said}.")
    assert energy_verdict(replace(found, machines=(other,))) == ""


def test_the_energy_of_a_gpu_by_its_memory_is_that_of_one_layer(generator: ModuleType) -> None:
    found = read(DOCS / "results" / "costs" / "cost-gpt2.json", CostResult)
    cache = found.why.cache
    assert cache.movement is not None
    one_token_and_layer = (cache.movement + cache.arithmetic) / cache.seen / 12
    said = by_movement(found)
    assert f"{1e6 * 1024 * one_token_and_layer:.0f} µJ" in said
    ours = found.head.bottom_up.energy * 12
    (ratio,) = re.findall(r"× ([\d,]+) with ours", said)
    assert int(ratio.replace(",", "")) == pytest.approx(1024 * one_token_and_layer / ours, rel=1e-3)
    assert by_movement(replace(found, gpu="another")) == ""
    claims, orders = generator.reproduction_claims, math.log10(int(ratio.replace(",", "")) + 1)
    for most, verdict in ((orders, "**not reached**"), (orders - 0.01, "reached")):
        by_own = claims.by_moving(found, most, claims.OURS)
        assert by_own.endswith(f"; {verdict} with ours (s) (× {ratio})")
    assert claims.by_moving(replace(found, gpu="another"), 4, claims.OURS) == ""


def test_the_larger_claim_of_the_preprint_has_its_own_verdict(generator: ModuleType) -> None:
    machine = Machine(
        "measured", 12, 12, 64, 1024, 1e-5, energy_over_cited=97_266.0, energy_over_bottom_up=2e5
    )
    reading = replace(machine, title="reading its cache once", energy_over_cited=1e6)
    said, _, rests = generator.reproduction_claims.preprint([machine, reading], 5).partition(
        ", which rests on "
    )
    assert said == (
        "the preprint's 5 orders: **not reached** with the paper's number (c) (at most × 97,266), "
        "reached with ours (s) (at most × 200,000)"
    )
    head = generator.costs("gpt2").head
    with_theirs = head.bottom_up.energy + sum(
        line.cited.value - line.bottom_up for line in head.lines if line.name == "digital"
    )
    assert rests.endswith(f"not reached (at most × {2e5 * head.bottom_up.energy / with_theirs:,.0f})")
