"""An adapter in peft's files wherever a MODEL or a RUN is taken."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiers import slow
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import gaincell
from gaincell.errors import GaincellError, InputError, ModelError, RunError
from gaincell.integrations.hf import sources
from gaincell.integrations.hf.attach import attached_layers, attached_model
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.size import model_size, run_design

from .hardware_models import DESIGN, FAMILIES, WARNINGS, exit_code, hardware, logits, lora, trained

pytestmark = WARNINGS
TOKENIZER = Path(gaincell.__file__).parent / "assets" / "tiny"


def adapter(base: Path, out: Path, config: peft.PeftConfig) -> nn.Module:
    """A trained adapter in `out`; what it must come back as."""
    wrapped = trained(peft.get_peft_model(hardware(base), config))
    wrapped.save_pretrained(out)
    merged: nn.Module = wrapped.merge_and_unload()
    return merged


@pytest.mark.parametrize(
    ("family", "config"),
    [
        *((family, lora(family)) for family in FAMILIES),
        (
            "llama",
            peft.LoraConfig(
                r=2, target_modules=["v_proj"], use_dora=True, use_rslora=True, modules_to_save=["lm_head"]
            ),
        ),
        ("llama", peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])),
        ("llama", peft.LoHaConfig(r=2, target_modules=["q_proj"])),
    ],
    ids=[*FAMILIES, "variants of LoRA", "IA3", "LoHa"],
)
def test_load(family: str, config: peft.PeftConfig, softmax: dict[str, Path], tmp_path: Path) -> None:
    expected = adapter(softmax[family], tmp_path, config)
    model, tokenizer = gaincell.load(tmp_path)
    assert torch.equal(logits(model), logits(expected))
    assert tokenizer is None
    assert attached_layers(model)[0].design == attached_layers(expected)[0].design
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    run = gaincell.save(model, tmp_path / "run")
    assert torch.equal(logits(gaincell.load(run)[0]), logits(model))
    model.save_pretrained(tmp_path / "whole")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "whole")), logits(model))
    coarse, _ = gaincell.load(tmp_path, dtype=torch.bfloat16, design="leroux2025", backend="blocked")
    cell = attached_layers(coarse)[0]
    assert (cell.design.name, cell.backend, cell.q.gain.dtype) == ("leroux2025", "blocked", torch.float64)


def base_model(seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """With as many tokens as the embedded tokenizer has."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 8192, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=256))


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A directory with a base model, its tokenizer and an adapter."""
    base_model().save_pretrained(tmp_path / "base")
    for file in TOKENIZER.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "base")
    adapter(tmp_path / "base", tmp_path / "adapter", lora("llama"))
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ("cost", "{}", "--assumed", "--no-measure"),
        ("evaluate", "{}", "--protocol", "blocks-16", "--limit", "64"),
        ("generate", "{}", "--prompt", "It was", "--tokens", "3"),
        ("activity", "{}", "--tokens", "32"),
        (
            "adapt",
            "{}",
            "--cell",
            "x3",
            "--protocol",
            "blocks-32",
            "--calibration-tokens",
            "64",
            "--limit",
            "64",
        ),
        ("sweep", "{}/sweep.toml", "--dry-run"),
        slow(("export", "{}", "--out", "{}/exported")),
    ],
    ids=lambda command: command[0],
)
def test_commands(command: tuple[str, ...], pair: Path) -> None:
    place = str(pair / "adapter")
    (pair / "adapter" / "sweep.toml").write_text(
        f'model = "{place}"\nobjectives = ["perplexity"]\nsampler = "each"\n[parameters]\nwindow = [64]\n'
    )
    assert exit_code(*(word.format(place) for word in command)) == 0
    if command[0] == "export":
        again = AutoModelForCausalLM.from_pretrained(pair / "adapter" / "exported")
        assert torch.equal(logits(again), logits(gaincell.load(place)[0]))
        card = (pair / "adapter" / "exported" / "README.md").read_text()
        assert "base on leroux2025" in card
        assert str(pair) not in card


def test_what_is_known_without_weights(pair: Path) -> None:
    assert run_design(pair / "adapter") == attached_layers(gaincell.load(pair / "adapter")[0])[0].design
    size = model_size(pair / "adapter")
    assert (size.title, size.layers) == ("base", 2)


@pytest.mark.slow
def test_an_exported_run_is_a_model(pair: Path) -> None:
    """Its tokenizer may stand beside the adapter, its base model somewhere else."""
    model = load_model(pair / "base").model
    gaincell.attach(model, DESIGN)
    gaincell.calibrate(model, [torch.arange(60).reshape(2, 30)])
    wrapped = trained(peft.get_peft_model(model, lora("llama")))
    run = gaincell.save(wrapped, pair / "run")
    assert exit_code("export", str(run), "--format", "peft", "--out", str(pair / "out")) == 0
    with pytest.raises(ModelError, match=r"out: its base model is needed: model 'base' is not .*"):
        gaincell.load(pair / "out")
    again, tokenizer = gaincell.load(pair / "out", base=pair / "base")
    torch.testing.assert_close(logits(again), logits(gaincell.load(run)[0]), atol=1e-5, rtol=0)
    assert tokenizer is not None
    for file in list((pair / "base").glob("tokenizer*")):
        shutil.move(file, pair / "adapter")
    assert gaincell.load(pair / "adapter")[1] is not None
    assert gaincell.load(pair / "out", base=pair / "base")[1] is None


def test_an_adapter_on_the_hub(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(gaincell.load(pair / "adapter")[0])
    files = [SimpleNamespace(rfilename=file.name) for file in (pair / "adapter").iterdir()]
    wanted: list[list[str]] = []

    def download(_: str, allow_patterns: list[str], **__: Any) -> str:
        wanted.append(allow_patterns)
        return str(pair / "adapter")

    answers = chain([TimeoutError("slow")], repeat(SimpleNamespace(sha="f" * 40, siblings=files)))

    def model_info(*_: Any, **__: Any) -> SimpleNamespace:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(sources.HfApi, "model_info", model_info)
    monkeypatch.setattr(sources, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(sources, "snapshot_download", download)
    sources._hub_directory.cache_clear()
    now = [0.0]
    monkeypatch.setattr(sources, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert not sources.is_adapter_on_hub("someone/on-arrays")
    assert not sources.is_adapter_on_hub("someone/on-arrays")  # not asked again at once
    now[0] += 61.0
    assert torch.equal(logits(gaincell.load("someone/on-arrays")[0]), expected)
    assert {"adapter_model.safetensors", "*.json"} <= set(wanted[0])


def edit(place: Path, **changes: Any) -> None:
    file = place / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def softmax_adapter(place: Path) -> None:
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(place.parent / "base"), lora("llama"))
    wrapped.save_pretrained(place)


def newer(place: Path) -> None:
    record = json.loads((place / "adapter_config.json").read_text())["auto_mapping"]["gaincell"]
    edit(place, auto_mapping={"gaincell": record | {"version": 2}})


def other_base(place: Path) -> None:
    base_model(seed=5).save_pretrained(place.parent / "base")


def smaller_base(place: Path) -> None:
    base_model(layers=1).save_pretrained(place.parent / "base")


def half_base(place: Path) -> None:
    base_model(seed=5).half().save_pretrained(place.parent / "base")


def without(part: str) -> Any:
    def damage(place: Path) -> None:
        file = place / "adapter_model.safetensors"
        held = {name: tensor for name, tensor in load_file(file).items() if part not in name}
        save_file(held, file, metadata={"format": "pt"})

    return damage


def not_a_number(place: Path) -> None:
    file = place / "adapter_model.safetensors"
    held = load_file(file)
    save_file({n: t * torch.nan if "lora_B" in n else t for n, t in held.items()}, file)


def prompts(place: Path) -> None:
    shutil.rmtree(place)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(hardware(place.parent / "base"), config).save_pretrained(place)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (softmax_adapter, ModelError, r"is of an adapter for softmax attention, without a chip"),
        (newer, RunError, r"has version 2, this gaincell reads 1; upgrade gaincell"),
        (other_base, ModelError, r"its base model '.*base' has changed since the adapter was trained"),
        (smaller_base, ModelError, r"its base model '.*base' has changed since the adapter was trained"),
        (half_base, ModelError, r"its base model '.*base' has changed since the adapter was trained"),
        (
            lambda place: shutil.rmtree(place.parent / "base"),
            ModelError,
            r"adapter: its base model is needed",
        ),
        (
            lambda place: edit(place, base_model_name_or_path=str(place)),
            ModelError,
            r"its base model .* is an adapter itself",
        ),
        (lambda place: edit(place, base_model_name_or_path=None), ModelError, r"names no base model"),
        (
            lambda place: shutil.copy(place.parent / "base" / "config.json", place),
            ModelError,
            r"holds a model and an adapter",
        ),
        (lambda place: (place / "adapter_config.json").write_text("{"), ModelError, r"cannot be read"),
        (lambda place: (place / "adapter_config.json").write_text("[]"), ModelError, r"no settings"),
        (lambda place: (place / "adapter_model.safetensors").unlink(), ModelError, r"cannot be read"),
        (without("lora_A"), ModelError, r"does not fit the model: .*lora_A"),
        (without("gain_cell.q.gain"), ModelError, r"gain_cell"),
        (not_a_number, ModelError, r"NaN"),
        (prompts, ModelError, r"learned prompts cannot be merged"),
    ],
)
def test_what_is_refused(
    damage: Any,
    error: type[GaincellError],
    message: str,
    pair: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(pair / "adapter")
    with pytest.raises(error, match=message) as caught:
        gaincell.load(pair / "adapter")
    assert "\n" not in str(caught.value)
    capsys.readouterr()
    assert exit_code("generate", str(pair / "adapter"), "--prompt", "It was") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "adapter" in said


def test_an_adapter_is_read_without_warnings(pair: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaincell.load(pair / "adapter")


def test_peft_is_needed(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"adapters need the extra: pip install 'gaincell\[train\]'"):
        gaincell.load(pair / "adapter")


@pytest.mark.slow
def test_a_checkpoint_of_trainer(pair: Path) -> None:
    """Beside the adapter stand the states of optimiser and schedule."""
    from transformers import Trainer, TrainingArguments

    wrapped = peft.get_peft_model(hardware(pair / "base"), lora("llama"))
    data = [{"input_ids": row, "labels": row} for row in torch.arange(48).reshape(4, 12)]
    arguments = TrainingArguments(
        str(pair / "out"), max_steps=1, save_steps=1, report_to=[], disable_tqdm=True, use_cpu=True
    )
    Trainer(model=wrapped, args=arguments, train_dataset=data).train()
    model, _ = gaincell.load(pair / "out" / "checkpoint-1")
    assert attached_model(model) is model
    assert torch.equal(logits(model), logits(wrapped.merge_and_unload()))
