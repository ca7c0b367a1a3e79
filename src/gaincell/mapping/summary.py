"""Records as the parts of run.json: every number with its unit and kind."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from gaincell.config import chip_of as chip_of
from gaincell.design import Design
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.sources import LoadedModel, without_revision
from gaincell.mapping.records import Record
from gaincell.reports.results import Json, Kind, value
from gaincell.results.codec import to_json
from gaincell.standard_error import paired_ratio

CURVE_POINTS = 91


def base_name(model: str) -> str:
    """The name of a model without the directory it lies in, and without its commit on the hub."""
    return re.split(r"[/\\\\]", without_revision(model).rstrip("/\\"))[-1]


def model(loaded: LoadedModel) -> Json:
    """An attached model and its size."""
    layers = attached_layers(loaded.model)
    first = layers[0]
    parameters = sum(p.numel() for name, p in loaded.model.named_parameters() if ".gain_cell." not in name)
    sizes = {
        "parameters": parameters,
        "layers": len(layers),
        "heads": first.heads,
        "kv_heads": first.kv_heads,
        "head_dim": first.head_dim,
    }
    entry: Json = {"name": base_name(loaded.id), "sha256": loaded.sha256}
    return entry | {key: value(number, "1", "measured") for key, number in sizes.items()}


def design(chip: Design) -> Json:
    """Which chip, as plain data."""
    return to_json(chip_of(chip))


def stage(
    name: str, title: str, record: Record, software: Record | None = None, continued: Record | None = None
) -> Json:
    """One line of the table, with ratios to the software models where their records are known: paired block
    by block, with the standard error of the ratio.
    """
    kind: Kind = "measured" if name.startswith("software") else "simulated"
    entry: Json = {
        "name": name,
        "title": title,
        "training_tokens": value(record["training_tokens"], "tokens", "measured"),
        "perplexity": value(record["perplexity"], "1", kind),
        "nll": value(record["nll"], "nat", kind),
        "predictions": value(record["predictions"], "tokens", "measured"),
        "seconds": value(record["seconds"], "s", "measured"),
    }
    if per_block := record.get("per_block"):
        entry["blocks"] = {
            "nll": value([nll for nll, _ in per_block], "nat", kind),
            "predictions": value([count for _, count in per_block], "tokens", "measured"),
        }
    for key, unit in (("perplexity_error", "1"), ("bits_per_byte", "bit/byte")):
        if record[key] is not None:
            entry[key] = value(record[key], unit, kind)
    for key, other in (("ratio_to_software", software), ("ratio_to_continued", continued)):
        if other is None:
            continue
        entry[key] = value(record["perplexity"] / other["perplexity"], "1", kind)
        if record.get("per_block") and other.get("per_block"):
            ours, theirs = ([nll for nll, _ in one["per_block"]] for one in (record, other))
            _, error = paired_ratio(ours, theirs, [count for _, count in record["per_block"]])
            if error is not None:
                entry[f"{key}_error"] = value(error, "1", kind)
    return entry


def adaptation(result: Record) -> Json:
    """One adaptation, with its history where the method has one."""
    words = ("summary", "converged", "start", "rule", "worst", "skipped", "saturated")
    entry: Json = {key: result[key] for key in words}
    distance = "fraction of sigma" if result["rule"] == "relative" else "that of the stage"
    for key, unit in (
        ("residual", distance),
        ("iterations", "1"),
        ("forward_passes", "passes over the calibration text"),
        ("tokens", "tokens"),
        ("calibration_perplexity", "1"),
        ("target_perplexity", "1"),
    ):
        if key in result:
            entry[key] = value(result[key], unit, "simulated")
    if result["history"]:
        units = {"iteration": "1", "residual": distance, "perplexity": "1"}
        entry["history"] = {
            key: value([step[key] for step in result["history"]], unit, "simulated")
            for key, unit in units.items()
        }
    return entry


def mismatch(record: Mapping[str, Record]) -> Json:
    """Residuals of every stage, layer and head, before and after."""
    return {
        when: {
            name: {kind: value(table, "fraction of sigma", "simulated") for kind, table in kinds.items()}
            for name, kinds in by_stage.items()
        }
        for when, by_stage in record.items()
    }


def codes(record: Mapping[str, Record]) -> Json:
    """The use of codes, by model and stage."""
    units = {"code": "code", "share": "1"}
    return {
        name: {
            stage: {key: value(use[key], unit, "simulated") for key, unit in units.items()}
            for stage, use in by_stage.items()
        }
        for name, by_stage in record.items()
    }


def cell(chip: Design) -> Json:
    """The curves of the chip's cell and of the linear one over the range of stored voltages."""
    u = torch.linspace(
        chip.v_min - chip.v_offset, chip.v_max - chip.v_offset, CURVE_POINTS, dtype=torch.float64
    )
    linear = chip.replace(cell="linear").cell
    return {
        "name": chip.cell.name,
        "u": value(u.tolist(), "V", "simulated"),
        "linear": value(linear.current(u).tolist(), "charge units", "simulated"),
        "nonlinear": value(chip.cell.current(u).tolist(), "charge units", "simulated"),
    }
