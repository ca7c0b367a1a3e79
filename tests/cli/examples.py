"""The examples of all commands' help, how each can be checked, and the files that they name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import typer

from gaincell.chips.design_file import load_design
from gaincell.cli import app

ROOT = Path(__file__).parents[2]
OUTPUTS = ("--json", "--figure", "--figures", "--out", "--latex", "--gds", "--dump", "--storage")
SUFFIXES = (".toml", ".json", ".csv", ".gz", ".safetensors")

PARSED_ONLY = {
    "gaincell map smollm2-135m": "hours",
    "gaincell train recipes": "hours; the recipes are run in miniature by test_recipe.py",
    "gaincell sweep recipes": "many minutes; tests/sweeps runs small ones",
    "gaincell baseline --device cuda": "needs a GPU",
    "gaincell lm-eval run --model": "needs the network",
    "gaincell spice verify --full": "many minutes of ngspice; tests/spice",
}
"""Beginnings of examples that are not run, and why."""
QUICK = (
    "gaincell design",
    "gaincell device",
    "gaincell floorplan leroux2025-oxide",
    "gaincell report",
    "gaincell table",
)
"""Beginnings of examples that take a second and need no trained model."""


def commands(
    command: Any = None, words: tuple[str, ...] = ("gaincell",)
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    command = command or typer.main.get_command(app)
    yield words, command
    if hasattr(command, "list_commands"):
        context = command.make_context(words[-1], [], resilient_parsing=True)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*words, name))


def examples() -> list[str]:
    """What stands after "Example:" in the help of all commands, each in one line."""
    found = (
        re.findall(r"Example: (gaincell .*?)(?:\n\s*\n|\Z)", command.help or "", re.DOTALL)
        for _, command in commands()
    )
    return [" ".join(example.split()) for some in found for example in some]


def words(example: str, folder: Path) -> list[str]:
    """The arguments as a shell gives them, in `folder`."""
    found = shlex.split(example)[1:]
    return [
        name
        for word in found
        for name in (sorted(str(p.relative_to(folder)) for p in folder.glob(word)) if "*" in word else [word])
    ]


def parse(arguments: list[str]) -> Any:
    """Read the arguments as the command line does, without running the command; raises where it cannot."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("gaincell", list(arguments))
    while hasattr(command, "get_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context


def inputs(example: str) -> list[str]:
    """The files and folders that an example reads."""
    found = shlex.split(example)[1:]
    after = dict(zip(found[1:], found, strict=False))
    names = [word.rpartition("=")[2] for word in found if after.get(word) not in OUTPUTS]
    return [name for name in names if "/" in name or name.startswith("MY_") or Path(name).suffix in SUFFIXES]


def outputs(example: str) -> list[str]:
    """The files and folders that it writes."""
    found = shlex.split(example)[1:]
    return [word for word, before in zip(found[1:], found, strict=False) if before in OUTPUTS]


def write_measurements(folder: Path) -> None:
    """Curve, decay, design and device of a user."""
    volts = [i / 20 for i in range(19)]
    curve = (f"{v},{round(13.6 * (v - 0.45) + 46 * (v - 0.45) ** 3 + 0.5, 4)}" for v in volts)
    (folder / "MY_CURVE.csv").write_text("voltage [V],current [uA]\n" + "\n".join(curve) + "\n")
    wide = (f"{1e3 * v},{13.6 * (v - 0.45):.4g},{14.1 * (v - 0.45):.4g}" for v in volts)
    (folder / "MY_WIDE.csv").write_text("V_SN,cell A [uA],cell B [uA]\n" + "\n".join(wide) + "\n")
    decay = (f"{t},{round(0.45 + 0.45 * 2.718281828 ** (-t / 5), 5)}" for t in range(0, 20))
    (folder / "MY_DECAY.csv").write_text("time [ms],voltage [V]\n" + "\n".join(decay) + "\n")
    load_design("leroux2025").replace(window=512).save(folder / "MY_CHIP.toml")
    shutil.copy(ROOT / "docs" / "data" / "compressive.toml", folder / "MY_CELL.toml")


def write_texts(folder: Path) -> None:
    """Texts of a user, and items of tasks."""
    (folder / "MY_TEXTS").mkdir()
    for file in (resources.files("gaincell") / "assets" / "sample").iterdir():
        (folder / "MY_TEXTS" / file.name).write_bytes(file.read_bytes())
    (folder / "MY_ITEMS").mkdir()
    rows = [
        {"context": f"Question: {n}\nAnswer:", "choices": [" yes", " no"], "gold": n % 2, "id": str(n)}
        for n in range(4)
    ]
    for task in ("arc_easy", "piqa"):
        (folder / "MY_ITEMS" / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
