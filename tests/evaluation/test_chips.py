"""Many chips, ablation and fidelity: what they compute, and on which chip the model ends."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats
from tests.integrations.families import build
from tests.integrations.families import tokens as some_tokens
from tests.micro import micro_design, micro_llama
from typer.testing import CliRunner

from gaincell.circuits.charge_to_pulse import ChargeToPulse
from gaincell.circuits.converter_errors import Converters
from gaincell.circuits.noise import Noise
from gaincell.circuits.normaliser import Normaliser
from gaincell.circuits.pwm import Drivers
from gaincell.cli import app
from gaincell.cli._models import mismatch_of
from gaincell.cli._options import fraction
from gaincell.cli.evaluate import ChipOptions
from gaincell.devices.leakage import Leakage
from gaincell.devices.variability import Mismatch
from gaincell.devices.wires import Wires
from gaincell.errors import InputError, RunError
from gaincell.evaluation.ablation import _plan, ablate, freed, one_tile
from gaincell.evaluation.activity import measure_activity
from gaincell.evaluation.chips import evaluate_chips, perplexity_spread, score_spread
from gaincell.evaluation.fidelity import PER_HEAD, PER_KEY_HEAD, fidelity
from gaincell.evaluation.perplexity import cut_blocks, perplexity
from gaincell.integrations.hf.attach import attach, attached_layers, set_design
from gaincell.standard_error import half_width

SCORES = Path(__file__).parents[2] / "docs" / "results" / "evaluation" / "tasks" / "tiny-software.json"


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(97, (260,), generator=torch.Generator().manual_seed(2))


def test_statistics_of_chips() -> None:
    chips = perplexity_spread(10.0, (3, 4, 5, 6), (10.1, 10.4, 12.0, 9.9), 0.05)
    logs = [math.log(p / 10.0) for p in chips.perplexity]
    assert chips.mean == pytest.approx(10.6)
    assert chips.std == pytest.approx(torch.tensor(chips.perplexity, dtype=torch.float64).std().item())
    assert chips.worst == 5
    assert chips.yield_ == 0.75
    found = stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    assert chips.ratio_interval == pytest.approx((math.exp(found.low), math.exp(found.high)))
    assert chips.yield_interval == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson's, 3 of 4


def test_an_interval_over_blocks_and_chips() -> None:
    """Both variances add, each with its own degrees of freedom; a single chip has none."""
    values, chips = [1.0, 1.4, 0.9], [0.2, 0.5]
    ends = [stats.ttest_1samp(x, 0.0).confidence_interval(0.95) for x in (values, chips)]
    blocks, over_chips = ((end.high - end.low) / 2 for end in ends)
    assert half_width([2 * x for x in values], [2.0] * 3) == pytest.approx(blocks)
    assert half_width(values, [1.0] * 3, chips[:1]) == pytest.approx(blocks)
    assert half_width(values, [1.0] * 3, chips) == pytest.approx(math.hypot(blocks, over_chips))
    assert half_width(values[:1], [1.0], chips) is None


def test_statistics_of_diverged_chips() -> None:
    """Whatever a float cannot hold is infinite; nothing fails."""
    far = perplexity_spread(10.0, (0, 1), (30.0, 1e300), 0.05)
    assert far.ratio == pytest.approx(math.sqrt(3) * 10**149.5)
    assert (far.ratio_interval, far.std, far.worst) == ((0.0, math.inf), math.inf, 1)
    for nominal, chips in ((math.inf, (30.0, math.inf)), (10.0, (math.inf, 30.0)), (math.inf, (30.0,))):
        found = perplexity_spread(nominal, tuple(range(len(chips))), chips, 0.05)
        assert (found.ratio, found.ratio_interval) == (math.inf, None)


def test_statistics_of_scores_that_are_no_perplexities() -> None:
    accuracies = (0.5, 0.4, 0.45)
    found = score_spread(0.5, (7, 8, 9), accuracies)
    assert found.difference == pytest.approx(-0.05)
    expected = stats.ttest_1samp([a - 0.5 for a in accuracies], 0.0).confidence_interval(0.95)
    assert found.difference_interval == pytest.approx((expected.low, expected.high))
    lowest = score_spread(0.5, (7, 8, 9), accuracies, lower_is_better=True)
    assert (found.worst, lowest.worst) == (8, 7)
    assert score_spread(0.5, (7,), (0.4,)).difference_interval is None


def test_chips_differ_and_repeat(tokens: torch.Tensor) -> None:
    model = attach(micro_llama(), micro_design())
    own = attached_layers(model)[0].design

    def measure() -> float:
        return perplexity(model, tokens, "blocks-64").perplexity

    nominal = measure()
    spread = Mismatch(current_offset_std=0.1, seed=3)
    found = evaluate_chips(model, measure, 3, spread)
    assert found.nominal == nominal
    assert len({*found.perplexity, nominal}) == 4
    assert evaluate_chips(model, measure, 3, spread).perplexity == found.perplexity
    assert attached_layers(model)[0].design.hash == own.hash
    set_design(model, own.replace(mismatch=Mismatch(current_offset_std=0.1, seed=3, chip=1)))
    assert measure() == found.perplexity[1]
    assert evaluate_chips(model, measure, 2).perplexity == found.perplexity[1:]


def test_chips_that_cannot_be(tokens: torch.Tensor) -> None:
    model = micro_llama()
    with pytest.raises(InputError, match="a model in software has no chips"):
        evaluate_chips(model, lambda: 1.0, 2)
    attach(model, micro_design())
    with pytest.raises(InputError, match="0 chips: give 1 or more"):
        evaluate_chips(model, lambda: 1.0, 0, Mismatch(gain_std=0.1))
    with pytest.raises(InputError, match="alike: give --mismatch"):
        evaluate_chips(model, lambda: 1.0, 2)
    with pytest.raises(InputError, match="yield within 0"):
        evaluate_chips(model, lambda: 1.0, 2, Mismatch(gain_std=0.1), within=0)


@pytest.mark.parametrize("nominal", [math.inf, math.nan, 0.0, -1.0])
def test_a_nominal_perplexity_without_ratios_is_refused_before_the_chips(nominal: float) -> None:
    model, measured = attach(micro_llama(), micro_design()), []

    def measure() -> float:
        measured.append(nominal)
        return nominal

    with pytest.raises(InputError, match=f"nominal chip has perplexity {nominal!r}, .* finite one above 0"):
        evaluate_chips(model, measure, 3, Mismatch(gain_std=0.1))
    assert len(measured) == 1


@pytest.mark.parametrize(
    "spread", [{"leakage": Leakage(spread=1.0)}, {"converters": Converters(driver_gain_std=0.1)}]
)
def test_the_nominal_chip_has_nothing_of_its_own(tokens: torch.Tensor, spread: dict[str, Any]) -> None:
    model = attach(micro_llama(), micro_design(token_period=20e-6, wires=Wires(0.1, 0.1)))

    def measure() -> float:
        return perplexity(model, tokens, "blocks-64").perplexity

    alike, own = measure(), attached_layers(model)[0].design
    set_design(model, own.replace(**spread))
    found = evaluate_chips(model, measure, 2)
    assert found.nominal == alike
    assert len({alike, *found.perplexity}) == 3
    assert evaluate_chips(model, measure, 2, Mismatch(gain_std=0.1)).nominal == alike


@pytest.mark.parametrize(
    "same", [{"wires": Wires(0.1, 0.1)}, {"converters": Converters(calibration_step=0.01)}]
)
def test_chips_that_are_all_alike_are_refused(same: dict[str, Any]) -> None:
    model = attach(micro_llama(), micro_design(**same))
    with pytest.raises(
        InputError, match=r"all chips .* alike: .* in \[mismatch\].*\[converters\]"
    ) as refused:
        evaluate_chips(model, lambda: 1.0, 2)
    assert "[leakage] spread" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "share"), [("5%", 0.05), ("5 %", 0.05), ("0.05", 0.05), ("1", 1.0), ("150%", 1.5)]
)
def test_shares(given: str, share: float) -> None:
    assert fraction(given, "--mismatch") == pytest.approx(share)


@pytest.mark.parametrize("given", ["5", "1.5"])
def test_percent_without_their_sign_are_refused(given: str) -> None:
    with pytest.raises(InputError, match=f"--mismatch '{given}': give {given}% "):
        fraction(given, "--mismatch")


def test_ablation_is_a_change_of_the_design(tokens: torch.Tensor) -> None:
    model = attach(micro_llama(), micro_design(mismatch=Mismatch(gain_std=0.05)))
    chip = attached_layers(model)[0].design
    found = {(row.kind, row.name): row for row in ablate(model, tokens, "blocks-64").rows}
    assert attached_layers(model)[0].design.hash == chip.hash
    names = {name for kind, name in found if kind == "off"}
    assert names >= {"query levels", "readout", "decay", "nonlinearity", "mismatch", "tiling"}
    half = found["ring", "half the ring"]
    assert half.ratio == pytest.approx(half.perplexity / found["off", "chip"].perplexity)
    bound = found["on", "query levels"]
    assert bound.ratio == pytest.approx(bound.perplexity / found["on", "free"].perplexity)
    assert "noise" not in names
    set_design(model, chip.replace(cell="linear"))
    linear = perplexity(model, tokens, "blocks-64")
    row, base = found["off", "nonlinearity"], found["off", "chip"]
    assert row.perplexity == linear.perplexity
    assert row.ratio == pytest.approx(row.perplexity / base.perplexity)
    set_design(model, freed(chip).replace(query_levels=16))
    assert found["on", "query levels"].perplexity == perplexity(model, tokens, "blocks-64").perplexity
    set_design(model, one_tile(freed(chip)))  # without limits and quantisation sub-tiles add up
    free = found["on", "free"].perplexity
    assert perplexity(model, tokens, "blocks-64").perplexity == pytest.approx(free, rel=1e-5)
    with pytest.raises(InputError, match="in software"):
        ablate(micro_llama(), tokens)


def test_rows_of_an_ablation_change_nothing_besides_their_constraint() -> None:
    """Not which noise is drawn, nor how fast a warm chip decays."""
    noise, warm = Noise(output_std=0.03), Leakage(activation_energy=0.5, spread=0.1)
    numbered = micro_design(mismatch=Mismatch(chip=3, seed=4), noise=noise)
    assert "mismatch" not in {name for _, name, _, _ in _plan(numbered, 64)}
    assert freed(numbered).mismatch == numbered.mismatch
    chip = micro_design(leakage=warm, temperature=350.0, retention_time=5e-3, wires=Wires(key_drop=0.1))
    assert chip.tau is not None
    assert chip.tau < 1e-3
    rows = {(kind, name): design for kind, name, _, design in _plan(chip, 64)}
    leakage = rows["off", "writes and leakage"]
    assert (leakage.tau, leakage.leakage.spread) == (chip.tau, 0)
    assert rows["on", "decay"].tau == chip.tau
    assert rows["on", "wires"].wires == chip.wires
    assert rows["off", "wires"].wires == freed(chip).wires == Wires()


@pytest.mark.parametrize(
    "changes",
    [{}, {"drivers": Drivers(2), "normaliser": Normaliser(0.1), "charge_to_pulse": ChargeToPulse(2)}],
)
def test_fidelity_compares_the_same_hidden_states(tokens: torch.Tensor, changes: dict[str, Any]) -> None:
    model = attach(micro_llama(), micro_design(**changes))
    found = fidelity(model, micro_llama(), tokens[:96].view(2, 48), stride=5)
    assert found.tables.keys() == {*PER_HEAD, *PER_KEY_HEAD}
    for name, table in found.tables.items():
        assert [len(row) for row in table] == ([2, 2] if name in PER_HEAD else [1, 1])
        assert all(math.isfinite(x) and x >= -1 for row in table for x in row)
        if not name.endswith(("error", "cosine")):
            assert all(0 <= x <= 1 for row in table for x in row)
    # the first layer sees the same hidden states in any case: compare it directly
    seen: list[Any] = []
    attention = attached_layers(model)[0]
    hook = attention.register_forward_hook(lambda _, i, o: seen.append((i, o)))
    with torch.no_grad():
        model(input_ids=tokens[:96].view(2, 48))
    hook.remove()
    (q, k, v, *_), out = seen[0]
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    error = (out - wanted).square().sum((0, 2, 3)) / wanted.square().sum((0, 2, 3))
    assert found.tables["error"][0] == pytest.approx(error.tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {}),
        ("mistral", {}),
        ("llama", {"leakage": Leakage(decay_voltage=0.0), "retention_time": 1e-5}),
    ],
)
def test_pulses_of_fidelity_are_those_of_the_arrays(family: str, changes: dict[str, Any]) -> None:
    """With a model's own sliding window, and where voltages decay to another than V_offset."""
    ids, design = some_tokens(1, 48), micro_design(**changes)
    model = attach(build(family), design)
    share = 0.3 if family == "llama" else 0.35
    with torch.no_grad():
        for cell in attached_layers(model):
            cell.q.gain.fill_(share)
            cell.k.gain.fill_(0.1)
    found = fidelity(model, build(family), ids, stride=1)
    heads = measure_activity(model, [ids], "x").heads[:4]
    assert found.tables["pulses"][0] == pytest.approx([head.score_active for head in heads], abs=1e-6)


