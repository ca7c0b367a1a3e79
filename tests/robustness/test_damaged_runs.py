"""Damaged files of a RUN or a model: each is refused in one line that names it, before it is used."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.micro import micro_design, micro_llama, write_micro
from torch import nn

from gaincell.adaptation import collect_statistics
from gaincell.cli import main
from gaincell.errors import GaincellError, InputError, ModelError, RunError
from gaincell.evaluation.activity import measure_activity
from gaincell.evaluation.rolling import rolling_perplexity
from gaincell.integrations.hf.attach import attach
from gaincell.integrations.hf.checkpoint import (
    HARDWARE,
    load_for_training,
    load_run,
    read_state,
    save,
    trained_parameters,
    write_state,
)
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.ring_cache import RingCache, feed
from gaincell.integrations.hf.sources import find_source
from gaincell.mapping.codesign import CodesignSettings, codesign_model
from gaincell.mapping.run_folder import RunFolder, StageRecord
from gaincell.results.run import BlockLosses
from gaincell.text import Source
from gaincell.training import checkpoint as disk
from gaincell.training.data import keep_tokens


class Letters:
    """A tokenizer of the letters a to z."""

    eos_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        return {chr(97 + n): n + 1 for n in range(26)} | {"<|endoftext|>": 0}

    def __call__(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) - 96 for letter in text] for text in texts]}


def tokens(path: Path) -> list[int]:
    def documents() -> Iterator[str]:
        yield from ("abc", "de")

    source = Source("letters", 5, documents, lambda: "0")
    return list(keep_tokens([source], Letters(), path).tolist())


NOTES: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut": lambda text: text[:-9],
    "a list": lambda text: "[]",
    "no length": lambda text: text.replace('"length"', '"width"'),
    "length as text": lambda text: text.replace('"length": 7', '"length": "7"'),
    "done as number": lambda text: text.replace("true", "1"),
    "another length": lambda text: text.replace('"length": 7', '"length": 8'),
}
TOKENS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[:-4],
    "no multiple of 4": lambda content: content[:-1],
    "beyond the vocabulary": lambda content: content[:-4] + np.int32(27).tobytes(),
    "negative": lambda content: np.int32(-1).tobytes() + content[4:],
}


@pytest.mark.parametrize("change", NOTES.values(), ids=NOTES)
def test_a_damaged_note_of_tokens(tmp_path: Path, change: Callable[[str], str]) -> None:
    path = tmp_path / "training"
    whole = tokens(path)
    note = path.with_name("training.json")
    damaged = change(note.read_text())
    assert damaged != note.read_text()
    note.write_text(damaged)
    with pytest.raises(RunError, match=r"tokens/training(.json)? is damaged .*remove it"):
        tokens(path)
    note.unlink()
    assert tokens(path) == whole


@pytest.mark.parametrize("change", TOKENS.values(), ids=TOKENS)
def test_damaged_tokens(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "training"
    whole = tokens(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RunError, match=r"tokens/training is damaged .*remove it: the tokens are made again"):
        tokens(path)
    path.unlink()
    assert tokens(path) == whole


@pytest.mark.parametrize("name", ["training", "training.json"])
def test_a_pipe_holds_no_tokens(tmp_path: Path, name: str) -> None:
    path = tmp_path / "training"
    tokens(path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunError, match="no regular file"):
        tokens(path)


RECORD = StageRecord(
    training_tokens=4,
    numbers="simulated",
    perplexity=math.exp(3.0 / 2),
    nll=3.0,
    predictions=2,
    seconds=1.0,
    blocks=BlockLosses((3.0,), (2,)),
)


@pytest.mark.parametrize(
    "change",
    [{"nll": True}, {"nll": -1e308}, {"nll": 4.0}, {"nll": "3"}, {"perplexity": None}, {"perplexity": 9.0},
     {"blocks.nll": [True]}, {"blocks.nll": [-1e308]}, {"blocks.predictions": [3]}, {"blocks": 5},
     {"blocks.nll": []}, {"blocks.nll": 3.0}, {"predictions": 0}, {"blocks.predictions": [2, 0]},
     {"blocks.predictions": [-2]}, {"seconds": "nan"}, {"training_tokens": -1}, {"other": 1}],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_of_a_stage(tmp_path: Path, change: dict[str, object]) -> None:
    folder, path = RunFolder(tmp_path, {}), tmp_path / "stages" / "linear.json"
    folder.finish("linear", RECORD, None)
    assert folder.record("linear") == RECORD
    entry = json.loads(path.read_text())
    for key, wrong in change.items():
        *outer, last = key.split(".")
        place = entry[outer[0]] if outer else entry
        place[last] = place[last] | {"value": wrong} if "unit" in place.get(last, {}) else wrong
    path.write_text(json.dumps(entry))
    with pytest.raises(RunError, match=r"linear.json is damaged: .*remove it to do its stage again"):
        folder.record("linear")


@pytest.mark.parametrize("damage", ["exp_avg", "exp_avg_sq", "step"])
def test_a_damaged_checkpoint(tmp_path: Path, damage: str) -> None:
    weight, path = nn.Parameter(torch.ones(2, 3)), tmp_path / "a.checkpoint"
    optimizer = torch.optim.AdamW([weight])
    weight.grad = torch.ones(2, 3)
    optimizer.step()
    progress = {"step": "1" if damage == "step" else 1}
    disk.store(path, {"weight": weight}, optimizer, {}, progress)
    if damage != "step":
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file(load_file(path) | {f"{damage}.weight": torch.ones(3, 2)}, path, metadata)
    with pytest.raises(RunError, match=r"a\.checkpoint.*remove it to start again"):
        disk.restore(path, {"weight": weight}, optimizer, {})


def test_a_model_whose_config_does_not_end(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    os.truncate(tmp_path / "config.json", 3 * 2**30)
    with pytest.raises(ModelError, match=r"config\.json' has more than 256 MiB"):
        find_source(str(tmp_path))


def test_tokens_that_the_model_lacks(tmp_path: Path) -> None:
    """By its tokenizer or by mistake: refused by name, where an embedding would raise IndexError."""
    model = attach(micro_llama(), micro_design())
    ids = torch.tensor([[1, model.config.vocab_size]])
    for use in (
        lambda: feed(model, RingCache(model), ids),
        lambda: collect_statistics(model, [ids]),
        lambda: measure_activity(model, [ids], "text"),
    ):
        with pytest.raises(InputError, match=rf"token id {ids.max()} lies outside the model's vocabulary"):
            use()


@pytest.mark.parametrize("reader", ["codesign", "harness", "rolling"])
def test_tokens_that_the_model_lacks_are_found_before_any_work(
    tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer of the model has one more than its embedding."""
    base, text = write_micro(tmp_path)
    run = tmp_path / "run"
    save(attach(load_model(str(base)).model, micro_design()), run)
    loaded = load_model(str(base))
    unknown = len(loaded.tokenizer)
    loaded.tokenizer.add_tokens(["zzz"])
    loaded.tokenizer.save_pretrained(base)
    text.write_text(text.read_text() + " zzz")

    def work(*_: object, **__: object) -> None:
        raise AssertionError("a forward pass")

    def harness() -> None:
        wrapped = pytest.importorskip("gaincell.evaluation.harness_model")
        model = wrapped.GainCellLM(pretrained=loaded.model, tokenizer=loaded.tokenizer)
        model.loglikelihood_rolling([SimpleNamespace(args=(words,)) for words in ("some words", "zzz")])

    settings = CodesignSettings(model=str(run), text=str(text), evaluation_tokens=0, steps=1)
    read = {
        "codesign": lambda: codesign_model(settings, micro_design()),
        "harness": harness,
        "rolling": lambda: rolling_perplexity(loaded.model, loaded.tokenizer, ["some words", "zzz"], 8),
    }[reader]
    monkeypatch.setattr(type(loaded.model), "forward", work)
    said = rf"token id {unknown} lies outside the model's vocabulary of {unknown}"
    with pytest.raises(InputError, match=said):
        read()


