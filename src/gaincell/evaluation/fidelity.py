"""Where the loss comes from: every head's output in arrays beside softmax attention, and its circuits.

The pretrained model reads some text with its own softmax attention. Every attention module of the hardware
model is then given what that model's own gets (its hidden states behind its norm), so that no layer sees the
errors of those before it, and the output of every head, before the output projection, is compared:

    error          sum (O - Y)^2 / sum Y^2       to the output Y of the pretrained model's softmax attention
    cosine         mean over tokens of O.Y / (|O| |Y|)
    linear error   the same error, and linear cosine the same cosine, to the output of the linear hardware
                   model, or, where it is not given, of linear cells with the same weights, gains, offsets
    silent         1 for a head whose output never changes

and of the circuits, from every `stride`-th query:

    score ceiling  share of the pulses between the arrays, of those that are not zero, that are as long as
                   they can be;  pulses: share of seen columns that give a pulse
    tile ceiling   share of a head's sub-tile outputs at full scale;  tile zero: that count as 0
    ... codes      exp(entropy of the codes used) / codes there are, of q, k, v and the sub-tile outputs
    ... clipped    share of q, k, v beyond their range; of unsigned queries the negative ones are
                   (with paired rows half of them, where their offset is 0: one row of each pair)

Where training changed v or the output projection, a head's output may have turned in its own space: its error
is then an upper bound. The circuits' numbers are of nominal cells.

Not modelled in the circuits' numbers: errors and noise of a real chip; columns of first tokens, which are
taken as columns of the ring.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.circuits import READOUTS, charge_to_pulse, query_driver, write_dac
from gaincell.errors import InputError, ModelError
from gaincell.evaluation.codes import code_range, output_steps, stage_codes
from gaincell.evaluation.forward import forward
from gaincell.integrations.hf.attach import attach, attached_layers, computing_layers, detach
from gaincell.integrations.hf.context import check_ids, check_length
from gaincell.integrations.hf.softmax_passthrough import softmax_passthrough
from gaincell.integrations.hf.support import attention_modules
from gaincell.nn.attention import GainCellAttention
from gaincell.nn.last_rows import LastRows, own_rows_after, rows_at
from gaincell.progress import Progress, silent
from gaincell.results.evaluation import FidelityNumber, Heads

PER_HEAD: tuple[FidelityNumber, ...] = (
    "error", "cosine", "linear error", "linear cosine", "silent", "score ceiling", "pulses", "tile ceiling",
    "tile zero", "q codes", "output codes", "q clipped",
)  # fmt: skip
PER_KEY_HEAD: tuple[FidelityNumber, ...] = ("k codes", "v codes", "k clipped", "v clipped")
CODES: tuple[FidelityNumber, ...] = ("q codes", "k codes", "v codes")
CLIPPED: tuple[FidelityNumber, ...] = ("q clipped", "k clipped", "v clipped")
_IN_SOFTWARE = "a model in software has no heads in arrays: give a RUN"


@dataclass(frozen=True)
class Fidelity:
    """What `fidelity` finds.

    Attributes:
        tables: Name -> [layers][heads], or [layers][key/value heads] for those of k and v.
        queries: Looked at for the circuits.
    """

    tables: Mapping[FidelityNumber, Heads]
    queries: int


@torch.no_grad()
def fidelity(
    model: PreTrainedModel,
    base: PreTrainedModel,
    ids: Int[Tensor, "B T"],
    stride: int = 4,
    linear: PreTrainedModel | None = None,
    progress: Progress = silent,
) -> Fidelity:
    """Compare every head (see the head of this file).

    Args:
        model: Attached; its weights may have been trained.
        base: The pretrained model it came from, not attached; it is attached only meanwhile, and left in
            eval mode.
        ids: Text without padding, T at most the ring's columns.
        stride: Of the queries whose circuits are looked at.
        linear: The linear hardware model, attached.
        progress: Called after every layer with (layers done, layers).

    Raises:
        InputError: see `check_comparable`.
        ModelError: see `check_comparable`.
    """
    check_comparable(model, base, ids)
    if linear is not None and not computing_layers(linear):
        raise InputError(_IN_SOFTWARE)
    layers = attached_layers(model)
    model.eval()
    calls, wanted = _software(base, layers[0].design, ids)
    names = (*PER_HEAD, *PER_KEY_HEAD)
    rows: dict[FidelityNumber, list[tuple[float, ...]]] = {name: [] for name in names}
    for n, attention in enumerate(layers):
        inputs, output = _heads_of(model, n, calls[n])
        if linear is not None:
            _, of_linear = _heads_of(linear, n, calls[n])
        else:
            of_linear = _with_linear_cells(attention, inputs)
        for name, heads in _of_layer(attention, inputs, (output, wanted[n], of_linear), stride).items():
            rows[name].append(tuple(heads.tolist()))
        progress(n + 1, len(layers), {})
    queries = len(range(ids.shape[1] - 1, -1, -stride)) * ids.shape[0]
    return Fidelity({name: tuple(table) for name, table in rows.items()}, queries)


def check_comparable(model: PreTrainedModel, base: PreTrainedModel, ids: Int[Tensor, "B T"]) -> None:
    """Refuse what `fidelity` cannot compare.

    Raises:
        InputError: a model in software, a text that is no token ids [B, T], is longer than the ring or the
            model's context, or has tokens that the model lacks.
        ModelError: `base` is attached, or the model is set to softmax attention.
    """
    layers = computing_layers(model)
    if not layers:
        raise InputError(_IN_SOFTWARE)
    if attached_layers(base):
        raise ModelError("the pretrained model to compare with is attached: give it as it was, not attached")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point():
        is_tensor = isinstance(ids, Tensor)
        what = f"tensor of shape {tuple(ids.shape)} of {ids.dtype}" if is_tensor else type(ids).__name__
        raise InputError(
            f"the text to compare on is a {what}; give token ids as a tensor [B, T], such as "
            "torch.tensor([[1, 2, 3]])"
        )
    window = layers[0].design.window
    if ids.shape[1] > window:
        raise InputError(f"{ids.shape[1]} tokens do not fit into a ring of {window} columns; give fewer")
    check_ids(model, ids)
    check_length(model, ids.shape[1])


def _software(
    base: PreTrainedModel, design: Design, ids: Tensor
) -> tuple[list[tuple[Any, Any]], list[Tensor]]:
    """Arguments of every attention module of the softmax model, and the output of its heads."""
    calls: list[tuple[Any, Any]] = []
    outputs: list[Tensor] = []

    def keep(_: Any, arguments: Any, keywords: Any) -> None:
        calls.append((arguments, keywords))

    with ExitStack() as hooks:
        hooks.callback(detach, attach(base.eval(), design))
        hooks.enter_context(softmax_passthrough(base, lambda _, __, ___, softmax: outputs.append(softmax)))
        for module in attention_modules(base).values():
            hooks.enter_context(module.register_forward_pre_hook(keep, with_kwargs=True))
        forward(base, ids)
    return calls, outputs


def _heads_of(model: PreTrainedModel, layer: int, call: tuple[Any, Any]) -> tuple[tuple[Any, ...], Tensor]:
    """Inputs and output of one layer's arrays when its attention module is called so."""
    seen: list[tuple[tuple[Any, ...], Tensor]] = []
    arguments, keywords = call
    with attached_layers(model)[layer].register_forward_hook(lambda _, i, o: seen.append((i, o))):
        list(attention_modules(model).values())[layer](*arguments, **keywords)
    return seen[0]


