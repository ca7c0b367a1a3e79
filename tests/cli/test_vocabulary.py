"""One vocabulary of options in every command, help that no terminal cuts, refusals before any work."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gaincell.cli import app
from gaincell.cli._renamed import RENAMED, with_new_names

from .examples import commands

VOCABULARY = {
    "--activity": "result of `gaincell activity`, instead of a measurement",
    "--assumed": "no activity is measured",
    "--at": "idle time",
    "--baseline": "result of `gaincell baseline`",
    "--batch": "sequences computed together",
    "--block": "tokens of a block of training and evaluation",
    "--budget": "tokens of training",
    "--by-context": "perplexity against the length of the context",
    "--by-repetition": "loss on tokens that already followed the preceding one",
    "--cache": "keep answers of tasks",
    "--calibration-tokens": "most tokens an adaptation reads",
    "--cell": "kind of gain cell",
    "--cell-area": "area of a gain cell",
    "--cells": "cells of a Monte Carlo",
    "--celsius": "temperature of a circuit",
    "--chip-seed": "seed of virtual chips",
    "--chips": "number of virtual chips",
    "--circuit-learning-rate": "peak learning rate of circuits",
    "--column": "column that is shown",
    "--columns": "lines of an array that are simulated",
    "--compile": "layers compiled by torch",
    "--context": "keys that a token attends to",
    "--current": "column of a current",
    "--csv": "file of the table as CSV",
    "--data": "folder with the items of tasks",
    "--debug": "show tracebacks",
    "--decay": "measured decays",
    "--decay-voltage": "column of the voltage of decays",
    "--design": "chip",
    "--device": "device of torch",
    "--dry-run": "say what would be done",
    "--dtype": "type of the weights",
    "--dump": "file for the codes of a layer",
    "--figure": "file of the one figure",
    "--figures": "directory of several figures",
    "--fine-tuning-learning-rate": "peak learning rate of the fine-tuning",
    "--format": "whose files are written",
    "--from": "design that a new one begins as",
    "--full": "all columns",
    "--gds": "file of a layout",
    "--gpu": "GPU of a comparison",
    "--gradient": "derivatives of the cells in training",
    "--group": "query heads that share arrays",
    "--guard-bits": "bits of a word beyond its code's",
    "--head": "which head",
    "--head-dim": "D, rows of an array",
    "--heads": "number of query heads",
    "--help": "help",
    "--host": "address of a server",
    "--backend": "implementation of the arrays",
    "--implementations": "implementations of softmax attention",
    "--iterations": "most iterations of the published adaptation",
    "--install-completion": "completion of commands by the shell",
    "--inputs": "codes of a real layer, of `gaincell evaluate --dump`",
    "--json": "file of the result as JSON",
    "--keep-models": "keep the model of every point",
    "--kind": "what a curve is fitted by",
    "--kv-heads": "number of key/value heads",
    "--latex": "file of the table for LaTeX",
    "--law": "law of retention",
    "--layer": "which layer",
    "--layers": "layers of the model",
    "--liberty": "library of cells",
    "--learn": "circuits that are learned",
    "--learning-rate": "peak learning rate of the weights",
    "--lib": "transistor models",
    "--limit": "most that is evaluated: tokens, or documents, or items of tasks",
    "--linear": "RUN of the linear hardware model",
    "--lora": "rank of adapters",
    "--markdown": "file of the table as Markdown",
    "--max-length": "longest context of a task",
    "--measure": "time softmax attention here",
    "--method": "way to adapt",
    "--start": "gains and offsets that an adaptation starts from",
    "--rule": "when an iteration stops",
    "--mismatch": "spread of the cells' currents",
    "--most": "cells of the longest line",
    "--name": "name of what is made",
    "--nmos": "name of the n transistor",
    "--nodes": "order of a transistor's nodes",
    "--only": "one stage of a recipe",
    "--open": "open a browser",
    "--order": "order of a polynomial",
    "--other-latency": "time of a layer outside the arrays",
    "--out": "where the result of the command goes",
    "--pages": "pages open at a time",
    "--paper": "show the paper's table",
    "--part": "part of a text",
    "--pmos": "name of the p transistor",
    "--port": "port of a server",
    "--process": "process corner",
    "--prompt": "what a text begins with",
    "--protocol": "protocol of a perplexity",
    "--published": "also run the paper's adaptation",
    "--read": "column that tells reads apart",
    "--redraw": "what is drawn anew in training",
    "--redraw-noise": "draw noise anew for every block",
    "--reference": "what results are compared to",
    "--refresh": "kind of refresh",
    "--refresh-seconds": "time between refreshes",
    "--refresh-tokens": "tokens between refreshes",
    "--rescale": "dimension converters for a cell",
    "--retry-elsewhere": "take points of other machines for lost",
    "--row": "row that is shown",
    "--rtl": "result of `gaincell rtl`",
    "--runs": "repetitions of a measurement",
    "--scale-learning-rate": "peak learning rate of gains and offsets",
    "--scores": "dump scores",
    "--show-completion": "completion of commands by the shell, to be copied",
    "--seconds": "time of a measurement",
    "--section": "section of transistor models",
    "--seed": "seed of random choices",
    "--set": "a value of a recipe",
    "--sensitivity": "every parameter up and down",
    "--sequences": "number of sequences read",
    "--skip-bad-rows": "leave out rows without numbers",
    "--spice": "result of `gaincell spice energy`",
    "--stack": "layers of cells in 3D",
    "--stage": "stage of a RUN",
    "--steps": "steps of training",
    "--stop": "stop at the end-of-text token",
    "--storage": "where a sweep keeps its points",
    "--subcircuits": "transistors are subcircuits",
    "--supply": "factor on the supply",
    "--tasks": "tasks of the evaluation harness",
    "--tau": "retention time",
    "--technology": "process technology",
    "--teacher-outputs": "directory of what teachers give",
    "--temperature": "temperature of sampling",
    "--text": "text that is read",
    "--threads": "threads of torch",
    "--tile": "columns of a sub-tile",
    "--time": "column of a time",
    "--title": "title of a page",
    "--token": "which token",
    "--tokens": "length of the one sequence that arrays process",
    "--track": "tracker that takes the log of training too",
    "--transistors": "readouts of transistors",
    "--vdd": "supply voltage",
    "--verify": "check what was generated",
    "--version": "version",
    "--voltage": "column of a voltage",
    "--weights": "train weights",
    "--whole-model": "with linear layers",
    "--why": "show why",
    "--window": "token columns of a head",
    "--workers": "processes at a time",
    "--write": "result of `gaincell spice write`",
    "--write-dac": "kind of write DAC",
    "--yield-within": "what counts as good",
}
"""Every option of every command -> what it means, wherever it stands. Before a new one is entered: is there
one that means the same?"""

OTHERWISE = {
    ("device fit", "--cell"): "column that names the cells: there is no other cell to choose there",
}
"""Command, option -> what it means there alone."""

SEVERAL_FORMS = {
    "--out": {"RUN", "FILE", "DIR", "DEVICE.toml"},
    "--batch": {"N", "N,N,..."},
    "--context": {"N", "T,T,..."},
    "--inputs": {"FILE", "random|centred|FILE"},
    "--limit": {"N"},
}
"""Options that take their value in several forms, or the only form of one."""


def options() -> list[tuple[str, Any]]:
    """(command, option) of all of them."""
    return [
        (" ".join(words[1:]), parameter)
        for words, command in commands()
        for parameter in command.params
        if parameter.param_type_name == "option" and not parameter.hidden
    ]


def test_every_option_means_one_thing() -> None:
    found = {parameter.opts[0] for _, parameter in options()}
    assert found | {"--help"} == set(VOCABULARY)
    assert len(set(VOCABULARY.values())) == len(VOCABULARY)
    here = {(command, parameter.opts[0]) for command, parameter in options()}
    assert set(OTHERWISE) <= here


def test_an_option_takes_its_value_in_one_form() -> None:
    forms: dict[str, set[str]] = defaultdict(set)
    for command, parameter in options():
        if (command, parameter.opts[0]) not in OTHERWISE:
            forms[parameter.opts[0]].add("" if parameter.is_flag else str(parameter.metavar))
    several = {name: found for name, found in forms.items() if len(found) > 1}
    assert several == {name: found for name, found in SEVERAL_FORMS.items() if len(found) > 1}
    assert forms["--limit"] == SEVERAL_FORMS["--limit"]


def test_cost_baseline_is_the_command_baseline() -> None:
    shown = CliRunner().invoke(app, ["cost", "baseline", "--help"])
    assert shown.output == CliRunner().invoke(app, ["baseline", "--help"]).output
    assert "Measure the attention" in shown.output


def test_old_names_are_taken_with_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[str, set[str]] = defaultdict(set)
    for command, parameter in options():
        known[command.split()[0] if command else ""] |= {*parameter.opts}
    for command, names in RENAMED.items():
        assert not set(names) & known[command] - {"--temperature"}
        assert {new for new in names.values() if new} <= known[command]
    assert not any("--impl" in names for names in known.values())
    given = ["tiny", "--prompt", "--idle", "--idle=0.01", "--tokens", "4", "--", "--idle"]
    now = with_new_names("generate", given, ["--prompt", "--tokens", "--at"])
    assert now == ["tiny", "--prompt", "--idle", "--at=0.01", "--tokens", "4", "--", "--idle"]
    assert with_new_names("sweep", ["s.toml", "--figures"], []) == ["s.toml"]
    assert with_new_names("evaluate", ["tiny", "--impl", "naive"], ["--backend"])[1:] == [
        "--backend",
        "naive",
    ]
    assert capsys.readouterr().err.splitlines() == [
        "gaincell: --idle is called --at now; the old name will be gone in the next release",
        "gaincell: --figures is always on now; the option will be gone in the next release",
        "gaincell: --impl is called --backend now; the old name will be gone in the next release",
    ]


def test_an_old_name_reaches_the_command(tmp_path: Path) -> None:
    figure = tmp_path / "plan.svg"
    done = CliRunner().invoke(app, ["floorplan", "ideal", "--out", str(figure)])
    assert done.exit_code == 0, done.output
    assert figure.is_file()
    assert "--out is called --figure now" in done.stderr


@pytest.mark.parametrize("columns", [80, 60])
def test_help_cuts_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name and every form of a value stands in the help as it is typed; no type of Python does."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for words, command in commands():
        if words[-1] == "lm-eval":  # the harness's own
            continue
        shown = CliRunner().invoke(app, [*words[1:], "--help"]).stdout
        assert "…" not in shown
        assert not re.search(r"<(int|float|str|path|bool)\b", shown.partition("Options:")[2]), words
        lines = shown.partition("\nOptions:\n")[2].splitlines()
        listed = [line.strip().partition("  ")[0] for line in lines if line.startswith("  -")]
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                for name in (*parameter.opts, *parameter.secondary_opts):
                    line = next(line for line in listed if re.search(rf"{name}(?![\w-])", line))
                    assert parameter.is_flag or parameter.metavar is None or parameter.metavar in line
        assert "..." not in shown.partition("\nCommands:\n")[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("evaluate tiny --at 1", "--at has no effect here: it needs a RUN"),
        ("evaluate tiny --chips 3", "--chips has no effect here: it needs a RUN"),
        ("evaluate tiny --design ideal", "--design has no effect here: it needs a RUN"),
        ("evaluate tiny --protocol strided-64-32 --by-context", "strided-64-32 excludes"),
        ("evaluate RUN --protocol strided-64-32 --at 1", "strided-64-32 excludes"),
        ("evaluate RUN --protocol strided-64-32 --dump x.safetensors", "strided-64-32 excludes"),
        ("evaluate RUN --chips 3 --at 0 --at 1", "one --at"),
        ("evaluate RUN --at 0 --at -1", "--at -1: give 0 seconds or more"),
        ("evaluate RUN --design nowhere", "no design 'nowhere'"),
        ("evaluate RUN --cell nowhere", "no cell 'nowhere'"),
        ("ablate RUN --design nowhere", "no design 'nowhere'"),
        ("ablate RUN --mismatch x", "--mismatch 'x'"),
        ("ablate tiny", "no chip for ablate"),
        ("fidelity tiny", "no chip for fidelity"),
        ("generate RUN --prompt x --cell nowhere", "no cell 'nowhere'"),
        ("generate RUN --prompt x --backend decode", "'decode' is not one of 'auto', 'naive'"),
        ("adapt tiny --json /dev/null/x.json", "--json /dev/null/x.json: nothing can be written"),
        ("adapt tiny --rule released", "--rule has no effect here: it needs --method published"),
        ("adapt tiny --rule relative", "--rule has no effect here: it needs --method published"),
        ("adapt tiny --iterations 3", "--iterations has no effect here: it needs --method published"),
        ("adapt ./nosuch", "there is no file or directory './nosuch'"),
        ("codesign ./nosuch", "there is no file or directory './nosuch'"),
        ("map tiny --out /dev/null/x", "--out /dev/null/x: nothing can be written"),
        ("codesign tiny --out /dev/null/x", "--out /dev/null/x: nothing can be written"),
        ("simulate head --inputs x.safetensors --seed 3", "--seed has no effect here"),
        ("simulate tile --inputs x.safetensors --head-dim 3", "--head-dim has no effect here"),
        ("cost tiny --assumed --tokens 12", "--tokens has no effect here"),
        ("cost gpt2 --text sample", "--text has no effect here"),
        ("cost gpt2 --assumed --no-measure --threads 2", "--threads has no effect here"),
        ("cost gpt2 --activity x.json --device cpu", "--device has no effect here"),
        ("codesign tiny --no-weights --learning-rate 1e-3", "--learning-rate has no effect here"),
        ("evaluate tiny --no-cache", "--cache/--no-cache has no effect here"),
        ("evaluate tiny --backend naive", "--backend has no effect here"),
        ("evaluate RUN --max-length 64", "--max-length has no effect here"),
        ("evaluate RUN --yield-within 5%", "--yield-within has no effect here"),
        ("evaluate RUN --layer 1", "--layer has no effect here"),
        ("evaluate RUN --tasks piqa --text x", "--text has no effect here: it needs an evaluation without"),
        ("evaluate RUN --protocol rolling-64 --part all", "--part has no effect here: it needs a protocol"),
        ("generate tiny --prompt x --temperature 0 --seed 3", "--seed has no effect here"),
        ("sweep recipes/sweeps/levels.toml --dry-run --json x.json", "--json has no effect here"),
        ("sweep recipes/sweeps/levels.toml --dry-run --workers 7", "--workers has no effect here"),
        ("sweep recipes/sweeps/levels.toml --dry-run --backend triton", "--backend has no effect here"),
        ("train recipes/tiny.toml --dry-run --json x.json", "--json has no effect here"),
        ("train recipes/low-tokens.toml --dry-run --teacher-outputs x", "--teacher-outputs has no effect"),
        ("train recipes/tiny.toml --dry-run --compile", "--compile has no effect here"),
        ("train recipes/small-gpt2.toml --teacher-outputs x", "--teacher-outputs has no effect here"),
        ("spice verify --full --columns 3", "--columns has no effect here"),
        ("spice verify --head 3", "--head has no effect here"),
        ("spice wires --nmos n", "--nmos has no effect here"),
        ("device fit CURVE --law stretched", "--law has no effect here"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(
    arguments: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    for module in ("cli._models", "mapping.load_hardware", "mapping.pipeline", "integrations.hf.models"):
        monkeypatch.setattr(f"gaincell.{module}.load_model", work)
    curve = tmp_path / "curve.csv"
    curve.write_text("voltage [V], current [uA]\n")
    words = [{"RUN": "adapters/smollm2-135m", "CURVE": str(curve)}.get(w, w) for w in arguments.split()]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_value_that_is_refused_is_named_once() -> None:
    found = CliRunner().invoke(app, ["codesign", "tiny", "--learn", "wires"])
    assert found.exit_code == 2
    assert "'--learn': 'wires' is not one of 'saturations', 'levels'; see" in found.output
    found = CliRunner().invoke(app, ["codesign", "tiny", "--steps", "0"])
    said = found.output.partition("; see")[0]
    assert "'--steps'" in said
    assert said.count("0") == 1


@pytest.mark.parametrize(
    ("arguments", "version"),
    [
        ("evaluate tiny --limit 64 --protocol blocks-32", "the pretrained model, in software"),
        (
            "adapt tiny --limit 64 --calibration-tokens 64 --design CHIP",
            "the shipped linear",
        ),
        ("activity tiny --tokens 32 --design CHIP", "the shipped linear"),
        ("cost tiny --tokens 32 --no-measure", "linear cells"),
        ("codesign tiny --steps 1 --limit 64 --calibration-tokens 64 --design CHIP", "the shipped linear"),
    ],
)
def test_the_first_line_says_which_version_of_the_model_is_meant(
    arguments: str, version: str, tmp_path: Path
) -> None:
    from gaincell.chips.design_file import load_design

    chip = load_design("leroux2025").replace(window=64).save(tmp_path / "chip.toml")
    done = CliRunner().invoke(app, [str(chip) if word == "CHIP" else word for word in arguments.split()])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.stdout.splitlines()[0].startswith("tiny: ")
    assert version in done.stdout.splitlines()[0]
