"""Commands that work: one call of each, the options it has, and the files that the calls read."""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
import shutil
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.drawing import blank_figures
from tests.micro import micro_settings, write_micro

import gaincell.cli
from gaincell.chips.design_file import load_design
from gaincell.mapping.pipeline import map_model

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results"
RECIPES = ROOT / "recipes"
DEVICE = ROOT / "docs" / "data" / "compressive.toml"

BASE: dict[str, list[str]] = {
    "map": ["MODEL", "--design", "CHIP", "--text", "TEXT", "--budget", "512", "--evaluation-tokens", "128",
            "--calibration-tokens", "128", "--no-published", "--out", "new"],
    "evaluate": ["RUN", "--text", "TEXT", "--limit", "128", "--protocol", "blocks-64"],
    "generate": ["RUN", "--prompt", "cell", "--tokens", "2"],
    "adapt": ["RUN", "--text", "TEXT", "--evaluation-tokens", "128", "--calibration-tokens", "128"],
    "ablate": ["RUN", "--text", "TEXT", "--limit", "128", "--protocol", "blocks-64"],
    "activity": ["RUN", "--text", "TEXT", "--tokens", "64"],
    "fidelity": ["RUN", "--text", "TEXT", "--tokens", "64"],
    "codesign": ["RUN", "--text", "TEXT", "--steps", "1", "--evaluation-tokens", "128",
                 "--calibration-tokens", "128"],
    "cost": ["RUN", "--no-measure", "--tokens", "64"],
    "design list": [], "design show": ["CHIP"], "design validate": ["CHIP"],
    "design diff": ["CHIP", "leroux2025"], "design new": ["mine", "--out", "mine.toml"],
    "device fit": ["CURVE"], "device show": ["DEVICE"],
    "floorplan": ["CHIP"],
    "export": ["RUN", "--out", "new"],
    "report": ["RESULT"], "table": ["SCORES"],
    "simulate head": ["--tokens", "8", "--figures", "drawn"],
    "simulate tile": ["--tokens", "8", "--figures", "drawn"],
    "spice characterise": ["--cells", "2"], "spice verify": ["--columns", "1"], "spice wires": [],
    "spice energy": ["--columns", "1"], "spice write": [],
    "spice mixed": ["--head-dim", "2", "--tokens", "3"],
    "rtl": ["CHIP", "--out", "new", "--head-dim", "2"],
    "sweep": ["SWEEP", "--dry-run"], "train": ["RECIPE", "--text", "TEXT", "--dry-run"],
    "baseline": ["--batch", "1", "--context", "16", "--seconds", "0.01", "--runs", "1", "--heads", "1"],
    "serve": ["RUN", "--port", "0"],
    "doctor": [],
}  # fmt: skip
"""A command that works, with words in capitals for what `Place` holds."""
ELSEWHERE = ("lm_eval",)
"""Commands whose options are another program's."""


@dataclass(frozen=True)
class Option:
    """One option (or argument, without a flag) of a command, as its function declares it."""

    command: str
    name: str
    flag: str
    kind: Any
    low: float | None
    high: float | None


class Place:
    """What good commands need, made once; `fresh` is the working directory of a case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model, text = write_micro(folder)
        chip = load_design("leroux2025").replace(window=64, tile=16)
        with blank_figures():
            map_model(micro_settings(model, text, published=False), folder / "run")
        curve = "cell,voltage [V],current [A]\n" + "".join(
            f"{cell},{0.05 * n:.2f},{1e-7 * (1 + 0.1 * cell) * (n - 9):.3e}\n"
            for cell in (1, 2)
            for n in range(19)
        )
        (folder / "curve.csv").write_text(curve)
        self.good = {
            "MODEL": model,
            "TEXT": text,
            "RUN": folder / "run",
            "CHIP": chip.save(folder / "chip.toml"),
            "CURVE": folder / "curve.csv",
            "DEVICE": DEVICE,
            "RESULT": RESULTS / "evaluation" / "ablation.json",
            "SCORES": RESULTS / "evaluation" / "tasks" / "tiny-software.json",
            "ACTIVITY": RESULTS / "costs" / "activity-tiny.json",
            "MACHINES": RESULTS / "costs" / "baseline-cpu.json",
            "ENERGY": RESULTS / "spice" / "energy-freepdk45.json",
            "RECIPE": RECIPES / "tiny-table.toml",
            "SWEEP": RECIPES / "sweeps" / "levels.toml",
            "DUMP": folder / "dump.safetensors",
        }
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
            gaincell.cli.main(
                ["evaluate", str(folder / "run"), "--text", str(text), "--limit", "128", "--protocol",
                 "blocks-64", "--dump", str(self.good["DUMP"])]
            )  # fmt: skip
        self.fresh = folder / "case"

    def filled(self, words: list[str]) -> list[str]:
        """A command line with what its words in capitals stand for."""
        return [str(self.good.get(word, word)) for word in words]

    def copy(self, what: str) -> Path:
        """A copy of something good, to be spoilt."""
        source, target = Path(self.good[what]), self.fresh / f"bad-{Path(self.good[what]).name}"
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("stages", "figures"))
        else:
            shutil.copy(source, target)
        return target


def options() -> list[Option]:
    """All options of all commands, from the signatures of their functions."""
    found = []
    for module in pkgutil.iter_modules(gaincell.cli.__path__):
        if module.name.startswith("_"):
            continue
        app = getattr(importlib.import_module(f"gaincell.cli.{module.name}"), module.name)
        for each in app.registered_commands:
            own = each.name or each.callback.__name__.rstrip("_").replace("_", "-")
            command = module.name if len(app.registered_commands) == 1 else f"{module.name} {own}"
            if command in ELSEWHERE:
                continue
            for name, hint in typing.get_type_hints(each.callback, include_extras=True).items():
                if name == "return" or not hasattr(hint, "__metadata__"):
                    continue
                info = hint.__metadata__[0]
                if getattr(info, "hidden", False):
                    continue
                declared = [flag for flag in info.param_decls or () if flag.startswith("--")]
                argument = type(info).__name__ == "ArgumentInfo"
                flag = "" if argument else (declared or [f"--{name.replace('_', '-')}"])[0].split("/")[0]
                choice = typing.get_origin(hint.__origin__) is typing.Literal
                kinds = (not choice and typing.get_args(hint.__origin__)) or (hint.__origin__,)
                kind = next(kind for kind in kinds if kind is not type(None))
                found.append(Option(command, name, flag, kind, info.min, info.max))
    return found
