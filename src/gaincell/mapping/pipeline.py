"""`gaincell map`: run every stage, and put the results into run.json, figures and the adapted model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gaincell.adaptation.statistics import attached
from gaincell.evaluation.perplexity import describe
from gaincell.integrations.hf.checkpoint import save
from gaincell.mapping.job import Job, prepare
from gaincell.mapping.settings import MapSettings
from gaincell.mapping.stages import STAGES, Record, Stage, run_stage
from gaincell.progress import StageProgress, silent_stages
from gaincell.reports import results
from gaincell.reports.figures import draw_all
from gaincell.reports.results import Json, Kind, value


def map_model(
    settings: MapSettings,
    out: Path,
    *,
    command: Sequence[str] = ("gaincell", "map"),
    progress: StageProgress = silent_stages,
) -> Json:
    """Map a pretrained model onto gain-cell hardware; returns what RUN/run.json then holds.

    Interrupted at any point, the same call goes on where it stopped, to the same result.

    Args:
        settings: see `MapSettings`.
        out: the directory RUN.
        command: the command line, for the record.
        progress: opens the progress of every step.

    Raises:
        GaincellError: model, text, design or directory are not acceptable, or a loss is not finite.
    """
    torch.manual_seed(settings.seed)
    job = prepare(settings, out, progress)
    stages = STAGES if len(job.training) > job.linear_blocks else STAGES[:5]
    records = {stage.name: run_stage(job, stage) for stage in stages}
    run = assemble(job, stages, records, command)
    last = stages[-1].name
    save(job.hardware(job.folder.state(last), linear=False), out)
    results.write(run, out / results.FILE)
    draw_all(run, out / "figures")
    return run


def assemble(
    job: Job, stages: Sequence[Stage], records: Mapping[str, Record], command: Sequence[str]
) -> Json:
    """run.json of a mapping."""
    design = attached(job.hardware(None, linear=False))[0].design
    adapted = records["adapted"]
    layers = attached(job.model)
    return {
        "schema": results.SCHEMA,
        "command": "map",
        "model": {
            "name": Path(job.loaded.id).name,
            "sha256": job.loaded.sha256,
            "parameters": value(sum(t.numel() for t in job.model.parameters()), "1", "measured"),
            "layers": value(len(layers), "1", "measured"),
            "heads": value(layers[0].heads, "1", "measured"),
            "kv_heads": value(layers[0].kv_heads, "1", "measured"),
            "head_dim": value(layers[0].head_dim, "1", "measured"),
        },
        "design": {"name": design.name, "hash": design.hash, "cell": design.cell.name},
        "text": {
            "name": job.text_name,
            "training_tokens": value(job.training.shape[0] * job.block, "tokens", "measured"),
            "evaluation_tokens": value(len(job.evaluation), "tokens", "measured"),
            "calibration_tokens": value(job.calibration.numel(), "tokens", "measured"),
        },
        "stages": [_stage(stage, records) for stage in stages],
        "adaptation": {name: _adaptation(result) for name, result in adapted["adaptation"].items()},
        "mismatch": {
            when: {
                stage: {kind: value(table, "fraction of sigma", "simulated") for kind, table in kinds.items()}
                for stage, kinds in by_stage.items()
            }
            for when, by_stage in adapted["mismatch"].items()
        },
        "codes": {
            model: {
                stage: {
                    "code": value(use["code"], "code", "simulated"),
                    "share": value(use["share"], "1", "simulated"),
                }
                for stage, use in by_stage.items()
            }
            for model, by_stage in adapted["codes"].items()
        },
        "cell": _cell(job),
        "silent": records["linear"].get("silent", []),
        "provenance": results.provenance(
            command=command,
            seed=job.settings.seed,
            protocol=describe(job.protocol, records["software"]["blocks"]),
            design_hash=design.hash,
            inputs={
                f"model {Path(job.loaded.id).name}": job.loaded.sha256,
                "training text": results.content_hash(job.training.numpy().tobytes()),
                "evaluation text": results.content_hash(job.evaluation.numpy().tobytes()),
            },
        ),
    }


def _stage(stage: Stage, records: Mapping[str, Record]) -> Json:
    record = records[stage.name]
    kind: Kind = "measured" if stage.name.startswith("software") else "simulated"
    entry: Json = {
        "name": stage.name,
        "title": stage.title,
        "training_tokens": value(record["training_tokens"], "tokens", "measured"),
        "perplexity": value(record["perplexity"], "1", kind),
        "nll": value(record["nll"], "nat", kind),
        "predictions": value(record["predictions"], "tokens", "measured"),
        "seconds": value(record["seconds"], "s", "measured"),
        "ratio_to_software": value(record["perplexity"] / records["software"]["perplexity"], "1", kind),
    }
    for key, unit in (("perplexity_error", "1"), ("bits_per_byte", "bit/byte")):
        if record[key] is not None:
            entry[key] = value(record[key], unit, kind)
    if stage.compared_with is not None:
        ratio = record["perplexity"] / records[stage.compared_with]["perplexity"]
        entry |= {"compared_with": stage.compared_with, "ratio_to_continued": value(ratio, "1", kind)}
    return entry


def _adaptation(result: Record) -> Json:
    entry: Json = {key: result[key] for key in ("summary", "converged", "worst", "skipped", "saturated")}
    for key, unit in (
        ("residual", "fraction of sigma"),
        ("iterations", "1"),
        ("forward_passes", "passes over the calibration text"),
        ("tokens", "tokens"),
        ("calibration_perplexity", "1"),
    ):
        if key in result:
            entry[key] = value(result[key], unit, "simulated")
    if result["history"]:
        units = {"iteration": "1", "residual": "fraction of sigma", "perplexity": "1"}
        entry["history"] = {
            key: value([step[key] for step in result["history"]], unit, "simulated")
            for key, unit in units.items()
        }
    return entry


def _cell(job: Job) -> Json:
    """The curves of the chip's cell and of the linear one over the range of stored voltages."""
    design, linear = job.design(linear=False), job.design(linear=True)
    low, high = design.v_min - design.v_offset, design.v_max - design.v_offset
    u = torch.linspace(low, high, 91, dtype=torch.float64)
    curve: Any = {
        "name": design.cell.name,
        "u": value(u.tolist(), "V", "simulated"),
        "linear": value(linear.cell.current(u).tolist(), "charge units", "simulated"),
        "nonlinear": value(design.cell.current(u).tolist(), "charge units", "simulated"),
    }
    return dict(curve)
