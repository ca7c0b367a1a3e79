"""How busy the circuits of an attached model are on some text, per layer and query head.

Energies of the arrays follow from it (gaincell.costs). Everything is what the attention itself computes, with
the codes of the drivers and the write DACs, the scores of decayed cells and the same phi:

    query pulse    mean |x| over tokens and rows;      query active   share of x != 0
    score pulse    mean phi(S) over queries and the columns each of them sees (the valid ones);
    score active   share of phi(S) > 0 of the same, by more than the sum S may be rounded
    score negative mean max(-S, 0) / S_sat of the same: net charge that cells sink, without a limit
    key, value     mean |u| and u^2 as written, u = V - V_offset, of the head's key/value head
    output pulse   mean |clamp(O_t / O_sat, -1, 1)| over queries, outputs, and sub-tiles with a valid column
    valid columns  mean over queries

A sequence begins with empty arrays, so short texts see few valid columns. Padding is not counted; the model's
own sliding window hides columns as it does in the attention.

Not modelled: columns of first tokens (refused); the normalising column, whose voltage is always the highest
and whose output is left out of the means. Refreshes and idle time, which a text alone does not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.costs.activity import Activity, HeadActivity
from gaincell.errors import InputError
from gaincell.evaluation.forward import forward
from gaincell.integrations.hf.attach import computing_layers
from gaincell.integrations.hf.context import check_ids, check_length
from gaincell.integrations.hf.masks import PADDING
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.input_stage import array_inputs
from gaincell.ops.gain_cell_attention.probes import Seen, observe
from gaincell.progress import Progress, silent

OVER = {
    "query_pulse": "rows", "query_active": "rows", "score_pulse": "valid_columns",
    "score_active": "valid_columns", "score_negative": "valid_columns", "key_level": "cells",
    "value_level": "cells", "key_square": "cells", "value_square": "cells", "output_pulse": "outputs",
    "valid_columns": "tokens",
}  # fmt: skip
"""A number of a HeadActivity -> the count that its sum is divided by."""


@dataclass
class _Sums:
    """Sums over all that one layer has seen, by query head [H] or key/value head [Hk], and counts."""

    attention: GainCellAttention
    total: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, sums: Tensor | int) -> None:
        found = torch.as_tensor(sums).double().cpu()
        self.total[name] = self.total[name] + found if name in self.total else found

    def heads(self) -> list[HeadActivity]:
        layer = self.attention
        means = {name: self.total[name] / self.total[count] for name, count in OVER.items()}
        rows = {n: mean.repeat_interleave(layer.heads // len(mean)).tolist() for n, mean in means.items()}
        return [
            HeadActivity(layer=layer.layer, head=h, **{name: row[h] for name, row in rows.items()})
            for h in range(layer.heads)
        ]


@torch.no_grad()
def measure_activity(
    model: PreTrainedModel,
    batches: Iterable[Int[Tensor, "B T"]],
    source: str,
    attention_mask: Int[Tensor, "B T"] | None = None,
    progress: Progress = silent,
) -> Activity:
    """The activity of every query head while an attached model reads some text.

    Args:
        model: Attached; any design but one with columns of first tokens.
        batches: Token ids, every row a sequence that begins with empty arrays.
        source: Name of the text, for the result.
        attention_mask: 1 for real tokens, 0 for padding; of every batch. Positions count real tokens.
        progress: Called after every layer with (layers done, layers of all batches).

    Returns:
        Heads are ordered by layer and head; `tokens` are real ones.

    Raises:
        InputError: a model in software, no text, one longer than the model's context, or a design that is not
            observed.
        ModelError: a mask that attached models refuse.
    """
    batches = list(batches)
    for ids in batches:
        check_ids(model, ids)
    layers = computing_layers(model)
    if not layers:
        raise InputError("a model in software has no pulses: give a RUN, or attach the model")
    if not batches or not all(ids.numel() for ids in batches):
        raise InputError("there is no text to measure an activity on: give at least one token")
    check_length(
        model,
        max(ids.shape[1] for ids in batches) if attention_mask is None else int(attention_mask.sum(1).max()),
    )
    sums = [_Sums(attention) for attention in layers]
    done, tokens = 0, 0
    padding: dict[str, Tensor] = {}
    if attention_mask is not None:
        mask = attention_mask.to(next(model.parameters()).device)
        padding = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with ExitStack() as hooks:
        for one in sums:

            def hook(_: Any, arguments: Any, keywords: Any, one: _Sums = one) -> None:
                nonlocal done
                _of_layer(one, *arguments, **keywords)
                done += 1
                progress(done, len(layers) * len(batches), {})

            hooks.callback(one.attention.register_forward_pre_hook(hook, with_kwargs=True).remove)
        for ids in batches:
            tokens += ids.numel() if attention_mask is None else int(attention_mask.sum())
            forward(model, ids, **padding)
    heads = tuple(head for one in sums for head in one.heads())
    return Activity(source, tokens, heads, layers[0].design.hash)


def _of_layer(
    sums: _Sums,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_index: Tensor | None = None,
    query_index: Tensor | None = None,
    sliding_window: int | None = None,
) -> None:
    """Add what one call of a layer's arrays does; the arguments of `GainCellAttention.forward`."""
    if q.shape[2] != k.shape[2]:
        raise InputError("an activity is measured on whole sequences: call the model with use_cache=False")
    attention = sums.attention
    columns = attention.columns(q, k, v, key_index, query_index, sliding_window)
    scaled = attention.q(q, columns), *attention.volts(k, v)
    if key_index is None or not bool((key_index == PADDING).any()):
        first = 0 if key_index is None else int(key_index[0, 0])
        _of_sequences(sums, scaled, first, sliding_window)
        return
    for row, index in enumerate(key_index):
        real = index != PADDING
        if bool(real.any()):
            alone = tuple(t[row : row + 1, :, real] for t in scaled)
            _of_sequences(sums, alone, int(index[real][0]), sliding_window)


