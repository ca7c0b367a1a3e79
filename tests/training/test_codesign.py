"""Circuits of a chip learned with a model: training/codesign.py and `gaincell codesign`."""

from __future__ import annotations

import json
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
from codesign_page import answers, codesign_markdown, fixed, groups, levels_figure, paired
from tests.micro import micro_design, micro_llama, write_micro
from tests.tiers import slow
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.circuits.levels import LevelTable
from gaincell.cli import main
from gaincell.errors import InputError, ModelError, RunError
from gaincell.integrations.hf.attach import attach, attached_layers, set_design
from gaincell.integrations.hf.checkpoint import load_run, save
from gaincell.mapping.codesign import CodesignSettings, _training_text, codesign_model
from gaincell.ops.gain_cell_attention import gain_cell_attention
from gaincell.progress import silent
from gaincell.results import read
from gaincell.results.codec import to_json
from gaincell.results.run import CodesignComparison, CodesignResult
from gaincell.training.codesign import Circuits, codesign, with_zero_code
from gaincell.training.loop import train
from gaincell.training.loss import LossName, next_token_loss
from gaincell.training.settings import TrainSettings

SETTINGS = TrainSettings(learning_rate=1e-3, scale_learning_rate=2e-2, warmup_steps=1, batch=2, bf16=False)
BLOCKS = torch.randint(0, 97, (12, 41), generator=torch.Generator().manual_seed(3))


def hardware(design: Design | None = None) -> LlamaForCausalLM:
    """Gains that spread the signals over the chip's range."""
    model = attach(micro_llama(torch.float64), design or micro_design())
    with torch.no_grad():
        for layer in attached_layers(model):
            layer.q.gain.fill_(0.4)
            for stage in (layer.k, layer.v):
                stage.gain.fill_(0.15)
    return model


def test_a_calibration_below_one_block_is_refused() -> None:
    with pytest.raises(InputError, match="100 calibration tokens are less than one block of 1024"):
        _training_text(CodesignSettings("tiny", calibration_tokens=100), 1024, None, None, silent)  # type: ignore[arg-type]


def parameters(model: LlamaForCausalLM) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.slow
def test_nothing_learned_is_the_ordinary_training() -> None:
    ordinary, own = hardware(), hardware()
    train(ordinary, BLOCKS, SETTINGS)
    codesign(own, BLOCKS, SETTINGS, ())
    assert attached_layers(own)[0].design == attached_layers(ordinary)[0].design
    found, expected = parameters(own), parameters(ordinary)
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-7)


