"""Records as the parts of run.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from gaincell.chips.design import Design
from gaincell.chips.design_file import chip_of as chip_of
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.integrations.hf.sources import without_revision
from gaincell.mapping.records import Record
from gaincell.results.common import Value, Values
from gaincell.results.run import (
    DISTANCES,
    Adaptation,
    AdaptationHistory,
    AttachedModel,
    BlockLosses,
    CellCurve,
    CodeShares,
    Mismatch,
    Spread,
    StageResult,
)
from gaincell.standard_error import paired_ratio

CURVE_POINTS = 91
KEPT = (
    "training_tokens", "perplexity", "nll", "predictions", "seconds", "perplexity_error", "bits_per_byte"
)  # fmt: skip
"""Of a record, by the names that a stage has for them."""


def base_name(model: str) -> str:
    """The name of a model without the directory it lies in, and without its commit on the hub."""
    return re.split(r"[/\\\\]", without_revision(model).rstrip("/\\"))[-1]


def model(loaded: LoadedModel) -> AttachedModel:
    """An attached model and its size."""
    layers = attached_layers(loaded.model)
    first = layers[0]
    return AttachedModel(
        base_name(loaded.id),
        loaded.sha256,
        parameters=sum(p.numel() for name, p in loaded.model.named_parameters() if ".gain_cell." not in name),
        layers=len(layers),
        heads=first.heads,
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
    )


def stage(
    name: str, title: str, record: Record, software: Record | None = None, continued: Record | None = None
) -> StageResult:
    """One line of the table, with ratios to the software models where their records are known: paired block
    by block, with the standard error of the ratio.
    """
    blocks = record.get("per_block")
    ratios: Record = {}
    for key, other in (("ratio_to_software", software), ("ratio_to_continued", continued)):
        if other is None:
            continue
        ratios[key] = record["perplexity"] / other["perplexity"]
        if blocks and other.get("per_block"):
            ours, theirs = ([nll for nll, _ in one["per_block"]] for one in (record, other))
            _, ratios[f"{key}_error"] = paired_ratio(ours, theirs, [count for _, count in blocks])
    return StageResult(
        name=name,
        title=title,
        numbers="measured" if name.startswith("software") else "simulated",
        blocks=BlockLosses(*zip(*blocks, strict=True)) if blocks else None,
        **{key: record[key] for key in KEPT},
        **ratios,
    )


def adaptation(record: Record) -> Adaptation:
    """One adaptation, with its history where the method has one."""
    unit, steps, history = DISTANCES[record["rule"]], record["history"], None
    if steps:
        columns = (tuple(step[key] for step in steps) for key in ("iteration", "residual", "perplexity"))
        iteration, residuals, perplexity = columns
        history = AdaptationHistory(iteration, Values(residuals, unit, "simulated"), perplexity)
    residual = Value(record["residual"], unit, "simulated")
    return Adaptation(**_frozen(record) | {"residual": residual, "history": history})


def mismatch(record: Mapping[str, Record]) -> Mismatch:
    """Residuals of every stage, layer and head, before and after."""
    return {
        when: {name: Spread(**_frozen(kinds)) for name, kinds in by_stage.items()}
        for when, by_stage in record.items()
    }


def codes(record: Mapping[str, Record]) -> dict[str, dict[str, CodeShares]]:
    """The use of codes, by model and stage."""
    return {
        name: {stage: CodeShares(**_frozen(use)) for stage, use in by_stage.items()}
        for name, by_stage in record.items()
    }


def cell(chip: Design) -> CellCurve:
    """The curves of the chip's cell and of the linear one over the range of stored voltages."""
    u = torch.linspace(
        chip.v_min - chip.v_offset, chip.v_max - chip.v_offset, CURVE_POINTS, dtype=torch.float64
    )
    currents = (one.current(u).tolist() for one in (chip.replace(cell="linear").cell, chip.cell))
    return CellCurve(chip.cell.name, tuple(u.tolist()), *map(tuple, currents))


def _frozen(entry: Any) -> Any:
    """Lists as tuples."""
    if isinstance(entry, Mapping):
        return {key: _frozen(item) for key, item in entry.items()}
    return tuple(map(_frozen, entry)) if isinstance(entry, (list, tuple)) else entry
