"""Perplexity: known answers, the protocol, and what is refused."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.micro import micro_design, micro_llama
from torch.nn import functional

from gaincell.circuits import query_code
from gaincell.circuits.noise import Noise
from gaincell.circuits.sinks import Sinks
from gaincell.devices.leakage import Leakage
from gaincell.errors import InputError, ModelError
from gaincell.evaluation import perplexity as module
from gaincell.evaluation.codes import code_use
from gaincell.evaluation.dump import dump_layer
from gaincell.evaluation.perplexity import perplexity
from gaincell.integrations.hf.attach import attach, attached_layers, set_attention

TOKENS = torch.randint(0, 97, (1000,), generator=torch.Generator().manual_seed(2))


def test_uniform_predictions_have_the_vocabulary_as_perplexity() -> None:
    model = micro_llama(torch.float64)
    torch.nn.init.zeros_(model.lm_head.weight)
    found = perplexity(model, TOKENS, "blocks-64")
    assert found.perplexity == pytest.approx(97, rel=1e-12)
    assert found.standard_error == pytest.approx(0, abs=1e-12)


def test_it_is_the_cross_entropy_of_every_token_after_the_first_of_each_block() -> None:
    model = micro_llama()
    found = perplexity(model, TOKENS, "blocks-48")
    blocks = TOKENS[: 20 * 48].view(20, 48)
    with torch.no_grad():
        logits = model(blocks).logits[:, :-1].double()
    nll = functional.cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten(), reduction="none")
    assert found.tokens == 20 * 47
    assert found.nll == pytest.approx(float(nll.sum()), rel=1e-6)
    per_block = nll.view(20, 47).mean(1)
    assert found.standard_error == pytest.approx(float(per_block.std() / math.sqrt(20)), rel=1e-4)
    assert found.perplexity == pytest.approx(math.exp(float(nll.mean())), rel=1e-6)
    assert "20 non-overlapping blocks of 48 tokens" in found.protocol


def test_the_protocol_says_that_no_arrays_computed() -> None:
    """A number of the softmax model must not pass for the hardware's, nor speak of noise it did not meet."""
    model = attach(micro_llama(), micro_design(noise=Noise(pulse_jitter=1e-9)))
    arrays, software = perplexity(model, TOKENS, "blocks-64"), perplexity(micro_llama(), TOKENS, "blocks-64")
    assert "softmax" not in arrays.protocol
    found = perplexity(set_attention(model, "softmax"), TOKENS, "blocks-64")
    assert found.protocol == software.protocol + "; softmax attention: no arrays computed"
    assert found.nll == pytest.approx(software.nll, rel=1e-6)
    with pytest.raises(ModelError, match="set to softmax attention, which uses no arrays"):
        perplexity(model, TOKENS, "blocks-64", redraw=True)


def test_the_batch_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    together = perplexity(micro_llama(), TOKENS, "blocks-64")
    monkeypatch.setattr(module, "LOGIT_BYTES", 1)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 7)
    calls: list[tuple[int, int]] = []
    alone = perplexity(micro_llama(), TOKENS, "blocks-64", progress=lambda d, t, n: calls.append((d, t)))
    assert alone.nll == pytest.approx(together.nll, rel=1e-6)
    assert calls == [(n + 1, 15) for n in range(15)]


def test_bits_per_byte() -> None:
    class TwoBytesAToken:
        def batch_decode(self, ids: list[list[int]], **_: object) -> list[str]:
            return ["é" * len(row) for row in ids]

    found = perplexity(micro_llama(), TOKENS, "blocks-64", tokenizer=TwoBytesAToken())
    assert found.bytes == 2 * found.tokens
    assert found.bits_per_byte == pytest.approx(math.log2(found.perplexity) / 2)


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="fewer than one block"):
        perplexity(micro_llama(), TOKENS[:63], "blocks-64")
    for name in ("blocks-1", "sliding", "blocks-"):
        with pytest.raises(InputError, match="blocks-T"):
            perplexity(micro_llama(), TOKENS, name)
    with pytest.raises(InputError, match="vocabulary"):
        perplexity(micro_llama(), TOKENS + 1000, "blocks-64")
    model = micro_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = math.nan
    with pytest.raises(ModelError, match="NaN"):
        perplexity(model, TOKENS, "blocks-64")


def test_batches_are_no_stream() -> None:
    """Else blocks would be cut along the wrong dimension."""
    with pytest.raises(InputError, match=r"shape \(2, 8\); give one stream: tokens.flatten"):
        module._token_ids(torch.zeros(2, 8, dtype=torch.long), None)


@pytest.mark.parametrize("disturb", [0.0, 0.02])
def test_dump_of_a_layer(tmp_path: Path, disturb: float) -> None:
    """Both query heads read a column of their key/value head at every token."""
    leakage = Leakage(read_disturb=disturb)
    model = attach(micro_llama(), micro_design(retention_time=1e-5, leakage=leakage))
    kept: dict[str, torch.Tensor] = {}
    layer = attached_layers(model)[1]
    layer.q.register_forward_hook(lambda m, i, o: kept.update(q=o))
    ids = TOKENS[:128].view(2, 64)
    path = dump_layer(model, ids, 1, tmp_path / "layer.safetensors", scores=True)
    stored = load_file(path)
    assert stored["q_code"].shape == stored["output"].shape == (2, 2, 64, 16)
    assert stored["k_code"].shape == stored["v_code"].shape == (2, 1, 64, 16)
    assert torch.equal(stored["q_code"].long(), query_code(kept["q"], 16))
    assert torch.equal(stored["tokens"].long(), ids)
    gain, offset = (p.detach().float()[:, None, None] for p in (layer.out.gain, layer.out.offset))
    torch.testing.assert_close(stored["scaled"], stored["output"] * gain + offset)
    x, u = stored["q_code"].double() / 15, (stored["k_code"].double() - 3.5) * 0.9 / 7
    i, j = 40, 33
    decayed = u[1, 0, j] * (layer.design.decay_per_token * (1 - disturb) ** 2) ** (i - j)
    expected = (layer.design.cell.current(decayed) * x[1, 1, i]).sum()
    torch.testing.assert_close(stored["score"][1, 1, i, j].double(), expected, rtol=1e-5, atol=1e-5)
    assert float(stored["score"][1, 1, j, i]) == 0.0


def test_a_layer_that_is_not_there_cannot_be_dumped(tmp_path: Path) -> None:
    model = attach(micro_llama(), micro_design())
    with pytest.raises(InputError, match="0 to 1"):
        dump_layer(model, TOKENS[None, :64], 2, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="no gain-cell attention"):
        dump_layer(micro_llama(), TOKENS[None, :64], 0, tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_scores_of_columns_of_first_tokens_are_not_dumped(tmp_path: Path) -> None:
    model = attach(micro_llama(), micro_design(sinks=Sinks(tokens=4)))
    with pytest.raises(InputError, match=r"leave the scores out \(--scores\), or .* sinks\.tokens = 0"):
        dump_layer(model, TOKENS[None, :64], 0, tmp_path / "x.safetensors", scores=True)
    assert "output" in load_file(dump_layer(model, TOKENS[None, :64], 0, tmp_path / "x.safetensors"))


def test_use_of_codes() -> None:
    model = attach(micro_llama(), micro_design())
    use = code_use(model, [TOKENS[None, :64]])
    assert use["q"].code == tuple(range(16))
    assert use["k"].code == use["v"].code == tuple(range(8))
    for stage in use.values():
        assert sum(stage.share) == pytest.approx(1)
    assert max(map(abs, use["out"].code)) <= 15 * 4
