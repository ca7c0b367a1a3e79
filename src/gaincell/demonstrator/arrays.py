"""What the arrays of one head hold and do at the last token: a picture for the page.

The picture is computed by `HeadArray`, the token-serial model of the hardware: it takes over what the ring
stored before the last token, and makes that token's step once more, with all its intermediates. Its output
is that of the layer's own attention; a test compares them.

A picture is bytes: the length of a header (four bytes, little end first), the header (JSON), the numbers.
The header's "parts" name each run of numbers with its type, shape and place.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gaincell.arrays.head import HeadArray
from gaincell.arrays.trace import StepTrace
from gaincell.chips.design import Design
from gaincell.circuits import write_dac
from gaincell.demonstrator.generation import Generation, Snapshot
from gaincell.devices.writing import write_errors
from gaincell.errors import InputError
from gaincell.integrations.hf.ring_layer import RingLayer
from gaincell.nn.attention import GainCellAttention

LEVELS = 127
"""Of a stored voltage in a picture, on each side of V_offset."""


@torch.inference_mode()
def picture(generation: Generation, layer: int, head: int) -> bytes | None:
    """The arrays of one query head at the last token; None before the first one."""
    snapshot = generation.snapshot
    if snapshot is None:
        return None
    trace = replayed(generation, layer)
    kv = head // (trace.scores.shape[1] // trace.key.shape[1])
    design, reach = trace.design, voltage_reach(trace.design)
    ages, decayed = (
        torch.where(trace.valid[0], snapshot.time - written[0], 0.0).clamp(min=0.0)
        for written in (generation.written_at, generation.ring.tokens.write_times)
    )
    parts = {
        "keys": _byte(trace.key[0, kv] / reach),
        "values": _byte(trace.value[0, kv] / reach),
        "query": trace.query[0, head],
        "scores": trace.scores[0, head],
        "pulses": trace.pulses[0, head],
        "tiles": trace.tile_output[0, head],
        "output": trace.output[0, head],
        "ages": ages,
        "decayed": decayed,  # as if at the present retention time
    }
    head_dim = generation.pair.layers[layer].head_dim
    return _packed(
        {
            "step": generation.written,
            "layer": layer,
            "head": head,
            "column": int(trace.column[0]),
            "tokens": snapshot.tokens + 1,
            "held": int(trace.valid.sum()),
            "time": snapshot.time,
            "reach": reach,
            "score_saturation": design.score_saturation(head_dim) if design.score_ceiling else None,
            "retention_time": design.tau,
        },
        parts,
    )


def replayed(generation: Generation, layer: int) -> StepTrace:
    """The last token's step in the arrays of a layer, from what its ring holds.

    The column that the token was written into is written once more; all others are as they were.
    """
    attention, snapshot = generation.pair.layers[layer], generation.snapshot
    assert snapshot is not None
    head = HeadArray(
        snapshot.design,
        attention.head_dim,
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        layer=layer,
        sliding_window=generation.pair.own_windows[layer],
        dtype=torch.float32,
    )
    _take_over(head, generation.ring.rings[layer], snapshot)
    seen = snapshot.layers[layer]
    head.step(seen["q"][None], seen["k"][None], seen["v"][None])
    assert head.trace is not None
    return head.trace


def _take_over(head: HeadArray, ring: RingLayer, snapshot: Snapshot) -> None:
    """Put into the arrays what a ring held before the last token."""
    design, state, tokens = head.design, head.state, snapshot.tokens
    columns = torch.arange(design.window)
    written_at = tokens - 1 - (tokens - 1 - columns) % design.window
    state.valid[0] = written_at >= 0
    state.written_at[0] = state.read_since[0] = written_at.clamp(min=0)
    state.write_time[0] = ring.tokens.write_times[0]
    state.pointer[0] = tokens % design.window
    head.clock.now, head.clock.tokens = snapshot.time, tokens
    for array, (cells, held) in enumerate(zip((state.key, state.value), ring.held(), strict=True)):
        u = held.to(cells.dtype)
        if design.normaliser.present:
            full = (design.v_offset, design.v_max)[array]
            levels = (design.dac_levels, design.v_min, design.v_max, design.v_offset)
            stored = float(write_dac(torch.tensor([full]), *levels))
            u = torch.nn.functional.pad(u, (0, 1), value=stored)
        cells.copy_(write_errors(u, design, head.layer, array, state.written_at))


def check_head(layers: list[GainCellAttention], layer: int, head: int) -> None:
    """Raise InputError where there is no such layer or head."""
    if not 0 <= layer < len(layers):
        raise InputError(f"there is no layer {layer}; allowed: 0 to {len(layers) - 1}")
    if not 0 <= head < layers[layer].heads:
        raise InputError(f"there is no head {head}; allowed: 0 to {layers[layer].heads - 1}")


def voltage_reach(design: Design) -> float:
    """Largest |u| that the write DACs store, V."""
    return max(design.v_max - design.v_offset, design.v_offset - design.v_min)


def _byte(share: Tensor) -> Tensor:
    return torch.round(share * LEVELS).clamp(-LEVELS, LEVELS).to(torch.int8)


def _packed(header: dict[str, Any], parts: dict[str, Tensor]) -> bytes:
    body, places = b"", {}
    for name, tensor in parts.items():
        array = tensor.cpu().numpy()
        array = array if array.dtype == np.int8 else array.astype("<f4")
        kind = "int8" if array.dtype == np.int8 else "float32"
        places[name] = {"type": kind, "shape": list(array.shape), "at": len(body)}
        body += array.tobytes()
        body += bytes(-len(body) % 4)
    text = json.dumps(header | {"parts": places}, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<I", len(text)) + text + body
