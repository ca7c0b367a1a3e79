"""Bad files: a text, table, model, run or result that cannot be read, or says what is not allowed."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.robustness.bad_input.commands import Place

NO_NAME = ("no such thing", "nosuch.toml", "leroux2026", "../nowhere.toml", "nul\u0001l", "~nobody/x.toml",
           "dir/", "x" * 5000, "*", "design.toml.bak", "./nowhere")  # fmt: skip


class BadFiles:
    """Makes bad files in the working directory of a case; each method returns the path of one."""

    def __init__(self, place: Place, dice: random.Random) -> None:
        self.place, self.dice = place, dice

    def write(self, name: str, content: bytes) -> Path:
        path = self.place.fresh / name
        path.write_bytes(content)
        return path

    def pipe(self, name: str) -> Path:
        path = self.place.fresh / name
        if not path.exists():
            os.mkfifo(path)
        return path

    def unreadable(self, name: str) -> Path:
        """Of a name, no file that can be read, or one that holds nothing readable."""
        what = self.dice.randrange(9)
        if what == 0:
            return self.pipe(name)
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
        return self.write(
            name,
            (b"", self.dice.randbytes(500), b"\xff\xfe" + "text".encode("utf-16le"), b"\x00" * 100)[what - 5],
        )

    def toml(self, what: str) -> str:
        """Of a good TOML file, one that is none, or that says something that is not allowed."""
        path = self.place.copy(what) if what in self.place.good else self.place.fresh / "x.toml"
        how = self.dice.randrange(12)
        if how < 2:
            path.unlink()
            return str(self.unreadable(path.name))
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

    def sweep(self) -> str:
        path = Path(self.toml("SWEEP"))
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
        path = self.write("sweep.toml", f"{good}\n{bad}\n".encode())
        return str(path)

    def curve(self) -> str:
        good = Path(self.place.good["CURVE"]).read_text().splitlines()
        what = self.dice.randrange(10)
        if what < 2:
            return str(self.unreadable("curve.csv"))
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
        return str(self.write("curve.csv", "\n".join(lines).encode()))

    def text(self) -> str:
        what = self.dice.randrange(12)
        if what < 3:
            return str(self.unreadable("text.txt"))
        if what == 3:
            return self.dice.choice(("no text here", "missing.txt", "a/b/c.txt", "~nobody/x.txt", "x" * 5000))
        if what == 4:
            return str(
                self.write("text.txt.gz", self.dice.choice((b"", b"no gzip", gzip.compress(b"x" * 999)[:50])))
            )
        if what == 5:
            return str(self.write("line.txt.gz", gzip.compress(b"a" * 2 ** self.dice.randint(23, 26), 1)))
        if what == 6:
            path = self.write("sparse.txt", b"")
            os.truncate(path, 2**30)
            return str(path)
        if what == 7:
            return str(self.write("latin.txt", b"caf\xe9 " * 5000))
        if what == 8:
            return str(self.write("short.txt", b"a few words\n"))
        if what == 9:
            return str(self.write("wide.txt", ("words and words " * 500).encode("utf-16")))
        folder = self.place.fresh / "texts"
        folder.mkdir()
        if what == 10:
            (folder / "x.train.txt").write_text("words\n" * 5000)
            os.mkfifo(folder / "x.valid.txt")
        return str(folder)

    def model(self) -> str:
        what = self.dice.randrange(8)
        if what == 0:
            return self.dice.choice((*NO_NAME, "no/such/model", "nosuch-model-of-anyone", "adapters/nosuch"))
        if what == 1:
            return str(self.unreadable("model.gguf"))
        if what == 2:
            return str(self.write("model.gguf", b"GGUF" + self.dice.randbytes(300)))
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
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            save_file(tensors | {name: bad}, path, metadata=metadata)

    def run(self) -> str:
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

    def result(self, what: str) -> str:
        """Of a good JSON result, one that is none."""
        path = self.place.copy(what)
        how = self.dice.randrange(12)
        if how < 3:
            path.unlink()
            return str(self.unreadable(path.name))
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
            path.write_text(json.dumps(_without(found, "unit" if self.dice.random() < 0.5 else "value")))
        elif how == 9:
            path.write_text(json.dumps(_with(found, self.dice.choice(({}, [[]], "text", None)))))
        elif how == 10:
            path.write_bytes(text.encode("utf-16"))
        else:
            path.write_text(json.dumps([found]))
        return str(path)

    def signals(self) -> str:
        path = self.place.copy("DUMP")
        if self.dice.random() < 0.3:
            path.unlink()
            return str(self.unreadable(path.name))
        what = self.dice.randrange(3)
        if what == 0:
            content = path.read_bytes()
            path.write_bytes(content[: self.dice.randrange(len(content))])
        elif what == 1:
            path.write_bytes(path.read_bytes().replace(b'"q_code"', b'"q_cope"'))
        else:
            tensors = load_file(path)
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            bad = self.dice.choice((
                torch.full_like(tensors["q_code"], 120), tensors["q_code"].float() * float("nan"),
                tensors["q_code"][0], tensors["q_code"][:, :, :0],
            ))  # fmt: skip
            save_file(tensors | {"q_code": bad.contiguous()}, path, metadata=metadata)
        return str(path)


def _without(content: Any, key: str) -> Any:
    if isinstance(content, dict):
        return {k: _without(v, key) for k, v in content.items() if k != key}
    return [_without(v, key) for v in content] if isinstance(content, list) else content


def _with(content: Any, bad: Any) -> Any:
    """All values replaced."""
    if isinstance(content, dict):
        return {k: bad if k == "value" else _with(v, bad) for k, v in content.items()}
    return [_with(v, bad) for v in content] if isinstance(content, list) else content
