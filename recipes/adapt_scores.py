"""Adaptation by least squares on the scores: is it better than matching two moments of every stage?

    python recipes/adapt_scores.py [--cell exponential] --out scores.json

The embedded model's linear version gets the chip's cells (or others), and the closed form. From there gains
and offsets of q and k are fitted, layer by layer, to

    min  sum over i >= j of (S_ij - S'_ij)^2 / sum of S_ij^2,        mean over heads,

S the scores of the linear model and S' those of the chip's cells, both for the linear model's own hidden
states: nothing but the first dot product is computed again. Then every head's output gets the mean and
standard deviation that it had in the linear model. The fit leaves decay out, not quantisers and clamps.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor

from gaincell.adaptation import adapt, collect_statistics
from gaincell.adaptation.statistics import Statistics
from gaincell.chips.design import Design
from gaincell.chips.design_file import chip_of, load_design
from gaincell.chips.device import with_cell
from gaincell.circuits import query_driver
from gaincell.circuits.dac import write_dac
from gaincell.evaluation.perplexity import cut_blocks, describe, perplexity
from gaincell.integrations.hf.attach import attached_layers, set_design
from gaincell.mapping.load_hardware import find_start
from gaincell.nn.attention import GainCellAttention
from gaincell.results import write
from gaincell.results.provenance import made
from gaincell.results.run import CellStage, ScoresResult
from gaincell.text import open_text, token_stream
from gaincell.training.distillation import seen

BLOCK, BLOCKS, FITTED, LENGTH = 1024, 16, 4, 512  # of evaluation and statistics; of the fit
STEPS, RATE = 64, 5e-3  # of Adam
PROTOCOL = f"blocks-{BLOCK}"


class Scales(NamedTuple):
    """Gains and offsets of a layer's queries and keys, per head."""

    q_gain: Tensor
    q_offset: Tensor
    k_gain: Tensor
    k_offset: Tensor


def main(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the result is written.")],
    cell: Annotated[str | None, typer.Option(metavar="CELL", help="Other cells than the chip's.")] = None,
) -> None:
    """Perplexity of `tiny` after the closed form, after least squares on the scores, and after both."""
    chip = load_design("leroux2025")
    linear, loaded = chip.replace(cell="linear"), find_start("tiny").load()
    model, design = loaded.model, with_cell(chip, cell) if cell else chip
    text, needed = open_text("sample"), BLOCKS * BLOCK + 1
    evaluation = token_stream(text.evaluation, loaded.tokenizer, needed)
    calibration = cut_blocks(token_stream(text.training, loaded.tokenizer, needed), BLOCK).long()
    found: dict[str, CellStage] = {}

    def evaluate(name: str, begun: float) -> None:
        seconds = time.perf_counter() - begun
        now = perplexity(model, evaluation, PROTOCOL).perplexity
        print(f"{name}: perplexity {now:.2f}, {seconds:.0f} s", flush=True)
        found[name] = CellStage(now, seconds=seconds)

    begun = time.perf_counter()
    evaluate("linear", begun)
    target = collect_statistics(model, [calibration])
    layers = attached_layers(model)
    before = [_scales(layer) for layer in layers]
    inputs = _inputs(model, layers, calibration[:FITTED])
    set_design(model, design)
    evaluate("unadapted", time.perf_counter())
    begun = time.perf_counter()
    adapt(model, [calibration], target)
    evaluate("closed form", begun)
    begun = time.perf_counter()
    errors = [
        _fit(layer, x, scales, linear, design)
        for layer, x, scales in zip(layers, inputs, before, strict=True)
    ]
    evaluate("least squares on the scores", begun)
    begun = time.perf_counter()
    _match_outputs(layers, target, collect_statistics(model, [calibration]))
    evaluate("and two moments of the outputs", begun)
    mean = [sum(column) / len(errors) for column in zip(*errors, strict=True)]
    print(f"error of the scores: {mean[0]:.3f}, then {mean[1]:.3f}")
    provenance = made(
        command=["python", *sys.argv],
        seed=0,
        protocol=describe(PROTOCOL, BLOCKS),
        design_hash=design.hash,
        inputs={"model tiny": loaded.sha256},
    )
    result = ScoresResult(
        design=chip_of(design),
        stages=found,
        error_of_scores=tuple(mean),
        provenance=provenance,
    )
    write(result, out)


def _inputs(model: Any, layers: list[GainCellAttention], tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What the scaling stages of q and k of every layer are given, the first tokens of every block."""
    stages = {f"{stage}{n}": getattr(layer, stage) for n, layer in enumerate(layers) for stage in "qk"}
    found: dict[str, Tensor] = {}

    def keep(stage: str, given: Any, *_: Any) -> None:
        found[stage] = stages[stage].rows(given[0])[:, :, :LENGTH].detach().float()

    with torch.no_grad(), seen(stages, keep):
        model(input_ids=tokens, use_cache=False)
    return [(found[f"q{n}"], found[f"k{n}"]) for n in range(len(layers))]


def _scales(layer: GainCellAttention) -> Scales:
    ours = (layer.q.gain, layer.q.offset, layer.k.gain, layer.k.offset)
    return Scales(*(parameter.detach().float().clone() for parameter in ours))


def _scores(design: Design, inputs: tuple[Tensor, Tensor], scales: Scales) -> Tensor:
    """S [B, H, T, T] of keys that have not decayed, 0 where a key comes after its query."""
    gains = (scale[:, None, None] for scale in scales)
    q_gain, q_offset, k_gain, k_offset = gains
    pulses = query_driver(q_gain * inputs[0] + q_offset, design.driver_levels)
    rails = (design.v_min, design.v_max, design.v_offset)
    currents = design.cell.current(write_dac(k_gain * inputs[1] + k_offset, design.dac_levels, *rails))
    group = pulses.shape[1] // currents.shape[1]
    return (pulses @ currents.repeat_interleave(group, 1).transpose(-1, -2)).tril()


def _fit(
    layer: GainCellAttention,
    inputs: tuple[Tensor, Tensor],
    before: Scales,
    linear: Design,
    design: Design,
) -> tuple[float, float]:
    """Fit a layer's gains and offsets of q and k in place; the error of its scores before and after."""
    with torch.no_grad():
        wanted = _scores(linear, inputs, before)
    norm = wanted.square().sum((0, 2, 3))
    scales = Scales(*(scale.requires_grad_() for scale in _scales(layer)))
    optimizer = torch.optim.Adam(scales, lr=RATE)
    errors = []
    for _ in range(STEPS):
        off = (_scores(design, inputs, scales) - wanted).square().sum((0, 2, 3)) / norm
        errors.append(off.mean().item())
        optimizer.zero_grad()
        off.mean().backward()
        optimizer.step()
    with torch.no_grad():
        for parameter, scale in zip(
            (layer.q.gain, layer.q.offset, layer.k.gain, layer.k.offset), scales, strict=True
        ):
            parameter.copy_(scale)
        after = (_scores(design, inputs, scales) - wanted).square().sum((0, 2, 3)) / norm
    return errors[0], after.mean().item()


@torch.no_grad()
def _match_outputs(layers: list[GainCellAttention], target: Statistics, found: Statistics) -> None:
    """Give every head's output the mean and standard deviation of the target."""
    for number, layer in enumerate(layers):
        gain = (target.std["out"][number] / found.std["out"][number]).to(layer.out.gain)
        mean, wanted = (s.mean["out"][number].to(layer.out.gain) for s in (found, target))
        layer.out.offset.copy_(wanted + gain * (layer.out.offset - mean))
        layer.out.gain.mul_(gain)


if __name__ == "__main__":
    typer.run(main)