def test_sub_tiles_that_count_as_0_are_those_of_the_readout(tokens: torch.Tensor) -> None:
    zeros = []
    for readout in ("counter", "counter-floor"):
        model = attach(micro_llama(), micro_design(readout=readout))
        zeros.append(fidelity(model, micro_llama(), tokens[:64][None]).tables["tile zero"])
    assert all(a < b for rows in zip(*zeros, strict=True) for a, b in zip(*rows, strict=True))


def test_an_ideal_chip_has_no_linear_error(tokens: torch.Tensor) -> None:
    model = attach(micro_llama(), micro_design().replace(cell="linear"))
    found = fidelity(model, micro_llama(), tokens[:64][None], linear=model)
    assert max(map(max, found.tables["linear error"])) == 0.0
    with pytest.raises(InputError, match="65 tokens do not fit into a ring of 64"):
        fidelity(model, micro_llama(), tokens[:65][None])
    with pytest.raises(InputError, match="in software"):
        fidelity(micro_llama(), micro_llama(), tokens[:64][None])


def test_fidelity_leaves_the_pretrained_model_in_software(
    tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, base = attach(micro_llama(), micro_design()), micro_llama()
    software = perplexity(base, tokens, "blocks-64")
    fidelity(model, base, tokens[:64][None])
    assert not attached_layers(base)
    assert perplexity(base, tokens, "blocks-64") == software

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(base.base_model, "forward", fail)
    with pytest.raises(KeyboardInterrupt):
        fidelity(model, base, tokens[:64][None])
    monkeypatch.undo()
    assert not attached_layers(base)
    assert perplexity(base, tokens, "blocks-64") == software


def test_strided_windows_predict_every_token_once(tokens: torch.Tensor) -> None:
    model = micro_llama()
    found = perplexity(model, tokens, "strided-64-16")
    windows = cut_blocks(tokens, 64, 16)
    assert len(windows) == found.blocks == (260 - 64) // 16 + 1
    assert found.tokens == 63 + 16 * (found.blocks - 1)
    logits = model(input_ids=windows).logits.double()
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].mT, windows[:, 1:], reduction="none")
    expected = losses[0].sum() + losses[1:, -16:].sum()
    assert found.nll == pytest.approx(expected.item(), rel=1e-5)
    for wrong in ("strided-64-64", "strided-64-0", "strided-64", "strides-64-3"):
        with pytest.raises(InputError, match="protocol"):
            perplexity(model, tokens, wrong)


