"""A model on other cells than it was made for says so, in its first line and in its result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.tiers import slow
from typer.testing import CliRunner

from gaincell.chips.design_file import load_design
from gaincell.chips.device import fit_device
from gaincell.cli import app
from gaincell.integrations.hf.checkpoint import save
from gaincell.integrations.hf.chip import chip_exchanged
from gaincell.mapping.load_hardware import adapted_model, find_start, hardware_model
from gaincell.mapping.readapt import AdaptSettings, adapt_model
from gaincell.reports.html.page import load, page
from gaincell.resources import resolve
from gaincell.text import sha256


@pytest.mark.parametrize("chosen", [("--cell", "x5"), ("--cell", "MINE.toml"), ("--design", "leroux2025")])
def test_a_text_says_that_cells_were_exchanged_unadapted(
    chosen: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    volts, form = np.linspace(0, 0.9, 19), "{:.6g},{:.6g}"
    lines = [form.format(v, 3 + 20 * (v - 0.45) + 46 * (v - 0.45) ** 3) for v in volts]
    Path("curve.csv").write_text("voltage [V],current [uA]\n" + "\n".join(lines) + "\n")
    fit_device("curve.csv", load_design("leroux2025"))[0].save("MINE.toml")
    cell = {"x5": "x5"}.get(chosen[1], "polynomial")
    made = CliRunner().invoke(
        app, ["generate", "tiny", "--prompt", "It", "--tokens", "2", *chosen, "--json", "text.json"]
    )
    assert made.exit_code == 0, made.output
    words = f"its linear cells exchanged for {cell} ones without adaptation"
    assert words in made.stderr.splitlines()[0]
    result = json.loads(Path("text.json").read_text())
    assert words in result["gains"]
    assert result["design"]["cell"] == cell


@pytest.mark.parametrize(
    ("command", "exchanged", "kept"),
    [
        ("evaluate RUN --protocol blocks-32 --limit 64", "--cell x3", "--cell linear"),
        slow("ablate RUN --protocol blocks-32 --limit 64", "--design x3.toml", ""),
        slow("fidelity RUN --tokens 32", "--design x3.toml", ""),
    ],
)
def test_a_measurement_says_that_cells_were_exchanged_unadapted(
    command: str, exchanged: str, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save(hardware_model("tiny", load_design("leroux2025")).loaded.model, Path("RUN"))
    load_design("leroux2025").replace(cell="x3").save("x3.toml")
    for options, words in (
        (exchanged, ", its linear cells exchanged for x3 ones without adaptation"),
        (kept, ""),
    ):
        made = CliRunner().invoke(app, [*command.split(), *options.split(), "--json", "found.json"])
        assert made.exit_code == 0, made.output
        gains = json.loads(Path("found.json").read_text())["gains"]
        assert gains == f"the RUN as it was saved{words}"
        assert f"RUN: {gains}" in made.output.splitlines()


@pytest.mark.slow
def test_results_say_which_chip_they_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(hardware_model("tiny", load_design("leroux2025")).loaded.model, Path("RUN"))
    options = ["--design", "leroux2025-oxide", "--window", "64", "--other-latency", "1e-4"]
    options += ["--protocol", "blocks-32", "--limit", "64", "--json", "found.json"]
    made = CliRunner().invoke(app, ["evaluate", "RUN", *options])
    assert made.exit_code == 0, made.output
    words = (
        "the RUN as it was saved, its linear cells exchanged for polynomial ones without adaptation, on "
        "design leroux2025-oxide, with a ring of 64 columns, with a token period of 0.0006005 s"
    )
    assert made.output.splitlines()[0] == f"RUN: {words}"
    assert f"<dd>{words}</dd>" in page([load(Path("found.json"), "found")], None)


def test_another_chip_of_the_same_name_is_told_apart() -> None:
    paper = load_design("leroux2025")
    assert chip_exchanged(paper, paper.replace(layers=3)) == ""
    assert chip_exchanged(paper, paper.replace(temperature=350.0)) == ", on another chip called leroux2025"


@pytest.mark.parametrize(
    "command", ["evaluate RUN --limit 64", slow("adapt tiny --evaluation-tokens 64 --calibration-tokens 64")]
)
def test_results_name_the_device_and_its_hash(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--cell", "docs/data/compressive.toml", "--protocol", "blocks-32", "--json", "found.json"]
    if "RUN" in command:
        save(hardware_model("tiny", load_design("leroux2025")).loaded.model, Path("RUN"))
        load_design("leroux2025").save("chip.toml")
        options += ["--design", "chip.toml"]
    made = CliRunner().invoke(app, [*command.split(), *options])
    assert made.exit_code == 0, made.output
    found = json.loads(Path("found.json").read_text())
    assert found["design"]["name"] == "leroux2025+compressive"
    file, inputs = resolve("docs/data/compressive.toml"), found["provenance"]["inputs"]
    assert inputs["cell compressive.toml"] == sha256(file)
    if "RUN" in command:
        assert inputs["design chip.toml"] == sha256(Path("chip.toml"))


@pytest.mark.slow
def test_what_is_shipped_keeps_its_own_linear_cells_on_a_chip_of_another_slope() -> None:
    paper = load_design("leroux2025")
    steep = paper.replace(cell=replace(paper.cell, linear_slope=30.0))
    assert find_start("tiny").made_for == paper.replace(cell="linear") != steep.replace(cell="linear")
    found = [
        adapt_model(
            AdaptSettings(
                "tiny", chip, None, protocol="blocks-64", evaluation_tokens=256, calibration_tokens=512
            ),
            paper,
        )
        for chip in (paper, steep)
    ]
    linear, other = ([stage.perplexity for stage in run.stages] for run in found)
    assert linear == other  # surrogate gradients alone know the slope of a cubic cell


@pytest.mark.slow
def test_linear_cells_of_another_slope_are_adapted_to_and_called_other() -> None:
    paper = load_design("leroux2025")
    steep = paper.replace(cell=replace(paper.replace(cell="linear").cell, linear_slope=30.0))
    words = find_start("tiny").words
    assert hardware_model("tiny", paper, steep).origin == (
        f"{words}, its linear cells exchanged for other linear ones without adaptation"
    )
    assert adapted_model("tiny", paper.replace(cell="linear")).origin == words
    assert adapted_model("tiny", steep).origin == (
        f"{words}, then adapted in closed form to linear cells, without training on them"
    )
