"""Weights that do not fit their config are refused by name; what is absent by right is not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gaincell.cli import main
from gaincell.errors import ModelError
from gaincell.integrations.hf.base_model import fingerprint, load_base

from .families import build, since
from .test_models import byte_llama, write_gguf

Weights = dict[str, Tensor]
FIRST = {
    "llama": "model.layers.0.self_attn.q_proj.weight",
    "gpt2": "transformer.h.0.attn.c_attn.weight",
}
LAYERS = {"llama": "num_hidden_layers", "gpt2": "n_layer"}
FORMATS = pytest.mark.parametrize("suffix", ["safetensors", "bin"])
BOTH = pytest.mark.parametrize("family", ["llama", "gpt2"])


def written(folder: Path, family: str, change: Callable[[Weights], Weights], suffix: str) -> Path:
    """A model's directory whose tensors were changed."""
    build(family).save_pretrained(folder)
    weights = change(load_file(folder / "model.safetensors"))
    if suffix == "bin":
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}


def as_kind(name: str, kind: torch.dtype) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: weights[name].to(kind)}


FAULTS: dict[str, tuple[Callable[[str], Callable[[Weights], Weights]], str]] = {
    "prefix": (
        lambda _: lambda w: {f"other.{n}": t for n, t in w.items()},
        r"missing .*; other\..* not in the",
    ),
    "q": (lambda family: without(FIRST[family]), "{first} is missing from the file"),
    "norm": (
        lambda family: without("model.norm" if family == "llama" else "ln_f"),
        r"(norm|ln_f)\S* .*missing",
    ),
    "embedding": (
        lambda family: without("embed" if family == "llama" else "wte"),
        r"(embed|lm_head)\S* .*missing",
    ),
    "shape": (
        lambda family: lambda w: w | {FIRST[family]: w[FIRST[family]][:, :-1].contiguous()},
        "{first} is of another shape than the model's",
    ),
    "int8": (lambda family: as_kind(FIRST[family], torch.int8), "{first} is not a floating-point tensor"),
    "bool": (lambda family: as_kind(FIRST[family], torch.bool), "{first} is not a floating-point tensor"),
    "complex": (
        lambda family: as_kind(FIRST[family], torch.complex64),
        "{first} is not a floating-point tensor",
    ),
}


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@FORMATS
@BOTH
@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_do_not_fit(fault: str, family: str, suffix: str, tmp_path: Path) -> None:
    change, message = FAULTS[fault]
    written(tmp_path, family, change(family), suffix)
    with pytest.raises(ModelError, match=message.format(first=FIRST[family].replace(".", r"\."))) as caught:
        load_base(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_a_bias_of_gpt2_is_no_mask(kind: torch.dtype, tmp_path: Path) -> None:
    """transformers' pattern for the masks of GPT-2, "attn.bias", fits the name of a bias too."""
    name = "transformer.h.1.attn.c_attn.bias"
    written(tmp_path, "gpt2", as_kind(name, kind), "safetensors")
    with pytest.raises(ModelError, match=f"{name} is not a floating-point tensor"):
        load_base(tmp_path)


def test_an_output_layer_of_its_own_is_not_left_out(tmp_path: Path) -> None:
    written(tmp_path, "llama", without("lm_head"), "safetensors")
    with pytest.raises(ModelError, match=r"lm_head\.weight is missing"):
        load_base(tmp_path)


@BOTH
@pytest.mark.parametrize(
    ("layers", "fault"), [(1, "in the file but not in the model"), (3, "missing from the")]
)
def test_another_number_of_layers(family: str, layers: int, fault: str, tmp_path: Path) -> None:
    build(family).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {LAYERS[family]: layers, "layer_types": None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"\.{min(layers, 2)}\.\S+ \(and \d+ more\) are {fault}"):
        load_base(tmp_path)


@pytest.mark.parametrize("command", ["evaluate", "map"])
def test_commands_refuse(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, "llama", without(FIRST["llama"]), "safetensors")
    with pytest.raises(SystemExit, match="2"):
        main([command, str(tmp_path)])
    assert f"{FIRST['llama']} is missing from the file" in capsys.readouterr().err


MASKS = {
    "attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8),
    "attn.masked_bias": torch.tensor(-1e4),
}
BY_RIGHT: dict[str, tuple[str, Callable[[Weights], Weights]]] = {
    "tied output layer": ("gpt2", without("lm_head")),
    "masks of GPT-2": ("gpt2", lambda w: w | {f"transformer.h.0.{n}": mask for n, mask in MASKS.items()}),
    "the base model's names": (
        "gpt2",
        lambda w: (
            {n.removeprefix("transformer."): t for n, t in w.items()}
            | {f"h.1.{n}": mask for n, mask in MASKS.items()}
        ),
    ),
    "rotary frequencies": (
        "llama",
        lambda w: w | {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in (0, 1)},
    ),
    "masks of GPT-NeoX": (
        "gpt_neox",
        lambda w: (
            w
            | {
                "gpt_neox.layers.0.attention.bias": MASKS["attn.bias"].bool(),
                "gpt_neox.layers.0.attention.masked_bias": MASKS["attn.masked_bias"],
                "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(4),
            }
        ),
    ),
}


@FORMATS
@pytest.mark.parametrize("case", BY_RIGHT)
def test_what_is_absent_or_there_by_right(case: str, suffix: str, tmp_path: Path) -> None:
    family, change = BY_RIGHT[case]
    assert load_base(written(tmp_path, family, change, suffix)).sha256 == fingerprint(build(family))


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "olmo2", "opt"])
def test_whole_models_of_other_families(family: str, tmp_path: Path) -> None:
    build(family).save_pretrained(tmp_path, max_shard_size="20KB")
    assert load_base(tmp_path).sha256 == fingerprint(build(family))


GGUF_FAULTS: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "missing": (
        {"model.layers.0.mlp.up_proj.weight": None},
        r"mlp\.up_proj\.weight is missing from the file",
    ),
    "layer": (
        {"model.layers.1.mlp.up_proj.weight": torch.ones(64, 64)},
        r"blk\.1\.ffn_up\.weight is in the file",
    ),
    "bias": (
        {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)},
        r"blk\.0\.attn_q\.bias is in the file but",
    ),
}


@pytest.mark.parametrize("fault", GGUF_FAULTS)
def test_a_gguf_file_that_does_not_fit(fault: str, tmp_path: Path) -> None:
    changes, message = GGUF_FAULTS[fault]
    weights = {name: weight.detach() for name, weight in byte_llama().named_parameters()} | changes
    write_gguf(tmp_path / "small.gguf", {n: w for n, w in weights.items() if w is not None})
    with pytest.raises(ModelError, match=message) as caught:
        load_base(tmp_path / "small.gguf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads = 0; allowed: a whole number, 1 or more"),
        ({"hidden_size": -8}, "hidden_size = -8; allowed: a whole number, 1 or more"),
        ({"num_hidden_layers": 2.5}, "2.5"),
        pytest.param(
            {"num_attention_heads": 7}, "", marks=since("5.5", "compares the sizes of a configuration")
        ),
        ({"hidden_act": "nothing", "activation_function": "nothing"}, "nothing"),
    ],
)
def test_a_configuration_that_makes_no_model_is_named(
    family: str, change: dict[str, object], said: str, tmp_path: Path
) -> None:
    model = build(family)
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    names = type(model.config).attribute_map
    content = json.loads(file.read_text()) | {names.get(key, key): value for key, value in change.items()}
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=rf"cannot (build|read) model .*config\.json: .*{said}") as refused:
        load_base(tmp_path)
    assert "\n" not in str(refused.value)
