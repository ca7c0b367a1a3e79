"""Bad inputs by the thousand, from a seed: every command, kind of option and kind of file.

A case is a command that would work, of which one thing is made bad: an option's value, a file it reads, a
place it writes to. It is run in this process through the command line's `main`, and must end with exit code 2
and one short line, soon, and leave nothing behind.

    python -m tests.robustness.bad_input SEED COUNT        prints the cases that did not
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import json
import os
import pkgutil
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.micro import micro_settings, write_micro

import gaincell.cli
from gaincell.config import load_design
from gaincell.mapping.pipeline import map_model

CHANGED = 0.25
"""Share of cases in which a file is changed at random."""
SECONDS = 60
"""A case may take."""
LONGEST_LINE = 1200
RESULTS = Path(__file__).parents[2] / "docs" / "results"
RECIPES = Path(__file__).parents[2] / "recipes"
DEVICE = Path(__file__).parents[2] / "docs" / "data" / "compressive.toml"

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
    "design diff": ["CHIP", "leroux2025"],
    "device fit": ["CURVE"], "device show": ["DEVICE"],
    "floorplan": ["CHIP"],
    "report": ["RESULT"], "table": ["SCORES"],
    "simulate head": ["--tokens", "8", "--figures", "drawn"],
    "simulate tile": ["--tokens", "8", "--figures", "drawn"],
    "spice characterise": ["--cells", "2"], "spice verify": ["--columns", "1"], "spice wires": [],
    "spice energy": ["--columns", "1"],
    "sweep": ["SWEEP", "--dry-run"], "train": ["RECIPE", "--text", "TEXT", "--dry-run"],
    "baseline": ["--batch", "1", "--context", "16", "--seconds", "0.01", "--runs", "1", "--heads", "1"],
    "serve": ["RUN", "--port", "0"],
}  # fmt: skip
"""A command that works, with words in capitals for what `Place` holds."""


@dataclass(frozen=True)
class Option:
    """One option (or argument, without a flag) of a command, as its function declares it."""

    command: str
    name: str
    flag: str
    kind: Any
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Case:
    """A command line, and what is bad about it."""

    arguments: list[str]
    bad: str
    sure: bool = True
    """Else it may be accepted: bytes or entries of a file were changed, which may not matter."""


class Place:
    """What good commands need, made once; `fresh` is the working directory of a case."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model, text = write_micro(folder)
        chip = load_design("leroux2025").replace(window=64, tile=16)
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
    """All options of all commands in `BASE`, from the signatures of their functions."""
    found = []
    for module in pkgutil.iter_modules(gaincell.cli.__path__):
        if module.name.startswith("_"):
            continue
        app = importlib.import_module(f"gaincell.cli.{module.name}").app
        for each in app.registered_commands:
            own = each.name or each.callback.__name__.rstrip("_").replace("_", "-")
            command = module.name if len(app.registered_commands) == 1 else f"{module.name} {own}"
            if command not in BASE:
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
                kinds = typing.get_args(hint.__origin__) or (hint.__origin__,)
                kind = next(kind for kind in kinds if kind is not type(None))
                found.append(Option(command, name, flag, kind, info.min, info.max))
    return found


NO_WHOLE = ("1.5", "abc", "1e5", "nan", "inf", "0x10", "1,000", "--", "9" * 20, "9" * 10_000, "-9999999999",
            "9223372036854775808", "4294967296000", "five", "1 2", "\u00bd", "1_0_")  # fmt: skip
NO_NUMBER = ("abc", "nan", "inf", "-inf", "1e999", "-1e999", "1,5", "1.2.3", "e5", "1e", "0x1p3", "ten",
             "--", "1 m", "\u221e", "1e-5s")  # fmt: skip
NO_SHARE = (
    "lots",
    "-5%",
    "nan",
    "nan%",
    "inf",
    "1e400",
    "5%%",
    "%",
    "5 percent",
    "1e9",
    "--5",
    "5,5%",
    "200x",
)
NO_PROTOCOL = ("blocks", "blocks-", "blocks-0", "blocks-1", "blocks--5", "blocks-1.5", "blocks-x", "words-64",
               "strided-64", "strided-64-0", "strided-64-65", "strided-0-0", "rolling", "rolling-x",
               "rolling-0", "blocks-99999999999999999999", "BLOCKS-64", "blocks 64")  # fmt: skip
