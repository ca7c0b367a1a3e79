"""Tasks of the evaluation harness, for `gaincell evaluate --tasks`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaincell.cli._chips import ChipOptions
    from gaincell.evaluation.harness import TaskResult, TasksResult
    from gaincell.integrations.hf.sources import LoadedModel
    from gaincell.progress import StageProgress


def by_tasks(
    loaded: LoadedModel,
    tasks: str,
    data: str | None,
    limit: int,
    max_length: int | None,
    batch: int,
    cache: bool,
    chips: ChipOptions | None,
    progress: StageProgress,
) -> tuple[Any, dict[str, Any], str]:
    """Table, result, and the protocol in words; of many chips the result holds that of the nominal one."""
    from gaincell.cli._chips import tasks_by_chips
    from gaincell.evaluation.harness import evaluate_tasks
    from gaincell.evaluation.noise import noise_remark
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.reports.results import value

    names = [task.strip() for task in tasks.split(",") if task.strip()]
    layers = attached_layers(loaded.model)
    remark = noise_remark(loaded.model)
    dtype = str(next(loaded.model.parameters()).dtype).removeprefix("torch.")
    runs: list[TasksResult] = []

    def run() -> dict[str, float]:
        runs.append(
            evaluate_tasks(
                loaded.model,
                loaded.tokenizer,
                names,
                data=data,
                limit=limit or None,
                batch=batch,
                max_length=max_length,
                window=layers[0].design.window if layers else None,
                cache=cache_file(loaded, max_length) if cache else None,
                progress=progress,
            )
        )
        tasks = runs[-1].tasks
        return {f"{t.task}/{name}": score for t in tasks for name, (score, _) in t.metrics.items()}

    if chips is not None:
        table, spread = tasks_by_chips(run, loaded, chips, progress)
        for n, task in enumerate(runs[0].tasks):
            for metric in task.items:
                kept = [_short(chip.tasks[n].items[metric]) for chip in runs[1:]]
                spread["scores"][f"{task.task}/{metric}"]["per_item"] = value(kept, "1", "simulated")
        return table, entry_of(runs[0], True, dtype) | {"chips": spread}, describe(runs[0]) + remark
    run()
    words = describe(runs[0]) + remark
    return _table(runs[0], words), entry_of(runs[0], bool(layers), dtype), words


def entry_of(found: TasksResult, in_arrays: bool, dtype: str) -> dict[str, Any]:
    """The result as part of run.json."""
    from gaincell.reports.results import Kind, value

    kind: Kind = "simulated" if in_arrays else "measured"
    return {
        "harness": {"name": "lm-evaluation-harness", "version": found.harness},
        "dtype": dtype,
        "softmax": found.softmax,
        "longest_context": value(found.max_length, "tokens", "measured"),
        "requests": value(found.requests, "1", "measured"),
        "requests_cached": value(found.cached, "1", "measured"),
        "requests_truncated": value(found.truncated, "1", "measured"),
        "requests_beyond_window": value(found.beyond_window, "1", "measured"),
        "model_seconds": value(found.seconds, "s", "measured"),
        "tasks": [_task_entry(task, kind) for task in found.tasks],
    }


def _task_entry(task: TaskResult, kind: Any) -> dict[str, Any]:
    from gaincell.reports.results import value

    metrics = {}
    for metric, (score, error) in task.metrics.items():
        unit = "bit/byte" if metric == "bits_per_byte" else "1"
        metrics[metric] = {"score": value(score, unit, kind)}
        if error is not None:
            metrics[metric]["error"] = value(error, unit, kind)
    return {
        "task": task.task,
        "version": task.version,
        "split": task.split,
        "items": value(task.n, "items", "measured"),
        "of": value(task.of, "items", "measured"),
        "fingerprint": task.fingerprint,
        "metrics": metrics,
        "per_item": {name: value(_short(items), "1", kind) for name, items in task.items.items()},
    }


def _short(items: list[Any]) -> list[Any]:
    """Log-likelihoods with the digits that a float32 sum has."""
    return [[round(x, 4) for x in i] if isinstance(i, list) else round(i, 5) for i in items]


def describe(found: TasksResult) -> str:
    """The protocol in words."""
    first = ", ".join(f"{t.task} {t.n} of {t.of}" for t in found.tasks)
    return (
        f"lm-evaluation-harness {found.harness}, 0-shot, contexts up to {found.max_length} tokens; "
        f"items: {first}"
    )


def cache_file(loaded: LoadedModel, max_length: int | None) -> Path:
    """Where results of this very model, chip, implementation and code are kept."""
    from importlib import metadata

    import torch

    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.integrations.hf.sources import fingerprint

    layers = attached_layers(loaded.model)
    dtype = next(loaded.model.parameters()).dtype
    scaling = [p.tolist() for layer in layers for p in layer.parameters()]
    parts = [
        fingerprint(loaded.model),
        str(scaling),
        *sorted({f"{layer.design.hash} {layer.design.mismatch} {layer.impl}" for layer in layers}),
        str(dtype),
        loaded.model.device.type,
        str(max_length),
        str(sorted(loaded.tokenizer.get_vocab().items())),
        _code(),
        metadata.version("lm_eval"),
        metadata.version("transformers"),
        torch.__version__,
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "gaincell" / "evaluations" / f"{key}.json.db"


COMPUTING = ("arrays", "circuits", "devices", "evaluation", "integrations", "native", "nn", "ops", ".")
"""Folders of the package whose code an answer depends on."""


def _code() -> str:
    """Hash of that code, compiled or not: another version, or a changed checkout, answers anew."""
    import gaincell

    found = hashlib.sha256()
    for folder in COMPUTING:
        paths = (Path(gaincell.__file__).parent / folder).glob("*" if folder == "." else "**/*")
        for path in sorted(p for p in paths if p.suffix in (".py", ".so", ".pyd")):
            found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def _table(found: TasksResult, protocol: str) -> Any:
    from rich.table import Table

    notes = [protocol]
    if found.cached:
        notes.append(f"{found.cached} of {found.requests} answers were kept from an earlier run")
    if found.truncated:
        notes.append(f"{found.truncated} requests were longer and lost tokens on the left")
    if found.beyond_window:
        notes.append(
            f"{found.beyond_window} requests were longer than the ring, which then forgot their beginning"
        )
    table = Table(caption="; ".join(notes), caption_justify="left")
    for name in ("task", "metric"):
        table.add_column(name)
    for name in ("value", "±", "items"):
        table.add_column(name, justify="right")
    for task in found.tasks:
        for metric, (score, error) in task.metrics.items():
            value, spread = (_shown(metric, x) for x in (score, error))
            table.add_row(task.task, metric, value, spread, f"{task.n:,} of {task.of:,}")
    return table


def _shown(metric: str, score: float | None) -> str:
    from gaincell.reports.tables import readable

    if score is None:
        return "–"
    return f"{100 * score:.2f} %" if metric.startswith("acc") else readable(score)
