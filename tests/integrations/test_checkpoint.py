"""A RUN gives back the very same model, holds only what changed, and notices when its base did."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from tests.ops.test_own_effects import Flickering
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from gaincell import files
from gaincell.chips.design import Design
from gaincell.chips.design_file import load_design
from gaincell.circuits.noise import Noise
from gaincell.errors import DesignError, ModelError, RunError
from gaincell.integrations.hf import sources
from gaincell.integrations.hf.attach import attach, attached_layers, detach, set_design
from gaincell.integrations.hf.base_model import base_weights, load_base
from gaincell.integrations.hf.checkpoint import load_run, save
from gaincell.integrations.hf.run import Run
from gaincell.integrations.hf.size import model_size

from .families import build, tokens

ROPE = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
CHANGED = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def design() -> Design:
    return load_design("leroux2025").replace(tile=8, window=16, name="small")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapted(base: Path, design: Design) -> PreTrainedModel:
    """Attached, with other gains and one changed weight."""
    model = attach(load_base(base).model, design)
    with torch.no_grad():
        for cell in attached_layers(model):
            cell.q.gain.uniform_(0.2, 0.4)
            cell.k.gain.fill_(0.2)
            cell.v.gain.fill_(0.2)
        model.get_parameter(CHANGED).mul_(1.01)
    return model


def logits(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(tokens(2, 30), use_cache=False).logits
    return result


def test_round_trip(adapted: PreTrainedModel, tmp_path: Path, design: Design) -> None:
    run = save(adapted, tmp_path / "run")
    assert sorted(place.name for place in run.iterdir()) == ["design.toml", "hardware.safetensors"]
    model = load_run(run).model
    assert not model.training
    assert torch.equal(logits(model), logits(adapted))
    cell = attached_layers(model)[0]
    assert cell.design == attached_layers(adapted)[0].design
    assert cell.design.token_period == 2 * design.layer_latency


def test_a_number_that_no_file_knows_is_refused_before_anything_is_written(
    adapted: PreTrainedModel, tmp_path: Path, design: Design
) -> None:
    set_design(adapted, design.replace(noise=Flickering(flicker_std=0.1)))
    with pytest.raises(DesignError, match=r"would not hold noise\.flicker_std"):
        save(adapted, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_only_what_changed_is_stored(adapted: PreTrainedModel, base: Path, tmp_path: Path) -> None:
    run = save(adapted, tmp_path / "run")
    names = set(load_file(run / "hardware.safetensors"))
    assert {name for name in names if ".gain_cell." not in name} == {CHANGED}
    assert len(names) == 1 + 2 * 8
    about = Run(run).hardware
    original = load_base(base)
    assert (about.base, about.base_sha256) == (str(base), original.sha256)
    assert about.design_hash == attached_layers(adapted)[0].design.hash
    given = save(adapted, tmp_path / "given", base=original)
    assert Run(given).hardware == about
    assert set(load_file(given / "hardware.safetensors")) == names


def test_the_adapted_model_can_be_detached(adapted: PreTrainedModel, base: Path, tmp_path: Path) -> None:
    model = detach(load_run(save(adapted, tmp_path / "run")).model)
    original = base_weights(load_base(base).model)
    for name, weight in base_weights(model).items():
        assert torch.equal(weight, original[name]) == (name != CHANGED)


def test_a_bfloat16_model(base: Path, design: Design, tmp_path: Path) -> None:
    """Rounding the base model's weights is no change of them."""
    model = attach(load_base(base, torch.bfloat16).model, design)
    run = save(model, tmp_path / "run")
    assert all(".gain_cell." in name for name in load_file(run / "hardware.safetensors"))
    again = load_run(run, dtype=torch.bfloat16).model
    assert torch.equal(logits(again), logits(model))
    assert attached_layers(again)[0].k.offset.dtype == torch.float64


def test_a_changed_base_model_is_noticed(adapted: PreTrainedModel, base: Path, tmp_path: Path) -> None:
    run = save(adapted, tmp_path / "run")
    build("llama", seed=5).save_pretrained(base)
    with pytest.raises(RunError, match=r"base model .* has changed since it was saved \(sha256"):
        load_run(run)


def test_a_base_model_that_moved(adapted: PreTrainedModel, base: Path, tmp_path: Path) -> None:
    run = save(adapted, tmp_path / "run")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="the base model is needed: there is no file or directory"):
        load_run(run)
    assert torch.equal(logits(load_run(run, base=str(tmp_path / "elsewhere")).model), logits(adapted))


