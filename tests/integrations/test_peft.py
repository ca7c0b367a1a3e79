"""Adapters of peft on attached models, written and read back, and never as softmax in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiers import slow
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer, TrainingArguments

import gaincell
from gaincell.errors import DesignError, ModelError, RunError
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.lora import add_lora
from gaincell.integrations.hf.mixing import add_mixing

from .families import build, since, tokens
from .hardware_models import (
    DESIGN,
    FAMILIES,
    WARNINGS,
    add_parts,
    exit_code,
    hardware,
    logits,
    lora,
    run_python,
    trained,
)

pytestmark = WARNINGS


@pytest.mark.parametrize("family", [slow(name) if name == "gpt2" else name for name in FAMILIES])
def test_peft_keeps_gains_and_offsets(family: str, softmax: dict[str, Path], tmp_path: Path) -> None:
    model = hardware(softmax[family])
    before, gains = logits(model), attached_layers(model)[0].q.gain.detach().clone()
    wrapped = peft.get_peft_model(model, lora(family))
    assert sum("gain_cell" in name for name, p in wrapped.named_parameters() if p.requires_grad) == 16
    assert torch.equal(logits(trained(wrapped)), logits(wrapped))
    assert not torch.equal(attached_layers(wrapped)[0].q.gain, gains)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), before)
    wrapped.save_pretrained(tmp_path)
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert sum("gain_cell" in name for name in held) == 16
    for base in (hardware(softmax[family]), gaincell.attach(build(family), DESIGN)):
        again = peft.PeftModel.from_pretrained(base, tmp_path)
        assert torch.equal(logits(again), logits(wrapped))


READERS: dict[str, Callable[[Path, Path], nn.Module]] = {
    "PeftModel": lambda base, out: peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), out
    ),
    "low_cpu_mem_usage": lambda base, out: peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), out, low_cpu_mem_usage=True
    ),
    "AutoPeftModel": lambda _, out: peft.AutoPeftModelForCausalLM.from_pretrained(out),
    "AutoModel": lambda _, out: AutoModelForCausalLM.from_pretrained(out),
    "load_adapter": lambda base, out: loaded_adapter(AutoModelForCausalLM.from_pretrained(base), out),
}


def loaded_adapter(model: PreTrainedModel, out: Path) -> PreTrainedModel:
    model.load_adapter(str(out))
    return model


def adapter(model: PreTrainedModel, family: str, out: Path) -> nn.Module:
    """An attached model with a trained adapter, which is saved."""
    config = lora(family)
    config.task_type = "CAUSAL_LM"
    wrapped = trained(peft.get_peft_model(model, config))
    wrapped.save_pretrained(out)
    return wrapped


OF_TRANSFORMERS = since("5.18", "reads what an adapter of peft keeps beside its factors,")
"""Where it does not, what it reads is refused."""


@pytest.mark.parametrize(
    "reader",
    [pytest.param(r, marks=OF_TRANSFORMERS) if r in ("AutoModel", "load_adapter") else r for r in READERS],
)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_attaches_its_base_model(
    family: str, reader: str, softmax: dict[str, Path], tmp_path: Path
) -> None:
    wrapped = adapter(hardware(softmax[family]), family, tmp_path)
    again = READERS[reader](softmax[family], tmp_path)
    assert torch.equal(logits(again), logits(wrapped))
    ours, theirs = attached_layers(wrapped)[0], attached_layers(again)[0]
    assert theirs.design == ours.design
    if isinstance(again, peft.PeftModel):
        again.save_pretrained(tmp_path / "twice")
        config = (tmp_path / "adapter_config.json").read_text()
        assert (tmp_path / "twice" / "adapter_config.json").read_text() == config
        assert torch.equal(logits(again.merge_and_unload()), logits(wrapped.merge_and_unload()))


@pytest.mark.parametrize("reader", ["PeftModel", pytest.param("AutoModel", marks=OF_TRANSFORMERS)])
def test_an_adapter_that_brought_the_gains_is_not_disabled(
    reader: str, softmax: dict[str, Path], tmp_path: Path
) -> None:
    """The model without it had gains of its own, which are in no file."""
    adapter(hardware(softmax["llama"]), "llama", tmp_path)
    model: Any = READERS[reader](softmax["llama"], tmp_path)
    before = logits(model)

    def disable() -> None:
        model.base_model.disable_adapter_layers() if reader == "PeftModel" else model.disable_adapters()

    with pytest.raises(ModelError, match=r"the adapter cannot be disabled.*gaincell\.set_attention\(model"):
        disable()
    assert torch.equal(logits(model), before)
    if reader == "PeftModel":
        gaincell.set_attention(model, "softmax")
        with model.disable_adapter():
            software = logits(AutoModelForCausalLM.from_pretrained(softmax["llama"]))
            torch.testing.assert_close(logits(model), software, atol=1e-5, rtol=0)
            with pytest.raises(ModelError, match="the adapter cannot be disabled"):
                gaincell.set_attention(model, "gain-cell")
            torch.testing.assert_close(logits(model), software, atol=1e-5, rtol=0)
        gaincell.set_attention(model, "gain-cell")
        assert torch.equal(logits(model), before)
        model.add_adapter("new", lora("llama"))
        model.set_adapter("new")
        with pytest.warns(gaincell.UncalibratedWarning):
            logits(model)
        with pytest.raises(ModelError, match=r"or unloaded: .*gaincell\.detach\(model\)"):
            model.unload()
        assert torch.equal(logits(gaincell.detach(model).unload()), software)


def test_unloading_leaves_the_gains_of_the_model(softmax: dict[str, Path]) -> None:
    model = hardware(softmax["llama"])
    before = logits(model)
    wrapped: Any = trained(peft.get_peft_model(model, lora("llama")))
    assert not torch.equal(logits(wrapped), before)
    assert torch.equal(logits(wrapped.unload()), before)


MIXTURES: dict[str, Callable[[Any], Any]] = {
    "merge_and_unload": lambda model: model.merge_and_unload(adapter_names=["other"]),
    "merge_adapter": lambda model: model.merge_adapter(["other"]),
    "rows": lambda model: model(tokens(2, 8), adapter_names=["default", "other"]),
    "weighted": lambda model: model.add_weighted_adapter(["other"], [1.0], "new"),
}


def test_weights_of_one_adapter_with_gains_of_another(softmax: dict[str, Path]) -> None:
    """They are never mixed."""
    wrapped: Any = trained(peft.get_peft_model(hardware(softmax["llama"]), lora("llama"))).eval()
    wrapped.add_adapter("other", lora("llama"))
    before = logits(wrapped)
    for mix in MIXTURES.values():
        with pytest.raises(ModelError, match=r"gains and offsets of .*adapter"):
            mix(wrapped)
        assert torch.equal(logits(wrapped), before)
    assert torch.equal(wrapped(tokens(2, 20), use_cache=False, adapter_names=["default"] * 2).logits, before)
    wrapped.merge_adapter(["default"])


def test_an_adapter_that_keeps_no_modules_is_refused(softmax: dict[str, Path]) -> None:
    config = peft.TrainableTokensConfig(token_indices=[1, 2])
    with pytest.raises(ModelError, match=r"TrainableTokensConfig has no modules_to_save.*LoraConfig"):
        peft.get_peft_model(hardware(softmax["llama"]), config)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(softmax["llama"]), config)


@pytest.mark.slow
@pytest.mark.parametrize("installed", [True, False])
def test_peft_alone_stops_at_our_adapters(installed: bool, softmax: dict[str, Path], tmp_path: Path) -> None:
    """Where nobody imports gaincell, installed or not."""
    adapter(hardware(softmax["llama"]), "llama", tmp_path)
    done = run_python(
        f"""
