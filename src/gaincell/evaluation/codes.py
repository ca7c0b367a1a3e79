"""Which codes the query drivers, the write DACs and the counters use on some text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gaincell.chips.design import Design
from gaincell.circuits import dac_code, query_code
from gaincell.integrations.hf.attach import computing_layers
from gaincell.nn.attention import GainCellAttention

BINS = 16
"""Bins a circuit without quantisation is counted in."""


@dataclass(frozen=True)
class CodeUse:
    """How often each code of one stage occurs, over all layers, heads, tokens and dimensions.

    codes: what is counted: driver or DAC codes; for the output the sum of a head's sub-tile codes.
    share: of all values, adding up to 1.
    """

    codes: tuple[int, ...]
    share: tuple[float, ...]


def stage_codes(
    attention: GainCellAttention, stage: str, scaled: Tensor, raw: Tensor
) -> Int[Tensor, "*shape"]:
    """The codes of one stage of one layer.

    Args:
        attention: the layer.
        stage: "q", "k", "v" or "out".
        scaled: output of the stage's scaler.
        raw: its input; for "out" the sum of the sub-tile outputs, in units of their full scale. Behind a
            normaliser it is a quotient, which is counted in the same steps.
    """
    design = attention.design
    if stage == "q":
        return query_code(scaled, design.driver_levels or BINS, signed=design.drivers.signed)
    if stage == "out":
        codes = torch.round(raw.detach() * output_steps(design)).to(torch.int64)
        return codes.clamp(-_reach(design), _reach(design))
    return dac_code(scaled, design.dac_levels or BINS, design.v_min, design.v_max, design.v_offset)


def output_steps(design: Design) -> float:
    """Codes from 0 to the full scale of one sub-tile (a half-integer for the published code)."""
    levels = design.counter_levels
    return levels - 0.5 if design.readout == "published-code" else levels - 1.0


@torch.no_grad()
def code_use(model: nn.Module, batches: Iterable[Int[Tensor, "B T"]]) -> dict[str, CodeUse]:
    """The use of the codes of an attached model, per stage, from one forward pass without logits."""
    layers = computing_layers(model)
    counts: dict[str, Float[Tensor, " codes"]] = {}
    lowest: dict[str, int] = {}

    def count(
        attention: GainCellAttention, stage: str, module: nn.Module, inputs: Any, output: Tensor
    ) -> None:
        codes = stage_codes(attention, stage, output, inputs[0]).flatten()
        reach = _reach(attention.design)
        length = 2 * reach + 1 if stage == "out" else _levels(attention.design, stage)
        lowest[stage] = -reach if stage == "out" else 0
        if stage == "q" and attention.design.drivers.signed:
            lowest[stage], length = 1 - length, 2 * length - 1
        new = torch.bincount(codes - lowest[stage], minlength=length).double().cpu()
        counts[stage] = counts[stage] + new if stage in counts else new

    with ExitStack() as hooks:
        for attention in layers:
            for stage in ("q", "k", "v", "out"):
                hook: Callable[..., None] = partial(count, attention, stage)
                hooks.callback(getattr(attention, stage).register_forward_hook(hook).remove)
        model.eval()
        device = next(model.parameters()).device
        for batch in batches:
            getattr(model, "base_model", model)(input_ids=batch.to(device, torch.long), use_cache=False)
    return {stage: _used(counts[stage], lowest[stage], stage == "out") for stage in counts}


@dataclass(frozen=True)
class SignalUse:
    """How the signals that reach a converter lie in its range, those beyond it in its outermost bins.

    edges: of the bins: pulse widths, or volts about V_offset.  share: of all signals, adding up to 1.
    """

    edges: tuple[float, ...]
    share: tuple[float, ...]


@torch.no_grad()
def signal_use(
    model: nn.Module, batches: Iterable[Int[Tensor, "B T"]], bins: int = 90
) -> dict[str, SignalUse]:
    """What query drivers ("q") and write DACs ("k", "v") of an attached model are asked for, unquantised."""
    layers = computing_layers(model)
    counts = {stage: torch.zeros(bins, dtype=torch.float64) for stage in ("q", "k", "v")}
    design = layers[0].design
    volts = (design.v_min - design.v_offset, design.v_max - design.v_offset)
    ranges = {"q": (-1.0 if design.drivers.signed else 0.0, 1.0), "k": volts, "v": volts}

    def count(stage: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        low, high = ranges[stage]
        signal = output.double() - (0.0 if stage == "q" else design.v_offset)
        counts[stage] += torch.histc(signal.clamp(low, high).cpu(), bins, low, high)

    with ExitStack() as hooks:
        for attention in layers:
            for stage in counts:
                hooks.callback(getattr(attention, stage).register_forward_hook(partial(count, stage)).remove)
        model.eval()
        device = next(model.parameters()).device
        for batch in batches:
            getattr(model, "base_model", model)(input_ids=batch.to(device, torch.long), use_cache=False)
    return {
        stage: SignalUse(
            tuple(torch.linspace(*ranges[stage], bins + 1, dtype=torch.float64).tolist()),
            tuple((found / found.sum()).tolist()),
        )
        for stage, found in counts.items()
    }


def _reach(design: Design) -> int:
    """Largest code of an output that is counted."""
    return round(output_steps(design)) * design.tiles


def _levels(design: Design, stage: str) -> int:
    return (design.query_levels if stage == "q" else design.storage_levels) or BINS


def _used(counts: Tensor, lowest: int, trim: bool) -> CodeUse:
    """Counts as shares; for the output only the range that occurs."""
    share = counts / counts.sum()
    used = counts.nonzero().flatten()
    first, last = (int(used.min()), int(used.max())) if trim else (0, len(counts) - 1)
    return CodeUse(tuple(range(lowest + first, lowest + last + 1)), tuple(share[first : last + 1].tolist()))
