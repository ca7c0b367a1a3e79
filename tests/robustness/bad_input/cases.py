"""Cases: a command that works, of which one thing is made bad; the same for the same seed."""

from __future__ import annotations

import json
import random
import re
import shutil
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.robustness.bad_input.commands import BASE, RESULTS, Option, Place, options
from tests.robustness.bad_input.files import NO_NAME, BadFiles

CHANGED = 0.25
"""Share of cases in which a file is changed at random."""


@dataclass(frozen=True)
class Case:
    """A command line, and what is bad about it."""

    arguments: list[str]
    bad: str
    sure: bool = True
    """Else it may be accepted: bytes or entries of a file were changed, which may not matter."""


NO_WHOLE = ("1.5", "abc", "1e5", "nan", "inf", "0x10", "1,000", "--", "9" * 20, "9" * 10_000, "-9999999999",
            "9223372036854775808", "4294967296000", "five", "1 2", "\u00bd", "1_0_")  # fmt: skip
NO_NUMBER = ("abc", "nan", "inf", "-inf", "1e999", "-1e999", "1,5", "1.2.3", "e5", "1e", "0x1p3", "ten",
             "--", "1 m", "\u221e", "1e-5s")  # fmt: skip
NO_LIST = ("0", "a", ",", "1,,x", "-1", "1;2", "1.5", "10" * 30, "1,2,nan", " ", "0,1")
NO_STORAGE = ("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true",
              "sqlite:///file:x?mode=memory&uri=true", "nodb://host/x", "nowhere/points.journal",
              "sqlite:////nowhere/x.db", "sqlite+pysqlite:///", "://", "a://b://c")  # fmt: skip
ON_A_RUN = ("evaluate", "generate", "adapt", "activity", "codesign", "serve")
WORDS = {
    "protocol": ("blocks", "blocks-", "blocks-0", "blocks-1", "blocks--5", "blocks-1.5", "blocks-x",
                 "words-64", "strided-64", "strided-64-0", "strided-64-65", "strided-0-0", "rolling",
                 "rolling-x", "rolling-0", "blocks-99999999999999999999", "BLOCKS-64", "blocks 64"),
    "mismatch": ("lots", "-5%", "nan", "nan%", "inf", "1e400", "5%%", "%", "5 percent", "1e9", "--5", "5,5%",
                 "200x"),
    "device": ("abacus", "cuda:99", "cpu:7:1", "gpu", "0", "-1", "cuda:-1", "meta", "cpu,cpu", "xyz:0"),
    "technology": NO_NAME,
    "stage": NO_NAME,
    "only": NO_NAME,
    "reference": NO_NAME,
    "batches": NO_LIST,
    "contexts": NO_LIST,
    "implementations": ("nosuch", "flash:float7", "matmul:", ":", ",", "flash,nosuch", "flash:float32:x"),
    "host": ("999.1.1.1", "no host", "256.256.256.256", "1.2.3.4.5", "::g", "192.0.2.77"),
    "prompt": ("\udcff", "a\udc80b", "\ud800"),
    "temperature": ("1e-320", "1e-300", "-1", "nan", "inf", "5e-324", "abc"),
    "spice_temperature": ("nan", "inf", "-1000", "1e10", "abc", "-1e300"),
    "supply": ("nan", "inf", "-1", "0", "1e300", "abc", "1e-300"),
    "vdd": ("nan", "inf", "-1", "0", "1e300", "abc"),
    "process": ("medium", "", "ff", "x" * 500),
    "figure": ("figure", "figure.foo", "/", "figure.png.txt", "/proc/x.png", "n" * 300 + ".png"),
    "floorplan_out": ("figure", "figure.foo", "/", "figure.png.txt", "/proc/x.png", "n" * 300 + ".png"),
}  # fmt: skip
"""Bad values of options, by their names, or by command and name."""