def test_another_design(adapted: PreTrainedModel, design: Design, tmp_path: Path) -> None:
    run = save(adapted, tmp_path / "run")
    linear = design.replace(cell="linear")
    expected = logits(set_design(adapted, linear))
    linear.save(run / "design.toml")
    with pytest.raises(RunError, match="is not the design the model was saved with"):
        load_run(run)
    assert torch.equal(logits(load_run(run, design=linear).model), expected)


@pytest.mark.parametrize("damage", ["missing", "truncated", "format", "tensors", "nan"])
def test_damaged_runs(adapted: PreTrainedModel, tmp_path: Path, damage: str) -> None:
    run = save(adapted, tmp_path / "run")
    file = run / "hardware.safetensors"
    tensors = load_file(file)
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
    error, message = RunError, "hardware.safetensors"
    if damage == "missing":
        file.unlink()
        message = "is not a RUN directory"
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "format":
        save_file(tensors, file, metadata=metadata | {"format": "gaincell-hardware-99"})
        message = "gaincell-hardware-99"
    elif damage == "tensors":
        tensors.pop("model.layers.0.self_attn.gain_cell.q.gain")
        save_file(tensors, file, metadata=metadata)
        message = "does not fit the base model: model.layers.0.self_attn.gain_cell.q.gain"
    else:
        tensors[CHANGED][0, 0] = float("nan")
        save_file(tensors, file, metadata=metadata)
        error, message = ModelError, f"tensor {CHANGED} has 1 of"
    with pytest.raises(error, match=message) as caught:
        load_run(run)
    assert "\n" not in str(caught.value)
    assert Run(run).saved == (damage != "missing")


