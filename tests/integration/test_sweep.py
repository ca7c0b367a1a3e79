"""Sweeps: points measured once whatever is killed, failures recorded, bad input refused before any work."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.micro import micro_design, write_micro

from gaincell.adaptation import adapt, collect_statistics
from gaincell.cli import main
from gaincell.errors import DesignError, GaincellError, InputError, RunError
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attach, attached_layers, set_design
from gaincell.integrations.hf.checkpoint import is_run, save
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.sources import load_base
from gaincell.reports import results
from gaincell.reports import sweep as reports
from gaincell.reports.sweep_figures import draw_all
from gaincell.sweeps.point import Bench, measure_into
from gaincell.sweeps.result import assemble
from gaincell.sweeps.settings import Sweep, load_sweep
from gaincell.sweeps.space import applied
from gaincell.sweeps.study import enqueue, open_storage, open_study, survey
from gaincell.sweeps.work import oversee, work

pytest.importorskip("optuna")
FORK = multiprocessing.get_context("fork") if "fork" in multiprocessing.get_all_start_methods() else None
ROOT = Path(__file__).parents[2]
needs_fork = pytest.mark.skipif(FORK is None, reason="processes cannot fork")
HEAD = """objectives = ["perplexity"]
limit = 128
protocol = "blocks-64"
calibration = 64
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands without --out write below the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def micro(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A RUN and a text."""
    folder = tmp_path_factory.mktemp("micro")
    model, text = write_micro(folder)
    base = load_base(model)
    save(attach(base.model, micro_design()), folder / "run", base=load_base(model))
    return folder / "run", text


@pytest.fixture
def write(micro: tuple[Path, Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes SWEEP.toml: its parameters, and lines to go before them."""

    def written(parameters: str, head: str = HEAD, name: str = "micro") -> Path:
        path = tmp_path / f"{name}.toml"
        common = f'model = "{micro[0]}"\ntext = "{micro[1]}"\n'
        path.write_text(f"{common}{head}\n[parameters]\n{parameters}\n")
        return path

    return written


class Forked:
    """A worker that has everything imported already."""

    def __init__(self, job: Callable[[], object]) -> None:
        assert FORK is not None
        self.process = FORK.Process(target=job)
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self) -> int:
        self.process.join()
        return self.process.exitcode or 0


def slow(log: Path, seconds: float = 0.15) -> Callable[[int, Any], tuple[tuple[float, ...], dict[str, Any]]]:
    """A measurement that leaves a line when it begins and one when it ends."""

    def measure(number: int, values: Any) -> tuple[tuple[float, ...], dict[str, Any]]:
        for word in ("begin", "end"):
            with log.open("a") as file:
                file.write(f"{word} {number} {os.getpid()}\n")
            time.sleep(seconds if word == "begin" else 0)
        return (float(number),), {"point": number}

    return measure


def lines(log: Path, word: str) -> list[tuple[int, int]]:
    """Number and process of every point that began or ended."""
    rows = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(int(row[1]), int(row[2])) for row in rows if len(row) == 3 and row[0] == word]