def test_figures_and_tables_come_from_the_result_alone(tmp_path: Path) -> None:
    from gaincell.reports.comparison import (
        as_csv,
        as_latex,
        as_markdown,
        cell,
        cited_rows,
        terminal_table,
    )
    from gaincell.reports.comparison_figure import differences
    from gaincell.reports.style import save
    from gaincell.results import read, write
    from gaincell.results.common import Value
    from gaincell.results.comparison import ComparisonResult, compare, comparison_result
    from gaincell.results.evaluation import Metric, TaskScores, TasksResult

    def run(acc: list[float], logs: list[float], pages: list[list[float]], mark: str = "x") -> TasksResult:
        def task(name: str, metric: str, items: Any, score: float) -> TaskScores:
            metrics = {metric: Metric(Value(score, "1", "simulated"))}
            return TaskScores(name, "1", "all", len(items), 9, mark, metrics, {metric: tuple(items)})

        mean = sum(logs) / len(logs)
        words = math.exp(-sum(p[0] for p in pages) / sum(p[1] for p in pages))
        tasks = (
            task("piqa", "acc", acc, sum(acc) / len(acc)),
            task("lambada_openai", "perplexity", logs, math.exp(-mean)),
            task("wikitext2", "word_perplexity", pages, words),
        )
        return replace(read(SCORES, TasksResult), dtype="float32", tasks=tasks)

    a = run([1.0, 0.0, 1.0, 1.0], [-1.0, -2.0, -3.0], [[-100.0, 40.0], [-50.0, 30.0]])
    b = run([1.0, 0.0, 0.0, 1.0], [-1.5, -2.0, -4.0], [[-120.0, 40.0], [-58.0, 30.0]])
    name = next(iter(cited_rows()))
    with pytest.raises(RunError, match=f"'{name}' is a row of the literature; give the result another"):
        compare({name: a, "chip": b}, cited=cited_rows())
    runs = {"software": replace(a, numbers="measured"), "chip": b}
    found = compare(runs, cited=cited_rows())
    assert [c.partition("/")[0] for c in found.columns] == ["lambada_openai", "piqa", "wikitext"]
    chip = {column: score.numbers for column, score in found.scores("chip").items()}
    assert chip["piqa/acc"][2:] == pytest.approx((-25.0, 25.0))
    base = found.scores("software")["lambada_openai/perplexity"].score.value
    number, _, difference, error = chip["lambada_openai/perplexity"]
    assert difference == pytest.approx(number / base) == pytest.approx(math.exp(0.5))
    spread = torch.tensor([0.5, 0.0, 1.0]).std().item() / math.sqrt(3)
    assert error == pytest.approx(spread * math.exp(0.5))
    assert chip["wikitext/word_perplexity"][2] == pytest.approx(math.exp(28 / 70))
    assert found.scores("GPT-2, public software")["piqa/acc"].score.value == 62.89
    result = comparison_result(found, runs, ["gaincell"])
    write(result, tmp_path / "table.json")
    assert read(tmp_path / "table.json", ComparisonResult) == result
    kinds = {row.name: {score.score.kind for score in row.entries.values()} for row in result.rows}
    assert kinds["software"] == {"measured"}
    assert kinds["chip"] == {b.numbers}
    assert kinds["GPT-2, public software"] == {"cited"}
    for text in (as_csv(found), as_latex(found), as_markdown(found)):
        assert "62.89" in text
    assert terminal_table(found).row_count == 3 * 7
    latex = as_latex(found)
    assert "$-25.0 \\pm 25.0$" in latex
    assert "$\\times 1.65 \\pm 0.48$" in latex
    odd = compare({"ReLU^2 {a}": a, "[b]": b})
    assert r"ReLU\textasciicircum{}2 \{a\}" in as_latex(odd)
    csv = as_csv(found).splitlines()
    assert csv[0].split(",")[5:9] == ["unit", "difference", "difference_error", "kind"]
    assert save(differences(found), tmp_path / "table.png").stat().st_size > 5000
    others = [-1.0, -2.0], [[-1.0, 2.0], [-1.0, 3.0]]
    all_wrong = compare({"software": run([1.0] * 3, *others), "chip": run([0.0] * 3, *others)})
    change = cell(all_wrong.scores("chip")["piqa/acc"], " ")
    assert change.endswith("-100.0 ± 0.0")  # every item differs, and by the same
    same = all_wrong.scores("chip")["lambada_openai/perplexity"]
    assert cell(same, " ").endswith("×1.000 (no item differs)")
    mixed = compare({"software": replace(a, dtype="bfloat16"), "chip": b})
    assert "weights in bfloat16 (software), in float32 (chip)" in mixed.notes[0]
    assert "Contexts" not in " ".join(mixed.notes)
    short = replace(
        b, longest_context=256, softmax="bfloat16", tasks=(replace(b.tasks[0], items=2), *b.tasks[1:])
    )
    notes = compare({"software": replace(a, softmax="float32"), "chip": short}).notes
    items = f"{a.tasks[0].task} {a.tasks[0].items} of {a.tasks[0].of} (software)"
    assert f"{items}, {a.tasks[0].task} 2 of {a.tasks[0].of} (chip), " in notes[0]
    assert f"Contexts up to {a.longest_context:,} (software), 256 (chip) tokens." in notes
    assert "Softmax in float32 (software), bfloat16 (chip)." in notes
    unlike = compare({"software": a, "other": run([1.0], [-1.0], [[-1.0, 2.0]], "y")})
    assert unlike.scores("other")["piqa/acc"].difference is None
    assert "No difference where the items are others" in " ".join(unlike.notes)


