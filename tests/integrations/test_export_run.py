"""`gaincell export`: a RUN in the files of transformers and of peft; a RUN on the hub."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from tests.tiers import slow
from torch import nn
from transformers import (
    AutoModelForCausalLM,
)

import gaincell
from gaincell.integrations.hf import sources
from gaincell.integrations.hf.base_model import load_base
from gaincell.integrations.hf.run import Run

from .families import tokens
from .hardware_models import DESIGN, FAMILIES, WARNINGS, exit_code, hardware, logits, lora, trained

pytestmark = WARNINGS


@pytest.fixture
def adapter(
    request: pytest.FixtureRequest, softmax: dict[str, Path], tmp_path: Path
) -> tuple[Path, nn.Module]:
    """A RUN of low-rank adapters."""
    family = getattr(request, "param", "gpt2")
    wrapped = trained(peft.get_peft_model(hardware(softmax[family]), lora(family)))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(parameter.half())  # as it is saved
    return gaincell.save(wrapped, tmp_path / "run"), wrapped


@pytest.mark.parametrize(
    "adapter", [slow(name) if name == "qwen2" else name for name in FAMILIES], indirect=True
)
def test_export_to_transformers(adapter: tuple[Path, nn.Module], tmp_path: Path) -> None:
    run, _ = adapter
    command = ("export", str(run), "--out", str(tmp_path / "out"))
    assert exit_code(*command) == 0
    expected = logits(gaincell.load(run)[0])
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out")), expected)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert 'from_pretrained("out")' in card
    assert str(tmp_path) not in card
    assert exit_code(*command, "--dtype", "bfloat16") == 0
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert next(again.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize(("adapter", "family"), [(f, f) for f in FAMILIES], indirect=["adapter"])
def test_export_to_peft(
    adapter: tuple[Path, nn.Module],
    family: str,
    softmax: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, wrapped = adapter
    out = tmp_path / "out"
    assert exit_code("export", str(run), "--format", "peft", "--out", str(out)) == 0
    again = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(softmax[family]), out)
    torch.testing.assert_close(logits(again), logits(wrapped), atol=1e-5, rtol=0)
    whole = gaincell.save(trained(hardware(softmax[family])), tmp_path / "whole")
    assert exit_code("export", str(whole), "--format", "peft", "--out", str(tmp_path / "none")) == 2
    assert (
        "the RUN has no low-rank adapters: use gaincell export --format transformers"
        in capsys.readouterr().err
    )


FORMS = ["transformers", "peft"]


@pytest.mark.parametrize("holds", [*FORMS, "RUN"])
@pytest.mark.parametrize("form", FORMS)
def test_a_directory_holds_one_model(
    adapter: tuple[Path, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, holds: str
) -> None:
    run, _ = adapter
    command, out = ("export", str(run), "--out", str(tmp_path / "out"), "--format"), tmp_path / "out"
    if holds == "RUN":
        shutil.copytree(run, out)
    else:
        assert exit_code(*command, holds) == 0
    before = {file: file.read_bytes() for file in out.iterdir()}
    assert exit_code(*command, form) == (0 if form == holds else 2)
    assert ("holds another model already" in capsys.readouterr().err) == (form != holds)
    assert {file: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.parametrize("base", [slow("tiny"), "a directory"])
def test_the_card_of_an_adapter_on_a_base_that_is_not_on_the_hub(
    base: str, softmax: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says to run, run where the adapter is and, as it says, with the path of the base model."""
    monkeypatch.chdir(tmp_path)
    model = gaincell.attach(load_base("tiny" if base == "tiny" else str(softmax["llama"])).model, DESIGN)
    gaincell.calibrate(model, [tokens(2, 30, seed=3)])
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    gaincell.save(peft.get_peft_model(model, config), "run")
    assert exit_code("export", "run", "--format", "peft", "--out", "out") == 0
    code = (tmp_path / "out" / "README.md").read_text().split("```python")[1].split("```")[0]
    if base != "tiny":
        (tmp_path / softmax["llama"].name).symlink_to(softmax["llama"])
    found: dict[str, Any] = {}
    exec(code, found)
    assert torch.equal(logits(found["model"]), logits(gaincell.load("run")[0]))


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_leaves_the_earlier_export(
    adapter: tuple[Path, nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    run, _ = adapter
    out = tmp_path / "out"
    command = ("export", str(run), "--format", form, "--out", str(out))
    assert exit_code(*command) == 0
    for file in out.iterdir():
        if file.name != "config.json":
            file.write_text("earlier")
    before = {file: file.read_text() for file in out.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        assert exit_code(*command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"cannot write {out}: the disk is full" in " ".join(capsys.readouterr().err.split())
    assert {file: file.read_text() for file in out.iterdir()} == before


def test_an_earlier_export_in_parts_is_replaced(adapter: tuple[Path, nn.Module], tmp_path: Path) -> None:
    run, _ = adapter
    own = ("notes.txt", "model-backup.safetensors")
    assert exit_code("export", str(run), "--out", str(tmp_path)) == 0
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", *own):
        (tmp_path / name).write_text("earlier")
    assert exit_code("export", str(run), "--out", str(tmp_path)) == 0
    assert {file.name for file in tmp_path.glob("model*")} == {"model.safetensors", own[1]}
    assert all((tmp_path / name).read_text() == "earlier" for name in own)


def test_files_of_ones_own_are_not_replaced(adapter: tuple[Path, nn.Module], tmp_path: Path) -> None:
    for name in ("README.md", "vocab.json", "tokenizer_training.py"):
        (tmp_path / name).write_text("mine")
    for form in ("transformers", "peft"):
        assert exit_code("export", str(adapter[0]), "--format", form, "--out", str(tmp_path)) == 2
    for name in ("README.md", "vocab.json"):
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()
    assert exit_code("export", str(adapter[0]), "--out", str(tmp_path)) == 0
    assert (tmp_path / "tokenizer_training.py").read_text() == "mine"


def test_a_model_that_is_no_export_is_not_replaced(
    adapter: tuple[Path, nn.Module],
    softmax: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The base model itself, say; of an export the files of a tokenizer that the new one lacks go."""
    run, _ = adapter
    base = tmp_path / "base"
    shutil.copytree(softmax["gpt2"], base)
    before = {file: file.read_bytes() for file in base.iterdir()}
    assert exit_code("export", str(run), "--out", str(base)) == 2
    assert "holds a model that is not in arrays (config.json)" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in base.iterdir()} == before
    out = tmp_path / "out"
    assert exit_code("export", str(run), "--out", str(out)) == 0
    (out / "chat_template.jinja").write_text("another model's")
    assert exit_code("export", str(run), "--out", str(out)) == 0
    assert not (out / "chat_template.jinja").exists()


def test_a_run_on_the_hub(
    adapter: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a MODEL or a RUN is taken; asked for once."""
    run, _ = adapter
    asked: list[str] = []

    def model_info(_: Any, name: str, **__: Any) -> SimpleNamespace:
        asked.append(name)
        return SimpleNamespace(
            sha="f" * 40, siblings=[SimpleNamespace(rfilename=f.name) for f in run.iterdir()]
        )

    monkeypatch.setattr(sources.HfApi, "model_info", model_info)
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(sources, "snapshot_download", lambda *_, **__: str(run))
    expected = logits(gaincell.load(run)[0])
    assert torch.equal(logits(gaincell.load("someone/adapter")[0]), expected)
    assert Run("someone/adapter").saved
    assert asked == ["someone/adapter"]