def _with_linear_cells(attention: GainCellAttention, inputs: tuple[Any, ...]) -> Tensor:
    """Output of the arrays with these; b of balanced rows, which belongs to its cell, follows."""
    design, rows = attention.design, LastRows([attention])
    if attention.k.balance is not None:
        with rows.observing():
            attention.forward(*inputs)
    attention.design = design.replace(cell="linear")
    try:
        with own_rows_after([attention]), rows_at([attention], rows.shares):
            return attention.forward(*inputs)
    finally:
        attention.design = design


def _of_layer(
    attention: GainCellAttention, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...], stride: int
) -> dict[FidelityNumber, Tensor]:
    """From the outputs of the arrays, of softmax attention and of the linear model."""
    design = attention.design
    got, wanted, linear = (output.double() for output in outputs)
    q, k, v = (t.double() for t in inputs[:3])
    scaled = attention.q(q, attention.columns(*inputs)), *attention.volts(k, v)
    x = query_driver(scaled[0], design.driver_levels, signed=design.drivers.signed)
    ku, vu = (
        write_dac(volts, design.dac_levels, design.v_min, design.v_max, design.v_offset)
        for volts in scaled[1:]
    )
    window = inputs[5] if len(inputs) > 5 else None
    found: dict[FidelityNumber, Tensor] = {
        "error": _error(got, wanted),
        "cosine": torch.nn.functional.cosine_similarity(got, wanted, dim=-1).mean((0, 2)),
        "linear error": _error(got, linear),
        "linear cosine": torch.nn.functional.cosine_similarity(got, linear, dim=-1).mean((0, 2)),
        "silent": (got.std((0, 2), unbiased=False).amax(-1) == 0).double(),
        **_circuits(x, ku, vu, design, stride, window),
    }
    for stage, raw, signal, use, clipped in zip("qkv", (q, k, v), scaled, CODES, CLIPPED, strict=True):
        low, high = (design.v_min, design.v_max) if stage != "q" else (-float(design.drivers.signed), 1.0)
        found[clipped] = ((signal < low) | (signal > high)).double().mean((0, 2, 3))
        codes = stage_codes(attention, stage, signal, raw)
        found[use] = _utilisation(codes, code_range(design, stage)[1])
    return found


