"""What a user of transformers and Trainer does with an attached model, and what must come back of it.

The models are random and tiny, with gains and offsets as `calibrate` sets them.
"""

from __future__ import annotations

import copy
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiers import slow, slow_after
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BitNetQuantConfig,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

import gaincell
from gaincell.errors import DesignError, ModelError, RunError
from gaincell.integrations.hf.attach import attached_layers, computes_softmax, set_attention
from gaincell.integrations.hf.mixing import add_mixing

from .families import tokens
from .hardware_models import (
    DESIGN,
    FAMILIES,
    WARNINGS,
    add_parts,
    brief_trainer,
    hardware,
    logits,
    lora,
    run_python,
    trained,
)

pytestmark = WARNINGS


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((family, torch.float32) for family in FAMILIES), ("llama", torch.bfloat16), ("gpt2", torch.float64)],
)
def test_save_pretrained_and_from_pretrained(
    family: str, dtype: torch.dtype, softmax: dict[str, Path], tmp_path: Path
) -> None:
    model = hardware(softmax[family], dtype=dtype)
    model.save_pretrained(tmp_path / "saved")
    again, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", dtype=dtype, output_loading_info=True
    )
    assert torch.equal(logits(again), logits(model))
    assert not any(info.values()), "nothing is said to be ignored"
    ours, theirs = attached_layers(model)[0], attached_layers(again)[0]
    assert theirs.design == ours.design
    assert theirs.q.gain.dtype == torch.float64
    assert torch.equal(theirs.q.gain, ours.q.gain)
    assert next(again.parameters()).dtype == dtype
    assert not hasattr(again.config, "quantization_config")
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice" / "config.json").read_bytes() == (
        tmp_path / "saved" / "config.json"
    ).read_bytes()
    assert torch.equal(logits(gaincell.detach(again)), logits(gaincell.detach(model)))


@pytest.mark.parametrize(
    "how",
    [{"device_map": "cpu"}, {"device_map": "auto"}, {"device_map": {"": "cpu"}}, {"dtype": "auto"}],
    ids=str,
)
def test_ways_of_loading(how: dict[str, Any], softmax: dict[str, Path], tmp_path: Path) -> None:
    model = hardware(softmax["llama"])
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path, **how)), logits(model))
    assert torch.equal(logits(type(model).from_pretrained(tmp_path, **how)), logits(model))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_another_head(family: str, softmax: dict[str, Path], tmp_path: Path) -> None:
    """Gains and offsets come back in a model without its head, and from one."""
    model = hardware(softmax[family])

    def hidden(backbone: Any) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = backbone(input_ids=tokens(2, 20), use_cache=False).last_hidden_state
        return found

    model.save_pretrained(tmp_path / "whole")
    backbone = AutoModel.from_pretrained(tmp_path / "whole")
    assert torch.equal(hidden(backbone), hidden(model.base_model))
    backbone.save_pretrained(tmp_path / "backbone")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "backbone")
    assert torch.equal(hidden(again.base_model), hidden(backbone))


@pytest.mark.parametrize("how", ["config=", "config.json"])
def test_a_configuration_that_hides_the_hardware(how: str, softmax: dict[str, Path], saved: Path) -> None:
    """Never the softmax model, whose report says that gains can be ignored."""
    if how == "config.json":
        shutil.copy(softmax["llama"] / "config.json", saved)
    keywords = {"config": AutoConfig.from_pretrained(softmax["llama"])} if how == "config=" else {}
    with pytest.raises(ModelError, match=r"gain_cell.* would be lost") as caught:
        AutoModelForCausalLM.from_pretrained(saved, **keywords)
    assert "\n" not in str(caught.value)


