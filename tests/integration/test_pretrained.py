"""What a user of transformers, Trainer and peft does with an attached model, and what must come back of it.

The models are random and tiny, with gains and offsets as `calibrate` sets them.
"""

from __future__ import annotations

import copy
import doctest
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

import gaincell
from gaincell.cli import main
from gaincell.errors import DesignError, InputError, ModelError, RunError
from gaincell.integrations.hf import sources
from gaincell.integrations.hf.attach import attached_layers, computes_softmax, set_attention
from gaincell.integrations.hf.checkpoint import is_run
from gaincell.integrations.hf.digital_scaling import add_array_normaliser, add_biases, add_exponents
from gaincell.integrations.hf.mixing import add_mixing
from gaincell.integrations.hf.paired import pair_rows
from gaincell.training.data import train_tokenizer

from .families import build, tokens

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft asks
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning"),
]
FAMILIES = ["llama", "qwen2", "gpt2", "mistral"]
LINEAR = {
    "llama": ["q_proj", "down_proj"],
    "qwen2": ["v_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "mistral": ["q_proj"],
}
DESIGN = gaincell.load_design("leroux2025").replace(tile=8, window=16)


@pytest.fixture(scope="module")
def softmax(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of models as they are on the hub."""
    made = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, directory in made.items():
        build(family).save_pretrained(directory)
    return made


def hardware(directory: Path, **arguments: Any) -> PreTrainedModel:
    """A pretrained model on the chip, calibrated."""
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(directory, **arguments), DESIGN)
    gaincell.calibrate(model, [tokens(2, 30, seed=3)])
    return model


def lora(family: str) -> peft.LoraConfig:
    return peft.LoraConfig(r=2, target_modules=LINEAR[family], fan_in_fan_out=family == "gpt2")


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(input_ids=tokens(2, 20), use_cache=False).logits
    return found


def trained(model: nn.Module) -> nn.Module:
    """Two steps, so that everything that is trained is something else."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for seed in range(2):
        ids = tokens(2, 12, seed)
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model


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


def test_layers_that_wait_on_disk(softmax: dict[str, Path], tmp_path: Path) -> None:
    model = hardware(softmax["llama"])
    model.save_pretrained(tmp_path / "saved")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", device_map=places, offload_folder=tmp_path / "offload"
    )
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("family", FAMILIES)
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


@pytest.mark.parametrize("family", FAMILIES)
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


@pytest.mark.parametrize("family", FAMILIES)
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
    with pytest.raises(ModelError, match=r"made for a model in gain-cell arrays: call gaincell\.attach"):
        peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(softmax[family]), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
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
    model.push_to_hub("someone/attached")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(sent)), logits(model))


@pytest.mark.parametrize("part", ["biases", "exponents", "normaliser", "paired", "mixing"])
def test_what_else_belongs_to_the_arrays(part: str, softmax: dict[str, Path], tmp_path: Path) -> None:
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN)
    ids = tokens(2, 30, seed=3)
    if part in ("biases", "normaliser"):
        add_biases(model)
    if part == "normaliser":
        add_array_normaliser(model, ids)
    if part == "exponents":
        add_exponents(model)
    if part == "paired":
        pair_rows(model, ids)
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


def test_softmax_attention_stays_softmax_attention(softmax: dict[str, Path], tmp_path: Path) -> None:
    model = set_attention(hardware(softmax["llama"]), "softmax")
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert computes_softmax(again)
    assert torch.equal(logits(set_attention(again, "gain-cell")), logits(set_attention(model, "gain-cell")))


