"""Perplexity after a pause, and the commands that run on the ring."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.micro import micro_design, micro_llama, write_micro
from typer.testing import CliRunner

from gaincell.cli import app
from gaincell.errors import InputError
from gaincell.evaluation.context import perplexity_by_context
from gaincell.evaluation.pause import perplexity_after_pause
from gaincell.evaluation.perplexity import next_token_nll
from gaincell.integrations.hf.attach import attach, attached_layers, set_design
from gaincell.integrations.hf.checkpoint import save
from gaincell.integrations.hf.models import load_model
from gaincell.mapping.initial_gains import initial_scaling
from gaincell.reports.evaluation import pause_rows
from gaincell.results import read
from gaincell.results.codec import from_json
from gaincell.results.evaluation import PausesResult
from gaincell.results.simulation import GenerationResult
from gaincell.text import sha256

TOKENS = torch.randint(1, 97, (200,), generator=torch.Generator().manual_seed(4))


def hardware() -> torch.nn.Module:
    model = attach(micro_llama(torch.float64, positions=128), micro_design())
    initial_scaling(model, TOKENS[None, :64])
    return model


def test_without_a_pause_it_is_the_second_half_of_every_block() -> None:
    model = hardware()
    found = perplexity_after_pause(model, TOKENS, 0.0, 40)
    ids = TOKENS.view(5, 40)
    with torch.no_grad():
        expected = next_token_nll(model(input_ids=ids).logits, ids)[:, 20:].sum()
    assert found.row.perplexity == pytest.approx(math.exp(float(expected) / (5 * 19)), rel=1e-6)
    assert found.row.predictions == 5 * 19
    assert found.protocol.startswith("pause-40: 5 blocks")


def test_after_a_long_pause_the_first_half_does_not_matter() -> None:
    model = hardware()
    other = TOKENS.clone().view(5, 40)
    other[:, :20] = 3

    def nll(text: torch.Tensor, seconds: float) -> float:
        row = perplexity_after_pause(model, text.flatten(), seconds, 40).row
        return math.log(row.perplexity) * row.predictions

    assert nll(TOKENS, 1.0) == pytest.approx(nll(other, 1.0), rel=1e-9)
    assert abs(nll(TOKENS, 0.0) - nll(other, 0.0)) > 1e-3


def test_odd_blocks_and_negative_pauses_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be halved"):
        perplexity_after_pause(hardware(), TOKENS, 0.0, 41)
    with pytest.raises(InputError, match="idle for -1"):
        perplexity_after_pause(hardware(), TOKENS, -1.0, 40)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(RUN, text) of the micro model."""
    folder = tmp_path_factory.mktemp("pause")
    model, text = write_micro(folder)
    from gaincell.integrations.hf.models import load_model

    loaded = load_model(model)
    attach(loaded.model, micro_design())
    initial_scaling(loaded.model, torch.randint(1, 300, (1, 64)))
    return save(loaded.model, folder / "run"), text