def test_units_of_scores_that_the_paper_does_not_have() -> None:
    from gaincell.reports.comparison import as_csv, cell
    from gaincell.results import read
    from gaincell.results.common import Value
    from gaincell.results.comparison import compare, comparison_result
    from gaincell.results.evaluation import Metric, TaskScores, TasksResult

    def run(f1: float, documents: Any) -> TasksResult:
        bits = -sum(log for log, _ in documents) / sum(size for _, size in documents) / math.log(2)
        items = {"f1": (f1, f1), "bits_per_byte": documents}
        values = {"f1": f1, "bits_per_byte": bits}
        metrics = {name: Metric(Value(score, "1", "simulated")) for name, score in values.items()}
        scores = TaskScores("other", "1", "all", 2, 2, "x", metrics, items)
        return replace(read(SCORES, TasksResult), tasks=(scores,))

    runs = {"a": run(0.5, ([-10.0, 5.0], [-12.0, 4.0])), "b": run(0.75, ([-11.0, 5.0], [-12.0, 4.0]))}
    found = compare(runs)
    _, *lines = (line.split(",") for line in as_csv(found).splitlines())
    columns = {(line[0], line[2]): [line[5], line[6], line[8]] for line in lines}
    assert columns["b", "f1"] == ["%", "25", "points"]
    assert columns["b", "bits_per_byte"] == ["bit/byte", f"{1 / 9 / math.log(2):.6g}", "difference"]
    entry = found.scores("b")["other/bits_per_byte"]
    assert " +0.1603 ± " in cell(entry, " ")
    score, error = (Value(x, "bit/byte", "simulated") for x in (0.9876, 0.0031))
    assert cell(replace(entry, score=score, error=error), " ").startswith("0.9876 ± 0.0031 ")
    shown = comparison_result(found, runs, ["gaincell"]).rows[1].entries
    assert {name: score.score.unit for name, score in shown.items()} == {
        "other/f1": "%", "other/bits_per_byte": "bit/byte",
    }  # fmt: skip


