"""docs/adding_a_backend.md does what it says: a copy of the package with its file and line has it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gaincell

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_backend.md"

CHECK = """
import pytest, torch
from typer.testing import CliRunner
from gaincell.circuits.noise import Noise
from gaincell.chips.design_file import load_design
from gaincell.cli import app
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention import gain_cell_attention

design = load_design("leroux2025").replace(window=32, tile=8, token_period=60e-6)
q, k, v = (torch.rand(2, heads, 50, 8, dtype=torch.float64) for heads in (4, 2, 2))
found = []
for backend in ("dense", "naive"):
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    out = gain_cell_attention(*leaves, design, None, backend)
    found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
for a, b in zip(*found, strict=True):
    torch.testing.assert_close(a, b)
noisy = design.replace(noise=Noise(score_std=0.1))
with pytest.raises(InputError, match="'dense' does not serve this: it does not implement noise.score_std"):
    gain_cell_attention(q, k, v, noisy, None, "dense")
with pytest.raises(InputError, match="backend='dense' does not serve this: it computes the exact"):
    gain_cell_attention(q, k, v, design, None, "dense", gradient="surrogate")
chosen = {"query_index": torch.tensor([[49], [7]])}
with pytest.raises(InputError, match="backend='dense' does not serve this: it takes no padding, no chosen"):
    gain_cell_attention(q[:, :, :1], k, v, design, None, "dense", **chosen)
assert "dense" in CliRunner().invoke(app, ["evaluate", "--help"]).output
print(__import__("gaincell").__file__)
"""


@pytest.mark.slow
def test_one_file_and_one_line_are_enough(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    [file], [line] = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "text"))
    package = tmp_path / "gaincell"
    shutil.copytree(Path(gaincell.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    backends, names = package / "ops" / "gain_cell_attention" / "backends", package / "backend_names.py"
    (backends / "dense.py").write_text(file, encoding="utf-8")
    known = names.read_text(encoding="utf-8")
    registered = known.replace('    "triton",\n', '    "triton",\n' + line)
    assert registered.count("\n") == known.count("\n") + 1
    names.write_text(registered, encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "-c", CHECK],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).is_relative_to(tmp_path)
