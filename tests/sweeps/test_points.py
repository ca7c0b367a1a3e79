"""Points: what they measure, which ones a sampler gives, and what a result says."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sweep_page import changes_markdown
from tests.micro import micro_design
from tests.sweep_files import COSTS, HEAD, measured, swept
from tests.tiers import slow_after

from gaincell.adaptation import adapt, collect_statistics
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.errors import InputError, RunError
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.run import Run
from gaincell.reports import sweep as reports
from gaincell.reports.html.page import load
from gaincell.reports.style import save_all
from gaincell.reports.sweep_clouds import pareto
from gaincell.reports.sweep_figures import FIGURES, curves
from gaincell.results import read
from gaincell.results.codec import from_json, to_json
from gaincell.results.common import Value, Values
from gaincell.results.sweep import Objective, Point, PointResult, SweepResult, SweptBlocks, plain
from gaincell.sweeps.file import load_sweep
from gaincell.sweeps.point import Bench
from gaincell.sweeps.result import assemble
from gaincell.sweeps.space import applied
from gaincell.sweeps.study import Survey, enqueue, open_storage, open_study, survey
from gaincell.sweeps.work import work

pytest.importorskip("optuna")
COMPRESSIVE = Path(__file__).parents[2] / "docs" / "data" / "compressive.toml"
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "sweeps"


def test_points_are_what_the_parts_give(
    write: Callable[..., Path], micro: tuple[Path, Path], tmp_path: Path
) -> None:
    head = HEAD.replace('["perplexity"]', '["perplexity", "energy", "latency", "area"]')
    sweep = load_sweep(write('storage_levels = [4, 8]\ntile = [16, 24]\ncell.kind = ["linear"]', head))
    result = measured(sweep, tmp_path)
    assert [p.state for p in result.points].count("failed") == 2
    assert "tile = 24 does not divide window" in reports.failures(result)[0]
    model = load_model(micro[0]).model
    tokens = Bench(sweep).evaluation
    bench = Bench(sweep)
    calibration = bench._ready.blocks({})
    target = collect_statistics(model, [calibration])
    set_design(model, attached_layers(model)[0].design.replace(storage_levels=4, cell="linear"))
    adapt(model, [calibration], target)
    expected = perplexity(model, tokens, "blocks-64")
    point = next(p for p in result.complete if p.setting("storage_levels") == 4)
    assert point.values["perplexity"].value == pytest.approx(expected.perplexity, rel=1e-6)
    run = read(tmp_path / "points" / "0000", PointResult)
    assert run.values.keys() == {"perplexity", "energy", "latency", "area"}
    assert run.design is not None
    assert run.design.cell == "linear"
    assert run.activity is not None
    assert all(head.query_pulse for head in run.activity.heads)
    assert not Run(tmp_path / "points" / "0000").saved  # without weights
    assert str(tmp_path) not in (tmp_path / "points" / "0000" / "run.json").read_text()
    with pytest.raises(RunError, match=r"0000 is one point of a sweep; give the sweep's result\.json"):
        load(tmp_path / "points" / "0000", "point")
    assert result.provenance.inputs.keys() == {"model", "technology", "evaluated", "trained on"}


def test_converters_that_do_not_quantise_are_priced_with_levels_that_are_named(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    sweep = load_sweep(write('query_levels = [8, "none"]\nreadout = ["counter", "none"]', COSTS))
    assert measured(sweep, tmp_path).provenance.protocol.endswith(
        "; costs in the process 28nm; priced in place of converters that do not quantise: "
        "counters of 16 levels, query drivers of 256 levels"
    )
    sweep = load_sweep(write("query_levels = [8, 16]", COSTS, name="quantised"))
    assert measured(sweep, tmp_path).provenance.protocol.endswith("; costs in the process 28nm")


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_each_parameter_alone_and_its_figures(write: Callable[..., Path], tmp_path: Path) -> None:
    head = HEAD.replace('["perplexity"]', '["perplexity", "energy"]') + 'sampler = "each"\n'
    sweep = load_sweep(write('storage_levels = [4, 8, "none"]\nretention_time = [1e-5, "none"]', head))
    assert [p["storage_levels"] for p in sweep.plan()] == [8, 4, None, 8, 8]
    result = measured(sweep, tmp_path)
    first, *others = result.points
    assert result.reference == first.point
    assert first.ratio is None
    for point in others:
        ratio = point.values["perplexity"].value / first.values["perplexity"].value
        assert point.ratio == pytest.approx(ratio, rel=1e-5)
        assert point.ratio_interval is not None
        low, high = point.ratio_interval
        assert low < ratio < high
    again = from_json(SweepResult, json.loads(json.dumps(to_json(result))))
    assert to_json(again) == to_json(result)
    drawn = save_all(FIGURES, again, tmp_path / "figures")
    assert {path.stem for path in drawn} == {"curves", "tornado", "pareto"}
    assert "perplexity" in reports.answers(result)[0]
    assert changes_markdown(result).count("retention_time") == 2
    text = reports.rows(result).markdown()
    assert "| storage_levels = none |" in text
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 7


def test_the_front_holds_what_nothing_is_better_than() -> None:
    values = {0: (1.0, 5.0), 1: (2.0, 4.0), 2: (2.0, 6.0), 3: (3.0, 9.0)}
    points = [
        Point(
            point=n,
            state="complete",
            parameters={},
            values={"energy": Value(a, "J", "simulated"), "yield": Value(b, "1", "simulated")},
        )
        for n, (a, b) in values.items()
    ]
    objectives = Objective("energy", "minimise", "J"), Objective("yield", "maximise", "1")
    result = replace(read(RESULTS / "levels.json", SweepResult), objectives=objectives, points=tuple(points))
    assert [p.point for p in result.front] == [0, 2, 3]
    figure = pareto(result)
    assert figure is not None
    steps = [line.get_drawstyle() for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert steps[-1] == "steps-pre"  # a yield of at least so much takes the energy of the next point


def test_the_unchanged_design_is_no_repeat_of_itself(write: Callable[..., Path]) -> None:
    sweep = load_sweep(write("tile = [8, 16]", HEAD + 'sampler = "nsga2"\npoints = 3\n'))

    def trial(number: int, tile: int, nll: tuple[float, ...], same_as: int | None = None) -> Any:
        one = Value(tile, "1", "simulated")
        point = Point(
            point=number, state="complete", parameters={"tile": one}, values={"perplexity": one},
            blocks=SweptBlocks(nll, (10, 10)), same_as=same_as,
        )  # fmt: skip
        return SimpleNamespace(user_attrs={"entry": to_json(point)})

    found = {0: trial(0, 16, (20.0, 21.0), 1), 1: trial(1, 16, (20.0, 21.0)), 2: trial(2, 8, (22.0, 24.0))}
    result = assemble(sweep, Survey(complete=found), ["gaincell", "sweep"])
    assert result.reference == 1
    assert result.own is result.points[1]
    assert [p.not_exercised for p in result.points] == [None] * 3
    ratios = [row[-1] for row in reports.rows(result).rows]
    assert ratios[:2] == ["1", "1"]
    assert ratios[2].startswith("1.2840")


def test_what_hurts_is_told_from_what_helps() -> None:
    result = read(RESULTS / "arrays.json", SweepResult)
    helps = [replace(p, ratio=0.9, ratio_interval=(0.8, 0.95)) if p.ratio else p for p in result.points]
    assert reports.answers(result)[-1].startswith("Hurts most")
    result = replace(result, points=tuple(helps))
    assert "No single change raises the perplexity beyond its interval." in reports.answers(result)


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.1, "charge units/V", "0.1 charge units/V"),
        (0.5, "1/V", "0.5 1/V"),
        (16384, "1", "16384"),
        (123457.0, "1", "123457"),
        (4100, "tokens", "4100 tokens"),
        (2.5e-3, "s", "2.5 ms"),
        (1.5e-7, "m^2", "0.15 mm²"),
        (0.0416666, "1", "0.04167"),
        (None, "s", "–"),
        ("none", "s", "none"),
    ],
)
def test_words_of_settings(value: object, unit: str, said: str) -> None:
    assert reports.word(value, unit) == said


def test_lines_of_a_figure_are_told_apart_by_their_settings() -> None:
    units = {"retention_time": "s", "tile": "1"}
    tiles = [Value(tile, "1", "simulated") for tile in (8, 16)]
    points = [
        Point(
            point=n, state="complete", values={"perplexity": Value(5.0 + n, "1", "simulated")},
            parameters={"retention_time": Value(tau, "s", "simulated"), "tile": tile},
        )
        for n, (tau, tile) in enumerate(itertools.product((1.00001e-3, 1.00002e-3), tiles))
    ]  # fmt: skip
    figure = curves(replace(swept(points, units), reference=None, sampler="grid"))
    assert figure is not None
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert labels == ["retention_time = 1 ms"] * 2


def test_curves_name_what_they_leave_out() -> None:
    """Objectives for which there is no room, and words where no line stands for them as in a grid."""
    said = "energy, latency, area, readout, score_ceiling, output_ceiling, cell.kind"
    for name, title in (("constraints", f"not drawn, see the table or the JSON: {said}"), ("mismatch", "")):
        figure = curves(read(RESULTS / f"{name}.json", SweepResult))
        assert figure is not None
        assert figure.get_suptitle() == title


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_chips_yield_and_an_adaptation_of_every_chip(write: Callable[..., Path], tmp_path: Path) -> None:
    head = HEAD.replace('["perplexity"]', '["perplexity", "yield"]') + "chips = 2\nwithin = 0.5\n"
    sweep = load_sweep(write('adapt = [true, false, "chip"]\nmismatch.current_offset_std = [0.0, 0.2]', head))
    result = measured(sweep, tmp_path)
    found = {(p.setting("adapt"), p.setting("mismatch.current_offset_std")): p for p in result.points}
    assert found["true", 0.0].values["yield"].value == 1
    spread = {
        how: chips.perplexity
        for how in ("true", "false", "chip")
        if (chips := found[how, 0.2].chips) is not None
    }
    assert len(spread) == 3
    assert all(len(set(chips)) == 2 for chips in spread.values())
    assert spread["true"] != spread["chip"]
    drawn = save_all(FIGURES, result, tmp_path / "f")
    assert {path.stem for path in drawn} == {"curves", "pareto", "parallel"}
    equal = found["true", 0.0].chips
    assert equal is not None
    assert equal.perplexity == (equal.nominal,) * 2


@pytest.mark.slow
def test_fine_tuning_starts_anew_at_every_point(write: Callable[..., Path]) -> None:
    sweep = load_sweep(write("fine_tune = [0, 1]\nlearning_rate = [1e-3]"))
    bench = Bench(sweep)
    plain = bench.measure(0, {"fine_tune": 0, "learning_rate": 1e-3})[0].values["perplexity"].value
    tuned = bench.measure(0, {"fine_tune": 1, "learning_rate": 1e-3})[0].values["perplexity"].value
    assert tuned != plain
    assert bench.measure(0, {"fine_tune": 0, "learning_rate": 1e-3})[0].values["perplexity"].value == plain


@pytest.mark.slow
def test_training_meets_other_chips_than_those_evaluated(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = HEAD + 'learning_rate = 1e-3\nchips = 2\nloss = "distillation"\n'
    sweep = load_sweep(write("mismatch.gain_std = [0.0, 0.3]\nfine_tune = [0, 1]", head))
    bench = Bench(sweep)
    met: list[Design] = []
    redrawn = Design.redrawn

    def drawn(design: Design, draw: int, *, chip: bool = False) -> Design:
        other = redrawn(design, draw, chip=chip)
        if chip:
            met.append(other)
        return other

    monkeypatch.setattr(Design, "redrawn", drawn)

    before = bench.measure(0, {"mismatch.gain_std": 0.3, "fine_tune": 0})[0].values["perplexity"].value
    met.clear()
    point, _, _ = bench.measure(0, {"mismatch.gain_std": 0.3, "fine_tune": 1})
    assert point.values["perplexity"].value != before
    assert {design.mismatch.chip for design in met}.isdisjoint(range(2))
    assert len({design.mismatch.chip for design in met}) == 2  # one a micro-batch


def _numbered(number: int, values: Mapping[str, Any]) -> tuple[tuple[float, ...], dict[str, Any]]:
    """A measurement that leaves its number as the code."""
    point = Point(point=number, state="complete", parameters={}, code=str(number))
    return (values["retention_time"],), to_json(point)


@pytest.mark.parametrize("sampler", slow_after(1, ["random", "tpe", "nsga2"]))
def test_samplers_give_exactly_the_points_asked_for(
    sampler: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    head = HEAD + f'sampler = "{sampler}"\npoints = 9\nseed = 3\n'
    sweep = load_sweep(write("tile = [8, 16]\nretention_time = { low = 1e-5, high = 1.0, log = true }", head))
    for storage in (open_storage(str(tmp_path / "j")), open_storage(f"sqlite:///{tmp_path}/s.db")):
        study = open_study(sweep, storage)
        enqueue(study, sweep.plan(), range(9))
        assert work(sweep, storage, _numbered) == 9
        found = survey(study, 9)
        assert len(found.complete) == 9
        times = [trial.params["retention_time"] for trial in found.complete.values()]
        assert len(set(times)) >= (5 if sampler == "nsga2" else 8)  # children may repeat their parents
        measured_at = [trial.user_attrs["entry"]["code"] for trial in found.complete.values()]
        assert len(set(measured_at)) == len({tuple(t.params.items()) for t in found.complete.values()})
        assert all(1e-5 <= t <= 1 for t in times)
    if sampler == "random":
        more = load_sweep(write("tile = [8, 16]\nretention_time = { low = 1e-5, high = 1.0, log = true }",
                                head.replace("points = 9", "points = 12")))  # fmt: skip
        assert more.plan()[:9] == sweep.plan()
        assert more.study == sweep.study  # which goes on with the longer plan
    elif sampler == "tpe":
        assert sweep.plan()[0] == {"tile": 16, "retention_time": micro_design().retention_time}


def test_costs_alone_need_no_model(write: Callable[..., Path], tmp_path: Path) -> None:
    sweep = load_sweep(write("window = [64, 128]", COSTS))
    result = measured(sweep, tmp_path)
    areas = [point.values["area"].value for point in result.points]
    assert areas[1] > 1.5 * areas[0]


def test_values_enter_a_design() -> None:
    chip = applied(
        micro_design(),
        {"tile": 32, "mismatch.gain_std": 0.1, "cell.c30": 40.0, "adapt": True, "retention_time": None},
    )
    assert (chip.tile, chip.mismatch.gain_std, chip.retention_time) == (32, 0.1, None)
    assert chip.cell != micro_design().cell
    assert applied(micro_design(), {"cell.kind": "linear"}).cell.name == "linear"
    with pytest.raises(InputError, match=r"cell\.c30 has no effect on the linear cell"):
        applied(micro_design(), {"cell.kind": "linear", "cell.c30": 40.0})
    with pytest.raises(InputError, match="'oxide-2t-saturated' states no such number to change"):
        applied(load_design("oxide-2t-saturated"), {"cell.c30": 40.0})  # it states the C_p


@pytest.mark.slow
def test_the_unchanged_token_period_follows_from_the_layers_of_the_model(
    tmp_path: Path,
) -> None:
    """`tiny` has 6 layers, the design 12."""
    file = tmp_path / "s.toml"
    head = 'model = "tiny"\ndesign = "leroux2025"\nobjectives = ["latency"]\nsampler = "each"\n'
    file.write_text(f'{head}[parameters]\ntoken_period = ["none", 1e-6]\n')
    sweep = load_sweep(file)
    own, stated = sweep.plan()
    assert (own, stated) == ({"token_period": None}, {"token_period": 1e-6})
    _, chip, _ = Bench(sweep).measure(0, own)
    assert chip == load_design("leroux2025").replace(layers=6)
    result = measured(sweep, tmp_path)
    assert result.reference == 0
    assert plain(result.parameters[0].own) == "none"


def test_numbers_that_go_together_are_checked_together(write: Callable[..., Path]) -> None:
    share, length = "mismatch.smooth_share = [0.0, 0.5]\n", "mismatch.correlation_length = [0.0, 4.0]\n"
    fails = [bool(reason) for reason in load_sweep(write(share + length, COSTS)).possible()]
    assert fails == [False, True, True, False]
    both = "mismatch.smooth_share = 0.5, mismatch.correlation_length = 4.0"
    sweep = load_sweep(write("tile = [8]", f'{COSTS}design = {{ name = "leroux2025", window = 64, {both} }}'))
    assert (sweep.design.mismatch.smooth_share, sweep.design.mismatch.correlation_length) == (0.5, 4.0)
    changed = "window, mismatch.smooth_share, mismatch.correlation_length"
    assert sweep.design.name == f"leroux2025 (changed: {changed})"
    same = f'{COSTS}design = {{ name = "leroux2025", window = 1024, cell.kind = "linear" }}'
    assert load_sweep(write("tile = [8]", same)).design.name == "leroux2025"
    with pytest.raises(InputError, match="state both smooth_share and correlation_length"):
        load_sweep(write(share.replace("0.0, ", ""), COSTS))


def test_what_a_point_states_comes_before_what_a_device_brings(tmp_path: Path) -> None:
    retention = '{ value = 2e-3, unit = "s", source = "F", range = [1e-3, 3e-3] }'
    noise = '{ value = 0.01, unit = "1", source = "F", range = [0.01, 0.01] }'
    device = COMPRESSIVE.read_text() + f'[retention]\nlaw = "exponential"\nretention_time = {retention}\n'
    device += f"[noise]\nread_std = {noise}\n"
    path = tmp_path / "device.toml"
    path.write_text(device)
    kind = {"cell.kind": str(path)}
    own = applied(load_design("leroux2025"), kind)
    assert (own.cell.name, own.retention_time, own.noise.cell_std) == ("tabulated", 2e-3, 0.01)
    chip = applied(load_design("leroux2025"), kind | {"retention_time": 1e-3, "noise.score_std": 0.1})
    assert (chip.cell, chip.retention_time) == (own.cell, 1e-3)
    assert (chip.noise.cell_std, chip.noise.score_std) == (0.01, 0.1)


@pytest.mark.slow
def test_a_grid_with_more_lines_than_can_be_told_apart_is_scattered(tmp_path: Path) -> None:
    """The published grid of 2^5 points."""
    published = read(RESULTS / "relaxed.json", SweepResult)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of axes that have no room
        drawn = save_all(FIGURES, published, tmp_path)
    assert {path.stem for path in drawn} == {"scatter", "pareto", "parallel"}


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (HEAD.replace("]", ', "energy"]'), "the mean context of at most 2 blocks of blocks-64"),
        (HEAD.replace("]", ', "energy"]').replace("128", "64"), "the mean context of 1 block of blocks-64"),
        (COSTS, "a full ring"),
        (HEAD.replace("perplexity", "energy") + "context = 32\n", "a context of 32 tokens"),
    ],
)
def test_energies_state_their_context(
    head: str, said: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    result = measured(load_sweep(write("storage_levels = [4]", head)), tmp_path)
    assert f"Costs: of one token with {said}, without refresh" in reports.caption(result)


def test_an_interval_of_few_blocks_is_given_by_its_ends() -> None:
    result = read(RESULTS / "levels.json", SweepResult)
    assert "±, or" not in reports.caption(result)
    first, *others = result.points
    values = {**first.values, "perplexity": Value(131.56, "1", "simulated")}
    wide = replace(first, values=values, intervals={"perplexity": Values((7.1, 2431.0), "1", "simulated")})
    result = replace(result, points=(wide, *others))
    assert "131.56, 7.10 to 2431" in [cell for row in reports.rows(result).rows for cell in row]
    assert "±, or low to high: 95 %" in reports.caption(result)
