"""One class reads a RUN: what is in it, what it refuses, and what is loaded from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.micro import micro_design, write_micro

from gaincell.errors import RunError
from gaincell.files import write_json
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.integrations.hf.checkpoint import (
    load_for_training,
    read_state,
    save,
    trained_parameters,
    write_state,
)
from gaincell.integrations.hf.lora import add_lora
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.run import Run
from gaincell.mapping.load_hardware import find_start, hardware_model


@pytest.fixture
def run(tmp_path: Path) -> Path:
    base, _ = write_micro(tmp_path)
    return save(attach(load_model(base).model, micro_design()), tmp_path / "run")


def test_a_run_says_what_is_in_it(run: Path) -> None:
    held = Run(run)
    assert held.saved
    assert held.folder == run
    assert Path(held.hardware.base) == run.parent / "micro"
    assert held.design.hash == held.hardware.design_hash
    assert held.base().sha256 == held.hardware.base_sha256
    assert (held.stages, held.result, held.result_of("linear"), held.training_tokens()) == ([], None, None, 0)
    start = find_start(str(run))
    assert (start.words, start.made_for.hash) == (
        "the RUN as it was saved",
        held.design.hash,
    )
    for read, message in (
        (lambda: held.settings, "is no directory of `gaincell train`: settings.json cannot be read"),
        (lambda: held.plan("linear"), "is no directory of `gaincell train`"),
        (lambda: Run(run / "none").hardware, "none is not a RUN directory with a saved model"),
    ):
        with pytest.raises(RunError, match=message):
            read()


@pytest.mark.parametrize("content", [[1], {}, {"stages": {}}, {"stages": [], "model": "micro"}])
def test_settings_of_another_kind_are_refused(run: Path, content: object) -> None:
    write_json(run / "stages" / "settings.json", content)
    with pytest.raises(RunError, match="has no stages to choose from: `gaincell train` did not make it"):
        load_model(run, stage="linear")


def test_an_unfinished_run_checks_the_model_that_it_was_begun_with(tmp_path: Path) -> None:
    base, _ = write_micro(tmp_path)
    loaded, out = load_model(base), tmp_path / "out"
    write_state(trained_parameters(loaded.model), out / "stages" / "more.safetensors")
    plan = {"attention": "softmax", "cell": None}
    settings = {"model": str(base), "stages": {"more": plan}, "base_sha256": loaded.sha256}
    write_json(out / "stages" / "settings.json", settings)
    assert not Run(out).saved
    found = load_model(out, stage="more")
    assert found.sha256 == loaded.sha256
    assert attached_layers(found.model) == []
    write_json(out / "stages" / "settings.json", settings | {"base_sha256": "0" * 64})
    with pytest.raises(RunError, match="has changed since it was saved"):
        load_model(out, stage="more")


def test_a_run_is_computed_by_the_implementation_that_is_asked_for(run: Path) -> None:
    for loaded in (
        hardware_model(str(run), micro_design(), backend="naive").loaded,
        find_start(str(run), linear=False).load(backend="naive"),
    ):
        assert {layer.backend for layer in attached_layers(loaded.model)} == {"naive"}


def test_adapters_of_another_scale_are_not_trained_further(run: Path) -> None:
    model = load_model(run.parent / "micro").model
    add_lora(model, 2)
    state = run / "stages" / "more.safetensors"
    write_state(trained_parameters(model), state, {"lora_scale": "2.0"})
    with pytest.raises(RunError, match="cannot be trained further here: its scale"):
        load_for_training(model, run, "more")
    write_state({n: t + 1 for n, t in trained_parameters(model).items()}, state)
    before = {name: tensor.clone() for name, tensor in trained_parameters(model).items()}
    load_for_training(model, run, "more")
    assert all(torch.equal(t, before[n] + 1) for n, t in trained_parameters(model).items())


@torch.no_grad()
def test_a_stage_of_adapters_of_another_scale_is_read_as_it_was(tmp_path: Path) -> None:
    """Merged into the weights, or into a model that has adapters of this scale."""
    base, _ = write_micro(tmp_path)
    trained = load_model(base).model
    add_lora(trained, 2, scale=3.0)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
                parameter.copy_(parameter.half())
    write_state(trained_parameters(trained), tmp_path / "more.safetensors", {"lora_scale": "3.0"})
    plain = load_model(base).model
    ids = torch.arange(20)[None]
    before = plain(ids).logits
    read_state(plain, tmp_path / "more.safetensors")
    assert float((plain(ids).logits - before).norm()) > 1e-2 * float(before.norm())
    torch.testing.assert_close(plain(ids).logits, trained(ids).logits, rtol=1e-4, atol=1e-4)
