"""Which attention modules of a model can run in gain cells, and why others cannot.

An attention module is found by what it does, not by its name: its ``forward`` looks its attention function
up in transformers' ``ALL_ATTENTION_FUNCTIONS``. Everything a module does besides causal attention of its
own tokens is refused by name, before anything is changed.
"""

import inspect
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from gaincell.errors import ModelError


class Geometry(NamedTuple):
    """Sizes of one attention module: query heads H, key/value heads Hk, and D."""

    heads: int
    kv_heads: int
    head_dim: int


def attention_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """All attention modules of ``model`` by name, in the order of their layers.

    Raises:
        ModelError: there is none that goes through transformers' attention interface, or one of them does
            something that gain-cell attention does not model; all such features are named.
    """
    found = {name: module for name, module in model.named_modules() if _uses_attention_interface(module)}
    problems = _model_problems(model)
    if not found and not problems:
        problems = ["attention that does not go through transformers' AttentionInterface"]
    for name, module in found.items():
        problems += [f"{feature} ({name})" for feature in _module_problems(module)]
    if len({_get(module, "layer_idx") for module in found.values()}) < len(found):
        problems.append("several attention modules with the same layer index")  # the same physical arrays
    if problems:
        raise ModelError(
            f"{type(model).__name__} uses {_shorten(problems)}: not modelled by gain-cell attention "
            "(allowed: decoders with plain causal self-attention through transformers' AttentionInterface, "
            "with or without grouped heads and sliding windows)"
        )
    return dict(sorted(found.items(), key=lambda item: _get(item[1], "layer_idx")))


def geometry(module: nn.Module) -> Geometry:
    """Heads, key/value heads and head dimension of one attention module."""
    config = module.config
    heads = _get(module, "num_heads") or _get(config, "num_attention_heads")
    groups = _get(module, "num_key_value_groups") or 1  # as transformers' own attention functions read it
    own = _get(module, "head_dim") or _get(module, "head_size") or _get(config, "head_dim")
    head_dim = own or _get(config, "hidden_size") // heads
    return Geometry(heads, heads // groups, head_dim)


def own_window(module: nn.Module) -> int | None:
    """The sliding window that the configuration gives to this module's layer, None for full attention, which
    a window of all positions is.
    """
    types = _get(module.config, "layer_types")
    if types is not None and types[_get(module, "layer_idx")] != "sliding_attention":
        return None
    window: int | None = _get(module.config, "sliding_window")
    positions = _get(module.config, "max_position_embeddings")
    return None if window and positions and window >= positions else window


def _uses_attention_interface(module: nn.Module) -> bool:
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def _model_problems(model: PreTrainedModel) -> list[str]:
    """What the configuration, or the absence of an attention interface, says about the whole model."""
    whole, config = model.config, model.config.get_text_config()
    chunk = _get(config, "attention_chunk_size")
    checks = (
        (_get(whole, "is_encoder_decoder"), "an encoder and cross-attention (config.is_encoder_decoder)"),
        (_get(config, "add_cross_attention"), "cross-attention (config.add_cross_attention)"),
        (_has_alibi(model, config), "ALiBi position biases"),
        (_get(config, "is_causal") is False, "bidirectional attention (config.is_causal)"),
        (chunk is not None, "chunked attention (config.attention_chunk_size)"),
        ((_get(config, "n_recurrent_loops") or 1) > 1, "repeated layers (config.n_recurrent_loops above 1)"),
    )
    problems = [problem for there, problem in checks if there]
    for kind in dict.fromkeys(_get(config, "layer_types") or []):
        if kind not in {"full_attention", "sliding_attention"}:
            problems.append(f"layers of type {kind} (config.layer_types)")
    for name, module in model.named_modules():
        missed = type(module).__name__.endswith("Attention") and not _uses_attention_interface(module)
        if missed and _get(module, "layer_idx") is not None:
            problems.append(f"attention outside transformers' AttentionInterface ({name})")
    return problems


_NOT_NONE = {
    "sinks": "attention sinks",
    "attn_logit_softcapping": "soft-capping of attention logits",
    "kv_lora_rank": "multi-head latent attention",
    "lambda_init": "differential attention",
}
"""What an attention module does that has such an attribute."""


def _module_problems(module: nn.Module) -> list[str]:
    """What one attention module does besides causal attention of its own tokens."""
    problems = [problem for name, problem in _NOT_NONE.items() if _get(module, name) is not None]
    if _get(module, "is_cross_attention"):
        problems.append("cross-attention")
    elif _get(module, "is_causal") is not True:
        problems.append("bidirectional attention or cross-attention (is_causal is not True)")
    if _get(module, "is_kv_shared_layer"):
        problems.append("keys and values shared between layers")
    if _get(module, "layer_idx") is None:
        problems.append("an attention module without a layer index")
    if _get(module, "num_key_value_heads") not in (None, geometry(module).kv_heads):
        problems.append("keys and values repeated outside the attention function")
    return problems


def _has_alibi(model: PreTrainedModel, config: Any) -> bool:
    """ALiBi by the configuration if it says so or not, else by the arguments of the attention modules."""
    for place in (config, _get(config, "attn_config")):
        flag = _get(place, "alibi")
        if flag is not None:
            return bool(flag)
    return any("alibi" in inspect.signature(type(module).forward).parameters for module in model.modules())


def _shorten(problems: list[str]) -> str:
    """The distinct features, each with the first module that has it: a model repeats it in every layer."""
    first: dict[str, str] = {}
    for problem in problems:
        first.setdefault(problem.split(" (")[0], problem)
    return "; ".join(first.values())


def _get(thing: Any, name: str) -> Any:
    """An attribute that not every model family has."""
    return getattr(thing, name, None)