class BadValues:
    """Bad values of options; the files that they name lie in the working directory of the case."""

    def __init__(self, place: Place, dice: random.Random) -> None:
        self.place, self.dice, self.files = place, dice, BadFiles(place, dice)
        files = self.files
        self.made: dict[str, Callable[[], object]] = {
            "storage": self._storage,
            "out": self._out,
            "figures": self._figures,
            **dict.fromkeys(("json", "csv", "latex", "markdown", "dump", "gds"), self._output_file),
            **dict.fromkeys(("design", "first", "second", "designs", "design_source"), self._design),
            "design_name": lambda: self.dice.choice(
                ("a/b", "..", ".hidden", "leroux2025", "ideal", "a/../b")
            ),
            "cell": self._cell,
            "device_device": lambda: files.toml("DEVICE"),
            "recipe": lambda: files.toml("RECIPE"),
            "sweep_file": files.sweep,
            **dict.fromkeys(("curve", "decay"), files.curve),
            "text": files.text,
            **dict.fromkeys(("model", "map_model"), files.model),
            **dict.fromkeys((*(f"{command}_model" for command in ON_A_RUN), "run", "linear"), files.run),
            "cost_model": self._cost_model,
            "report_results": lambda: files.result("RESULT"),
            "table_results": lambda: files.result("SCORES"),
            "activity": lambda: files.result("ACTIVITY"),
            "baseline": lambda: files.result("MACHINES"),
            "spice": lambda: files.result("ENERGY"),
            **dict.fromkeys(("signals", "inputs"), files.signals),
            "lib": lambda: files.unreadable("models.lib"),
            "liberty": lambda: files.unreadable("cells.lib"),
        }

    def value(self, option: Option) -> str | None:
        """A bad value of an option; None where no value is known to be bad."""
        for name in (f"{option.command.split()[0]}_{option.name}", option.name):
            if name in WORDS:
                return self.dice.choice(WORDS[name])
            if name in self.made:
                return str(self.made[name]())
        kind = typing.get_args(option.kind)[0] if typing.get_origin(option.kind) is list else option.kind
        if kind is bool:
            return f"{option.flag}={self.dice.choice(('yes', '1', 'maybe', 'x' * 300))}"
        choices = typing.get_args(kind)
        if isinstance(kind, type) and issubclass(kind, Enum):
            choices = [choice.value for choice in kind]
        if choices:
            return self.dice.choice(("nosuch", "None ", "1", choices[0] + "x", "\u00e4" * 400))
        bounds = [] if option.low is None else [option.low - self.dice.choice((1, 7, 2**31, 10**12))]
        bounds += [] if option.high is None else [option.high + self.dice.choice((1, 1000, 2**40))]
        if kind is int:
            return self.dice.choice([*(str(int(x)) for x in bounds), *self.dice.sample(NO_WHOLE, 4)])
        if kind is float:
            return self.dice.choice([*(repr(float(x)) for x in bounds), *self.dice.sample(NO_NUMBER, 4)])
        return None

    def _storage(self) -> str:
        if self.dice.random() < 0.3:
            return str(
                self.files.write(
                    "points.journal", self.dice.choice((b"no journal\n", b"\0\0\0", b"{}\n", b"[1]\n"))
                )
            )
        return self.dice.choice(NO_STORAGE)

    def _out(self) -> str:
        return self.dice.choice((
            "/proc/none/x", str(self.files.write("file", b"x") / "below"), "n" * 300, "/proc/x.html",
            "/sys/x.toml",
        ))  # fmt: skip

    def _output_file(self) -> str:
        return self.dice.choice((
            str(self.place.folder), "/", ".", "..", "/proc/x.json",
            str(self.files.write("file", b"x") / "x.json"), "n" * 300, str(self.files.pipe("pipe.json")),
            "/proc/none/deep/x.json",
        ))  # fmt: skip

    def _figures(self) -> str:
        return self.dice.choice(
            (str(self.files.write("file", b"x")), "/proc/x", str(self.files.write("plain", b"") / "x"))
        )

    def _design(self) -> str:
        return self.dice.choice(NO_NAME) if self.dice.random() < 0.2 else self.files.toml("CHIP")

    def _cell(self) -> str:
        if self.dice.random() < 0.3:
            return self.dice.choice(("cubic", "x4", "sigmoid()", "tabulated", "x" * 300))
        return self.files.toml("DEVICE") if self.dice.random() < 0.5 else self.files.curve()

    def _cost_model(self) -> str:
        return self.files.run() if self.dice.random() < 0.5 else self.dice.choice((*NO_NAME, "gpt5"))


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
        found = BadValues(place, dice).value(option)
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
