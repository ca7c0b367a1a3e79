"""The public verbs on tiny models: `load`, `attach`, `calibrate`, `perplexity`, and their examples."""

from __future__ import annotations

import doctest
import json
import shutil
import warnings
from pathlib import Path

import accelerate
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
)

import gaincell
from gaincell.errors import InputError, ModelError, RunError
from gaincell.integrations.hf import models
from gaincell.integrations.hf.attach import attached_layers, set_attention
from gaincell.integrations.hf.models import load_software
from gaincell.integrations.hf.size import run_design

from .families import build, padding_mask, tokens
from .hardware_models import DESIGN, WARNINGS, exit_code, hardware, logits

pytestmark = WARNINGS


def test_load(saved: Path, softmax: dict[str, Path]) -> None:
    model, tokenizer = gaincell.load(saved, design="leroux2025", backend="blocked", gradient="surrogate")
    cell = attached_layers(model)[0]
    assert (cell.design.name, cell.backend, cell.gradient, tokenizer) == (
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
    with pytest.raises(InputError, match="base= is for a RUN or an adapter"):
        gaincell.load(saved, base=softmax["llama"])


def test_the_gradient_that_was_saved(softmax: dict[str, Path], tmp_path: Path) -> None:
    model = hardware(softmax["llama"])
    for cell in attached_layers(model):
        cell.gradient = "surrogate"
    model.save_pretrained(tmp_path / "saved")
    for place, given, expected in (
        (tmp_path / "saved", None, "surrogate"),
        (tmp_path / "saved", "bf16", "bf16"),
        (gaincell.save(model, tmp_path / "run"), None, "exact"),
    ):
        again, _ = gaincell.load(place, gradient=given)
        assert {cell.gradient for cell in attached_layers(again)} == {expected}


def test_types_by_name(saved: Path) -> None:
    assert gaincell.load(saved, dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("source", ["tiny", "saved", "run"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": None}, "dtype is None; choose one of float32, bfloat16, "),
        ({"dtype": torch.int8}, "dtype is torch.int8; choose one of float32, bfloat16, "),
        ({"dtype": "int9"}, "dtype is 'int9'; choose one of float32, bfloat16, "),
        ({"backend": "nativ"}, "backend is 'nativ'; choose one of auto, "),
        ({"gradient": "exakt"}, "gradient is 'exakt'; choose one of exact, "),
    ],
)
def test_unknown_names_are_refused_before_anything_is_read(
    source: str,
    given: dict[str, str],
    message: str,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = gaincell.save(gaincell.load(saved)[0], tmp_path / "run") if source == "run" else saved
    monkeypatch.setattr(models, "load_base", None)
    monkeypatch.setattr(models, "load_run", None)
    with pytest.raises(InputError, match=message):
        gaincell.load("tiny" if source == "tiny" else place, **given)


def test_a_run_is_in_arrays(softmax: dict[str, Path], tmp_path: Path) -> None:
    model = set_attention(hardware(softmax["llama"]), "softmax")
    with pytest.raises(ModelError, match=r"set_attention\(model, 'gain-cell'\) first, or save_pretrained"):
        gaincell.save(model, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    gaincell.save(set_attention(model, "gain-cell"), tmp_path / "run")


def test_a_run_may_have_the_name_of_an_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = gaincell.load("tiny")
    monkeypatch.chdir(tmp_path)
    again, _ = gaincell.load(gaincell.save(model, "tiny"))
    assert torch.equal(logits(again), logits(model))


def test_measuring_keeps_the_mode(softmax: dict[str, Path]) -> None:
    """So that a loop of one's own goes on with the model's dropout."""
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN).train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    gaincell.calibrate(model, [tokens(2, 30)])
    target = gaincell.collect_statistics(model, [tokens(2, 30)])
    gaincell.adapt(model, [tokens(2, 30)], target)
    assert [module.training for module in model.modules()] == modes


def test_a_run_of_a_model_that_was_saved_attached(
    saved: Path, softmax: dict[str, Path], tmp_path: Path
) -> None:
    """Its base model is in software; what it learned in arrays is no pretrained model to compare with."""
    model, _ = gaincell.load(saved)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.01)
    again, _ = gaincell.load(gaincell.save(model, tmp_path / "run"))
    assert torch.equal(logits(again), logits(model))
    assert not attached_layers(load_software(str(softmax["llama"])))
    with pytest.raises(ModelError, match="no pretrained model to compare with: give the RUN"):
        load_software(str(saved))


def test_attach_without_calibrate_warns_once(softmax: dict[str, Path]) -> None:
    model = gaincell.attach(AutoModelForCausalLM.from_pretrained(softmax["llama"]), DESIGN)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        logits(model)
        logits(model)
    assert [(w.category, "call gaincell.calibrate(model, batches)" in str(w.message)) for w in found] == [
        (gaincell.UncalibratedWarning, True)
    ]


def test_gains_that_wait_in_memory_are_not_asked_for(softmax: dict[str, Path]) -> None:
    """By the first forward pass, when it has ended."""
    model = hardware(softmax["llama"])
    before = logits(model)
    waiting = accelerate.cpu_offload(hardware(softmax["llama"]), execution_device=torch.device("cpu"))
    assert torch.equal(logits(waiting), before)


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
    padded = {"input_ids": tokens(2, 30), "attention_mask": padding_mask([30, 20], 30, "left")}
    with pytest.raises(InputError, match="without padding; the attention_mask marks some"):
        gaincell.calibrate(model, [padded])
    with pytest.raises(InputError, match=r"given sequences of 20, 30 tokens; .* cut all of them to 20"):
        gaincell.calibrate(model, [tokens(1, 30), tokens(1, 20)])
    with pytest.raises(InputError, match="no calibration text"):
        gaincell.calibrate(model, [])


def test_perplexity_of_a_text_needs_a_tokenizer(softmax: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="needs tokenizer="):
        gaincell.perplexity(hardware(softmax["llama"]), "a text", "blocks-4")
    with pytest.raises(InputError, match="the text is a list; give a str, or token ids as a tensor"):
        gaincell.perplexity(hardware(softmax["llama"]), [1, 2, 3], "blocks-4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the target is None; give Statistics, as collect_statistics gives"):
        gaincell.adapt(hardware(softmax["llama"]), [torch.ones(1, 4).long()], None)  # type: ignore[arg-type]


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


DESCRIBED = {
    "AdaptationResult",
    "Design",
    "GaincellError",
    "MapSettings",
    "UncalibratedWarning",
    "__version__",
}
"""Public names that stand in the examples of others, or need none."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "map_model" else name
        for name in sorted(set(gaincell.__all__) - DESCRIBED)
    ],
)
def test_examples_of_docstrings(name: str) -> None:
    found = getattr(gaincell, name)
    finder = doctest.DocTestFinder(recurse=False)
    examples = [test for test in finder.find(found, name, globs={}) if test.examples]
    assert examples
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


def test_commands_see_that_a_directory_is_attached(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They use its chip, and refuse one that a newer version wrote."""
    assert run_design(saved) == attached_layers(gaincell.load(saved)[0])[0].design
    assert (
        exit_code("cost", str(saved), "--assumed", "--no-measure", "--json", str(tmp_path / "cost.json")) == 0
    )
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["provenance"]["design_hash"] == run_design(saved).hash
    config = json.loads((saved / "config.json").read_text())
    config["quantization_config"]["version"] = 2
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"has version 2, this gaincell reads 1; upgrade gaincell"):
        gaincell.load(saved)
    for command in (("cost",), ("evaluate",), ("generate", "--prompt", "a")):
        capsys.readouterr()
        assert exit_code(*command[:1], str(saved), *command[1:]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "has version 2, this gaincell reads 1; upgrade gaincell" in said