def test_a_score_that_is_no_mean_of_its_items_has_no_difference() -> None:
    from gaincell.results import read
    from gaincell.results.common import Value
    from gaincell.results.comparison import compare
    from gaincell.results.evaluation import Metric, TaskScores, TasksResult

    def run(f1: float, acc: float, predicted: tuple[float, ...]) -> TasksResult:
        pairs = tuple(zip((1.0, 0.0, 1.0), predicted, strict=True))  # what is right, and what was said
        metrics = {name: Metric(Value(x, "1", "simulated")) for name, x in (("f1", f1), ("acc_norm", acc))}
        items = {"f1": pairs, "acc_norm": tuple(float(a == b) for a, b in pairs)}
        scores = TaskScores("mrpc", "1", "all", 3, 3, "x", metrics, items)
        return replace(read(SCORES, TasksResult), tasks=(scores,))

    a, b = run(1.0, 1.0, (1.0, 0.0, 1.0)), run(0.0, 0.0, (0.0, 1.0, 0.0))
    row = compare({"a": a, "b": b}).scores("b")
    assert row["mrpc/f1"].difference is None
    assert row["mrpc/acc_norm"].numbers[2] == -100.0
    corrected = compare({"a": a, "b": run(0.0, 0.4, (0.0, 1.0, 0.0))}).scores("b")  # by the harness
    assert corrected["mrpc/acc_norm"].difference is None