def _circuits(
    x: Float[Tensor, "B H T D"],
    ku: Float[Tensor, "B Hk T D"],
    vu: Float[Tensor, "B Hk T D"],
    design: Design,
    stride: int,
    window: int | None,
) -> dict[FidelityNumber, Float[Tensor, " H"]]:
    """Pulses and sub-tile outputs of some queries, from equations (5) to (9) with nominal cells; `window` is
    the model's own sliding window.
    """
    b, h, t, d = x.shape
    grouped = x.view(b, ku.shape[1], -1, t, d)
    counts = x.new_zeros(6, h)  # pulses: seen, not zero, at the ceiling; sub-tile outputs: read, at it, zero
    codes: list[Tensor] = []
    steps, rest = output_steps(design), design.decay_target
    # without a readout the nearest of the counter's codes, as in codes.py
    code_of = READOUTS["published-code" if design.readout == "none" else design.readout].code
    for i in range(t - 1, -1, -stride):
        age = torch.arange(i, -1, -1, dtype=x.dtype, device=x.device)
        seen = (age < (window or t)).to(x.dtype)
        left = (design.kept_per_token(h // ku.shape[1]) ** age)[:, None]
        held = [design.cell.current(rest + (u[:, :, : i + 1] - rest) * left) for u in (ku, vu)]
        scores = torch.einsum("bkgd,bkjd->bkgj", grouped[:, :, :, i], held[0])
        exponent = design.charge_to_pulse.exponent
        a = seen * charge_to_pulse(scores, design.score_saturation(d), design.score_ceiling, exponent)
        tiles = zip(a.split(design.tile, -1), held[1].split(design.tile, 2), strict=True)
        of_tiles = [torch.einsum("bkgj,bkjd->bkgd", *tile) for tile in tiles]
        of_tiles = of_tiles[int(seen.argmax()) // design.tile :]  # others have no column that is read
        charges = torch.stack(of_tiles, -1) / design.output_saturation  # [B, Hk, g, D, tiles]
        a, charges = a.reshape(b, h, -1), charges.reshape(b, h, -1)
        code = code_of(charges.clamp(-1.0, 1.0) * steps)
        full = charges.abs() >= 1.0 if design.output_ceiling else torch.zeros_like(charges, dtype=torch.bool)
        top = a >= 1.0 if design.score_ceiling else torch.zeros_like(a, dtype=torch.bool)
        for n, what in enumerate((seen.expand_as(a), a > 0, top, torch.ones_like(full), full, code == 0)):
            counts[n] += what.double().sum((0, 2))
        codes.append(code.long())
    columns, open_, ceiling, read, full_scale, zero = counts
    return {
        "pulses": open_ / columns,
        "score ceiling": ceiling / open_.clamp(min=1.0),
        "tile ceiling": full_scale / read,
        "tile zero": zero / read,
        "output codes": _utilisation(torch.cat(codes, -1)[:, :, None], 2 * round(steps) + 1),
    }


def _error(got: Tensor, wanted: Tensor) -> Float[Tensor, " H"]:
    return (got - wanted).square().sum((0, 2, 3)) / wanted.square().sum((0, 2, 3)).clamp(min=1e-30)


def _utilisation(codes: Int[Tensor, "B H T n"], levels: int) -> Float[Tensor, " H"]:
    """exp(entropy) over the number of codes, per head."""
    found = []
    for head in codes.transpose(0, 1).flatten(1):
        share = torch.unique(head, return_counts=True)[1].double()
        share = share / share.sum()
        found.append(torch.exp(-(share * share.log()).sum()) / levels)
    return torch.stack(found)
