"""Which codes the query drivers, the write DACs and the counters use on some text."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor, nn

from gaincell.chips.design import Design
from gaincell.circuits import dac_code, query_code
from gaincell.evaluation.forward import forward, watch_stages
from gaincell.integrations.hf.attach import computing_layers
from gaincell.nn.attention import GainCellAttention
from gaincell.results.common import Values
from gaincell.results.run import CodeShares, Histogram

BINS = 16
"""Bins a circuit without quantisation is counted in."""
SIGNAL_BINS = 90


def stage_codes(
    attention: GainCellAttention, stage: str, scaled: Tensor, raw: Tensor
) -> Int[Tensor, "*shape"]:
    """The codes of one stage of one layer.

    Args:
        attention: The layer.
        stage: "q", "k", "v" or "out".
        scaled: Output of the stage's scaler.
        raw: Its input; for "out" the sum of the sub-tile outputs, in units of their full scale. Behind a
            normaliser it is a quotient, which is counted in the same steps.
    """
    design = attention.design
    if stage == "q":
        return query_code(scaled, design.driver_levels or BINS, signed=design.drivers.signed)
    if stage == "out":
        lowest, _ = code_range(design, stage)
        return torch.round(raw.detach() * output_steps(design)).to(torch.int64).clamp(lowest, -lowest)
    return dac_code(scaled, design.dac_levels or BINS, design.v_min, design.v_max, design.v_offset)


def code_range(design: Design, stage: str) -> tuple[int, int]:
    """The lowest code of a stage, and how many there are; for "out" the sum of a head's sub-tile codes."""
    if stage == "out":
        reach = round(output_steps(design)) * design.tiles
        return -reach, 2 * reach + 1
    levels = (design.query_levels if stage == "q" else design.storage_levels) or BINS
    return (1 - levels, 2 * levels - 1) if stage == "q" and design.drivers.signed else (0, levels)


def output_steps(design: Design) -> float:
    """Codes from 0 to the full scale of one sub-tile (a half-integer for the published code)."""
    return design.counter_levels - 1.0 if design.readout == "none" else design.readout_steps


@torch.no_grad()
def code_use(model: nn.Module, batches: Iterable[Int[Tensor, "B T"]]) -> dict[str, CodeShares]:
    """How often an attached model uses each code, by stage, over all layers, heads, tokens and dimensions.

    Of the output only the range that occurs is given.
    """
    layers = computing_layers(model)
    counts: dict[str, Tensor] = {}

    def count(attention: GainCellAttention, stage: str, raw: Tensor, scaled: Tensor) -> None:
        lowest, levels = code_range(attention.design, stage)
        codes = stage_codes(attention, stage, scaled, raw).flatten()
        new = torch.bincount(codes - lowest, minlength=levels).double().cpu()
        counts[stage] = counts[stage] + new if stage in counts else new

    with watch_stages(layers, count):
        for batch in batches:
            forward(model, batch)
    found = {}
    for stage, of_stage in counts.items():
        used = of_stage.nonzero().flatten()
        first, last = (int(used.min()), int(used.max())) if stage == "out" else (0, len(of_stage) - 1)
        lowest, _ = code_range(layers[0].design, stage)
        share = (of_stage / of_stage.sum())[first : last + 1]
        found[stage] = CodeShares(tuple(range(lowest + first, lowest + last + 1)), tuple(share.tolist()))
    return found


@torch.no_grad()
def signal_use(model: nn.Module, batches: Iterable[Int[Tensor, "B T"]]) -> dict[str, Histogram]:
    """What query drivers ("q") and write DACs ("k", "v") of an attached model are asked for, unquantised.

    Edges are pulse widths, or volts about V_offset; signals beyond the range lie in the outermost bins.
    """
    layers = computing_layers(model)
    counts = {stage: torch.zeros(SIGNAL_BINS, dtype=torch.float64) for stage in ("q", "k", "v")}
    design = layers[0].design
    volts = (design.v_min - design.v_offset, design.v_max - design.v_offset)
    ranges = {"q": (-1.0 if design.drivers.signed else 0.0, 1.0), "k": volts, "v": volts}

    def count(_: GainCellAttention, stage: str, raw: Tensor, scaled: Tensor) -> None:
        low, high = ranges[stage]
        signal = scaled.double() - (0.0 if stage == "q" else design.v_offset)
        counts[stage] += torch.histc(signal.clamp(low, high).cpu(), SIGNAL_BINS, low, high)

    with watch_stages(layers, count, counts):
        for batch in batches:
            forward(model, batch)
    used = {}
    for stage, of_stage in counts.items():
        borders = torch.linspace(*ranges[stage], SIGNAL_BINS + 1, dtype=torch.float64)
        numbers = (borders, of_stage / of_stage.sum())
        edges, share = (tuple(round(x, 6) for x in found.tolist()) for found in numbers)
        used[stage] = Histogram(Values(edges, "1" if stage == "q" else "V", "simulated"), share)
    return used