def test_weights_without_files_are_refused(saved: Path) -> None:
    config, weights = AutoConfig.from_pretrained(saved), load_file(saved / "model.safetensors")
    with pytest.raises(ModelError, match=r"read from files only.*load_state_dict") as caught:
        LlamaForCausalLM.from_pretrained(None, config=config, state_dict=weights)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("way", ["save_pretrained", "peft", "gaincell.save"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gains_that_were_cast_are_not_saved(
    way: str, dtype: torch.dtype, softmax: dict[str, Path], tmp_path: Path
) -> None:
    """They would come back in float64, rounded to 16 bits, and nobody would know."""
    model: Any = hardware(softmax["llama"])
    if way == "peft":
        model = peft.get_peft_model(model, lora("llama"))
    model.to(dtype)
    save = partial(gaincell.save, model) if way == "gaincell.save" else model.save_pretrained
    with pytest.raises(ModelError, match=rf"cannot save: .* cast to {dtype}.*dtype={dtype}"):
        save(tmp_path / "saved")


def test_layers_that_wait_on_disk(softmax: dict[str, Path], tmp_path: Path) -> None:
    model = hardware(softmax["llama"])
    model.save_pretrained(tmp_path / "saved")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", device_map=places, offload_folder=tmp_path / "offload"
    )
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("family", [name if name == "gpt2" else slow(name) for name in FAMILIES])
def test_copies_and_pickles(family: str, softmax: dict[str, Path], tmp_path: Path) -> None:
    model = hardware(softmax[family])
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        assert torch.equal(logits(other), logits(model))
        other.save_pretrained(tmp_path / "saved")
        assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")), logits(model))
        with torch.no_grad():
            attached_layers(other)[0].q.gain.mul_(2)
        assert not torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("family", slow_after(1, FAMILIES))
def test_trainer_with_resume(family: str, softmax: dict[str, Path], tmp_path: Path) -> None:
    """Stopped after two of four steps and gone on with, a training ends where it ends without the stop."""
    data = [{"input_ids": row, "labels": row} for row in tokens(8, 12)]

    def trainer(steps: int, out: str) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(tmp_path / out),
            max_steps=steps,
            save_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        return Trainer(model=hardware(softmax[family]), args=arguments, train_dataset=data)

    whole = trainer(4, "whole")
    whole.train()
    trainer(2, "parts").train()
    resumed = trainer(4, "parts")
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(logits(resumed.model), logits(whole.model))
    assert not torch.equal(logits(whole.model), logits(hardware(softmax[family])))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "checkpoint-4")
    assert torch.equal(logits(loaded), logits(whole.model))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("saved_on", "model_on", "words"),
    [
        ("chip", "other", "was trained on the design"),
        ("chip", None, "is not attached"),
        (None, "chip", "softmax"),
    ],
)
def test_a_training_goes_on_with_its_own_hardware(
    saved_on: str | None,
    model_on: str | None,
    words: str,
    wrapped: bool,
    softmax: dict[str, Path],
    tmp_path: Path,
) -> None:
    designs = {"chip": DESIGN, "other": DESIGN.replace(cell="linear")}

    def trainer(on: str | None, steps: int) -> Trainer:
        model: Any = AutoModelForCausalLM.from_pretrained(softmax["llama"])
        if on is not None:
            gaincell.attach(model, designs[on])
            gaincell.calibrate(model, [tokens(2, 30, seed=3)])
        if wrapped:
            model = peft.get_peft_model(model, lora("llama"))
        return brief_trainer(model, steps, tmp_path)

    trainer(saved_on, 1).train()
    with pytest.raises(ModelError, match=words) as caught:
        trainer(model_on, 2).train(resume_from_checkpoint=True)
    assert "\n" not in str(caught.value)


PAIRED = r"extras = \['k.kept', 'q.kept'\], the model .* extras = \[\]"
SURROGATE = "gradient = surrogate, the model is attached with gradient = exact"