def test_nan_is_not_saved(adapted: PreTrainedModel, tmp_path: Path) -> None:
    with torch.no_grad():
        attached_layers(adapted)[1].v.offset[1] = float("inf")
    with pytest.raises(
        ModelError, match=r"tensor model\.layers\.1\.self_attn\.gain_cell\.v\.offset has 1 of 2"
    ):
        save(adapted, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_saved(adapted: PreTrainedModel, design: Design, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not attached"):
        save(build("llama"), tmp_path / "run")
    with pytest.raises(RunError, match="does not say which pretrained model"):
        save(attach(build("llama"), design), tmp_path / "run")
    adapted.model.embed_tokens.weight = torch.nn.Parameter(torch.zeros(90, 32))
    with pytest.raises(RunError, match="undo the change of structure"):
        save(adapted, tmp_path / "run")
    adapted.extra = torch.nn.Linear(2, 2)
    with pytest.raises(RunError, match="merge adapters"):
        save(adapted, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_results_are_never_those_of_another_model(adapted: PreTrainedModel, tmp_path: Path) -> None:
    run = save(adapted, tmp_path / "run")
    (run / "run.json").write_text("{}")
    before = (run / "hardware.safetensors").stat().st_mtime_ns
    with pytest.raises(RunError, match=r"run holds the results of another model \(run.json\); choose"):
        save(adapted, run)
    assert (run / "hardware.safetensors").stat().st_mtime_ns == before
    (tmp_path / "begun" / "stages").mkdir(parents=True)
    (tmp_path / "begun" / "stages" / "settings.json").write_text("{}")
    with pytest.raises(RunError, match="begun holds a RUN that is not finished; choose"):
        save(adapted, tmp_path / "begun")
    assert not (tmp_path / "begun" / "hardware.safetensors").exists()
    adapted.save_pretrained(tmp_path / "whole")
    with pytest.raises(RunError, match=r"whole holds another model already \(config.json\): choose"):
        save(adapted, tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated:FutureWarning")  # both versions know it
@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("mistral", {"sliding_window": 16}, r"sliding_window = 16 \(base model: 12\); use .* save_pre"),
        ("llama", {"rope_scaling": ROPE}, r"rope_\w+\.factor = 4\.0 \(base model: None\)"),
        ("llama", {"attention_dropout": 0.1, "use_cache": False, "pad_token_id": 3}, ""),
    ],
)
def test_a_changed_configuration_is_not_lost(
    family: str, changes: dict[str, Any], named: str, design: Design, tmp_path: Path
) -> None:
    build(family).save_pretrained(tmp_path / "base")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16, **changes)
    model = attach(loaded, design).eval()
    if named:
        with pytest.raises(RunError, match=f"is not that of its base model: {named}"):
            save(model, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    else:
        again = load_run(save(model, tmp_path / "run"), dtype=torch.bfloat16).model
        assert torch.equal(logits(again), logits(model))


def test_a_full_disk_leaves_the_old_run(
    adapted: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save(adapted, tmp_path / "run")
    before = logits(load_run(run).model)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    set_design(adapted, attached_layers(adapted)[0].design.replace(noise=Noise(cell_std=0.01)))
    for fails in (1, 2):  # while the tensors are written, and while the design is
        calls = iter(range(1, 9))
        monkeypatch.setattr(files.os, "fsync", lambda _, n=calls, f=fails: full(0) if next(n) >= f else None)
        with pytest.raises(RunError, match=r"run/(design.toml|hardware.safetensors): the disk is full"):
            save(adapted, run)
        monkeypatch.undo()
    assert sorted(place.name for place in run.iterdir()) == ["design.toml", "hardware.safetensors"]
    assert torch.equal(logits(load_run(run).model), before)


OLD, NEW = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A hub with two commits of `owner/small`, and an empty local cache; gives the cache of a commit."""
    commits = {commit: tmp_path / "hub" / commit for commit in (OLD, NEW)}
    for seed, place in enumerate(commits.values()):
        build("llama", seed).save_pretrained(place)

    def cached(commit: str) -> Path:
        return tmp_path / "cache" / "models--owner--small" / "snapshots" / commit

    def model_info(_: object, model: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        commit = revision or NEW
        files = [SimpleNamespace(rfilename=file.name) for file in commits[commit].iterdir()]
        return SimpleNamespace(sha=commit, siblings=files)

    def download(model: str, *, revision: str, allow_patterns: list[str]) -> str:
        return str(shutil.copytree(commits[revision], cached(revision), dirs_exist_ok=True))

    def look_up(model: str, file: str, revision: str | None) -> str | None:
        place = cached(revision or NEW) / file
        return str(place) if place.is_file() else None

    monkeypatch.setattr(sources.HfApi, "model_info", model_info)
    monkeypatch.setattr(sources, "snapshot_download", download)
    monkeypatch.setattr(sources, "try_to_load_from_cache", look_up)
    return cached


def test_a_base_model_of_the_hub_is_pinned(
    hub: Callable[[str], Path], design: Design, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commit that a RUN was made from is loaded again, after a word before the download."""
    loaded = load_base(f"owner/small@{OLD}").model
    assert loaded.name_or_path == "owner/small"
    capsys.readouterr()
    run = save(attach(loaded, design), tmp_path / "run")
    assert Run(run).hardware.base == f"owner/small@{OLD}"
    assert capsys.readouterr().err == ""
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(logits(load_run(run).model), logits(loaded))
    assert capsys.readouterr().err == (
        f"{run}: the base model is needed: downloading owner/small, revision {OLD}, from the hub\n"
    )
    assert not hub(NEW).exists()
    assert model_size(run).title == "small"
    again = save(load_run(run).model, tmp_path / "again")
    assert Run(again).hardware == Run(run).hardware
    assert capsys.readouterr().err == ""


def test_a_model_of_the_hub_without_a_commit(
    hub: Callable[[str], Path], design: Design, tmp_path: Path
) -> None:
    run = save(attach(load_base("owner/small").model, design), tmp_path / "run")
    assert Run(run).hardware.base == f"owner/small@{NEW}"
    assert hub(NEW).is_dir()


def test_an_interrupted_download_is_taken_up_again(
    hub: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_base("owner/small")
    whole, shards = hub(NEW) / "model.safetensors", [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    whole.rename(whole.with_name(shards[0]))
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    (hub(NEW) / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sources._hub_model("owner/small", None, "") == hub(NEW)
    assert whole.is_file()  # it was downloaded again
    other = hub(NEW) / "pytorch_model.bin.index.json"  # comes with the texts, its shards do not
    other.write_text(json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}))
    monkeypatch.setattr(sources, "_downloaded", None)
    assert sources._hub_model("owner/small", None, "") == hub(NEW)


def test_a_commit_that_is_gone(
    hub: Callable[[str], Path], design: Design, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another commit in the local cache is no substitute."""
    run = save(attach(load_base(f"owner/small@{OLD}").model, design), tmp_path / "run")
    load_base("owner/small")
    shutil.rmtree(hub(OLD))

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(sources.HfApi, "model_info", unreachable)
    with pytest.raises(
        RunError, match=rf"base model is needed: model 'owner/small@{OLD}' is not .* \(no route\)"
    ):
        load_run(run)