import sys
if not {installed}:
    sys.modules["gaincell"] = None
import peft
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained({str(softmax["llama"])!r})
for read in (
    lambda: peft.PeftModel.from_pretrained(base, "."),
    lambda: peft.PeftConfig.from_pretrained("."),
    lambda: peft.LoraConfig.from_pretrained("."),
    lambda: peft.AutoPeftModelForCausalLM.from_pretrained("."),
    lambda: AutoModelForCausalLM.from_pretrained("."),
    lambda: base.load_adapter("."),
):
    try:
        read()
        print("read")
    except KeyError as error:
        print(error)
""",
        tmp_path,
    )
    said = done.stdout.splitlines()
    assert len(said) == 6, done.stderr
    assert set(said) == {"'LORA on gain-cell arrays (pip install gaincell, then import gaincell)'"}


@pytest.mark.parametrize(
    "part", ["biases", slow("exponents"), "normaliser", slow("rotated"), slow("paired"), slow("balanced")]
)
def test_what_else_belongs_to_the_arrays(
    part: str, softmax: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It comes back by peft's own saving and from an exported RUN."""
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN)
    add_parts(model, part)
    gaincell.calibrate(model, [tokens(2, 30, seed=3)])
    wrapped = adapter(model, "llama", tmp_path / "adapter")
    again = READERS["PeftModel"](softmax["llama"], tmp_path / "adapter")
    assert torch.equal(logits(again), logits(wrapped))
    with pytest.raises(
        ModelError, match=r"was trained with extras = \['.*, the model is attached with extras = \[\]"
    ):
        peft.PeftModel.from_pretrained(hardware(softmax["llama"]), tmp_path / "adapter")
    run = gaincell.save(wrapped, tmp_path / "run")
    assert exit_code("export", str(run), "--format", "peft", "--out", str(tmp_path / "out")) == 0
    expected = logits(gaincell.load(run)[0])
    again = READERS["PeftModel"](softmax["llama"], tmp_path / "out")
    torch.testing.assert_close(logits(again), expected, atol=1e-5, rtol=0)