NO_DEVICE = ("abacus", "cuda:99", "cpu:7:1", "gpu", "0", "-1", "cuda:-1", "meta", "cpu,cpu", "xyz:0")
NO_NAME = ("no such thing", "nosuch.toml", "leroux2026", "../nowhere.toml", "nul\u0001l", "~nobody/x.toml",
           "dir/", "x" * 5000, "*", "design.toml.bak", "./nowhere")  # fmt: skip
NO_STORAGE = ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true",
              "sqlite:///file:x?mode=memory&uri=true", "nodb://host/x", "nowhere/points.journal",
              "sqlite:////nowhere/x.db", "sqlite+pysqlite:///", "://", "a://b://c")  # fmt: skip
NO_LIST = ("0", "a", ",", "1,,x", "-1", "1;2", "1.5", "10" * 30, "1,2,nan", " ", "0,1")


class Spoiler:
    """Makes one thing bad."""

    def __init__(self, place: Place, dice: random.Random) -> None:
        self.place, self.dice = place, dice

    def value(self, option: Option) -> str | None:
        """A bad value of an option; None where no value is known to be bad."""
        named = getattr(self, f"_{option.command.split()[0]}_{option.name}", None) or getattr(
            self, f"_{option.name}", None
        )
        if named is not None:
            return str(named())
        kind = typing.get_args(option.kind)[0] if typing.get_origin(option.kind) is list else option.kind
        if kind is bool:
            return f"{option.flag}={self.dice.choice(('yes', '1', 'maybe', 'x' * 300))}"
        if isinstance(kind, type) and issubclass(kind, Enum):
            return self.dice.choice(("nosuch", "None ", "1", next(iter(kind)).value + "x", "\u00e4" * 400))
        bounds = [] if option.low is None else [option.low - self.dice.choice((1, 7, 2**31, 10**12))]
        bounds += [] if option.high is None else [option.high + self.dice.choice((1, 1000, 2**40))]
        if kind is int:
            return self.dice.choice([*(str(int(x)) for x in bounds), *self.dice.sample(NO_WHOLE, 4)])
        if kind is float:
            return self.dice.choice([*(repr(float(x)) for x in bounds), *self.dice.sample(NO_NUMBER, 4)])
        return None

    # ---------------------------------------------------------------- words
    def _protocol(self) -> str:
        return self.dice.choice(NO_PROTOCOL)

    def _mismatch(self) -> str:
        return self.dice.choice(NO_SHARE)

    def _device(self) -> str:
        return self.dice.choice(NO_DEVICE)

    def _technology(self) -> str:
        return self.dice.choice(NO_NAME)

    def _storage(self) -> str:
        if self.dice.random() < 0.3:
            return str(
                self._file(
                    "points.journal", self.dice.choice((b"no journal\n", b"\0\0\0", b"{}\n", b"[1]\n"))
                )
            )
        return self.dice.choice(NO_STORAGE)

    def _batches(self) -> str:
        return self.dice.choice(NO_LIST)

    def _contexts(self) -> str:
        return self.dice.choice(NO_LIST)

    def _implementations(self) -> str:
        return self.dice.choice(
            ("nosuch", "flash:float7", "matmul:", ":", ",", "flash,nosuch", "flash:float32:x")
        )

    def _host(self) -> str:
        return self.dice.choice(("999.1.1.1", "no host", "256.256.256.256", "1.2.3.4.5", "::g", "192.0.2.77"))

    def _prompt(self) -> str:
        return self.dice.choice(("\udcff", "a\udc80b", "\ud800"))

    def _temperature(self) -> str:
        return self.dice.choice(("1e-320", "1e-300", "-1", "nan", "inf", "5e-324", "abc"))

    def _spice_temperature(self) -> str:
        return self.dice.choice(("nan", "inf", "-1000", "1e10", "abc", "-1e300"))

    def _supply(self) -> str:
        return self.dice.choice(("nan", "inf", "-1", "0", "1e300", "abc", "1e-300"))

    def _vdd(self) -> str:
        return self.dice.choice(("nan", "inf", "-1", "0", "1e300", "abc"))

    def _stage(self) -> str:
        return self.dice.choice(NO_NAME)

    def _only(self) -> str:
        return self.dice.choice(NO_NAME)

    def _reference(self) -> str:
        return self.dice.choice(NO_NAME)

    def _process(self) -> str:
        return self.dice.choice(("medium", "", "ff", "x" * 500))

    # ---------------------------------------------------------------- places to write to
    def _out(self) -> str:
        return self.dice.choice((
            "/proc/none/x", str(self._file("file", b"x") / "below"), "n" * 300, "/proc/x.html", "/sys/x.toml",
        ))  # fmt: skip

    def _json(self) -> str:
        return self.dice.choice((
            str(self.place.folder), "/", ".", "..", "/proc/x.json", str(self._file("file", b"x") / "x.json"),
            "n" * 300, str(self._pipe("pipe.json")), "/proc/none/deep/x.json",
        ))  # fmt: skip

    _csv = _latex = _markdown = _dump = _gds = _json

    def _figure(self) -> str:
        return self.dice.choice(
            ("figure", "figure.foo", "/", "figure.png.txt", "/proc/x.png", "n" * 300 + ".png")
        )

    _floorplan_out = _figure

    def _figures(self) -> str:
        return self.dice.choice(
            (str(self._file("file", b"x")), "/proc/x", str(self._file("plain", b"") / "x"))
        )

    # ---------------------------------------------------------------- files
    def _file(self, name: str, content: bytes) -> Path:
        path = self.place.fresh / name
        path.write_bytes(content)
        return path

    def _pipe(self, name: str) -> Path:
        path = self.place.fresh / name
        if not path.exists():
            os.mkfifo(path)
        return path

    def _no_file(self, name: str) -> Path:
        """Of a name, no file that can be read, or one that holds nothing readable."""
        what = self.dice.randrange(9)
        if what == 0:
            return self._pipe(name)
        if what == 1:
            return Path("/dev/zero")
        if what == 2:
            (self.place.fresh / name).mkdir(exist_ok=True)
            return self.place.fresh / name
        if what == 3:
            return self.place.fresh / "missing" / name
        if what == 4:
            (self.place.fresh / name).symlink_to(name)  # to itself
            return self.place.fresh / name
        return self._file(
            name,
            (b"", self.dice.randbytes(500), b"\xff\xfe" + "text".encode("utf-16le"), b"\x00" * 100)[what - 5],
        )

    def _toml(self, what: str) -> str:
        """Of a good TOML file, one that is none, or that says something that is not allowed."""
        path = self.place.copy(what) if what in self.place.good else self.place.fresh / "x.toml"
        how = self.dice.randrange(12)
        if how < 2:
            path.unlink()
            return str(self._no_file(path.name))
        text = path.read_text()
        depth, digits = 10 ** self.dice.randint(3, 5), self.dice.choice((20, 400, 10_000))
        key = self.dice.choice(("name", "seed", "description", "zzz"))
        head = (
            f"zzz = {self.dice.randint(0, 9)}", f"{key} = " + "[" * depth + "]" * depth,
            f"{key} = " + "{a=" * depth + "1" + "}" * depth, "a" + ".a" * depth + " = 1",
            f"zzz = {'7' * digits}", "name = 'open", "= 3", "[zzz]\nx = 1", "\x01", "name = \"\\u0000\"",
        )  # fmt: skip
        if how < 8:
            line = self.dice.choice(head)
            path.write_text(f"{text}\n{line}\n" if line.startswith("[") else f"{line}\n{text}")
            return str(path)
        numbers = [*re.finditer(r"(?m)(?<=[\w\]] = )-?\d[\d_.e+-]*(?=\s*(?:#.*)?$|, unit)", text)]
        found = self.dice.choice(numbers) if numbers else None
        if found is None:
            path.write_text("[[[")
            return str(path)
        bad = self.dice.choice((
            '"text"', "nan", "[]", "{}", "true", "1979-05-27", "-1e300", "7" * digits, "[[1]]", "-inf",
        ))  # fmt: skip
        path.write_text(text[: found.start()] + bad + text[found.end() :])
        return str(path)

    def _design(self) -> str:
        return self.dice.choice(NO_NAME) if self.dice.random() < 0.2 else self._toml("CHIP")

    _first = _second = _designs = _design

    def _cell(self) -> str:
        if self.dice.random() < 0.3:
            return self.dice.choice(("cubic", "x4", "sigmoid()", "tabulated", "x" * 300))
        return self._toml("DEVICE") if self.dice.random() < 0.5 else self._curve()

    def _device_device(self) -> str:
        return self._toml("DEVICE")

    def _recipe(self) -> str:
        return self._toml("RECIPE")

    def _sweep_file(self) -> str:
        path = Path(self._toml("SWEEP"))
        if self.dice.random() < 0.5 or not path.is_file():
            return str(path)
        good = self.place.copy("SWEEP").read_text()
        bad = self.dice.choice((
            "mismatch.gain_std = { low = 0.0, high = 0.3, step = 1e-300 }",
            "retention_time = { low = 1e-4, high = 1e-1, step = 1e-12 }",
            "tile = []", "tile = [0]", "tile = [64, 64]", "tile = [7.5]", "tile = ['x']",
                "tile = { low = 1 }",
            "nosuch = [1]", "tile = { low = 64, high = 32 }", "cell.kind = ['nosuch']", "window = [1e300]",
            "tile = [" + "1" * 400 + "]",
        ))  # fmt: skip
        path = self._file("sweep.toml", f"{good}\n{bad}\n".encode())
        return str(path)

    def _curve(self) -> str:
        good = Path(self.place.good["CURVE"]).read_text().splitlines()
        what = self.dice.randrange(10)
        if what < 2:
            return str(self._no_file("curve.csv"))
        row = self.dice.randrange(1, len(good))
        lines = list(good)
        if what == 2:
            lines[row] += ",7"
        elif what == 3:
            lines[row] = f"1,{self.dice.choice(('x', 'nan', 'inf', '1e999', '--', '1e', ' '))},1e-7"
        elif what == 4:
            lines[0] = self.dice.choice(("cell,voltage [V]", "a,b,c", "cell,voltage [kg],current [A]", "",
                                         "voltage [V],voltage [V],current [A]"))  # fmt: skip
        elif what == 5:
            lines = lines[: self.dice.choice((1, 2))]
        elif what == 6:
            lines[1:] = [f"1,0.5,{n}e-7" for n in range(9)]  # one voltage
        elif what == 7:
            lines[row] = "1,9" + "9" * 5000 + ",1e-7"
        elif what == 8:
            lines[row] = "1," + "x" * 100_000 + ",1e-7"
        else:
            lines = []
        return str(self._file("curve.csv", "\n".join(lines).encode()))

    _decay = _curve

    def _text(self) -> str:
        what = self.dice.randrange(12)
        if what < 3:
            return str(self._no_file("text.txt"))
        if what == 3:
            return self.dice.choice(("no text here", "missing.txt", "a/b/c.txt", "~nobody/x.txt", "x" * 5000))
        if what == 4:
            return str(
                self._file("text.txt.gz", self.dice.choice((b"", b"no gzip", gzip.compress(b"x" * 999)[:50])))
            )
        if what == 5:
            return str(self._file("line.txt.gz", gzip.compress(b"a" * 2 ** self.dice.randint(23, 26), 1)))
        if what == 6:
            path = self._file("sparse.txt", b"")
            os.truncate(path, 2**30)
            return str(path)
        if what == 7:
            return str(self._file("latin.txt", b"caf\xe9 " * 5000))
        if what == 8:
            return str(self._file("short.txt", b"a few words\n"))
        if what == 9:
            return str(self._file("wide.txt", ("words and words " * 500).encode("utf-16")))
        folder = self.place.fresh / "texts"
        folder.mkdir()
        if what == 10:
            (folder / "x.train.txt").write_text("words\n" * 5000)
            os.mkfifo(folder / "x.valid.txt")
        return str(folder)

    def _model(self) -> str:
        what = self.dice.randrange(8)
        if what == 0:
            return self.dice.choice((*NO_NAME, "no/such/model", "nosuch-model-of-anyone", "adapters/nosuch"))
        if what == 1:
            return str(self._no_file("model.gguf"))
        if what == 2:
            return str(self._file("model.gguf", b"GGUF" + self.dice.randbytes(300)))
        model = self.place.copy("MODEL")
        if what < 5:
            self._spoil_config(model / "config.json")
        elif what == 5:
            name = self.dice.choice(("tokenizer.json", "tokenizer_config.json"))
            (model / name).write_bytes(
                self.dice.choice((b"{", b"[]", b"", b"\xff", b"[" * 100_000, b'{"model": 1}'))
            )
        else:
            self._spoil_tensors(model / "model.safetensors")
        return str(model)

    _map_model = _model

    def _spoil_config(self, path: Path) -> None:
        config = json.loads(path.read_text())
        what = self.dice.randrange(3)
        if what == 0:
            path.write_bytes(
                self.dice.choice((b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe", b'"text"', b"7"))
            )
            return
        key = self.dice.choice(("hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size",
                                "head_dim", "num_key_value_heads", "intermediate_size"))  # fmt: skip
        if what == 1:
            config[key] = self.dice.choice(
                (-3, "abc", [], {}, 1.5, None if key == "hidden_size" else "", 10**400)
            )
        else:
            config["model_type"] = self.dice.choice(("nosuch", "", 7, None, "bert", "mamba"))
            config["architectures"] = ["Nosuch"]
        path.write_text(json.dumps(config))

    def _spoil_tensors(self, path: Path) -> None:
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        what = self.dice.randrange(8)
        if what == 0:
            path.write_bytes(content[: self.dice.randrange(1, len(content))])
        elif what == 1:
            path.write_bytes(self.dice.randbytes(2000))
        elif what == 2:
            path.write_bytes((2 ** self.dice.choice((40, 63))).to_bytes(8, "little") + content[8:])
        elif what == 3:
            path.write_bytes(content[:8] + b"[" * size + content[8 + size :])
        elif what == 4:
            path.write_bytes(
                content[:8]
                + content[8 : 8 + size].replace(b"data_offsets", b"date_offsets")
                + content[8 + size :]
            )
        elif what == 5:
            path.write_bytes(b"")
        elif what == 6:
            path.unlink()
            os.mkfifo(path)
        else:
            tensors = load_file(path)
            name = self.dice.choice(sorted(name for name in tensors if tensors[name].is_floating_point()))
            bad = tensors[name].clone()
            bad.view(-1)[self.dice.randrange(bad.numel())] = self.dice.choice((float("nan"), float("inf")))
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            save_file(tensors | {name: bad}, path, metadata=metadata)

    def _run(self) -> str:
        what = self.dice.randrange(6)
        if what == 0:
            return self.dice.choice((*NO_NAME, "runs/nosuch", "adapters/nosuch"))
        run = self.place.copy("RUN")
        if what < 3:
            self._spoil_tensors(run / "hardware.safetensors")
        elif what == 3:
            (run / "design.toml").unlink()
        elif what == 4:
            (run / "design.toml").write_bytes(
                self.dice.choice((b"", b"[[", b"x" * 9999, b"extends = 'ideal'\n"))
            )
        else:
            text = (run / "hardware.safetensors").read_bytes()
            (run / "hardware.safetensors").write_bytes(text.replace(b"base_sha256", b"base_sha257"))
        return str(run)

    _evaluate_model = _generate_model = _adapt_model = _activity_model = _codesign_model = _linear = _run
    _serve_model = _run

    def _cost_model(self) -> str:
        return self._run() if self.dice.random() < 0.5 else self.dice.choice((*NO_NAME, "gpt5"))

    def _result(self, what: str) -> str:
        """Of a good JSON result, one that is none."""
        path = self.place.copy(what)
        how = self.dice.randrange(12)
        if how < 3:
            path.unlink()
            return str(self._no_file(path.name))
        text = path.read_text()
        found = json.loads(text)
        depth = 10 ** self.dice.randint(3, 6)
        if how == 3:
            path.write_text("[" * depth + "]" * depth)
        elif how == 4:
            path.write_text('{"a":' * depth + "1" + "}" * depth)
        elif how == 5:
            path.write_text(
                self.dice.choice(("[]", "null", "7", '"text"', "{}", '{"schema": 1}', "NaN", "{", "'x'"))
            )
        elif how == 6:
            path.write_text(text[: self.dice.randrange(1, len(text) - 3)])
        elif how == 7:
            path.write_text(
                re.sub(
                    r'"value": -?[\d.e+-]+',
                    '"value": ' + self.dice.choice(("NaN", "Infinity", "7" * 9000, "{}")),
                    text,
                )
            )
        elif how == 8:
            path.write_text(json.dumps(self._without(found, "unit" if self.dice.random() < 0.5 else "value")))
        elif how == 9:
            path.write_text(json.dumps(self._with(found, self.dice.choice(({}, [[]], "text", None)))))
        elif how == 10:
            path.write_bytes(text.encode("utf-16"))
        else:
            path.write_text(json.dumps([found]))
        return str(path)

    def _without(self, content: Any, key: str) -> Any:
        if isinstance(content, dict):
            return {k: self._without(v, key) for k, v in content.items() if k != key}
        return [self._without(v, key) for v in content] if isinstance(content, list) else content

    def _with(self, content: Any, bad: Any) -> Any:
        """All values replaced."""
        if isinstance(content, dict):
            return {k: bad if k == "value" else self._with(v, bad) for k, v in content.items()}
        return [self._with(v, bad) for v in content] if isinstance(content, list) else content

    def _report_results(self) -> str:
        return self._result("RESULT")

    def _table_results(self) -> str:
        return self._result("SCORES")

    def _activity(self) -> str:
        return self._result("ACTIVITY")

    def _baseline(self) -> str:
        return self._result("MACHINES")

    def _spice(self) -> str:
        return self._result("ENERGY")

    def _signals(self) -> str:
        path = self.place.copy("DUMP")
        if self.dice.random() < 0.3:
            path.unlink()
            return str(self._no_file(path.name))
        what = self.dice.randrange(3)
        if what == 0:
            content = path.read_bytes()
            path.write_bytes(content[: self.dice.randrange(len(content))])
        elif what == 1:
            path.write_bytes(path.read_bytes().replace(b'"q_code"', b'"q_cope"'))
        else:
            tensors = load_file(path)
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            bad = self.dice.choice((
                torch.full_like(tensors["q_code"], 120), tensors["q_code"].float() * float("nan"),
                tensors["q_code"][0], tensors["q_code"][:, :, :0],
            ))  # fmt: skip
            save_file(tensors | {"q_code": bad.contiguous()}, path, metadata=metadata)
        return str(path)

    _inputs = _signals

    def _lib(self) -> str:
        return str(self._no_file("models.lib"))


FILES = {
    "CHIP": ["design show", "design diff", "floorplan", "simulate head"],
    "DEVICE": ["device show"],
    "CURVE": ["device fit"],
    "RECIPE": ["train"],
    "SWEEP": ["sweep"],
    "SCORES": ["table"],
    "RESULT": ["report"],
    "MODEL": ["evaluate"],
    "RUN": ["evaluate", "report", "cost"],
    "DUMP": ["simulate head"],
}
"""What is changed at random, and commands that read it."""


def changed(place: Place, dice: random.Random) -> Case:
    """A command on a file in which something was changed, of no matter what meaning."""
    what = dice.choice(sorted(FILES))
    command = dice.choice(FILES[what])
    if what == "RESULT":
        place.good["RESULT"] = dice.choice(
            [p for p in sorted(RESULTS.rglob("*.json")) if "tasks" not in p.parts]
        )
    path = place.copy(what)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    file = dice.choice(files)
    if file.suffix == ".json" and dice.random() < 0.8:
        _change_json(file, dice)
    elif file.suffix in (".toml", ".csv") and dice.random() < 0.8:
        _change_lines(file, dice)
    else:
        content = bytearray(file.read_bytes())
        for _ in range(dice.choice((1, 1, 3, 30))):
            content[dice.randrange(min(len(content), 4000))] = dice.randrange(256)
        file.write_bytes(content)
    words = {"design diff": ["X", "leroux2025"], "train": ["X", "--text", "TEXT", "--dry-run"],
             "sweep": ["X", "--dry-run"], "cost": ["X", "--no-measure", "--assumed"],
             "evaluate": ["X", "--text", "TEXT", "--limit", "128", "--protocol", "blocks-64"],
             "simulate head": ["--tokens", "4", "--figures", "drawn",
                               "--signals" if what == "DUMP" else "--design", "X"],
            }.get(command, ["X"])  # fmt: skip
    arguments = [str(path) if word == "X" else word for word in place.filled(words)]
    return Case([*command.split(), *arguments], f"{file.name} changed", sure=False)


JUNK = (
    None,
    True,
    -1,
    0,
    10**18,
    1e308,
    "",
    "text",
    "x" * 3000,
    [],
    [[]],
    {},
    {"value": {}},
    [None],
    "../..",
    0.5,
)


def _change_json(file: Path, dice: random.Random) -> None:
    """Replace, remove or add an entry anywhere."""
    content = json.loads(file.read_text())
    holder = content
    for _ in range(dice.randrange(1, 7)):
        inner = [
            v
            for v in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(v, (dict, list)) and v
        ]
        if not inner:
            break
        holder = dice.choice(inner)
    key = dice.choice(sorted(holder)) if isinstance(holder, dict) else dice.randrange(len(holder))
    if dice.random() < 0.3:
        del holder[key]
    else:
        holder[key] = dice.choice(JUNK)
    file.write_text(json.dumps(content))


def _change_lines(file: Path, dice: random.Random) -> None:
    """Remove, repeat, cut or replace a line, or what it says."""
    lines = file.read_text().splitlines()
    at = dice.randrange(len(lines))
    how = dice.randrange(5)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(dice.randrange(len(lines)), lines[at])
    elif how == 2:
        lines[at] = lines[at][: dice.randrange(len(lines[at]) + 1)]
    elif how == 3:
        bad = dice.choice(("0", "-1", "1e300", "inf", "true", "[]", "{}", '""', "10_000_000", "[[1]]"))
        lines[at] = f"{lines[at].partition('=')[0]}= {bad}"
    else:
        lines[at] = re.sub(
            r"\d+(\.\d+)?(e-?\d+)?",
            lambda _: dice.choice(("0", "-1", "1e-320", "1e300", "999999999")),
            lines[at],
        )
    file.write_text("\n".join(lines) + "\n")


def case(place: Place, dice: random.Random, known: list[Option]) -> Case | None:
    """One bad command; None where the dice found nothing bad to say."""
    if dice.random() < CHANGED:
        return changed(place, dice)
    command = dice.choice(sorted(BASE))
    own = [option for option in known if option.command == command]
    base = [*command.split(), *place.filled(BASE[command])]
    what = dice.random()
    if what < 0.03:
        return Case(
            [*base, f"--{dice.choice(('nosuch', 'x' * 300, 'txet', 'helpme', 'n=5'))}"], "unknown option"
        )
    if what < 0.05 and command not in ("design validate", "report", "table"):
        return Case([*base, "one-more", "and-another", "third"], "arguments too many")
    option = dice.choice(own)
    if what < 0.12 and option.kind is not bool:
        bad = dice.choice(("", "\udcff\udcfe", "a\udc80"))
    else:
        found = Spoiler(place, dice).value(option)
        if found is None:
            return None
        bad = found
    if option.kind is bool:
        return Case([*base, bad], f"{option.flag} with a value")
    if option.flag:
        base = _without_option(base, option.flag)
        return Case([*base, option.flag, bad], f"{option.flag} {bad[:60]!a}")
    place_of = len(command.split()) + [o.name for o in own if not o.flag].index(option.name)
    if place_of < len(base) and not base[place_of].startswith("--"):
        base[place_of] = bad
    else:
        base.insert(place_of, bad)
    return Case(base, f"{option.name} {bad[:60]!a}")


def _without_option(words: list[str], flag: str) -> list[str]:
    if flag not in words:
        return words
    at = words.index(flag)
    return words[:at] + words[at + 2 :]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """All there is below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_size if not path.is_dir() else 0,
            path.lstat().st_mode,
        )
        for path in folder.rglob("*")
    }


class TooLong(BaseException):
    """A case took too long."""


def judged(place: Place, found: Case) -> str | None:
    """Run a case in this process; what is wrong with how it ended."""

    def late(*_: object) -> None:
        raise TooLong

    before = listing(place.folder)
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    code: Any = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(place.fresh):
            try:
                gaincell.cli.main(found.arguments)
            except SystemExit as ended:
                code = ended.code
    except TooLong:
        return f"not ended after {SECONDS} s"
    except BaseException as error:
        import traceback

        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"traceback: {type(error).__name__}: {str(error)[:200]} ({Path(at.filename).name}:{at.lineno})"
    finally:
        signal.alarm(0)
        torch.set_num_threads(threads)
    return _verdict(found, code, err.getvalue(), before, listing(place.folder))


def in_a_process(place: Place, found: Case) -> str | None:
    """Run a case as a user does; what is wrong with how it ended."""
    before = listing(place.folder)
    done = subprocess.run(
        [sys.executable, "-m", "gaincell", *(os.fsencode(word) for word in found.arguments)],
        cwd=place.fresh, capture_output=True, timeout=5 * SECONDS, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return _verdict(
        found, done.returncode, done.stderr.decode(errors="replace"), before, listing(place.folder)
    )


def _verdict(found: Case, code: Any, said: str, before: dict[str, Any], after: dict[str, Any]) -> str | None:
    lines = [line for line in said.splitlines() if line.startswith("gaincell: error:")]
    if "Traceback" in said:
        return f"traceback on stderr: {said[-300:]}"
    if code in (0, None):
        return "accepted in silence" if found.sure else None
    if code != 2:
        return f"exit code {code}: {said[-200:]}"
    if not lines or len(lines) > 2:
        return f"{len(lines)} lines say what is wrong: {said[-300:]}"
    if max(map(len, lines)) > LONGEST_LINE:
        return f"a line of {max(map(len, lines))} characters"
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    if changed:
        return f"left behind or changed: {sorted(changed)[:3]}"
    return None


def cases(place: Place, seed: int, count: int) -> Iterator[Case]:
    """So many cases of a seed; the working directory of each lies there until the next is asked for."""
    known, made, number = options(), 0, 0
    while made < count:
        number += 1
        shutil.rmtree(place.fresh, ignore_errors=True)
        place.fresh.mkdir()
        found = case(place, random.Random(f"{seed} {number}"), known)
        if found is not None:
            made += 1
            yield found


def failures(
    place: Place, seed: int, count: int, judge: Callable[[Place, Case], str | None] = judged
) -> Iterator[str]:
    """What went wrong in so many cases of a seed, case by case."""
    for number, found in enumerate(cases(place, seed, count), 1):
        wrong = judge(place, found)
        if wrong is not None:
            shown = " ".join(
                word if len(word) < 80 else f"{word[:40]}...({len(word)})" for word in found.arguments
            )
            yield f"{number}: {shown!a}: {found.bad}: {wrong}"


if __name__ == "__main__":
    import logging
    import time
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ |= {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder + "/cache"
        ready = Place(Path(folder))
        start, wrong = time.monotonic(), 0
        for line in failures(ready, int(sys.argv[1]), int(sys.argv[2])):
            wrong += 1
            print(line, flush=True)
        print(
            f"{sys.argv[2]} cases of seed {sys.argv[1]}: {wrong} ended badly, "
            f"{time.monotonic() - start:.0f} s"
        )