@pytest.mark.slow
def test_another_loss_is_minimised_and_logged(tmp_path: Path) -> None:
    def twice(model: nn.Module, tokens: Tensor) -> Tensor:
        return 2 * next_token_loss(model, tokens)

    twice.loss_name = LossName("twice the cross-entropy", "nats per token")
    logs = {"twice": twice, "once": None}
    for name, loss in logs.items():
        codesign(hardware(), BLOCKS, SETTINGS, log=tmp_path / name, loss_of=loss)
    lines = {name: [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in logs}
    assert [line["step"] for line in lines["twice"]] == list(range(6))
    assert {line["loss_name"] for line in lines["twice"]} == {"twice the cross-entropy"}
    assert {line["loss_name"] for line in lines["once"]} == {"cross-entropy"}
    assert lines["twice"][0]["loss"] == pytest.approx(2 * lines["once"][0]["loss"])


@pytest.mark.parametrize("learn", [slow(("saturations",)), slow(("levels",)), ("saturations", "levels")])
def test_the_learned_chip_is_an_ordinary_design(learn: tuple[str, ...], tmp_path: Path) -> None:
    model, start = hardware(), micro_design(layers=2)
    codesign(model, BLOCKS, SETTINGS, learn)
    layers = attached_layers(model)
    design = layers[0].design
    assert all(layer.design == design for layer in layers)
    assert all(layer.attend is gain_cell_attention for layer in layers)
    assert not any("codesign" in name for name, _ in model.named_parameters())
    for key in ("score_saturation_per_row", "output_saturation_per_column"):
        assert (getattr(design, key) != getattr(start, key)) == ("saturations" in learn)
    if "levels" in learn:
        query, storage = design.levels.query, design.levels.storage
        assert (query[0], query[-1], storage[0], storage[3], storage[-1]) == (0.0, 1.0, -0.45, 0.0, 0.45)
        assert list(storage) == sorted(storage)
        assert storage != with_zero_code(start).storage
        assert design.provenance["levels.storage"].source == "D"
    else:
        assert not design.levels.present
    assert load_design(design.save(tmp_path / "learned.toml")) == design


def test_even_levels_about_another_offset_are_left_as_they_are() -> None:
    """As voltages they would be outside the range of the write DAC."""
    model = set_design(hardware(), micro_design(layers=2).replace(v_offset=0.4))
    codesign(model, BLOCKS, SETTINGS, ["saturations"])
    assert not attached_layers(model)[0].design.levels.present


def exact_loss(model: LlamaForCausalLM) -> Tensor:
    """Cross-entropy in float64."""
    logits = model(input_ids=BLOCKS[:2, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), BLOCKS[:2, 1:].flatten())


def test_gradients_of_a_whole_model_without_quantisers() -> None:
    """Loss against S_sat, and against O_sat with the output gains that follow it."""
    free: dict[str, Any] = {"query_levels": None, "storage_levels": None, "readout": "none"}
    model = hardware(micro_design(**free))
    layers = attached_layers(model)
    start = layers[0].design
    circuits = Circuits(start, ("saturations",))
    for layer in layers:
        layer.attend = circuits.attend
    exact_loss(model).backward()
    for layer in layers:
        layer.attend = gain_cell_attention
    gains = [layer.out.gain.detach().clone() for layer in layers]
    keys = ("score_saturation_per_row", "output_saturation_per_column")
    for key, log in zip(keys, (circuits.log_score, circuits.log_output), strict=True):
        losses = []
        for h in (1e-4, -1e-4):
            set_design(model, start.replace(**{key: getattr(start, key) * exp(h)}))
            with torch.no_grad():
                for layer, gain in zip(layers, gains, strict=True):
                    layer.out.gain.copy_(gain * exp(h) if key.startswith("output") else gain)
                losses.append(float(exact_loss(model)))
        assert log.grad is not None
        assert float(log.grad) == pytest.approx((losses[0] - losses[1]) / 2e-4, rel=0.005)


@pytest.mark.slow
def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    def stop(done: int, total: int, numbers: dict[str, float]) -> None:
        if done == 4:
            raise KeyboardInterrupt

    settings = TrainSettings(**{**vars(SETTINGS), "checkpoint_every": 2})
    whole, broken = hardware(), hardware()
    codesign(whole, BLOCKS, settings)
    with pytest.raises(KeyboardInterrupt):
        codesign(broken, BLOCKS, settings, progress=stop, checkpoint=tmp_path / "c")
    assert all(layer.attend is gain_cell_attention for layer in attached_layers(broken))
    again = hardware()
    codesign(again, BLOCKS, settings, checkpoint=tmp_path / "c")
    assert attached_layers(again)[0].design == attached_layers(whole)[0].design
    for name, p in parameters(whole).items():
        assert torch.equal(p, parameters(again)[name])


def test_levels_start_where_the_design_has_them_and_keep_their_order() -> None:
    table = LevelTable(tuple(c / 15 for c in range(16)), (-0.45, -0.05, 0.0, 0.02, 0.1, 0.2, 0.4, 0.44))
    circuits = Circuits(micro_design(levels=table), ("levels",))
    query, storage = circuits.levels()
    assert query is not None
    assert storage is not None
    torch.testing.assert_close(query, torch.tensor(table.query, dtype=torch.float64))
    torch.testing.assert_close(storage, torch.tensor(table.storage, dtype=torch.float64))
    for gaps in (circuits.query_gaps, circuits.gaps_below, circuits.gaps_above):
        assert gaps is not None
        with torch.no_grad():
            gaps.add_(torch.randn(gaps.shape, generator=torch.Generator().manual_seed(1)) * 50)
    chip = circuits.chip()
    assert (chip.levels.storage[2], chip.levels.storage[0], chip.levels.storage[-1]) == (0.0, -0.45, 0.44)


@pytest.mark.parametrize("levels", [2, 3, 4, 7])
def test_a_zero_code_for_any_number_of_levels(levels: int) -> None:
    chip = micro_design(storage_levels=levels)
    storage = with_zero_code(chip).storage
    assert 0.0 in storage
    assert len(storage) == levels
    if levels % 2:
        step = 0.9 / (levels - 1)
        assert storage == pytest.approx([(code - (levels - 1) / 2) * step for code in range(levels)])
    Circuits(chip, ("levels",))


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(InputError, match="'colours' cannot be learned; allowed: saturations or levels"):
        Circuits(micro_design(), ("colours",))
    uneven = micro_design(storage_levels=2, levels=LevelTable(storage=(-0.1, 0.1)))
    with pytest.raises(InputError, match="has no 0, which is kept"):
        Circuits(uneven, ("levels",))
    with pytest.raises(InputError, match="at most 256 levels"):
        Circuits(micro_design(storage_levels=257), ("levels",))
    with pytest.raises(ModelError, match=r"is not attached: call gaincell\.attach"):
        codesign(micro_llama(), BLOCKS, SETTINGS)


def test_the_command_writes_a_run_on_the_learned_chip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = write_micro(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    save(attach(model, micro_design()), tmp_path / "start")
    out, file = tmp_path / "learned", tmp_path / "result.json"
    options = f"--steps 2 --text {text} --limit 256 --calibration-tokens 128 --threads 1"
    with pytest.raises(SystemExit) as ended:
        main(["codesign", str(tmp_path / "start"), *options.split(), "--out", str(out), "--json", str(file)])
    assert ended.value.code in (0, None)
    assert "voltages about V_offset:" in capsys.readouterr().out
    run = json.loads(file.read_text())
    learned = load_design(out / "design.toml")
    assert run["design"]["hash"] == learned.hash != run["start"]["hash"]
    assert attached_layers(load_run(out).model)[0].design == learned
    assert sorted(path.name for path in out.iterdir()) == [
        "design.toml", "figures", "hardware.safetensors", "log.jsonl", "run.json", "stages"
    ]  # fmt: skip
    assert len(run["blocks"]["trained"]["value"]) == len(run["blocks"]["adapted"]["value"]) == 4
    assert sum(run["signals"]["k"]["share"]["value"]) == pytest.approx(1, abs=1e-3)
    typed = read(out, CodesignResult)
    assert to_json(typed) == run
    assert paired(typed, typed) == (1.0, 1.0, 1.0)
    fixed = CodesignSettings(
        str(tmp_path / "start"),
        learn=(),
        steps=1,
        text=str(text),
        evaluation_tokens=256,
        calibration_tokens=128,
    )
    plain = codesign_model(fixed, load_design("leroux2025"))
    assert plain.design == plain.start
    with pytest.raises(
        RunError, match=r"learned holds a run with other settings \(learn = .*; choose another"
    ):
        codesign_model(fixed, load_design("leroux2025"), out)


def test_the_table_and_the_figure_of_the_page() -> None:
    """From the committed result: ratios are those of the perplexities, inside their intervals."""
    path = Path(__file__).parents[2] / "docs" / "results" / "sweeps" / "codesign.json"
    found = read(path, CodesignComparison)
    assert len(codesign_markdown(found).splitlines()) == 2 + sum(map(len, groups(found)))
    assert len(answers(found)) == len(groups(found)) >= 1
    for group in groups(found):
        reference = fixed(group)
        for point in group:
            ratio, low, high = paired(point, reference)
            expected = point.perplexities["trained"] / reference.perplexities["trained"]
            assert ratio == pytest.approx(expected, rel=1e-6)
            assert low <= ratio <= high
    assert len(levels_figure(found).axes) == 3 * len(groups(found))