def _of_sequences(sums: _Sums, scaled: tuple[Tensor, ...], first: int, window: int | None) -> None:
    """Sequences of real tokens only, all of one length."""
    attention = sums.attention
    q, k, v = scaled
    index = torch.arange(first, first + k.shape[2], device=k.device).expand(k.shape[0], -1)
    call = Call(q, k, v, attention.design, key_index=index, sliding_window=window, layer=attention.layer)
    found, dim = array_inputs(call), attention.head_dim
    sums.add("query_pulse", found.q.abs().sum((0, 2, 3), dtype=torch.float64))
    sums.add("query_active", (found.q != 0).sum((0, 2, 3)))
    sums.add("rows", q.shape[0] * q.shape[2] * dim)
    sums.add("tokens", q.shape[0] * q.shape[2])
    for name, u in (("key", found.k), ("value", found.v)):
        sums.add(f"{name}_level", u.abs().sum((0, 2, 3), dtype=torch.float64))
        sums.add(f"{name}_square", u.square().sum((0, 2, 3), dtype=torch.float64))
    sums.add("cells", k.shape[0] * k.shape[2] * dim)
    for seen in observe(call):
        _of_block(sums, seen, dim)


def _of_block(sums: _Sums, seen: Seen, dim: int) -> None:
    """Pulses and outputs of one block of queries."""
    kv_heads, group = sums.attention.kv_heads, seen.pulses.shape[1]

    def by_head(of_block: Tensor) -> Tensor:
        """[G, g] to [H]: several sequences may be in one block."""
        table = torch.zeros(kv_heads, group, dtype=torch.float64, device=of_block.device)
        return table.index_add_(0, seen.heads, of_block.double()).flatten()

    outputs = seen.outputs[..., :dim].abs() * seen.read[None, None, :, :, None]
    sums.add("score_pulse", by_head(seen.pulses.sum(-1).sum(-1, dtype=torch.float64)))
    sums.add("score_active", by_head(seen.active.sum((-1, -2))))
    sums.add("score_negative", by_head(seen.negative.sum(-1, dtype=torch.float64)))
    sums.add("valid_columns", by_head(seen.valid.sum().expand(len(seen.heads), group)))
    sums.add("output_pulse", by_head(outputs.sum(-1).sum((2, 3), dtype=torch.float64)))
    sums.add("outputs", by_head((seen.read.sum() * dim).expand(len(seen.heads), group)))
