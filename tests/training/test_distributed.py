"""Two processes train as one does with the same global batch, with whole and with sharded weights, and where
hidden states are learnt, or something is dropped.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.micro import micro_design, write_micro

ROOT = Path(__file__).parents[2]
JOB = """
import os
import runpy
import sys
import time
from pathlib import Path
exists = Path.exists

def slow(path):
    found = exists(path)
    time.sleep(1.5 if path.name == "settings.json" and not found else 0)  # the first one waits
    return found

if os.environ.get("RANK") == "1":
    Path.exists = slow
folder = Path(sys.argv[1])
sys.argv = ["gaincell", "train", *sys.argv[2:], "--out", str(folder / "run")]
try:
    runpy.run_module("gaincell", run_name="__main__")
except SystemExit as ended:
    assert not ended.code
import torch
import torch.distributed.tensor
from accelerate import PartialState
PartialState(cpu=True)
from tests.integrations.families import VOCABULARY, build
from tests.micro import micro_design, micro_llama
from gaincell.circuits.noise import Noise
from gaincell.errors import InputError
from gaincell.integrations.hf.attach import attach
from gaincell.training.distillation import Distillation
from gaincell.training.loop import TrainSettings, train

torch.set_num_threads(1)
for dtype in (torch.float64, torch.float32):
    model = attach(micro_llama(dtype), micro_design(noise=Noise(score_std=0.01)))
    blocks = torch.randint(1, 97, (32, 33), generator=torch.Generator().manual_seed(0))
    settings = TrainSettings(batch=4, micro_batch=1, bf16=False, learning_rate=1e-3, checkpoint_every=3)
    name = str(dtype).removeprefix("torch.")
    train(model, blocks, settings, checkpoint=folder / name, log=folder / f"{name}.jsonl")
model = attach(micro_llama(torch.float64), micro_design())
settings = TrainSettings(batch=4, micro_batch=1, bf16=False, learning_rate=1e-3, checkpoint_every=1)
states = Distillation(micro_llama(torch.float64), 0.5, states=1.0)
train(model, blocks[:8], settings, loss_of=states, checkpoint=folder / "states")
dropping = build("opt").double()  # layers with dropout that is no module, and that are computed again
settings = TrainSettings(batch=4, micro_batch=1, bf16=False, learning_rate=1e-3, gradient_checkpointing=True)
torch.manual_seed(PartialState().process_index)
train(dropping, blocks[:8] % VOCABULARY, settings, checkpoint=folder / "dropout")
sharded = attach(micro_llama(), micro_design())
settings = TrainSettings(batch=4, micro_batch=1, bf16=False, sharded=True)
train(sharded, blocks[:8], settings, checkpoint=folder / "sharded")
if PartialState().num_processes == 2:
    shares = [p for p in sharded.parameters() if isinstance(p, torch.distributed.tensor.DTensor)]
    assert len(shares) == sum(".gain_cell." not in n for n, _ in sharded.named_parameters()) > 0
    try:
        train(model, blocks, TrainSettings(batch=3, micro_batch=1))
    except InputError as error:
        assert "2 processes cannot share a step of 3 sequences" in str(error)
    else:
        raise AssertionError("three pieces were shared by two")
"""
TWO = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]  # on a free port
RECIPE = """
model = "{model}"
design = "{design}"
block = 32
evaluation_tokens = 64
calibration_tokens = 64
[training]
batch = 4
micro_batch = 1
bf16 = false
[[stage]]
name = "linear"
start = "software"
cell = "linear"
loss = "distillation"
steps = 3
[[stage]]
name = "adapted"
start = "linear"
task = "adapt"
[[stage]]
name = "fine-tuned"
start = "adapted"
steps = 3
"""


pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch was built without distribution"
)


def trained(folder: Path) -> dict[str, tuple[Path, str]]:
    """What one process and two, by torchrun, write and print: first `gaincell train`, then `JOB`."""
    model, text = write_micro(folder)
    micro_design().save(folder / "chip.toml")
    recipe, job = folder / "mini.toml", folder / "job.py"
    recipe.write_text(RECIPE.format(model=model, design=folder / "chip.toml"))
    job.write_text(JOB)
    found = {}
    for name, several in (("one", []), ("two", TWO)):
        (folder / name).mkdir()
        printed = launch([*several, str(job), str(folder / name), str(recipe), "--text", str(text)])
        found[name] = folder / name, printed
    return found


def launch(arguments: list[str], code: int = 0) -> str:
    """Run Python with these arguments; returns what it prints, errors where it is to fail."""
    source = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == code, done.stderr[-30000:]
    return done.stderr if code else done.stdout


@pytest.mark.slow
def test_one_process_refuses_for_all(tmp_path: Path) -> None:
    model, text = write_micro(tmp_path)
    micro_design().save(tmp_path / "chip.toml")
    recipe = tmp_path / "mini.toml"
    recipe.write_text(RECIPE.format(model=model, design=tmp_path / "chip.toml"))
    given = ["train", str(recipe), "--text", str(text), "--out", str(tmp_path / "run")]
    said = launch([*TWO, "-m", "gaincell", *given, "--set", "training.batch=3"], code=1)
    assert "gaincell: error: stage linear: 2 processes cannot share a step of 3 sequences" in said
    assert "[rank1]: Traceback" not in said


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    made = trained(tmp_path)
    folders = [folder for folder, _ in made.values()]
    for name, tolerance in (("float64", 1e-9), ("float32", 1e-3), ("states", 1e-9), ("dropout", 1e-9)):
        one, two = (load_file(folder / name) for folder in folders)
        assert one.keys() == two.keys()
        for key in one:
            if key.startswith("parameter."):
                scale = float(one[key].abs().max())
                torch.testing.assert_close(two[key], one[key], rtol=0, atol=tolerance * max(scale, 1.0))
    one, two = (load_file(folder / "sharded") for folder in folders)
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-5)
    for name in ("float64", "float32"):
        logs = [(folder / f"{name}.jsonl").read_text().splitlines() for folder in folders]
        assert len(logs[0]) == len(logs[1]) == 8
    check_command(made)


def check_command(made: dict[str, tuple[Path, str]]) -> None:
    for _, printed in made.values():
        assert printed.count("recipe mini.toml") == 1
    runs = [folder / "run" for folder, _ in made.values()]
    one, two = (load_file(run / "stages" / "fine-tuned.safetensors") for run in runs)
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-5)
    logs = [(run / "log.jsonl").read_text().splitlines() for run in runs]
    assert len(logs[0]) == len(logs[1]) == 6
