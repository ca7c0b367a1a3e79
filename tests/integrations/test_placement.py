"""`--device auto`: a model whose layers are shared out computes what it computes in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from tests.micro import micro_design, micro_llama, write_micro

from gaincell.cli import main
from gaincell.errors import InputError
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.placement import place_model
from gaincell.integrations.hf.ring_cache import RingCache, feed

IDS = torch.arange(1, 41)[None]


def results(model: Any) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Logits of a whole text and of the ring, and a perplexity."""
    with torch.no_grad():
        whole = model(input_ids=IDS, use_cache=False).logits
        ring = feed(model, RingCache(model), IDS)
    return whole, ring, perplexity(model, IDS[0], "blocks-20").perplexity


def test_layers_in_several_places_compute_the_same(tmp_path: Path) -> None:
    """The second layer's weights, gains and offsets lie on the disk and come when it is called, as accelerate
    brings them to a GPU.
    """
    alone, shared = (attach(micro_llama(), micro_design()) for _ in range(2))
    with torch.no_grad():
        for model in (alone, shared):
            for layer in model.model.layers:
                layer.self_attn.gain_cell.out.gain.fill_(0.3)
    places = {name: "cpu" for name, _ in shared.model.named_children() if name != "layers"}
    places = {f"model.{name}": place for name, place in places.items()}
    places |= {"model.layers.0": "cpu", "model.layers.1": "disk", "lm_head": "cpu"}
    dispatch_model(shared, places, main_device="cpu", offload_dir=str(tmp_path))
    assert shared.model.layers[1].self_attn.gain_cell.q.gain.is_meta
    for found, expected in zip(results(shared), results(alone), strict=True):
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


def test_a_machine_without_gpus_takes_auto() -> None:
    model = attach(micro_llama(), micro_design())
    expected = results(model)
    assert place_model(model, "auto") == place_model(model, "cpu") == torch.device("cpu")
    assert all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        for a, b in zip(results(model), expected, strict=True)
    )


def test_a_model_without_room_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.utils.get_balanced_memory", lambda *_, **__: {"cpu": 1000})
    with pytest.raises(InputError, match="no room for the model"):
        place_model(micro_llama(), "auto")


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--prompt", "cell", "--tokens", "2"],
        ["evaluate", "--limit", "128", "--protocol", "blocks-32"],
    ],
)
def test_commands_take_auto_and_the_type_of_the_weights(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text = write_micro(tmp_path)
    name, *options = command
    options += ["--text", str(text)] if name == "evaluate" else []
    with pytest.raises(SystemExit) as left:
        main([name, str(model), *options, "--device", "auto", "--dtype", "bfloat16"])
    assert left.value.code == 0, capsys.readouterr().err


def test_commands_that_train_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["map", "tiny", "--device", "auto", "--out", str(tmp_path / "run")])
    assert left.value.code == 2
    assert "there is no device 'auto' here" in capsys.readouterr().err