def test_mixing_is_refused(
    softmax: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN)
    add_mixing(model, tokens(2, 30, seed=3))
    with pytest.raises(ModelError, match=r"has mixing, which peft's files cannot hold: save it with"):
        peft.get_peft_model(model, lora("llama"))
    add_lora(model, 2)
    gaincell.calibrate(model, [tokens(2, 30, seed=3)])
    run = gaincell.save(trained(model), tmp_path / "run")
    assert exit_code("export", str(run), "--format", "peft", "--out", str(tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert "the RUN has mixing" in said
    assert "use gaincell export --format transformers" in said
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert exit_code("export", str(run), "--out", str(tmp_path / "whole")) == 0
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert torch.equal(logits(again), logits(gaincell.load(run)[0]))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"version": 2}, RunError, r"adapter_config.json: .* has version 2, this gaincell reads 1; upgrade"),
        ({"version": None}, RunError, r"has version None"),
        ({"design": None}, DesignError, r"no complete design"),
        ({"design": {"tile": 8, "invented": 1}}, DesignError, r"'invented'"),
        ({"extras": ["q.exponent"]}, RunError, r"exponents are not those of this model"),
        ({"extras": ["invented"]}, ModelError, r"was trained with extras = \['invented'\]"),
        ({"sizes": {"layers": 3}}, ModelError, r"was trained with sizes = {'layers': 3}"),
        ({"base": "0" * 64}, ModelError, r"was trained on a model with other weights: load its base model"),
    ],
    ids=str,
)
def test_records_that_cannot_be_read(
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
    softmax: dict[str, Path],
    tmp_path: Path,
) -> None:
    adapter(hardware(softmax["llama"]), "llama", tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    config["auto_mapping"]["gaincell"] |= changes
    file.write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_pretrained(softmax["llama"])
    before = logits(model)
    with pytest.raises(error, match=message) as caught:
        peft.PeftModel.from_pretrained(model, tmp_path)
    assert "\n" not in str(caught.value)
    assert not attached_layers(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("reader", ["PeftModel", pytest.param("AutoModel", marks=OF_TRANSFORMERS)])
@pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
def test_gains_that_do_not_fit(damage: str, reader: str, softmax: dict[str, Path], tmp_path: Path) -> None:
    adapter(hardware(softmax["llama"]), "llama", tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    held = load_file(file)
    gain = "base_model.model.model.layers.0.self_attn.gain_cell.q.gain"
    own = held.pop(gain)
    if damage != "missing":
        held[gain] = torch.ones(3).double() if damage == "shape" else own * torch.nan
    save_file(held, file, metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        READERS[reader](softmax["llama"], tmp_path)
    assert "\n" not in str(caught.value)
    named = "a size differs" if (damage, reader) == ("shape", "AutoModel") else "gain_cell"
    assert named in str(caught.value)


def test_a_base_model_that_changed(softmax: dict[str, Path], tmp_path: Path) -> None:
    """In any type of its weights; in another of the same shape each reader refuses."""
    base = shutil.copytree(softmax["llama"], tmp_path / "base")
    wrapped = adapter(hardware(base), "llama", tmp_path / "adapter")
    coarse = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    peft.PeftModel.from_pretrained(coarse, tmp_path / "adapter")
    run = gaincell.save(wrapped, tmp_path / "run")
    build("llama", seed=5).save_pretrained(base)
    for reader in READERS.values():
        with pytest.raises(ModelError, match=r"was trained on a model with other weights") as caught:
            reader(base, tmp_path / "adapter")
        assert "\n" not in str(caught.value)
    assert exit_code("export", str(run), "--format", "peft", "--out", str(tmp_path / "out")) == 2


@pytest.mark.slow
def test_adapters_for_something_else(softmax: dict[str, Path], tmp_path: Path) -> None:
    """Another model, another chip, beside another adapter, of another kind."""
    wrapped = adapter(hardware(softmax["llama"]), "llama", tmp_path / "llama")
    for base in (gaincell.detach(hardware(softmax["gpt2"])), hardware(softmax["gpt2"])):
        with pytest.raises(ModelError, match=r"was trained on a model with other weights: load its base"):
            peft.PeftModel.from_pretrained(base, tmp_path / "llama")
    plain = AutoModelForCausalLM.from_pretrained(softmax["llama"])
    other = gaincell.attach(plain, DESIGN.replace(cell="linear"))
    with pytest.raises(ModelError, match=r"was trained on the design .* exchange the design then"):
        peft.PeftModel.from_pretrained(other, tmp_path / "llama")
    beside = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(softmax["llama"]), lora("llama"))
    with pytest.raises(ModelError, match=r"call gaincell\.attach\(model, design\) before peft reads it"):
        beside.load_adapter(tmp_path / "llama", "ours")
    beside.save_pretrained(tmp_path / "softmax")
    config = json.loads((tmp_path / "softmax" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["modules_to_save"]) == ("LORA", None)

    second = peft.PeftModel.from_pretrained(hardware(softmax["llama"]), tmp_path / "llama")
    second.add_adapter("second", lora("llama"))
    second.set_adapter("second")
    trained(second).save_pretrained(tmp_path / "two")
    again = READERS["PeftModel"](softmax["llama"], tmp_path / "two" / "second")
    assert torch.equal(logits(again), logits(second))
    assert not torch.equal(logits(second), logits(wrapped))

    prompts = peft.get_peft_model(
        hardware(softmax["llama"]), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    prompts.save_pretrained(tmp_path / "prompts")
    again = READERS["PeftModel"](softmax["llama"], tmp_path / "prompts")
    assert torch.equal(logits(again), logits(prompts))


def test_adapters_read_into_one_that_is_there(softmax: dict[str, Path], tmp_path: Path) -> None:
    """Its name is no reason to ask less."""
    wrapped = adapter(hardware(softmax["llama"]), "llama", tmp_path / "own")
    before = logits(wrapped)
    plain = AutoModelForCausalLM.from_pretrained(softmax["llama"])
    adapter(gaincell.attach(plain, DESIGN.replace(cell="linear")), "llama", tmp_path / "other")
    paired = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN)
    add_parts(paired, "paired")
    adapter(paired, "llama", tmp_path / "paired")
    for name in ("default", "new"):
        with pytest.raises(ModelError, match=r"was trained on the design .* exchange the design then"):
            wrapped.load_adapter(tmp_path / "other", name)
        with pytest.raises(ModelError, match=r"was trained with extras = \['k\.kept', 'q\.kept'\]"):
            wrapped.load_adapter(model_id=tmp_path, adapter_name=name, subfolder="paired")
    assert torch.equal(logits(wrapped), before)
    wrapped.load_adapter(tmp_path / "own", "default")
    assert torch.equal(logits(wrapped), before)

    file = tmp_path / "paired" / "adapter_config.json"
    config = json.loads(file.read_text())
    config["auto_mapping"] = None
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"does not fit the model: .*gain_cell.*kept is not in the model"):
        wrapped.load_adapter(tmp_path / "paired", "default")


def test_an_adapter_of_a_detached_model(softmax: dict[str, Path], tmp_path: Path) -> None:
    """It is one of softmax attention, for peft alone."""
    wrapped = trained(peft.get_peft_model(hardware(softmax["llama"]), lora("llama")))
    gaincell.detach(wrapped)
    wrapped.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["modules_to_save"]) == ("LORA", None)
    again = READERS["PeftModel"](softmax["llama"], tmp_path)
    assert not attached_layers(again)
    assert torch.equal(logits(again), logits(wrapped))
    (tmp_path / "adapter_config.json").unlink()
    plain = AutoModelForCausalLM.from_pretrained(softmax["llama"])
    again = peft.PeftModel.from_pretrained(plain, tmp_path, config=lora("llama"))
    assert torch.equal(logits(again), logits(wrapped))


@pytest.mark.parametrize("family", [slow(name) if name == "mistral" else name for name in FAMILIES])
def test_peft_models_elsewhere(family: str, softmax: dict[str, Path], tmp_path: Path) -> None:
    """In a RUN, merged, and never as a directory of the base model alone."""
    wrapped = trained(peft.get_peft_model(hardware(softmax[family]), lora(family)))
    gaincell.save(wrapped, tmp_path / "run")
    model, tokenizer = gaincell.load(tmp_path / "run")
    assert tokenizer is None
    torch.testing.assert_close(logits(model), logits(wrapped), atol=0.3, rtol=0)  # of codes, after 16 bits
    assert (logits(model) - logits(wrapped)).abs().mean() < 0.01
    with pytest.raises(ModelError, match=r"merge them into the weights first"):
        wrapped.get_base_model().save_pretrained(tmp_path / "never")
    merged = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), logits(merged))


@pytest.mark.parametrize("kind", [peft.PrefixTuningConfig, peft.PromptTuningConfig])
def test_a_run_holds_no_learned_prompts(kind: Any, softmax: dict[str, Path], tmp_path: Path) -> None:
    wrapped = peft.get_peft_model(
        hardware(softmax["llama"]), kind(task_type="CAUSAL_LM", num_virtual_tokens=3)
    )
    with pytest.raises(ModelError, match="learned prompts"):
        gaincell.save(wrapped, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trainer_and_peft_with_resume(softmax: dict[str, Path], tmp_path: Path) -> None:
    data = [{"input_ids": row, "labels": row} for row in tokens(8, 12)]

    def trainer(steps: int) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            save_steps=2,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        model = peft.get_peft_model(hardware(softmax["llama"]), lora("llama"))
        return Trainer(model=model, args=arguments, train_dataset=data)

    first = trainer(2)
    first.train()
    second = trainer(2)
    second.train(resume_from_checkpoint=True)
    assert torch.equal(logits(second.model), logits(first.model))
