"""The stages of `gaincell adapt` and `gaincell codesign`: interrupted anywhere, the same call goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tests.micro import Steps, micro_design, write_micro

from gaincell.errors import RunError
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.checkpoint import save
from gaincell.integrations.hf.lora import add_lora
from gaincell.integrations.hf.models import load_model
from gaincell.mapping import summary
from gaincell.mapping.codesign import CodesignSettings, codesign_model
from gaincell.mapping.readapt import AdaptSettings, adapt_model
from gaincell.results import read, write
from gaincell.results.codec import to_json
from gaincell.results.run import AdaptedResult, CodesignResult

READING = {f"read the {kind} text" for kind in ("evaluation", "training", "calibration")}
Commands: TypeAlias = dict[str, tuple[Any, Callable[..., Any]]]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """Settings and function of every command, on one micro model in arrays."""
    folder = tmp_path_factory.mktemp("stages")
    model, text = write_micro(folder)
    save(attach(load_model(model).model, micro_design()), folder / "start")
    start = str(folder / "start")
    read_texts: dict[str, Any] = {"text": str(text), "evaluation_tokens": 256, "calibration_tokens": 128}
    neutral = AdaptSettings(start, None, "x3", "published", "neutral", max_iterations=3, **read_texts)
    return {
        "adapt": (AdaptSettings(start, None, "x3", **read_texts), adapt_model),
        "neutral": (neutral, adapt_model),
        "codesign": (CodesignSettings(start, steps=3, **read_texts), codesign_model),
    }


def killed(*_: object) -> None:
    raise KeyboardInterrupt


def same(found: Any) -> Any:
    """A result without what differs between two runs of the same thing."""
    if isinstance(found, dict):
        return {key: same(entry) for key, entry in found.items() if key not in ("seconds", "date", "commit")}
    return [same(entry) for entry in found] if isinstance(found, list) else found


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("command", ["adapt", "neutral", "codesign"])
def test_an_interrupted_command_goes_on(
    commands: Commands, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same result and model; when all stages are finished none is done again."""
    settings, run = commands[command]
    steps, out = Steps(), tmp_path / "run"
    expected = same(to_json(run(settings, micro_design(), tmp_path / "once", progress=steps)))
    for step in dict.fromkeys(steps.names):
        with pytest.raises(KeyboardInterrupt):
            run(settings, micro_design(), out, progress=Steps(step))
    with monkeypatch.context() as patch:
        patch.setattr(f"{run.__module__}.save_beside_results", killed)
        with pytest.raises(KeyboardInterrupt):
            run(settings, micro_design(), out)
    again = Steps()
    assert same(to_json(run(settings, micro_design(), out, progress=again))) == expected
    assert set(again.names) <= {*READING, "activity"}
    for name in ("hardware.safetensors", "design.toml"):
        assert (out / name).read_bytes() == (tmp_path / "once" / name).read_bytes()
    assert not [*out.glob("stages/*.checkpoint*"), *out.glob("stages/*.safetensors")]


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_repeated_command_gives_what_is_there(commands: Commands, tmp_path: Path) -> None:
    for command, change in (("adapt", {"max_iterations": 3}), ("codesign", {"steps": 2})):
        settings, run = commands[command]
        out, steps = tmp_path / command, Steps()
        first = run(settings, micro_design(), out)
        assert run(settings, micro_design(), out, progress=steps) == first
        assert set(steps.names) <= READING
        with pytest.raises(RunError, match=f"{command} holds a run with other settings"):
            run(replace(settings, **change), micro_design(), out)


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_co_design_logs_its_training(commands: Commands, tmp_path: Path) -> None:
    settings, run = commands["codesign"]
    run(settings, micro_design(), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [("trained", step) for step in range(3)]
    assert {line["loss_name"] for line in lines} == {"cross-entropy"}
    assert (tmp_path / "run" / "figures" / "loss.png").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_runs_of_earlier_versions(commands: Commands, tmp_path: Path) -> None:
    """They have no stages: an adaptation is known by the settings in its result."""
    settings, run = commands["adapt"]
    old = tmp_path / "old"
    made = run(settings, micro_design(), old)
    shutil.rmtree(old / "stages")
    with pytest.raises(
        RunError, match=r"old holds a run with other settings \(cell = 'x3' there, 'x5' here\)"
    ):
        run(replace(settings, cell="x5"), micro_design(), old)
    assert run(settings, micro_design(), old) == made == read(old, AdaptedResult)
    settings, run = commands["codesign"]
    write(run(settings, micro_design()), tmp_path / "codesigned" / "run.json")
    with pytest.raises(RunError, match="codesigned holds a run with other settings"):
        run(settings, micro_design(), tmp_path / "codesigned")
    assert read(tmp_path / "codesigned", CodesignResult).command == "codesign"


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_co_design_knows_the_technology_whose_energies_it_has(commands: Commands, tmp_path: Path) -> None:
    settings, run = commands["codesign"]
    file, out = tmp_path / "own.toml", tmp_path / "run"
    file.write_text('extends = "28nm"\n')
    own = replace(settings, technology=str(file))
    assert any(
        name.startswith("technology own.toml") for name in run(own, micro_design(), out).provenance.inputs
    )
    with pytest.raises(RunError, match=r"technology = .*own\.toml' there, '14nm' here"):
        run(replace(settings, technology="14nm"), micro_design(), out)
    file.write_text('extends = "14nm"\n')
    with pytest.raises(RunError, match="run holds a run with other settings"):
        run(own, micro_design(), out)


def test_the_size_of_a_model_is_that_without_adapters(tmp_path: Path) -> None:
    loaded = load_model(str(write_micro(tmp_path)[0]))
    attach(loaded.model, micro_design())
    before = summary.model(loaded).parameters
    add_lora(loaded.model, 2)
    assert summary.model(loaded).parameters == before
