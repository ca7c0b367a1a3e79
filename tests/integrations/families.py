"""Tiny random models of each tested family (no network, a few thousand parameters)."""

from collections.abc import Callable

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 97


def is_since(version: str) -> bool:
    """Whether transformers is of a version, or a later one."""
    return Version(transformers.__version__) >= Version(version)


def since(version: str, what: str) -> pytest.MarkDecorator:
    """The mark of a test of what transformers does since a version."""
    return pytest.mark.skipif(not is_since(version), reason=f"transformers {what} since version {version}")


FALCON_HAS_INTERFACE = "5.25"
"""Before this version its attention is outside transformers' AttentionInterface."""
MISTRAL_WINDOW = 12

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2, "intermediate_size": 48}


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(**_COMMON, scale_attn_by_inverse_layer_idx=True))


def _llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**_GROUPED))


def _mistral() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**_GROUPED, sliding_window=MISTRAL_WINDOW))


def _qwen2() -> PreTrainedModel:
    """One full layer, then one with a sliding window."""
    config = Qwen2Config(**_GROUPED, use_sliding_window=True, sliding_window=10, max_window_layers=1)
    return Qwen2ForCausalLM(config)


def _qwen3() -> PreTrainedModel:
    """head_dim differs from hidden_size / heads."""
    return Qwen3ForCausalLM(Qwen3Config(**_GROUPED, head_dim=12))


def _gpt_neox() -> PreTrainedModel:
    return GPTNeoXForCausalLM(GPTNeoXConfig(**_COMMON, intermediate_size=48))


def _olmo2() -> PreTrainedModel:
    return Olmo2ForCausalLM(Olmo2Config(**_GROUPED))


def _opt() -> PreTrainedModel:
    return OPTForCausalLM(OPTConfig(**_COMMON, ffn_dim=48, word_embed_proj_dim=32))


def _falcon() -> PreTrainedModel:
    """Key/value heads for groups of queries in one matrix with them."""
    config = {**_COMMON, "alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2}
    return FalconForCausalLM(FalconConfig(**config))


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gpt_neox": _gpt_neox,
    "olmo2": _olmo2,
    "opt": _opt,
}
if is_since(FALCON_HAS_INTERFACE):
    FAMILIES["falcon"] = _falcon


def build(family: str, seed: int = 0) -> PreTrainedModel:
    """A random model in eval mode; weights larger than usual, so that attention is far from uniform."""
    torch.manual_seed(seed)
    model = FAMILIES[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.25)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
    return model.eval()


def tokens(batch: int, length: int, seed: int = 1) -> torch.Tensor:
    """Random token numbers [batch, length], none of them the padding token."""
    return torch.randint(2, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def padding_mask(lengths: list[int], length: int, side: str) -> torch.Tensor:
    """1 for real tokens, 0 for padding, [batch, length]."""
    mask = torch.zeros(len(lengths), length, dtype=torch.long)
    for row, count in enumerate(lengths):
        if side == "left":
            mask[row, length - count :] = 1
        else:
            mask[row, :count] = 1
    return mask