@pytest.mark.parametrize(
    ("part", "gradient", "wrapped", "words"),
    [
        ("paired", "exact", False, PAIRED),
        slow("paired", "exact", True, PAIRED),
        slow("mixing", "exact", False, r"extras = \['mix_.*\], the model .* extras = \[\]"),
        ("", "surrogate", False, SURROGATE),
        slow("", "surrogate", True, SURROGATE),
    ],
)
def test_a_training_goes_on_attached_as_it_was(
    part: str, gradient: Any, wrapped: bool, words: str, softmax: dict[str, Path], tmp_path: Path
) -> None:
    def model(part: str, gradient: Any) -> Any:
        made = AutoModelForCausalLM.from_pretrained(softmax["llama"])
        gaincell.attach(made, DESIGN, gradient=gradient)
        add_parts(made, part)
        if part == "mixing":
            add_mixing(made, tokens(2, 30, seed=3))
        gaincell.calibrate(made, [tokens(2, 30, seed=3)])
        return peft.get_peft_model(made, lora("llama")) if wrapped else made

    brief_trainer(model(part, gradient), 1, tmp_path).train()
    brief_trainer(model(part, gradient), 2, tmp_path).train(resume_from_checkpoint=True)
    other = model("", "exact")
    before = logits(other)
    with pytest.raises(ModelError, match=words) as caught:
        brief_trainer(other, 3, tmp_path).train(resume_from_checkpoint=True)
    assert "\n" not in str(caught.value)
    assert torch.equal(logits(other), before)


def test_push_to_hub(softmax: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would go up comes back attached."""
    import transformers.utils.hub as hub

    model = hardware(softmax["llama"])
    monkeypatch.setattr(
        hub, "create_repo", lambda repo_id, **_: type("Url", (), {"repo_id": repo_id})(), raising=False
    )
    sent = tmp_path / "hub"

    def upload(_: Any, working_dir: str, *__: Any, **___: Any) -> None:
        shutil.copytree(working_dir, sent)

    monkeypatch.setattr(type(model), "_upload_modified_files", upload)
    api = type("Api", (), {"create_repo": lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id})()})
    monkeypatch.setattr(hub, "hf_api", api, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # nothing is asked of the network
    model.push_to_hub("someone/attached")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(sent)), logits(model))


@pytest.mark.parametrize(
    "part", ["biases", "exponents", "normaliser", "rotated", "paired", "balanced", "mixing"]
)
def test_what_else_belongs_to_the_arrays(part: str, softmax: dict[str, Path], tmp_path: Path) -> None:
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN)
    ids = tokens(2, 30, seed=3)
    add_parts(model, part)
    if part == "mixing":
        add_mixing(model, ids)
    gaincell.calibrate(model, [ids])
    trained(model)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    if part == "mixing":  # comes back in the weights
        torch.testing.assert_close(logits(again), logits(model), atol=0.3, rtol=0)
        assert (logits(again) - logits(model)).abs().mean() < 0.01
    else:
        assert torch.equal(logits(again), logits(model))


def test_other_attention_is_not_asked_for_in_vain(saved: Path) -> None:
    """Who asks for "eager" to compare with would get the arrays."""
    with pytest.raises(
        ModelError, match=r"attn_implementation='eager': .*set_attention\(model, \"softmax\"\)"
    ):
        AutoModelForCausalLM.from_pretrained(saved, attn_implementation="eager")
    named = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="gaincell")
    assert torch.equal(logits(named), logits(AutoModelForCausalLM.from_pretrained(saved)))


def test_gains_in_16_bits_are_neither_written_nor_read(saved: Path, tmp_path: Path) -> None:
    """As wrappers for mixed precision hand them over."""
    model = AutoModelForCausalLM.from_pretrained(saved)
    cast = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"state_dict= has .*gain in torch.bfloat16, too coarse"):
        model.save_pretrained(tmp_path / "cast", state_dict=cast)
    file = saved / "model.safetensors"
    save_file({n: t.bfloat16() for n, t in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"gain is torch.bfloat16, no floats of 32 bits or more"):
        AutoModelForCausalLM.from_pretrained(saved)


def test_softmax_attention_stays_softmax_attention(softmax: dict[str, Path], tmp_path: Path) -> None:
    model = set_attention(hardware(softmax["llama"]), "softmax")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert computes_softmax(again)
    assert torch.equal(logits(set_attention(again, "gain-cell")), logits(set_attention(model, "gain-cell")))


@pytest.mark.slow
def test_without_gaincell_an_error_and_never_softmax(softmax: dict[str, Path], tmp_path: Path) -> None:
    hardware(softmax["llama"]).save_pretrained(tmp_path)
    done = run_python(
        """
import sys
sys.modules["gaincell"] = None  # as if it were not installed
import transformers
for loader in transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM:
    for arguments in {}, {"device_map": "cpu"}:
        try:
            loader.from_pretrained(".", **arguments)
            print("loaded")
        except ValueError as error:
            print(error)
""",
        tmp_path,
    )
    said = done.stdout.splitlines()
    assert len(said) == 4, done.stderr
    assert all("pip install gaincell, then import gaincell" in line for line in said)


@pytest.mark.slow
def test_import_gaincell_is_enough(softmax: dict[str, Path], tmp_path: Path) -> None:
    """After transformers too, and by unpickling a model."""
    model = hardware(softmax["llama"])
    model.save_pretrained(tmp_path)
    torch.save(model, tmp_path / "model.pt")
    torch.save((tokens(2, 20), logits(model)), tmp_path / "expected.pt")
    done = run_python(
        """
import torch, transformers
pickled = torch.load("model.pt", weights_only=False)  # imports gaincell
ids, expected = torch.load("expected.pt")
assert torch.equal(pickled(input_ids=ids, use_cache=False).logits, expected)
model = transformers.AutoModelForCausalLM.from_pretrained(".")
assert torch.equal(model(input_ids=ids, use_cache=False).logits, expected)
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


def edit_config(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] |= changes
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"version": 2}, RunError, r"has version 2, this gaincell reads 1; upgrade gaincell"),
        ({"version": None}, RunError, r"has version None"),
        ({"design": None}, DesignError, "no complete design; save the model again"),
        ({"design": {"extends": "leroux2025"}}, DesignError, "no complete design"),
        ({"design": {"tile": 8, "invented": 1}}, DesignError, "'invented'"),
    ],
)
def test_designs_that_cannot_be_read(
    changes: dict[str, Any], error: type[Exception], message: str, saved: Path
) -> None:
    edit_config(saved, **changes)
    with pytest.raises(error, match=message) as caught:
        AutoModelForCausalLM.from_pretrained(saved)
    assert "\n" not in str(caught.value)