def test_evaluate_at_several_times(run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, text = run
    out = tmp_path / "pauses.json"
    arguments = ["evaluate", str(folder), "--text", str(text), "--protocol", "blocks-64", "--limit", "512"]
    result = CliRunner().invoke(app, [*arguments, "--at", "0.01", "--at", "0", "--json", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    shown = pause_rows({"": from_json(PausesResult, found)}).rows  # as the page has them
    assert [row[0] for row in shown] == ["0 s", "0.01 s"]
    for cell in (cell for row in shown for cell in row):
        assert cell in result.output
    assert [row["idle"]["value"] for row in found["pauses"]] == [0.0, 0.01]
    assert "pause-64" in found["provenance"]["protocol"]
    silicon = [row["perplexity"]["value"] for row in found["pauses"]]
    assert silicon[0] != silicon[1]


def test_evaluate_with_refresh_counts_what_it_costs(run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, text = run
    out = tmp_path / "refresh.json"
    arguments = ["evaluate", str(folder), "--text", str(text), "--protocol", "blocks-64", "--limit", "256"]
    arguments += ["--other-latency", "1e-3", "--json", str(out)]
    rows = {}
    for refresh in ([], ["--refresh", "copy", "--refresh-tokens", "8"]):
        result = CliRunner().invoke(app, [*arguments, "--at", "0", *refresh])
        assert result.exit_code == 0, result.output
        found = json.loads(out.read_text())
        rows[found["refresh"]["kind"]] = {k: v["value"] for k, v in found["pauses"][0].items()}
    assert (rows["none"]["refreshes"], rows["none"]["writes"]) == (0, 64)
    window = micro_design().window
    assert rows["copy"]["refreshes"] == 8
    assert rows["copy"]["writes"] == 64 + sum(min(window, 8 * n) for n in range(1, 9))
    slot = micro_design().unstated_latency
    assert rows["copy"]["refreshing"] == pytest.approx((rows["copy"]["writes"] - 64) * slot)
    assert rows["copy"]["chip_time"] == pytest.approx(rows["none"]["chip_time"] + rows["copy"]["refreshing"])
    assert rows["copy"]["perplexity"] != rows["none"]["perplexity"]
    assert found["gains"].startswith("the RUN as it was saved, with a token period of 0.002")


def test_evaluate_by_context(run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, text = run
    out = tmp_path / "context.json"
    arguments = ["evaluate", str(folder), "--text", str(text), "--protocol", "blocks-64", "--limit", "512"]
    result = CliRunner().invoke(app, [*arguments, "--by-context", "--window", "16", "--json", str(out)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    points = [{k: v["value"] for k, v in point.items()} for point in found["context"]]
    assert [point["context"] for point in points] == [1, 2, 4, 8, 16, 32]
    assert points[-1]["excess"] == points[-1]["excess_error"] == 0.0
    nats = [math.log(point["perplexity"]) for point in points]
    assert [n - nats[-1] for n in nats] == pytest.approx([point["excess"] for point in points], abs=1e-9)
    refused = CliRunner().invoke(app, ["evaluate", "tiny", "--window", "64", "--limit", "1024"])
    assert refused.exit_code == 2


def test_context_beyond_the_reach_of_all_layers_changes_nothing() -> None:
    """Two layers of rings of 16 columns hand on at most 2 x 15 tokens from before the one they read."""
    model = hardware().double()
    set_design(model, attached_layers(model)[0].design.replace(window=16))
    points = perplexity_by_context(model, TOKENS, 100)
    excess = {point.context: abs(point.excess) for point in points}
    assert list(excess) == [1, 2, 4, 8, 16, 32, 64, 68]
    assert excess[16] > 1e-4
    assert max(excess[32], excess[64]) < 1e-7


def test_generate_streams_beyond_the_window(run: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "text.json"
    arguments = ["generate", str(run[0]), "--prompt", "cell holds", "--tokens", "90", "--temperature", "0"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(out)])
    assert result.exit_code == 0, result.output
    found = read(out, GenerationResult)
    assert found.tokens == 90
    assert found.text.startswith("cell holds")
    assert found.text in result.stdout
    assert found.dtype == "float32"
    again = CliRunner().invoke(app, [*arguments, "--json", str(out)])
    assert read(out, GenerationResult).text == found.text
    assert again.exit_code == 0
    narrow = CliRunner().invoke(app, [*arguments, "--dtype", "bfloat16", "--json", str(out)])
    assert narrow.exit_code == 0, narrow.output
    assert read(out, GenerationResult).dtype == "bfloat16"


@pytest.mark.parametrize(("place", "tokens"), [(0, 0), (2, 2), (9, 4)])
def test_generate_counts_what_it_writes(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, tokens: int
) -> None:
    """The end-of-text token at which it stops is not written, and the first token comes with the prompt."""
    end = load_model(str(run[0])).tokenizer.eos_token_id
    drawn = iter([end if n == place else end + 1 for n in range(10)])
    monkeypatch.setattr(torch, "multinomial", lambda *_: torch.tensor([[next(drawn)]]))
    out = tmp_path / "text.json"
    arguments = ["generate", str(run[0]), "--prompt", "cell holds", "--tokens", "4", "--stop"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(out)])
    assert result.exit_code == 0, result.output
    found = read(out, GenerationResult)
    assert found.tokens == tokens
    assert (found.tokens_per_second > 0) == (tokens > 0)
    assert f"[{tokens} tokens" in result.output


def test_generate_keeps_the_space_before_its_first_token(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a tokenizer takes away the space that a text begins with, as Llama 2's does."""
    found = load_model(str(run[0])).tokenizer
    word = next(
        n for n in range(len(found)) if found.decode([n]).startswith(" ") and found.decode([n]).strip()
    )
    monkeypatch.setattr(torch, "multinomial", lambda *_: torch.tensor([[word]]))
    decode = type(found).decode
    monkeypatch.setattr(type(found), "decode", lambda *a, **k: decode(*a, **k).removeprefix(" "))
    out = tmp_path / "text.json"
    arguments = ["generate", str(run[0]), "--prompt", "cell holds", "--tokens", "1", "--json", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert read(out, GenerationResult).text == "cell holds " + found.decode([word])


def test_generate_refuses_to_stop_at_a_token_that_nobody_names(tmp_path: Path) -> None:
    model, _ = write_micro(tmp_path)
    (model / "tokenizer_config.json").unlink()
    (model / "special_tokens_map.json").unlink(missing_ok=True)
    for end, code in ((None, 2), (5, 0)):
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(config | {"eos_token_id": end}))
        arguments = ["generate", str(model), "--prompt", "cell", "--tokens", "1", "--stop"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == code, result.output
        assert ("names a token that ends a text" in result.output) == (code == 2)


def test_generate_writes_nothing_before_it_can_go_on(
    run: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InputError("refused")

    monkeypatch.setattr("gaincell.integrations.hf.ring_cache.feed", refuse)
    result = CliRunner().invoke(app, ["generate", str(run[0]), "--prompt", "cell"])
    assert result.exit_code == 2
    assert "cell" not in result.stdout


def test_generate_refuses_an_empty_prompt(run: tuple[Path, Path]) -> None:
    result = CliRunner().invoke(app, ["generate", str(run[0]), "--prompt", ""])
    assert result.exit_code == 2


def test_a_layer_that_is_not_there_costs_no_evaluation(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("an evaluation")

    monkeypatch.setattr("gaincell.cli._perplexity.perplexity", work)
    options = ["--protocol", "blocks-64", "--dump", str(tmp_path / "x.safetensors"), "--layer", "9"]
    result = CliRunner().invoke(app, ["evaluate", str(run[0]), "--text", str(run[1]), *options])
    assert result.exit_code == 2
    assert "there is no layer 9 to dump; allowed: 0 to 1" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by-context", "--at", "1"], "--by-context and --at or --refresh do not go together"),
        (["--scores"], "--scores has no effect here: it needs --dump"),
        (["--refresh", "copy"], "needs one period"),
        (["--at", "0", "--refresh", "copy", "--refresh-tokens", "4", "--refresh-seconds", "1"], "not both"),
        (["--at", "-1"], "--at -1: give 0 seconds or more"),
    ],
)
def test_options_that_do_not_go_together(run: tuple[Path, Path], options: list[str], message: str) -> None:
    folder, text = run
    arguments = ["evaluate", str(folder), "--text", str(text), "--protocol", "blocks-64", "--limit", "128"]
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 2
    assert message in result.output


def test_a_result_tells_the_hardware_that_it_is_of(run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, text = run
    other = shutil.copytree(folder, tmp_path / "other") / "hardware.safetensors"
    tensors = load_file(other)
    gain = next(name for name in tensors if "gain_cell" in name)
    with safe_open(other, framework="pt") as file:
        save_file(tensors | {gain: tensors[gain] * 1.5}, other, file.metadata())
    inputs = []
    for place in (folder, other.parent):
        out = tmp_path / "out.json"
        arguments = ["evaluate", str(place), "--text", str(text), "--protocol", "blocks-64", "--limit", "64"]
        result = CliRunner().invoke(app, [*arguments, "--json", str(out)])
        assert result.exit_code == 0, result.output
        inputs.append(json.loads(out.read_text())["provenance"]["inputs"])
        assert inputs[-1]["hardware.safetensors"] == sha256(place / "hardware.safetensors")
    assert inputs[0].keys() == {"model micro", "hardware.safetensors", "evaluation text"}
    assert [name for name in inputs[0] if inputs[0][name] != inputs[1][name]] == ["hardware.safetensors"]


def test_a_result_names_the_type_of_its_weights(run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, text = run
    out = tmp_path / "out.json"
    arguments = ["evaluate", str(folder), "--text", str(text), "--protocol", "blocks-64", "--limit", "64"]
    chip = ["--chips", "1", "--mismatch", "5%"]
    for options, dtype in ((chip, "float32"), ([*chip, "--dtype", "bfloat16"], "bfloat16")):
        result = CliRunner().invoke(app, [*arguments, *options, "--json", str(out)])
        assert result.exit_code == 0, result.output
        assert json.loads(out.read_text())["dtype"] == dtype
        shown = " ".join(result.output.split())
        assert ("weights in bfloat16" in shown) == (dtype == "bfloat16")
        assert "1 chip and the nominal one" in shown


def test_a_model_in_software_cannot_idle(tmp_path: Path) -> None:
    model, text = write_micro(tmp_path)
    arguments = ["evaluate", str(model), "--text", str(text), "--protocol", "blocks-64", "--limit", "128"]
    result = CliRunner().invoke(app, [*arguments, "--at", "1"])
    assert result.exit_code == 2
    assert "--at has no effect here: it needs a RUN whose attention is in arrays" in result.output


@pytest.mark.slow
def test_a_dump_brings_its_chip_to_the_simulation(run: tuple[Path, Path], tmp_path: Path) -> None:
    folder, text = run
    dump, out = tmp_path / "layer.safetensors", tmp_path / "head.json"
    arguments = ["evaluate", str(folder), "--text", str(text), "--protocol", "blocks-64", "--limit", "128"]
    assert CliRunner().invoke(app, [*arguments, "--dump", str(dump)]).exit_code == 0
    simulate = ["simulate", "head", "--inputs", str(dump), "--json", str(out), "--figures", str(tmp_path)]
    result = CliRunner().invoke(app, simulate)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert max(found["trace"]["columns_held"]["value"]) == micro_design().window
    assert found["provenance"]["inputs"] == {dump.name: sha256(dump)}
    latency, period = (found["schedule"][key]["value"] for key in ("latency", "token_period"))
    assert period == pytest.approx(2 * latency)  # the micro model has two layers
