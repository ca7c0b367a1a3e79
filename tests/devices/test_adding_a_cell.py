"""devices/README.md does what it says: a copy of the package with its class and lines has another kind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gaincell

PACKAGE = Path(gaincell.__file__).parent
CELL_TESTS = Path(__file__).with_name("test_cell.py")

CHECK = """
import pytest, torch
from gaincell.chips.design_file import load_design
from gaincell.cli import _options as options
from gaincell.devices.cell import named_cell
from gaincell.errors import DesignError, InputError
from gaincell.ops.gain_cell_attention import gain_cell_attention, native_library

paper = load_design("leroux2025")
design = paper.replace(cell="tanh")
assert design.cell.numbers == {"a": 12.0, "u0": 0.5}
assert load_design(design.save("saved.toml")) == design
open("own.toml", "w").write('extends = "leroux2025"\\nname = "own"\\n[cell]\\nkind = "tanh"')
assert load_design("own.toml").cell == options.choose_chip("tiny", None, "tanh").cell == design.cell
with pytest.raises(DesignError, match="no cell 'tanhh' .did you mean 'tanh'.*; allowed: .*tanh"):
    options.choose_chip("tiny", None, "tanhh")
with pytest.raises(DesignError, match="cell 'tanh' needs the number 'u0'"):
    named_cell("tanh", {"a": 12.0})

small = {"window": 32, "tile": 16, "token_period": 60e-6, "readout": "none"}
q, k, v = (torch.rand(1, heads, 40, 16) for heads in (2, 1, 1))
compiled = ["native"] if native_library.levels() else []
expected, *found = (
    gain_cell_attention(q, k, v, design.replace(**small), backend=backend)
    for backend in ("naive", "blocked", *compiled, "triton")
)
for each in found:
    torch.testing.assert_close(each, expected, rtol=0, atol=1e-4)
steep = design.replace(cell=type(design.cell)(u0=1e-3), storage_levels=None, **small)
for backend in (*compiled, "triton"):
    with pytest.raises(InputError, match=f"'{backend}' does not serve this: the cell's curve is not smooth"):
        gain_cell_attention(q, k, v, steep, backend=backend)
print(__import__("gaincell").__file__)
"""


@pytest.mark.slow
def test_one_class_and_its_lines_are_enough(tmp_path: Path) -> None:
    page = (PACKAGE / "devices" / "README.md").read_text(encoding="utf-8")
    [added] = re.findall(r"^@dataclass.*?(?=^model, )", page, re.DOTALL | re.MULTILINE)
    line, span = (f"    {each}\n" for each in re.findall(r"```text\n +(.*?)\n +```", page))
    [numbers] = re.findall(r"```toml\n(.*?) +```", page, re.DOTALL)
    package = tmp_path / "gaincell"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    tests = shutil.copy(CELL_TESTS, tmp_path)
    for path, before, more in (
        (package / "devices" / "cell.py", "class Kind(NamedTuple):\n", added),
        (package / "devices" / "cell.py", '    "tabulated": Kind(TabulatedCell),\n', line),
        (package / "designs" / "leroux2025.toml", "linear_slope = ", numbers),
        (tests, '    "tabulated": 19.5,\n', span),
    ):
        source = Path(path).read_text(encoding="utf-8")
        assert source.count(before) == 1
        Path(path).write_text(source.replace(before, more + before), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "TRITON_INTERPRET": "1"}
    options = ["-q", "-c", os.devnull, "-p", "no:cacheprovider", "--hypothesis-profile", "ci", "-k", "tanh"]
    for command in (["-c", CHECK], ["-m", "pytest", *options, str(tests)]):
        found = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stdout + found.stderr
        assert str(package) in found.stdout or " passed" in found.stdout