GAIN = "model.layers.0.self_attn.gain_cell.q.gain"


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "left over"])
def test_gains_that_do_not_fit(damage: str, saved: Path) -> None:
    file = saved / "model.safetensors"
    held = load_file(file)
    if damage == "missing":
        del held[GAIN]
    elif damage == "left over":
        held[GAIN.replace("0", "7")] = held[GAIN].clone()
    else:
        held[GAIN] = {"shape": torch.ones(3), "nan": held[GAIN] * torch.nan}[damage].double()
    save_file(held, file, metadata={"format": "pt"})
    with pytest.raises((RunError, ModelError), match=r"gain_cell\.q\.gain") as caught:
        AutoModelForCausalLM.from_pretrained(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [dict, BitNetQuantConfig])
def test_quantised_models_are_not_saved(read: Any, softmax: dict[str, Path], tmp_path: Path) -> None:
    """Read back they would compute without their quantisation."""
    model = hardware(softmax["llama"])
    entries = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    model.config.quantization_config = own = read(**entries)
    with pytest.raises(ModelError, match=r"quantised \(bitnet\).* beside the chip: save an adapter of peft"):
        model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert model.config.quantization_config is own


def test_layers_with_different_designs_are_not_saved(softmax: dict[str, Path], tmp_path: Path) -> None:
    model = hardware(softmax["llama"])
    attached_layers(model)[0].design = DESIGN.replace(cell="linear", layers=2)
    with pytest.raises(ModelError, match="the layers have different designs"):
        model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_chip_of_another_number_of_layers_is_not_saved(softmax: dict[str, Path], tmp_path: Path) -> None:
    model = hardware(softmax["llama"])
    del model.model.layers[1:]
    model.config.num_hidden_layers = 1
    with pytest.raises(ModelError, match=r"has 1 layers, the token period of its chip is that of 2"):
        model.save_pretrained(tmp_path / "cut")
    gaincell.set_design(model, DESIGN).save_pretrained(tmp_path / "cut")