def command(sweep: Sweep, journal: Path, log: Path, workers: int, seconds: float = 0.15) -> None:
    """What `gaincell sweep` does, with forked workers and a slow measurement."""
    parent = os.getpid()

    def launch(number: int) -> Forked:
        return Forked(lambda: work(sweep, open_storage(str(journal)), slow(log, seconds), number, parent))

    oversee(sweep, open_storage(str(journal)), launch, workers, lambda n: log)


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@needs_fork
def test_what_is_killed_goes_on_and_repeats_no_finished_point(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    assert FORK is not None
    sweep = load_sweep(write("tile = [8, 16, 32]\nstorage_levels = [4, 8, 16, 32]"))
    journal, log = tmp_path / "points.journal", tmp_path / "log"
    first = FORK.Process(target=command, args=(sweep, journal, log, 2))
    first.start()
    until(lambda: len(lines(log, "begin")) >= 3)
    os.kill(lines(log, "begin")[-1][1], signal.SIGKILL)  # a worker; another one takes its place
    until(lambda: len(lines(log, "end")) >= 5)
    first.kill()  # the one that started them; they end what they are at
    first.join()
    until(lambda: not survey(open_study(sweep, open_storage(str(journal))), 12).here)
    time.sleep(0.4)
    done = dict(lines(log, "end"))
    assert 5 <= len(done) < 12
    command(sweep, journal, log, 2)
    study = open_study(sweep, open_storage(str(journal)))
    found = survey(study, 12)
    assert sorted(found.complete) == list(range(12))
    assert not [*found.failed, *found.lost, *found.waiting, *found.here]
    ended = Counter(number for number, _ in lines(log, "end"))
    assert set(ended.values()) == {1}
    again = [number for number, count in Counter(n for n, _ in lines(log, "begin")).items() if count > 1]
    assert len(again) <= 2
    assert all(count == 1 for count in Counter(t.user_attrs["point"] for t in study.trials
                                               if t.state.name == "COMPLETE").values())  # fmt: skip
    before = len(lines(log, "begin"))
    command(sweep, journal, log, 2)  # nothing is left to do
    assert len(lines(log, "begin")) == before


@needs_fork
def test_two_commands_share_a_journal(write: Callable[..., Path], tmp_path: Path) -> None:
    assert FORK is not None
    sweep = load_sweep(write("tile = [8, 16]\nstorage_levels = [4, 8, 16, 32, 64]"))
    journal, log = tmp_path / "shared.journal", tmp_path / "log"
    open_study(sweep, open_storage(str(journal)))
    both = [FORK.Process(target=command, args=(sweep, journal, log, 1)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    ended = lines(log, "end")
    assert sorted(number for number, _ in ended) == list(range(10))
    assert len({pid for _, pid in ended}) >= 2
    assert len(survey(open_study(sweep, open_storage(str(journal))), 10).complete) == 10


@needs_fork
def test_a_point_that_kills_its_process_fails_in_the_end(write: Callable[..., Path], tmp_path: Path) -> None:
    sweep = load_sweep(write("tile = [8, 16]"))
    journal, parent = str(tmp_path / "j"), os.getpid()

    def deadly(number: int, values: Any) -> tuple[tuple[float, ...], dict[str, Any]]:
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return (1.0,), {}

    def launch(number: int) -> Forked:
        return Forked(lambda: work(sweep, open_storage(journal), deadly, number, parent))

    found = oversee(sweep, open_storage(journal), launch, 1, lambda n: tmp_path / "log")
    assert list(found.complete) == [0]
    assert "process died 3 times" in found.failed[1].user_attrs["reason"]


def test_workers_that_cannot_begin_are_an_error(write: Callable[..., Path], tmp_path: Path) -> None:
    sweep = load_sweep(write("tile = [8, 16]"))
    log = tmp_path / "log"
    log.write_text("gaincell: error: no such model\n")

    def launch(number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["false"])

    with pytest.raises(RunError, match="without taking a point: gaincell: error: no such model"):
        oversee(sweep, open_storage(str(tmp_path / "j")), launch, 2, lambda n: log)


def measured(sweep: Sweep, place: Path) -> dict[str, Any]:
    """The result of a sweep measured in this process."""
    storage = open_storage(str(place / "points.journal"))
    study = open_study(sweep, storage)
    enqueue(study, sweep.plan(), range(sweep.points))
    work(sweep, storage, measure_into(Bench(sweep), place / "points", ["gaincell", "sweep"]))
    return assemble(sweep, survey(study, sweep.points), ["gaincell", "sweep"])


def test_points_are_what_the_parts_give(
    write: Callable[..., Path], micro: tuple[Path, Path], tmp_path: Path
) -> None:
    head = HEAD.replace('["perplexity"]', '["perplexity", "energy", "latency", "area"]')
    sweep = load_sweep(write('storage_levels = [4, 8]\ntile = [16, 24]\ncell.kind = ["linear"]', head))
    result = measured(sweep, tmp_path)
    points = {json.dumps(p["parameters"]): p for p in result["points"]}
    assert [p["state"] for p in result["points"]].count("failed") == 2
    assert "tile = 24 does not divide window" in reports.failures(result)[0]
    model = load_model(micro[0]).model
    tokens = Bench(sweep).evaluation
    bench = Bench(sweep)
    calibration = bench._blocks({})
    target = collect_statistics(model, [calibration])
    set_design(model, attached_layers(model)[0].design.replace(storage_levels=4, cell="linear"))
    adapt(model, [calibration], target)
    expected = perplexity(model, tokens, "blocks-64")
    point = next(p for key, p in points.items() if p["state"] == "complete" and
                 reports.setting(p, "storage_levels") == 4)  # fmt: skip
    assert results.number(point["values"]["perplexity"]) == pytest.approx(expected.perplexity, rel=1e-6)
    run = results.read(tmp_path / "points" / "0000")
    assert run["values"].keys() == {"perplexity", "energy", "latency", "area"}
    assert run["design"]["cell"] == "linear"
    assert results.numbers(run["activity"]["heads"]["query_pulse"])
    assert not is_run(tmp_path / "points" / "0000")  # without weights
    assert str(tmp_path) not in (tmp_path / "points" / "0000" / "run.json").read_text()


def test_each_parameter_alone_and_its_figures(write: Callable[..., Path], tmp_path: Path) -> None:
    head = HEAD.replace('["perplexity"]', '["perplexity", "energy"]') + 'sampler = "each"\n'
    sweep = load_sweep(write('storage_levels = [4, 8, "none"]\nretention_time = [1e-5, "none"]', head))
    assert [p["storage_levels"] for p in sweep.plan()] == [8, 4, None, 8, 8]
    result = measured(sweep, tmp_path)
    first, *others = result["points"]
    assert result["reference"] == first["point"]
    assert "ratio" not in first
    for point in others:
        ratio = results.number(point["values"]["perplexity"]) / results.number(first["values"]["perplexity"])
        assert results.number(point["ratio"]) == pytest.approx(ratio, rel=1e-5)
        low, high = results.numbers(point["ratio_interval"])
        assert low < ratio < high
    drawn = draw_all(json.loads(json.dumps(result)), tmp_path / "figures")
    assert {path.stem for path in drawn} == {"curves", "tornado", "pareto"}
    assert "perplexity" in reports.answers(result)[0]
    assert reports.changes_markdown(result).count("retention_time") == 2
    text = reports.sweep_markdown(result)
    assert "| storage_levels = none |" in text
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 7


def test_the_front_holds_what_nothing_is_better_than() -> None:
    values = {0: (1.0, 5.0), 1: (2.0, 4.0), 2: (2.0, 6.0), 3: (3.0, 9.0)}
    result = {
        "objectives": [
            {"name": "energy", "direction": "minimise"},
            {"name": "yield", "direction": "maximise"},
        ],
        "points": [
            {"state": "complete", "n": n, "values": {"energy": {"value": a}, "yield": {"value": b}}}
            for n, (a, b) in values.items()
        ],
    }
    assert [p["n"] for p in reports.front(result)] == [0, 2, 3]


def test_chips_yield_and_an_adaptation_of_every_chip(write: Callable[..., Path], tmp_path: Path) -> None:
    head = HEAD.replace('["perplexity"]', '["perplexity", "yield"]') + "chips = 2\nwithin = 0.5\n"
    sweep = load_sweep(write('adapt = [true, false, "chip"]\nmismatch.current_offset_std = [0.0, 0.2]', head))
    result = measured(sweep, tmp_path)
    found = {tuple(reports.setting(p, n) for n in ("adapt", "mismatch.current_offset_std")): p for p in
             result["points"]}  # fmt: skip
    assert results.number(found["true", 0.0]["values"]["yield"]) == 1
    spread = {
        how: results.numbers(found[how, 0.2]["chips"]["perplexity"]) for how in ("true", "false", "chip")
    }
    assert all(len(set(chips)) == 2 for chips in spread.values())
    assert spread["true"] != spread["chip"]
    assert {path.stem for path in draw_all(result, tmp_path / "f")} == {"curves", "pareto", "parallel"}
    equal = results.numbers(found["true", 0.0]["chips"]["perplexity"])
    assert equal == [results.number(found["true", 0.0]["chips"]["nominal"])] * 2


def test_fine_tuning_starts_anew_at_every_point(write: Callable[..., Path]) -> None:
    sweep = load_sweep(write("fine_tune = [0, 1]\nlearning_rate = [1e-3]"))
    bench = Bench(sweep)
    plain = bench.measure({"fine_tune": 0, "learning_rate": 1e-3}).values["perplexity"]
    tuned = bench.measure({"fine_tune": 1, "learning_rate": 1e-3}).values["perplexity"]
    assert tuned != plain
    assert bench.measure({"fine_tune": 0, "learning_rate": 1e-3}).values["perplexity"] == plain


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_samplers_give_exactly_the_points_asked_for(
    sampler: str, write: Callable[..., Path], tmp_path: Path
) -> None:
    head = HEAD + f'sampler = "{sampler}"\npoints = 9\nseed = 3\n'
    sweep = load_sweep(write("tile = [8, 16]\nretention_time = { low = 1e-5, high = 1.0, log = true }", head))
    for storage in (open_storage(str(tmp_path / "j")), open_storage(f"sqlite:///{tmp_path}/s.db")):
        study = open_study(sweep, storage)
        enqueue(study, sweep.plan(), range(9))
        assert work(sweep, storage, lambda n, values: ((values["retention_time"],), {"n": n})) == 9
        found = survey(study, 9)
        assert len(found.complete) == 9
        times = [trial.params["retention_time"] for trial in found.complete.values()]
        assert len(set(times)) >= (5 if sampler == "nsga2" else 8)  # children may repeat their parents
        measured_at = [trial.user_attrs["entry"]["n"] for trial in found.complete.values()]
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
    sweep = load_sweep(write("window = [64, 128]", HEAD.replace('"perplexity"', '"area", "latency"')))
    result = measured(sweep, tmp_path)
    areas = [results.number(point["values"]["area"]) for point in result["points"]]
    assert areas[1] > 1.5 * areas[0]


def test_values_enter_a_design() -> None:
    chip = applied(
        micro_design(),
        {"tile": 32, "mismatch.gain_std": 0.1, "cell.c30": 40.0, "adapt": True, "retention_time": None},
    )
    assert (chip.tile, chip.mismatch.gain_std, chip.retention_time) == (32, 0.1, None)
    assert chip.cell != micro_design().cell
    assert applied(micro_design(), {"cell.kind": "linear"}).cell.name == "linear"


BAD = {
    "tiel = [8]": "unknown parameter 'tiel' (did you mean 'tile'?)",
    "mismatch.gain = [0.1]": "unknown parameter 'mismatch.gain' (did you mean 'mismatch.gain_std'?)",
    "tile = []": "empty range",
    "tile = { low = 32, high = 8 }": "32 to 8 is an empty range",
    "retention_time = { low = 1e-3, hihg = 1.0 }": "unknown key 'hihg' (did you mean 'high'?)",
    "retention_time = { low = 1e-3 }": "lacks 'high'",
    "retention_time = { low = 1e-3, high = 1e-1 }": "a grid cannot have",
    "tile = [8.5]": "a whole number",
    "tile = [0]": "out of range",
    "tile = [8, 8]": "holds a value twice",
    "tile = 8": "a list of values",
    'cell.kind = ["cubic"]': "no cell 'cubic'",
    "mismatch.current_offset_std = [2.0]": "out of range",
    'readout = ["countre"]': "did you mean 'counter'",
    "adapt = [1]": "not allowed",
    'adapt = ["chip"]': "give chips",
    "tile = [24]": "no point is possible",
    "": "no parameter",
    "noise.pulse_jitter = { low = 0.0, high = 1e-9, log = true }": "give low above 0",
    "tile = { low = 8, high = 32, step = 8, log = true }": "exclude each other",
}
BAD_HEADS = {
    'objectives = ["perplexty"]': "unknown objective 'perplexty' (did you mean 'perplexity'?)",
    'objectives = ["energy", "energy"]': "conflicting objectives: energy stands there twice",
    'objectives = ["maximise perplexity"]': "'maximise perplexity': perplexity is minimised",
    'objectives = ["yield"]': "yield needs chips",
    'objectives = ["perplexity"]\nchips = 4': "all chips of 'leroux2025' are alike",
    'objectives = ["perplexity"]\nsampler = "tpee"': "did you mean 'tpe'",
    'objectives = ["perplexity"]\nsampler = "tpe"': "needs points",
    'objectives = ["perplexity"]\npoints = 7': "the grid has 2",
    'objectives = ["perplexity"]\nprotocol = "block-64"': "unknown protocol",
    'objectives = ["perplexity"]\ntechnology = "29nm"': "28nm",
    'objectives = ["perplexity"]\nlimit = -3': "limit = -3",
    'objective = ["perplexity"]': "did you mean 'objectives'",
    'objectives = ["perplexity"]\ndesign = "leroux"': "no design 'leroux'",
    'objectives = ["perplexity"]\ndesign = { name = "leroux2025", tiel = 8 }': "did you mean 'tile'",
}


@pytest.mark.parametrize("parameters", BAD)
def test_bad_parameters(parameters: str, write: Callable[..., Path]) -> None:
    with pytest.raises(GaincellError) as caught:
        load_sweep(write(parameters))
    assert BAD[parameters] in str(caught.value)
    assert isinstance(caught.value, (InputError, DesignError))


@pytest.mark.parametrize("head", BAD_HEADS)
def test_bad_settings(head: str, write: Callable[..., Path]) -> None:
    with pytest.raises(InputError) as caught:
        load_sweep(write("tile = [8, 16]", head))
    assert BAD_HEADS[head] in str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "sweeps").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_sweeps_are_acceptable(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.sampler in ("nsga2",) or not any(sweep.possible())


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *map(str, arguments)])
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_storages_folders_and_models_that_are_not_there(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write("tile = [8, 16]"), tmp_path / "out"
    for storage in (tmp_path / "nowhere" / "j", "sqlite:////nowhere/s.db", "nodb://user:secret@host/db"):
        line = refused(capsys, file, "--out", out, "--storage", storage)
        assert "cannot be reached" in line
        assert "secret" not in line
    assert not out.exists()  # before any work
    assert "cannot be read" in refused(capsys, tmp_path / "none.toml")
    out.mkdir()
    (out / "sweep.json").write_text('{"study": "other-0"}')
    assert "holds another sweep" in refused(capsys, file, "--out", out)
    text = file.read_text()
    file.write_text(text.replace('model = "', 'model = "/no'))
    assert "neither a RUN nor a model" in refused(capsys, file)


def test_the_command(write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write("tile = [8, 16, 24]\nstorage_levels = [4, 8]",
                 HEAD.replace('"perplexity"', '"area", "latency"'))  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(file), "--dry-run"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "6 points" in printed
    assert "2 points will fail" in printed
    out, json_file = tmp_path / "out", tmp_path / "r.json"
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(file), "--out", str(out), "--json", str(json_file), "--figures"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "4 of 6 points" in printed
    assert "failed: tile = 24" in printed
    result = results.read(json_file)
    assert result == results.read(out / "result.json")
    assert [p["state"] for p in result["points"]] == ["complete"] * 4 + ["failed"] * 2
    assert len(list(out.glob("points/*/run.json"))) == 4
    assert {path.stem for path in out.glob("figures/*.png")} == {"curves", "pareto", "parallel"}
    assert str(tmp_path) not in json_file.read_text()


def test_without_optuna_the_extra_is_named(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'gaincell[sweep]'" in refused(capsys, write("tile = [8, 16]"))


def test_half_a_line_of_a_journal_is_cut_off(tmp_path: Path) -> None:
    journal = tmp_path / "j"
    open_storage(str(journal))
    journal.write_bytes(b'{"op_code":0,"worker_id":"a","study_name":"s","directions":[1]}\n{"op_co')
    storage = open_storage(str(journal))
    assert journal.read_bytes().endswith(b"}\n")
    assert [study.study_name for study in storage.get_all_studies()] == ["s"]


def gaincell(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "gaincell", "sweep", *map(str, arguments)],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


@pytest.mark.slow
def test_64_points_on_2_workers_survive_kills(write: Callable[..., Path], tmp_path: Path) -> None:
    """The command as users type it: a worker killed, then the main process, then the same command."""
    file = write("tile = [8, 16, 32, 64]\nstorage_levels = [4, 8, 16, 32]\nquery_levels = [4, 8, 16, 32]")
    out, sweep = tmp_path / "out", load_sweep(file)
    first = gaincell(file, "--out", out, "--workers", 2)
    points = out / "points"
    until(lambda: len(list(points.glob("*/run.json"))) >= 8, 600)
    study = open_study(sweep, open_storage(str(out / "points.journal")))
    running = [t for t in study.trials if t.state.name == "RUNNING" and "process" in t.user_attrs]
    os.kill(running[0].user_attrs["process"]["pid"], signal.SIGKILL)
    until(lambda: len(list(points.glob("*/run.json"))) >= 20, 600)
    first.kill()
    first.communicate()
    times = {path: path.stat().st_mtime_ns for path in points.glob("*/run.json")}
    done = {t.user_attrs["point"] for t in study.trials if t.state.name == "COMPLETE"}
    second = gaincell(file, "--out", out, "--workers", 2, "--json", tmp_path / "r.json")
    assert second.communicate()[0]
    assert second.returncode == 0
    result = results.read(tmp_path / "r.json")
    assert [results.number(p["point"]) for p in result["points"]] == list(range(64))
    assert {p["state"] for p in result["points"]} == {"complete"}
    again = [path for path, when in times.items() if path.stat().st_mtime_ns != when]
    assert all(int(path.parent.name) not in done for path in again)
    complete = Counter(t.user_attrs["point"] for t in study.trials if t.state.name == "COMPLETE")
    assert set(complete.values()) == {1}


@pytest.mark.slow
def test_two_commands_with_one_journal_and_weights(write: Callable[..., Path], tmp_path: Path) -> None:
    file = write("tile = [8, 16]\nstorage_levels = [4, 8, 16]")
    journal, places = tmp_path / "shared.journal", [tmp_path / "here", tmp_path / "there"]
    both = [gaincell(file, "--out", place, "--storage", journal, "--weights") for place in places]
    assert [(process.communicate()[0] != b"", process.returncode) for process in both] == [(True, 0)] * 2
    shares = [{path.parent.name for path in place.glob("points/*/run.json")} for place in places]
    assert len(shares[0] | shares[1]) == 6
    assert not shares[0] & shares[1]
    made = next(path.parent for place in places for path in place.glob("points/*/run.json"))
    assert attached_layers(load_model(made).model)[0].design.hash == results.read(made)["design"]["hash"]
