"""Every committed result loads, and is written back as it was."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

from gaincell.errors import RunError
from gaincell.results import content, kind_of, parse, read
from gaincell.results.codec import COLUMNS, Cited, Numbers, from_json, kinds_of, to_json
from gaincell.results.common import KINDS, Number, Result, Value, nothing
from gaincell.results.comparison import ComparisonResult
from gaincell.results.description import DesignResult, DifferencesResult, InstallationResult, ShownDevice
from gaincell.results.device import DeviceResult
from gaincell.results.evaluation import ContextResult, PerplexityResult, RollingResult
from gaincell.results.run import CodesignResult, MappedResult, StagedResult, TrainedResult
from gaincell.results.simulation import GenerationResult, HeadResult, TileResult
from gaincell.results.sweep import PointResult
from gaincell.units import Joule, Second

RESULTS = Path(__file__).parents[2] / "docs" / "results"


ROOT = RESULTS.parents[1]
COMMITTED = [*sorted(RESULTS.rglob("*.json")), *sorted(ROOT.glob("adapters/*/run.json"))]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_committed_result_is_written_back_as_it_was(path: Path) -> None:
    run = content(path)
    found = parse(run, path.name)
    assert found is not None, "its kind is not recognised: see gaincell.results.common.KINDS"
    assert to_json(found) == run


@dataclass(frozen=True)
class Loose:
    x: object


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (1.0, r"result\.x = 1\.0 stands without unit and kind"),
        ([{"y": 2}], r"result\.x\[0\]\.y = 2 stands without unit and kind"),
        ({"value": 1, "unit": "V"}, r"result\.x lacks unit or kind"),
        ({"value": 1, "unit": "", "kind": "simulated"}, r"result\.x lacks unit or kind"),
        (Value(1.0, "", "simulated"), r"result\.x lacks unit or kind"),
        ({"value": {"y": 1}, "unit": "V", "kind": "simulated"}, r"result\.x has a value that is neither"),
        ({"value": 1, "unit": "V", "kind": "cited"}, r"result\.x is cited without a source"),
    ],
)
def test_a_number_without_unit_or_kind_is_never_written(bad: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_json(Loose(bad))


def test_words_and_what_states_its_unit_are_written() -> None:
    stated = {"value": [1, 2.0], "unit": "V", "kind": "cited", "source": "a book"}
    assert to_json(Loose({"y": stated, "z": "a word", "on": True})) == {
        "x": {"y": stated, "z": "a word", "on": True}
    }


def test_a_cited_number_needs_its_source() -> None:
    with pytest.raises(RunError, match="source"):
        Value(1.0, "V", "cited")
    entry = {"adapt": True, "setting": {"value": 1.0, "unit": "V", "kind": "cited"}}
    message = r"^run\.json\.setting: a cited number needs its source; make it again$"
    with pytest.raises(RunError, match=message):
        from_json(Choice, entry, "run.json")


def test_kinds_of_committed_results_are_found() -> None:
    found = {kind_of(json.loads(path.read_text())) for path in COMMITTED}
    others = {PerplexityResult, RollingResult, ContextResult, PointResult, CodesignResult}
    others |= {HeadResult, TileResult, DeviceResult, GenerationResult, ComparisonResult}
    others |= {InstallationResult, DesignResult, DifferencesResult, ShownDevice}
    assert found == set(KINDS.values()) - others


def test_the_kind_follows_from_the_command_that_a_file_states() -> None:
    for path in COMMITTED:
        run = content(path)
        assert kind_of(run | {"command": "another"}) is None, path
        assert kind_of(run | {"stages": [], "points": [], "text": {}}) is kind_of(run), path


@dataclass(frozen=True)
class Point:
    at: Second
    energy: Joule


@dataclass(frozen=True)
class Part:
    kind: Numbers
    source: str
    energy: Joule
    ratio: Annotated[float, "1", "simulated"] | None = None


@dataclass(frozen=True)
class Example:
    points: Annotated[tuple[Point, ...], COLUMNS]
    parts: tuple[Part, ...]
    paper: Annotated[float, "m^2", Cited("a paper")]
    error: Annotated[float | None, "1"]
    yield_: Number = 1.0
    label: str | None = None


EXAMPLE = Example(
    points=(Point(0.0, 1.0), Point(1.0, float("inf"))),
    parts=(Part("cited", "a book", 2.0), Part("measured", "here", 3.0, 4.0)),
    paper=5.0,
    error=None,
)


def test_annotations_say_what_is_written() -> None:
    assert to_json(EXAMPLE) == {
        "points": {
            "at": {"value": [0.0, 1.0], "unit": "s", "kind": "simulated"},
            "energy": {"value": [1.0, "infinity"], "unit": "J", "kind": "simulated"},
        },
        "parts": [
            {"source": "a book", "energy": {"value": 2.0, "unit": "J", "kind": "cited", "source": "a book"}},
            {
                "source": "here",
                "energy": {"value": 3.0, "unit": "J", "kind": "measured"},
                "ratio": {"value": 4.0, "unit": "1", "kind": "simulated"},
            },
        ],
        "paper": {"value": 5.0, "unit": "m^2", "kind": "cited", "source": "a paper"},
        "error": {"value": None, "unit": "1", "kind": "simulated"},
        "yield": {"value": 1.0, "unit": "1", "kind": "simulated"},
    }
    assert from_json(Example, json.loads(json.dumps(to_json(EXAMPLE)))) == EXAMPLE
    assert kinds_of(EXAMPLE) == {"measured", "simulated", "cited"}


@pytest.mark.parametrize(
    ("path", "put", "message"),
    [
        (
            ("parts", 1, "energy", "unit"),
            "mJ",
            r"result\.parts\[1\]\.energy: unit 'mJ' is not accepted; allowed: 'J'",
        ),
        (("parts", 1, "ratio", "kind"), "cited", r"result\.parts\[1\]\.ratio is cited; allowed: simulated"),
        (("parts", 0, "source"), "another", r"its numbers are from 'a book'; allowed: its own source"),
        (("parts", 1, "energy"), 3.0, r"result\.parts\[1\]\.energy lacks unit or kind"),
        (("parts", 1, "energy", "value"), "three", r"energy = 'three'; allowed: a value of type float"),
        (("parts", 1, "energi"), 1, r"unknown key 'energi' \(did you mean 'energy'\?\)"),
        (("parts",), {}, r"result\.parts = \{\}; allowed: a list"),
        (("points", "at", "value"), [0.0], "its columns differ in length"),
        (("yield", "kind"), "measured", "a number is measured; allowed: simulated"),
    ],
)
def test_what_is_no_such_result_is_refused(path: tuple[str | int, ...], put: object, message: str) -> None:
    entry = json.loads(json.dumps(to_json(EXAMPLE)))
    place = entry
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = put
    with pytest.raises(RunError, match=message):
        from_json(Example, entry)


def test_a_perplexity_that_is_not_that_of_its_loss_is_refused(tmp_path: Path) -> None:
    """Of a run, of an evaluation by blocks and of one by documents."""
    run = content(RESULTS / "tiny.json")
    head = {key: run[key] for key in ("schema", "command", "provenance", "design")}
    head["command"] = "evaluate"
    head["model"] = {key: run["model"][key] for key in ("name", "sha256")}
    blocks: Any = {key: copy.deepcopy(run["stages"][2][key]) for key in ("perplexity", "nll", "predictions")}
    units = {key: {"value": n, "unit": key, "kind": "measured"} for key, n in (("words", 9), ("bytes", 50))}
    rolling: Any = {"nll": {"value": 36.0, "unit": "nat", "kind": "simulated"}, **units}
    for key, unit in (("predictions", "tokens"), ("documents", "documents")):
        rolling[key] = {"value": 12, "unit": unit, "kind": "measured"}
    for key, n in (("word", 9), ("token", 12), ("byte", 50)):
        rolling[f"{key}_perplexity"] = {"value": math.exp(36 / n), "unit": "1", "kind": "simulated"}
    rolling["bits_per_byte"] = {"value": 36 / 50 / math.log(2), "unit": "bit/byte", "kind": "simulated"}
    path = tmp_path / "found.json"
    for entry, part, key in (
        (run, run["stages"][2], "perplexity"),
        (head | blocks, blocks, "perplexity"),
        (head | rolling, rolling, "token_perplexity"),
    ):
        path.write_text(json.dumps(entry))
        read(path, Result)
        part[key]["value"] *= 0.9
        path.write_text(json.dumps(entry))
        with pytest.raises(RunError, match=rf"found\.json.*: {key} = .* is not that of nll and predictions"):
            read(path, Result)


def test_what_is_missing_is_named() -> None:
    entry = to_json(EXAMPLE)
    del entry["error"]
    with pytest.raises(RunError, match="result lacks 'error'; make it again"):
        from_json(Example, entry)


def test_one_function_reads_files_and_directories() -> None:
    adapter, mapped = ROOT / "adapters" / "smollm2-135m", RESULTS / "tiny.json"
    run = read(adapter, StagedResult)
    assert isinstance(run, TrainedResult)
    assert content(adapter) == to_json(run)
    assert run.saved_stage is run.stage("longest") is run.stages[-1]
    assert isinstance(read(mapped, StagedResult), MappedResult)
    with pytest.raises(RunError, match=r"tiny\.json is a result of another kind, of `gaincell map`"):
        read(mapped, TrainedResult)


@dataclass(frozen=True)
class Choice:
    adapt: bool | str
    setting: Value | str
    others: Mapping[str, Number] = field(default_factory=nothing)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(True, "none"),
        Choice("chip", Value(8, "1", "simulated")),
        Choice(False, Value(0.5, "V", "simulated"), {"x": 1.0}),
        Choice(False, "none", {}),
    ],
)
def test_what_may_be_of_several_types_comes_back_as_it_was(choice: Choice) -> None:
    entry = json.loads(json.dumps(to_json(choice)))
    assert ("others" in entry) == (choice.others is not nothing())
    again = from_json(Choice, entry)
    assert again == choice
    assert json.dumps(to_json(again)) == json.dumps(entry)  # 8 is not 8.0
