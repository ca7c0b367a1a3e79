"""First gains and offsets for a pretrained model, from the statistics of its own activations.

    q: a = 0.25 / std, b = 0.5 (pulse widths)         k, v: a = 0.2 / std, b = V_offset
    output: least squares of the arrays' output O_h to that of softmax attention Y_h, per head,
            a = r std(Y) / std(O), b = mean(Y) - a mean(O), with the correlation r kept at or above 0.1

All layers are fitted in one forward pass. Each layer passes on the output of softmax attention, so that
every layer sees what it sees in the pretrained model. Not modelled: the mean of q, k and v, which stays in
the signal.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from gaincell.adaptation.result import Place
from gaincell.adaptation.statistics import attached, backbone, moments
from gaincell.integrations.hf.support import attention_modules
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.scaler import Scaler

QUERY_STD = 0.25
"""Standard deviation of the scaled queries, in pulse widths of range 0 to 1."""
QUERY_OFFSET = 0.5
STORAGE_STD = 0.2
"""Standard deviation of the scaled keys and values, V."""
SMALLEST_CORRELATION = 0.1


@torch.no_grad()
def initial_scaling(model: PreTrainedModel, ids: Int[Tensor, "B T"]) -> tuple[Place, ...]:
    """Set gains and offsets of an attached model, whose weights are still those of the softmax model, in
    place.

    Args:
        model: attached; not trained on the hardware yet.
        ids: some text without padding.

    Returns:
        The stages whose input has no variance; they stay as they are.
    """
    layers = attached(model)
    silent: list[Place] = []
    modules: Iterable[Any] = attention_modules(model).values()
    scaling = [getattr(m, "scaling", a.head_dim**-0.5) for m, a in zip(modules, layers, strict=True)]
    with ExitStack() as hooks:
        for n, layer in enumerate(layers):
            centre = {"q": QUERY_OFFSET, "k": layer.design.v_offset, "v": layer.design.v_offset}
            for stage, offset in centre.items():
                std = QUERY_STD if stage == "q" else STORAGE_STD
                hook = partial(_set_input, n, stage, std, offset, silent)
                hooks.callback(getattr(layer, stage).register_forward_pre_hook(hook).remove)
            raw: dict[str, Tensor] = {}
            hooks.callback(layer.out.register_forward_pre_hook(partial(_keep, raw)).remove)
            fit = partial(_fit_output, n, scaling[n], raw, silent)
            hooks.callback(layer.register_forward_hook(fit).remove)
        model.eval()
        backbone(model)(input_ids=ids.to(next(model.parameters()).device, torch.long), use_cache=False)
    return tuple(silent)


def _set_input(
    layer: int,
    stage: str,
    std: float,
    offset: float,
    silent: list[Place],
    scaler: Scaler,
    inputs: tuple[Float[Tensor, "B heads T D"], ...],
) -> None:
    found = moments(inputs[0], None).std
    gain = torch.where(found > 0, std / found, scaler.gain.double().cpu())
    scaler.gain.copy_(gain)
    scaler.offset.fill_(offset)
    silent.extend(Place(layer, head, stage) for head in (found == 0).nonzero().flatten().tolist())


def _keep(raw: dict[str, Tensor], scaler: Scaler, inputs: tuple[Tensor, ...]) -> None:
    raw["out"] = inputs[0]


def _fit_output(
    layer: int,
    scaling: float,
    raw: dict[str, Tensor],
    silent: list[Place],
    attention: GainCellAttention,
    inputs: tuple[Any, ...],
    output: Tensor,
) -> Float[Tensor, "B H T D"]:
    """Fit the output stage to softmax attention, and pass the latter on."""
    q, k, v, _, _, window = inputs
    wanted = softmax_attention(q, k, v, scaling, window)
    got, want = moments(raw["out"], None), moments(wanted, None)
    product = torch.stack(
        [
            (o.double() * y.double()).mean()
            for o, y in zip(raw["out"].unbind(1), wanted.unbind(1), strict=True)
        ]
    )
    usable = got.std > 0
    spread = torch.where(usable, got.std, 1.0)
    correlation = (product.cpu() - got.mean * want.mean) / (spread * want.std.clamp(min=1e-30))
    gain = correlation.clamp(min=SMALLEST_CORRELATION) * want.std / spread
    gain = torch.where(usable, gain, attention.out.gain.double().cpu())
    attention.out.gain.copy_(gain)
    attention.out.offset.copy_(want.mean - gain * got.mean)
    silent.extend(Place(layer, head, "out") for head in (~usable).nonzero().flatten().tolist())
    return wanted.to(output.dtype)


def softmax_attention(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B Hk T D"],
    v: Float[Tensor, "B Hk T D"],
    scaling: float,
    window: int | None,
) -> Float[Tensor, "B H T D"]:
    """Causal softmax attention without padding; `window` is the model's own sliding window."""
    group = q.shape[1] // k.shape[1]
    age = torch.arange(q.shape[2], device=q.device)
    age = age[:, None] - age[None, :]
    seen = (age >= 0) & (age < (window or q.shape[2]))
    return nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), attn_mask=seen, scale=scaling
    )