def test_texts_of_the_table_are_written_before_its_figure(tmp_path: Path) -> None:
    """Bits per byte have no panel, so there is nothing to draw."""
    from gaincell.results import read, write
    from gaincell.results.common import Value
    from gaincell.results.evaluation import Metric, TaskScores, TasksResult

    items = {"bits_per_byte": ([-10.0, 5.0], [-12.0, 4.0])}
    metrics = {"bits_per_byte": Metric(Value(3.5, "bit/byte", "simulated"))}
    scores = TaskScores("wikitext2", "1", "all", 2, 2, "x", metrics, items)
    write(replace(read(SCORES, TasksResult), tasks=(scores,)), tmp_path / "scores.json")
    places = {name: str(tmp_path / f"table.{name}") for name in ("csv", "latex", "markdown", "json")}
    options = [word for name, place in places.items() for word in (f"--{name}", place)]
    figure = ["--figure", str(tmp_path / "table.png")]
    found = CliRunner().invoke(app, ["table", str(tmp_path / "scores.json"), *options, *figure])
    assert found.exit_code == 2
    assert "no accuracies and no perplexities to draw" in found.output
    assert all(Path(place).is_file() for place in places.values())


def test_the_page_names_the_constraint_that_costs_most() -> None:
    """None that was not exercised, and never the chip as it is."""
    from gaincell.reports.evaluation import largest_cost
    from gaincell.results import read
    from gaincell.results.evaluation import AblationResult

    found = read(SCORES.parents[1] / "ablation.json", AblationResult)
    assert largest_cost(found) == "× 0.9969 without mismatch, the lowest of 10"
    rows = {row.name: row for row in found.ablation if row.kind == "off"}
    worse = replace(rows["decay"], ratio=1.002), replace(rows["readout"], ratio=1.001)
    tiling = replace(rows["tiling"], ratio=1.0, ratio_error=None, not_exercised="blocks-64")
    loosened = (rows["chip"], tiling, *worse)
    assert largest_cost(replace(found, ablation=loosened)) == "× 1.0010 without readout, the lowest of 2"
    assert largest_cost(replace(found, ablation=(rows["chip"], tiling))) == "–"


def test_a_constraint_that_no_loss_depends_on_is_not_exercised(tokens: torch.Tensor) -> None:
    """Blocks of half a sub-tile do not see that there are two: a ratio of 1.0000 would say they are free."""
    model = attach(micro_llama(), micro_design().replace(tile=32))
    rows = {row.name: row for row in ablate(model, tokens, "blocks-16").rows if row.kind == "off"}
    assert not rows["tiling"].exercised
    assert rows["chip"].exercised
    assert rows["query levels"].exercised
    assert {row.name for row in ablate(model, tokens, "blocks-64").rows if not row.exercised} == set()


def test_a_spread_that_is_asked_for_replaces_that_of_a_design_and_leaves_stuck_cells() -> None:
    variances = (0.01, 0.0, 0.0, 0.25)
    own = Mismatch(gain_std=0.02, stuck_low=0.001, seed=3, coefficient_covariance=variances)
    loaded = SimpleNamespace(model=attach(micro_llama(), micro_design(mismatch=own)))
    assert mismatch_of(ChipOptions(chips=2), loaded) == own
    asked = mismatch_of(ChipOptions(chips=2, mismatch="5%", seed=7), loaded)
    assert asked == Mismatch(current_offset_std=0.05, stuck_low=0.001, seed=7)
