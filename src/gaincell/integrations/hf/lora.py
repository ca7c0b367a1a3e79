"""Low-rank adapters (LoRA, through peft) of an attached model: put in, trained, merged into the weights.

A linear layer y = W x becomes y = (W + (s / r) B A) x with B A of rank r; W stays as it is. `add_product`
adds the product to W where a model is read, so that a converted model holds no training scaffolding.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gaincell.errors import InputError, ModelError, RunError
from gaincell.integrations.hf.support import attention_modules

WHERE = ("attention", "all")
"""Which linear layers can have adapters: those of the attention modules, or all but the output layer."""
NAME = "default"
"""Peft's name of an adapter that has no other."""
FACTORS = tuple(f".lora_{factor}.{NAME}.weight" for factor in "AB")
"""Ends of the names of an adapter's matrices, behind that of its layer."""


def check_peft(needed_by: str = "") -> None:
    """Raise InputError where there is no peft; what needs it says so before it reads a text or a model."""
    if find_spec("peft") is None:
        raise InputError(f"{needed_by}adapters need the extra: pip install 'gaincell[train]'")


def add_lora(model: PreTrainedModel, rank: int, where: str = "all", scale: float = 1.0, seed: int = 0) -> int:
    """Freeze the weights of a model and give its linear layers adapters, in place; gains and offsets stay as
    they are.

    Args:
        model: A causal language model of transformers, attached or not.
        rank: r.
        where: One of WHERE.
        scale: s / r, what the product B A is multiplied by.
        seed: Of A; B begins at zero, so that the model computes what it did.

    Returns:
        How many numbers are in the adapters.

    Raises:
        InputError: peft is missing, or an option is not allowed.
        ModelError: the model has adapters already, or no linear layer to give one to.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    from gaincell.integrations.hf.lora_product import LowRankLinear

    if rank < 1 or where not in WHERE:
        raise InputError(
            f"rank = {rank}, where = {where!r}; give a rank of 1 or more, and {' or '.join(WHERE)}"
        )
    if lora_parameters(model):
        raise ModelError("the model has low-rank adapters already; merge them first")
    targets = linear_layers(model, where)
    if not targets:
        raise ModelError(f"{type(model).__name__} has no linear layer in its {where} modules")
    scales = [(p, p.requires_grad) for name, p in model.named_parameters() if ".gain_cell." in name]
    config = LoraConfig(
        r=rank,
        lora_alpha=scale * rank,  # type: ignore[arg-type]
        target_modules=targets,
        lora_dropout=0.0,
        fan_in_fan_out=all(isinstance(model.get_submodule(name), Conv1D) for name in targets),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = LowRankLinear
    model.requires_grad_(False)
    for parameter, trained in scales:
        parameter.requires_grad_(trained)
    found = lora_parameters(model)
    for parameter in found.values():
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
        parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in found.values())


def linear_layers(model: PreTrainedModel, where: str) -> list[str]:
    """Names of the layers that `add_lora` gives adapters: nn.Linear, and GPT-2's Conv1D."""
    inside = tuple(f"{name}." for name in attention_modules(model))
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not head
        and (where == "all" or name.startswith(inside))
    ]


def lora_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The matrices A and B of all adapters, by name."""
    return {name: p for name, p in model.named_parameters() if _is_factor(name)}


def _is_factor(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def factors(model: nn.Module) -> dict[str, Tensor]:
    """A, and B times s / r, of every adapter, under the name of its layer's weight and ".lora_A", ".lora_B";
    what `add_product` adds to a weight.

    Raises:
        ModelError: a layer has several adapters, one of another kind, or one that is merged or not in use.
    """
    found = {}
    adapted: list[tuple[str, Any]] = [(n, m) for n, m in model.named_modules() if hasattr(m, "lora_A")]
    for name, layer in adapted:
        own = list(layer.lora_A)
        in_use = not (layer.merged or layer.disable_adapters) and list(layer.active_adapters) == own
        biased = any(b.bias is not None for b in layer.lora_B.values())
        if len(own) != 1 or not in_use or biased or getattr(layer, "lora_variant", None):
            raise ModelError(
                f"{name} has the adapters {', '.join(own) or 'none'}; one can be saved, in use, not merged, "
                "without bias: merge them into the weights first (peft: merge_and_unload)"
            )
        found[f"{name}.weight.lora_A"] = layer.lora_A[own[0]].weight.detach()
        found[f"{name}.weight.lora_B"] = layer.lora_B[own[0]].weight.detach() * layer.scaling[own[0]]
    return found


def refuse_prompts(model: nn.Module) -> None:
    """Refuse a wrapper of peft that puts learned prompts before the text.

    Raises:
        ModelError: it is one.
    """
    configs = getattr(model, "peft_config", {}).values()
    if any(getattr(config, "is_prompt_learning", False) for config in configs):
        raise ModelError(
            "the model has learned prompts, which a RUN cannot hold: call save_pretrained of peft's wrapper"
        )


def lora_name(name: str) -> str:
    """The parameter of a model with adapters (of scale 1) that a factor in a file is."""
    return re.sub(r"\.weight\.(lora_[AB])$", rf".\1.{NAME}.weight", name)


def without_adapters(weights: dict[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Parameters by the names that they have in the model without adapters, those of adapters left out."""
    own = {name: weight for name, weight in weights.items() if not _is_factor(name)}
    return {name.replace(".base_layer.", "."): weight for name, weight in own.items()}


@torch.no_grad()
def add_product(layer: nn.Module, a: Float[Tensor, "r inputs"], b: Float[Tensor, "outputs r"]) -> None:
    """Add B A to a layer's weight, in place. (GPT-2's Conv1D holds its weight transposed.)

    Raises:
        RunError: the factors do not fit the weight.
    """
    weight: nn.Parameter = layer.weight  # type: ignore[assignment]
    product = b.float() @ a.float()
    product = product.T if isinstance(layer, Conv1D) else product
    if product.shape != weight.shape:
        raise RunError(
            f"an adapter of shape {tuple(product.shape)} does not fit a weight {tuple(weight.shape)}"
        )
    weight.add_(product.to(weight.device, weight.dtype))
