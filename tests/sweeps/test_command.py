"""`gaincell sweep` as a user types it: what it prints, and bad input refused before any work."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.sweep_files import COSTS, measured
from tests.tiers import slow

from gaincell.chips.design_file import load_design
from gaincell.cli import main
from gaincell.cli.sweep import _claim, _report
from gaincell.errors import DesignError, GaincellError, InputError, RunError
from gaincell.results import read
from gaincell.results.provenance import code
from gaincell.results.sweep import PointResult, SweepResult
from gaincell.sweeps.file import FILE, load_sweep
from gaincell.sweeps.space import ALIASES, known, parse_parameters
from gaincell.sweeps.study import enqueue, open_storage, open_study, survey
from gaincell.sweeps.work import work

pytest.importorskip("optuna")
ROOT = Path(__file__).parents[2]

BAD = {
    "tiel = [8]": "unknown parameter 'tiel' (did you mean 'tile'?)",
    "mismatch.gain = [0.1]": "unknown parameter 'mismatch.gain' (did you mean 'mismatch.gain_std'?)",
    "tile = []": "empty range",
    "retention_time = { low = 1e-4, high = 1e-1, step = 1e-300 }": "give a larger step",
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
    "tau = [1e-3]": "did you mean retention_time?",
    "noise = [0.1]": "did you mean noise.cell_std",
    "mismatch = { low = 0.0, high = 0.1 }": "did you mean mismatch.current_offset_std",
    "layers = [2]": "the number of layers is the model's",
    "key_levels = [4]": "did you mean storage_levels?); allowed: tile, window",
    "saturation = [1.0]": "did you mean score_saturation_per_row",
    "noise.pulse_jitter = { low = 0.0, high = 1e-9, log = true }": "give low above 0",
    "tile = { low = 8, high = 32, step = 8, log = true }": "exclude each other",
    "learning_rate = [1e-4, 1e-3]": "learning_rate is of a fine-tuning",
    "fine_tune = [0]\nscale_learning_rate = [1e-4]": "scale_learning_rate is of a fine-tuning",
    "adapt = [false]\ncalibration = [64, 128]": "calibration is of an adaptation",
    "calibration = [64, 96]": "whole blocks of blocks-64; give multiples of 64",
    "calibration = { low = 64, high = 512, step = 32 }": "give multiples of 64",
}
LEARNED = 'objectives = ["perplexity"]\nsampler = "tpe"\npoints = 4\n'
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
    'objectives = ["perplexity"]\nprotocol = "blocks-128"': "run has a context of 64 positions",
    'objectives = ["perplexity", "area"]\ntechnology = "29nm"': "28nm",
    'objectives = ["perplexity"]\ntechnology = "28nm"': "technology does not change perplexity; leave it out",
    'objectives = ["perplexity"]\ncontext = 32': "context does not change perplexity",
    'objectives = ["perplexity"]\nwithin = 0.1': "within does not change perplexity",
    'objectives = ["perplexity"]\npopulation = 8': "population is of the sampler nsga2",
    'objectives = ["energy"]\nchips = 8': "chips does not change energy",
    'objectives = ["energy"]\nadapt = "chip"': "give chips",
    'objectives = ["area"]\nadapt = "chip"': "adapt does not change area",
    'objectives = ["area", "latency"]\ntext = "nothere"': "text does not change area or latency",
    'objectives = ["perplexity"]\ncalibration = 96': "calibration = 96, and the adaptation reads",
    'objectives = ["perplexity"]\nlimit = -3': "limit = -3",
    'objectives = ["perplexity"]\nlimit = 60': "less than one block",
    'objectives = ["energy"]\nlimit = 256': "no more than 2 blocks of blocks-64; give 128 or less",
    'objectives = ["perplexity"]\nseed = 1': "seed is of the samplers random, tpe or nsga2",
    f"{LEARNED}start = [{{ tile = 8 }}, {{ tile = 8 }}]": "start: entry 2 is",
    f"{LEARNED}start = [{{ tile = 16 }}]": "start: entry 1 is the unchanged design",
    'objectives = ["perplexity"]\nloss = "distillation"': "of a fine-tuning",
    'objectives = ["perplexity"]\nlearning_rate = 1e-3': "of a fine-tuning",
    'objectives = ["perplexity"]\nadapt = false\ncalibration = 64': "calibration is of an adaptation",
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


WRONG = ("3", "-1.5", "true", '""', '"what"', "[]", "[3]", "[[1]]", "{ a = 1 }", "nan", "1979-05-27")


@pytest.mark.parametrize("key", FILE.model_fields)
def test_wrong_types_are_errors_of_input(key: str, write: Callable[..., Path]) -> None:
    """Of every key of the file."""
    refused = 0
    for wrong in WRONG:
        lines = [x for x in write("tile = [8, 16]").read_text().splitlines() if not x.startswith(f"{key} =")]
        path = write("tile = [8]")
        if key == "parameters":
            lines = [x for x in lines if not x.startswith(("[parameters]", "tile"))]
        path.write_text("\n".join([f"{key} = {wrong}", *lines]))
        try:
            load_sweep(path)
        except GaincellError:
            refused += 1
    assert refused >= len(WRONG) - 4


KINDS = ("tile", "cell.kind", "retention_time", "readout", "score_ceiling", "cell.c00", "noise.seed", "adapt",
         "fine_tune", "mismatch.gain_std")  # fmt: skip


@pytest.mark.parametrize("kind", [kind if kind == "cell.kind" else slow(kind) for kind in KINDS])
def test_wrong_values_of_parameters_are_errors_of_input(kind: str, write: Callable[..., Path]) -> None:
    shapes = ("{}", "[{}]", "{{ low = {}, high = 3 }}", "{{ low = 1, high = 3, step = {} }}",
              "{{ low = 1, high = 3, log = {} }}")  # fmt: skip
    for shape, wrong in itertools.product(shapes, WRONG):
        with contextlib.suppress(GaincellError):
            load_sweep(write(f"{kind} = {shape.format(wrong)}"))


def test_every_name_is_in_the_documentation_and_every_alias_is_one() -> None:
    page = (ROOT / "docs" / "sweeps.md").read_text()
    assert [name for name in known() if f"`{name}`" not in page] == []
    assert {name for names in ALIASES.values() for name in names} <= known().keys()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "sweeps").glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_sweeps_are_acceptable(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.sampler in ("nsga2",) or not any(sweep.possible())


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "sweeps").glob("*.toml")), ids=lambda p: p.stem)
def test_published_results_are_of_the_shipped_sweeps(path: Path) -> None:
    """Of the same file, model, text and design, and of all its points."""
    found = read(ROOT / "docs" / "results" / "sweeps" / f"{path.stem}.json", SweepResult)
    sweep = load_sweep(path)
    assert found.study == sweep.study
    assert found.counts.complete + found.counts.failed == sweep.points == len(found.points)


def test_a_sweep_whose_points_all_fail_says_why(write: Callable[..., Path], tmp_path: Path) -> None:
    def fail(number: int, values: Any) -> Any:
        raise ValueError(f"no point {number}")

    sweep, storage = load_sweep(write("tile = [8, 16]")), open_storage(str(tmp_path / "points.journal"))
    study = open_study(sweep, storage)
    enqueue(study, sweep.plan(), range(sweep.points))
    work(sweep, storage, fail)
    with pytest.raises(RunError, match="all points failed: ValueError: no point 0"):
        _report(sweep, survey(study, sweep.points), tmp_path, None)
    assert [point.state for point in read(tmp_path / "result.json", SweepResult).points] == ["failed"] * 2


def test_points_of_other_code_are_kept_and_said(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep, known = load_sweep(write("tile = [8, 16]")), tmp_path / "sweep.json"
    for _ in range(2):
        _claim(tmp_path, sweep, None)
        assert capsys.readouterr().err == ""
    known.write_text(known.read_text().replace(code(), "0.0.1"))
    for _ in range(2):
        _claim(tmp_path, sweep, None)
        assert re.search(r"was begun with gaincell 0\.0\.1.* Remove it to", capsys.readouterr().err)
    _claim(tmp_path, sweep, "shared.journal")
    assert "Give another --storage to measure them all" in capsys.readouterr().err


def test_points_that_are_measured_elsewhere_have_not_failed(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = load_sweep(write("tile = [8, 16]"))
    found = survey(open_study(sweep, open_storage(str(tmp_path / "points.journal"))), sweep.points)
    found.elsewhere[0] = None
    _report(sweep, found, tmp_path, None)
    assert "1 points are in progress on other machines" in capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", *map(str, arguments)])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.slow
def test_storages_folders_and_models_that_are_not_there(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write("tile = [8, 16]"), tmp_path / "out"
    memory = ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true",
              "sqlite+pysqlite:///", "sqlite:///file::memory:?uri=true")  # fmt: skip
    for storage in memory:
        for also in ((), ("--dry-run",)):
            assert "in memory" in refused(capsys, file, "--out", out, "--storage", storage, *also)
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


IMPOSSIBLE = "tile = [8, 16, 24]\nstorage_levels = [4, 8]", COSTS


def test_a_dry_run_says_what_would_be_measured(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(write(*IMPOSSIBLE)), "--dry-run"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "6 points" in printed
    assert "2 points will fail" in printed


@pytest.mark.usefixtures("blank_figures")
def test_models_that_are_not_kept_are_said(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "area and latency follow from sizes alone" in refused(capsys, write(*IMPOSSIBLE), "--keep-models")
    sweep = load_sweep(write("tile = [8, 16, 32]", COSTS))
    measured(sweep, tmp_path)
    (tmp_path / "points" / "0001" / "hardware.safetensors").touch()
    found = survey(open_study(sweep, open_storage(str(tmp_path / "points.journal"))), sweep.points)
    _report(sweep, found, tmp_path, None)
    assert "have no model" not in capsys.readouterr().out
    _report(sweep, found, tmp_path, None, keep_models=True)
    assert "2 measured points have no model" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        main(["sweep", "--help"])
    shown = " ".join(re.sub("[│|]", " ", capsys.readouterr().out).split())
    assert "Keep the model of every point that is measured" in shown  # a repeat has no directory


@pytest.mark.slow
def test_the_command(write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(*IMPOSSIBLE)
    out, json_file = tmp_path / "out", tmp_path / "r.json"
    with pytest.raises(SystemExit) as ended:
        main(["sweep", str(file), "--out", str(out), "--json", str(json_file)])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "4 of 6 points" in printed
    assert "failed: tile = 24" in printed
    result = read(json_file, SweepResult)
    assert result == read(out / "result.json", SweepResult)
    assert [p.state for p in result.points] == ["complete"] * 4 + ["failed"] * 2
    assert read(out, SweepResult) == result
    made_by = [read(path, PointResult).provenance.command for path in out.glob("points/*/run.json")]
    assert len(made_by) == 4
    for command in made_by:
        assert command.startswith("gaincell sweep ")
        assert "--worker" not in command
        assert "--parent" not in command
    assert {path.stem for path in out.glob("figures/*.png")} == {"curves", "pareto", "parallel"}
    assert str(tmp_path) not in json_file.read_text()


def test_without_optuna_the_extra_is_named(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'gaincell[sweep]'" in refused(capsys, write("tile = [8, 16]"))


def test_a_dry_run_looks_at_the_storage_and_makes_none(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write("tile = [8, 16]")
    for storage in (tmp_path / "nowhere" / "j", tmp_path, "sqlite:////nowhere/s.db"):
        assert "cannot be reached" in refused(capsys, file, "--dry-run", "--storage", storage)
    before = set(tmp_path.rglob("*"))
    for new in (tmp_path / "new.journal", f"sqlite:///{tmp_path}/new.db"):
        with pytest.raises(SystemExit, match="0"):
            main(["sweep", str(file), "--dry-run", "--storage", str(new)])
    assert set(tmp_path.rglob("*")) == before


def test_damaged_files_are_named(
    write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, journal, out = write("tile = [8, 16]"), tmp_path / "j", tmp_path / "out"
    journal.write_bytes(b'{"op_code": 0, "study_name": "a"}\n{"op_code": 0, "st\n{"op_code": 1}\n')
    assert "damaged: line 2" in refused(capsys, file, "--storage", journal)
    out.mkdir()
    for content in ("{}", "[", "3"):
        (out / "sweep.json").write_text(content)
        assert "is damaged; remove" in refused(capsys, file, "--out", out)


def test_a_range_ends_where_it_says() -> None:
    """Though 0.3 * 3 is below 0.9 in binary; and ranges that differ in a late digit are told apart."""
    found = {}
    for low, high in ((0.0, 0.9), (0.0, 0.90000001)):
        raw = {"mismatch": {"current_offset_std": {"low": low, "high": high, "step": 0.3}}}
        (found[high],) = parse_parameters(raw, load_design("leroux2025"), "here")
    assert found[0.9].high == 0.9
    assert found[0.9].holds(0.9)
    assert found[0.9].describe() == "0 to 0.9 in steps of 0.3"
    chips = [{"mismatch": {"chip": {"low": n, "high": n + 3}}} for n in (1000000, 1000001)]
    said = [parse_parameters(raw, load_design("leroux2025"), "here")[0].describe() for raw in chips]
    assert said[0] != said[1]