DAMAGES = {
    "integers": lambda gain: gain.long(),
    "a negative gain": lambda gain: -gain,
    "NaN": lambda gain: gain * torch.nan,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", ["load", "go on", "stage"])
def test_damaged_gains(tmp_path: Path, damage: str, reader: str) -> None:
    """Refused by name by whatever reads them: a RUN, a training that goes on from it, a stage's state."""
    base, _ = write_micro(tmp_path)
    run = tmp_path / "run"
    model = attach(load_model(str(base)).model, micro_design())
    save(model, run)
    path, read = {
        "load": (run / HARDWARE, lambda: load_run(run).model),
        "go on": (run / HARDWARE, lambda: load_for_training(model, run)),
        "stage": (tmp_path / "linear.safetensors", lambda: read_state(model, path)),
    }[reader]
    if reader == "stage":
        write_state(trained_parameters(model), path)
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    read()
    name = next(name for name in sorted(tensors) if name.endswith(".gain"))
    save_file(tensors | {name: DAMAGES[damage](tensors[name])}, path, metadata)
    said = rf"{path.name}: (tensor )?{name} (is .*again|has \d+ of \d+ values that are NaN)"
    with pytest.raises(GaincellError, match=said):
        read()


def test_a_stage_that_a_recipe_lacks_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "tiny.toml"
    with pytest.raises(SystemExit):
        main(["train", str(recipe), "--only", "nosuch", "--out", str(tmp_path / "a" / "b")])
    assert "has no stage 'nosuch'; it has" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
