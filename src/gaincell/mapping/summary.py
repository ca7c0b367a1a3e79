"""The parts of run.json."""

from __future__ import annotations

import re
from dataclasses import fields

import torch

from gaincell.adaptation import AdaptationResult, Statistics
from gaincell.adaptation.result import Residuals
from gaincell.chips.design import Design
from gaincell.chips.design_file import chip_of as chip_of
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.base_model import LoadedModel, base_weights
from gaincell.integrations.hf.lora import without_adapters
from gaincell.integrations.hf.sources import without_revision
from gaincell.mapping.run_folder import StageRecord
from gaincell.nn.scaler import STAGES
from gaincell.results import run as results
from gaincell.results.common import Value, Values
from gaincell.standard_error import paired_ratio

CURVE_POINTS = 91
KEPT = {field.name for field in fields(StageRecord)} & {field.name for field in fields(results.StageResult)}
"""Of a record, in a stage."""


def base_name(model: str) -> str:
    """The name of a model without the directory it lies in, and without its commit on the hub."""
    return re.split(r"[/\\\\]", without_revision(model).rstrip("/\\"))[-1]


def inputs(loaded: LoadedModel) -> dict[str, str]:
    """For the provenance: a model with its hardware, by hashes."""
    return {f"model {base_name(loaded.id)}": loaded.sha256, **loaded.own}


def model(loaded: LoadedModel) -> results.AttachedModel:
    """An attached model and its size."""
    layers = attached_layers(loaded.model)
    first = layers[0]
    return results.AttachedModel(
        base_name(loaded.id),
        loaded.sha256,
        parameters=sum(weight.numel() for weight in without_adapters(base_weights(loaded.model)).values()),
        layers=len(layers),
        heads=first.heads,
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
    )


def stage(
    name: str,
    title: str,
    record: StageRecord,
    software: StageRecord | None = None,
    continued: StageRecord | None = None,
) -> results.StageResult:
    """One line of the table, with ratios to the software models where their records are known: paired block
    by block, with the standard error of the ratio.
    """

    def ratio_to(other: StageRecord | None) -> tuple[float | None, float | None]:
        if other is None:
            return None, None
        _, error = paired_ratio(record.blocks.nll, other.blocks.nll, record.blocks.predictions)
        return record.perplexity / other.perplexity, error

    to_software, to_continued = ratio_to(software), ratio_to(continued)
    return results.StageResult(
        name=name,
        title=title,
        **{key: getattr(record, key) for key in KEPT},
        ratio_to_software=to_software[0],
        ratio_to_software_error=to_software[1],
        ratio_to_continued=to_continued[0],
        ratio_to_continued_error=to_continued[1],
    )


def adaptation(found: AdaptationResult, **perplexities: float) -> results.Adaptation:
    """One adaptation, with its history where the method has one."""
    unit, history = results.DISTANCES[found.residuals.rule], None
    if found.history:
        keys = results.AdaptationHistory.__annotations__
        iteration, residuals, perplexity = (tuple(step[key] for step in found.history) for key in keys)
        history = results.AdaptationHistory(iteration, Values(residuals, unit, "simulated"), perplexity)
    return results.Adaptation(
        summary=found.summary(),
        converged=found.converged,
        start=found.start,
        rule=found.residuals.rule,
        worst=str(found.worst),
        skipped=tuple(map(str, found.skipped)),
        saturated=tuple(map(str, found.saturated)),
        residual=Value(found.residual, unit, "simulated"),
        iterations=found.iterations,
        forward_passes=found.forward_passes,
        tokens=found.tokens,
        history=history,
        **perplexities,
    )


def mismatch(before: Statistics, after: Statistics, target: Statistics) -> results.Mismatch:
    """How far the statistics of a model are from their target before and after an adaptation, by stage."""
    found = {"before": Residuals.between(before, target), "after": Residuals.between(after, target)}
    return {
        when: {
            stage: results.Spread(*(tuple(map(tuple, part[stage].tolist())) for part in (far.mean, far.std)))
            for stage in STAGES
        }
        for when, far in found.items()
    }


def cell(chip: Design) -> results.CellCurve:
    """The curves of the chip's cell and of the linear one over the range of stored voltages."""
    u = torch.linspace(
        chip.v_min - chip.v_offset, chip.v_max - chip.v_offset, CURVE_POINTS, dtype=torch.float64
    )
    currents = (one.current(u).tolist() for one in (chip.replace(cell="linear").cell, chip.cell))
    return results.CellCurve(chip.cell.name, tuple(u.tolist()), *map(tuple, currents))
