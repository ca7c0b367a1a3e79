"""What one layer computes on some text, stored for other tools."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gaincell import files
from gaincell.chips.design import Design
from gaincell.circuits import query_driver, write_dac
from gaincell.errors import InputError
from gaincell.evaluation.codes import stage_codes
from gaincell.evaluation.forward import forward, watch_stages
from gaincell.integrations.hf.attach import attached_model, computing_layers
from gaincell.integrations.hf.context import check_length
from gaincell.integrations.hf.support import attention_modules, own_window
from gaincell.nn.attention import GainCellAttention


@torch.no_grad()
def dump_layer(
    model: nn.Module,
    tokens: Int[Tensor, "B T"],
    layer: int,
    path: str | os.PathLike[str],
    *,
    scores: bool = False,
) -> Path:
    """Store what one layer of an attached model computes on `tokens`, as a .safetensors file.

    Tensors (int32 codes, heads and token order as in the model):

        tokens  [B, T]         token ids
        q_code  [B, H, T, D]   of the query driver, 0 ... query_levels - 1, with signed drivers also below 0
        k_code  [B, Hk, T, D]  of the write DAC, 0 ... storage_levels - 1; v_code likewise
                               (with paired rows D counts rows: kept components, then their negatives; with
                               balanced rows turned components, then the full pulse or what balances; of
                               v and output with rotated values rotated components)
        output  [B, H, T, D]   sum of the sub-tile outputs in units of their full scale, float32 (with a
                               normalising column divided by that column's sum plus the floor)
        scaled  [B, H, T, D]   the same after gain, offset, rotation back and bias: what the model goes on
                               with, float32
        score   [B, H, T, T]   with `scores`: S_ij in charge units of nominal cells, 0 where token j is not
                               seen

    Circuits without quantisation are stored in 16 bins. The metadata holds the design and the layer.

    Raises:
        InputError: the model is not attached, has no such layer, a normaliser inside its arrays (whose
            quotients are none of these), or a context shorter than T; `scores` of a chip with columns of
            first tokens.
        RunError: the file cannot be written.
    """
    layers = computing_layers(model)
    if not 0 <= layer < len(layers):
        allowed = f"allowed: 0 to {len(layers) - 1}" if layers else "the model has no gain-cell attention"
        raise InputError(f"there is no layer {layer} to dump; {allowed}")
    check_length(model, tokens.shape[1])
    attention = layers[layer]
    if attention.normaliser is not None:
        raise InputError("codes are not dumped of a model with a normaliser inside its arrays; give another")
    design = attention.design
    if scores and design.sinks.tokens:
        raise InputError(
            f"design {design.name!r} has columns of first tokens, whose scores are not dumped; leave the "
            "scores out (--scores), or give a design with sinks.tokens = 0"
        )
    found: dict[str, Tensor] = {"tokens": tokens.to(torch.int32)}
    scaled: dict[str, Tensor] = {}

    def keep(attention: GainCellAttention, stage: str, raw: Tensor, output: Tensor) -> None:
        scaled[stage] = output
        if stage == "out":
            found["output"], found["scaled"] = raw.float(), attention.returned(output).float()
        else:
            found[f"{stage}_code"] = stage_codes(attention, stage, output, raw).to(torch.int32)

    with watch_stages([attention], keep):
        forward(model, tokens)
    if scores:
        window = own_window([*attention_modules(attached_model(model)).values()][layer])
        found["score"] = _scores(scaled["q"], scaled["k"], design, window).float()
    metadata = {"layer": str(layer), "design": design.to_toml(), "layers": str(len(layers))}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
    return files.write_tensors(path, tensors, metadata)


def _scores(q: Tensor, k: Tensor, design: Design, window: int | None) -> Tensor:
    """S_ij = sum_d F(u_jd delta^(i - j)) x_id of nominal cells, a row at a time (equations (6) to (9)).
    `window` is the model's own sliding window.
    """
    x = query_driver(q, design.driver_levels, signed=design.drivers.signed)
    u = write_dac(k, design.dac_levels, design.v_min, design.v_max, design.v_offset)
    kept = design.kept_per_token(x.shape[1] // u.shape[1])
    u = u.repeat_interleave(x.shape[1] // u.shape[1], 1)
    tokens = torch.arange(x.shape[2], device=x.device)
    score = x.new_zeros(*x.shape[:3], x.shape[2])
    for i in tokens.tolist():
        first = max(0, i + 1 - min(design.window, window or design.window))
        decay = kept ** (i - tokens[first : i + 1]).to(x.dtype)
        left = design.decay_target + (u[:, :, first : i + 1] - design.decay_target) * decay[:, None]
        current = design.cell.current(left)
        score[:, :, i, first : i + 1] = (current @ x[:, :, i, :, None]).squeeze(-1)
    return score