def run(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_without_gaincell_an_error_and_never_softmax(softmax: dict[str, Path], tmp_path: Path) -> None:
    hardware(softmax["llama"]).save_pretrained(tmp_path)
    done = run(
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


def test_import_gaincell_is_enough(softmax: dict[str, Path], tmp_path: Path) -> None:
    """After transformers too, and by unpickling a model."""
    model = hardware(softmax["llama"])
    model.save_pretrained(tmp_path)
    torch.save(model, tmp_path / "model.pt")
    torch.save((tokens(2, 20), logits(model)), tmp_path / "expected.pt")
    done = run(
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


@pytest.fixture
def saved(softmax: dict[str, Path], tmp_path: Path) -> Path:
    hardware(softmax["llama"]).save_pretrained(tmp_path)
    return tmp_path


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


def test_layers_with_different_designs_are_not_saved(softmax: dict[str, Path], tmp_path: Path) -> None:
    model = hardware(softmax["llama"])
    attached_layers(model)[0].design = DESIGN.replace(cell="linear", layers=2)
    with pytest.raises(ModelError, match="the layers have different designs"):
        model.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_load(saved: Path, softmax: dict[str, Path]) -> None:
    model, tokenizer = gaincell.load(saved, design="leroux2025", impl="blocked", gradient="surrogate")
    cell = attached_layers(model)[0]
    assert (cell.design.name, cell.impl, cell.gradient, tokenizer) == (
        "leroux2025",
        "blocked",
        "surrogate",
        None,
    )
    coarse, _ = gaincell.load(saved, dtype=torch.bfloat16)
    expected = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.bfloat16)
    assert torch.equal(logits(coarse), logits(expected))
    assert attached_layers(coarse)[0].q.gain.dtype == torch.float64
    with pytest.raises(ModelError, match="is a softmax model: load it with transformers"):
        gaincell.load(softmax["llama"])
    with pytest.raises(InputError, match="base= is for a RUN"):
        gaincell.load(saved, base=softmax["llama"])


def test_attach_without_calibrate_warns_once(softmax: dict[str, Path]) -> None:
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        logits(model)
        logits(model)
    assert [(w.category, "call gaincell.calibrate(model, batches)" in str(w.message)) for w in found] == [
        (gaincell.UncalibratedWarning, True)
    ]


@pytest.mark.filterwarnings("error::gaincell.errors.UncalibratedWarning")
def test_who_sets_gains_is_not_warned(softmax: dict[str, Path]) -> None:
    logits(hardware(softmax["llama"]))
    model = gaincell.attach(
        AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN, attention="softmax"
    )
    logits(model)
    target = gaincell.collect_statistics(hardware(softmax["llama"]), [tokens(2, 30)])
    set_attention(model, "gain-cell")
    gaincell.adapt(model, [tokens(2, 30)], target)
    logits(model)


def test_calibrate_refuses_padding(softmax: dict[str, Path]) -> None:
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN)
    with pytest.raises(InputError, match="without padding"):
        gaincell.calibrate(model, [tokens(1, 30), tokens(1, 20)])
    with pytest.raises(InputError, match="no calibration text"):
        gaincell.calibrate(model, [])


def test_perplexity_of_a_text_needs_a_tokenizer(softmax: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="needs tokenizer="):
        gaincell.perplexity(hardware(softmax["llama"]), "a text", "blocks-4")


def test_a_base_model_that_changed(softmax: dict[str, Path], tmp_path: Path) -> None:
    """A RUN knows which model it is of; what save_pretrained writes needs none."""
    base = shutil.copytree(softmax["llama"], tmp_path / "base")
    model = hardware(base)
    gaincell.save(model, tmp_path / "run")
    model.save_pretrained(tmp_path / "saved")
    build("llama", seed=5).save_pretrained(base)
    with pytest.raises(RunError, match=r"base model .* has changed since it was saved") as caught:
        gaincell.load(tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert torch.equal(logits(gaincell.load(tmp_path / "saved")[0]), logits(model))


@pytest.fixture
def adapter(softmax: dict[str, Path], tmp_path: Path) -> tuple[Path, nn.Module]:
    """A RUN of low-rank adapters."""
    wrapped = trained(peft.get_peft_model(hardware(softmax["gpt2"]), lora("gpt2")))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(parameter.half())  # as it is saved
    return gaincell.save(wrapped, tmp_path / "run"), wrapped


def exit_code(*words: str) -> Any:
    """Of a command."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code


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


def test_export_to_peft(
    adapter: tuple[Path, nn.Module],
    softmax: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, wrapped = adapter
    out = tmp_path / "out"
    assert exit_code("export", str(run), "--format", "peft", "--out", str(out)) == 0
    base = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["gpt2"]), out / "design.toml")
    again = peft.PeftModel.from_pretrained(base, out)
    torch.testing.assert_close(logits(again), logits(wrapped), atol=1e-5, rtol=0)
    whole = gaincell.save(trained(hardware(softmax["gpt2"])), tmp_path / "whole")
    assert exit_code("export", str(whole), "--format", "peft", "--out", str(tmp_path / "none")) == 2
    assert "peft's files cannot hold this RUN" in capsys.readouterr().err


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
    assert is_run("someone/adapter")
    assert asked == ["someone/adapter"]


PAGE = Path(__file__).parents[2] / "docs" / "transformers.md"


def test_the_page_of_loops_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"vocab_size": 300, "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).save_pretrained("base")
    made = train_tokenizer([PAGE.read_text()], 300)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|endoftext|>").save_pretrained("base")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("openai-community/gpt2", "base"), names)
    assert len(blocks) == 5
    assert torch.equal(logits(names["again"]), logits(names["lora"]))
    assert torch.equal(logits(gaincell.load("gpt2-on-arrays")[0]), logits(names["model"]))


@pytest.mark.parametrize("verb", ["attach", "calibrate", "adapt", "perplexity", "save", "load", "cost"])
def test_examples_of_docstrings(verb: str) -> None:
    function = getattr(gaincell, verb)
    examples = [test for test in doctest.DocTestFinder().find(function, verb, globs={}) if test.examples]
    assert examples
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0
