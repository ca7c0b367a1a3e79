"""Tasks of the evaluation harness, for `gaincell evaluate --tasks`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import gaincell
from gaincell.cli._models import head, mismatch_of
from gaincell.cli.evaluate import ChipOptions, TaskOptions
from gaincell.evaluation.chips import over_chips, perplexity_spread, score_spread, spread_of
from gaincell.evaluation.noise import noise_remark
from gaincell.integrations.hf.attach import attached_layers, computed_attention, layers_in_use
from gaincell.integrations.hf.base_model import LoadedModel, fingerprint
from gaincell.progress import StageProgress
from gaincell.reports.tables import Rows, readable
from gaincell.reports.task_chips import about_tasks, chip_rows, how_many
from gaincell.results import evaluation as of
from gaincell.results.common import Value
from gaincell.results.comparison import PERPLEXITIES

if TYPE_CHECKING:
    from gaincell.evaluation.harness import AfterTasks, Item

APART = ("cli", "costs", "demonstrator", "mapping", "reports", "rtl", "spice", "sweeps", "training")
"""Folders of the package on whose code no answer depends."""


def by_tasks(
    loaded: LoadedModel, options: TaskOptions, limit: int, chips: ChipOptions, progress: StageProgress
) -> tuple[Rows, of.TasksResult]:
    """Table and result; of many chips the result holds that of the nominal one."""
    from gaincell.evaluation.harness import evaluate_tasks

    layers = layers_in_use(loaded.model)

    def run() -> AfterTasks:
        return evaluate_tasks(
            loaded.model,
            loaded.tokenizer,
            [task.strip() for task in (options.tasks or "").split(",") if task.strip()],
            data=options.data,
            limit=limit or None,
            batch=options.batch or 8,
            max_length=options.max_length,
            window=layers[0].design.window if layers else None,
            cache=cache_file(loaded, options.max_length) if options.cache else None,
            progress=progress,
        )

    if chips.chips is None:
        entry = result_of(loaded, run())
        return _table(entry), entry
    mismatch = mismatch_of(chips, loaded)
    nominal, numbers, drawn = over_chips(loaded.model, run, chips.chips, mismatch, progress("chips"))
    spread = of.TaskChips(
        numbers, _spreads(nominal.run, numbers, [chip.run for chip in drawn], chips.good), chips.good,
        spread_of(layers[0].design.replace(mismatch=mismatch)),
    )  # fmt: skip
    on_chips = f"; tasks: of the nominal chip, chips: of {how_many(numbers)}"
    entry = result_of(loaded, nominal, on_chips, chips=spread, seed=mismatch.seed)
    return chip_rows(entry), entry


def _spreads(
    nominal: of.TasksRun, numbers: tuple[int, ...], drawn: list[of.TasksRun], within: float
) -> dict[str, of.ScoreSpread]:
    """Of every score, by task/metric: perplexities have a ratio and a yield, others a difference."""
    found = {}
    for n, task in enumerate(nominal.tasks):
        for metric, of_nominal in task.metrics.items():
            name, reference = f"{task.task}/{metric}", of_nominal.score.value
            scores = tuple(chip.tasks[n].metrics[metric].score.value for chip in drawn)
            if metric in PERPLEXITIES:
                chips = perplexity_spread(reference, numbers, scores, within)
                spread = of.ScoreSpread(
                    reference, scores, chips.mean, chips.worst, chips.std, chips.ratio, chips.ratio_interval,
                    chips.yield_, chips.yield_interval,
                )  # fmt: skip
            else:
                lower = metric.endswith("bits_per_byte") or metric in task.lower_is_better
                spread = score_spread(reference, numbers, scores, lower_is_better=lower)
            items = tuple(_short(chip.tasks[n].per_item[metric]) for chip in drawn)
            found[name] = replace(spread, per_item=items)
    return found


def result_of(
    loaded: LoadedModel,
    found: AfterTasks,
    of_what: str = "",
    chips: of.TaskChips | None = None,
    seed: int = 0,
) -> of.TasksResult:
    """The result; the protocol ends with `of_what`."""
    run = found.run
    protocol = f"{found.protocol}{noise_remark(loaded.model, chips=chips is not None)}{of_what}"
    tasks = tuple(
        replace(task, per_item={name: _short(items) for name, items in task.per_item.items()})
        for task in run.tasks
    )
    about = head(loaded, protocol, [task.fingerprint for task in tasks], seed=seed)
    return of.TasksResult(**about, **vars(replace(run, tasks=tasks)), chips=chips)


def _short(items: Sequence[Item]) -> tuple[Item, ...]:
    """Log-likelihoods with the digits that a float32 sum has."""
    return tuple(tuple(round(x, 4) for x in i) if isinstance(i, tuple) else round(i, 5) for i in items)


def cache_file(loaded: LoadedModel, max_length: int | None) -> Path:
    """Where results of this very model, chip, implementation and code are kept."""
    layers = attached_layers(loaded.model)
    numbers = [n for layer in layers for n in (*layer.named_parameters(), *layer.named_buffers())]
    dtype = next(loaded.model.parameters()).dtype
    parts = [
        fingerprint(loaded.model),
        re.sub('"_name_or_path": .*', "", loaded.model.config.to_json_string(use_diff=False)),
        str([(name, kept.tolist()) for name, kept in numbers]),
        computed_attention(loaded.model),
        *sorted({f"{layer.design.hash} {layer.design.mismatch} {layer.backend}" for layer in layers}),
        str(dtype),
        loaded.model.device.type,
        str(max_length),
        _tokenizer(loaded.tokenizer),
        _code(),
        metadata.version("lm_eval"),
        metadata.version("transformers"),
        torch.__version__,
    ]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "gaincell" / "evaluations" / f"{key}.json.db"


def _tokenizer(tokenizer: Any) -> str:
    """How a tokenizer works, but for padding and truncation, which every call sets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    works = sorted(tokenizer.get_vocab().items())
    if backend is not None:
        works = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    adds = [getattr(tokenizer, f"add_{end}_token", None) for end in ("bos", "eos")]
    return json.dumps([works, adds], sort_keys=True) + str(sorted(tokenizer.special_tokens_map.items()))


def _code() -> str:
    """Hash of the other code, compiled or not: another version, or a changed checkout, answers anew."""
    found, package = hashlib.sha256(), Path(gaincell.__file__).parent
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        if path.suffix in (".py", ".so", ".pyd") and name.parts[0] not in APART:
            found.update(name.as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def _table(found: of.TasksResult) -> Rows:
    rows = [
        (
            task.task,
            metric,
            *(_shown(metric, x) for x in (y.score, y.error)),
            f"{task.items:,} of {task.of:,}",
        )
        for task in found.tasks
        for metric, y in task.metrics.items()
    ]
    headings = ("task", "metric", "value", "±", "items")
    return Rows("", headings, rows, about_tasks(found), text=(0, 1))


def _shown(metric: str, score: Value | None) -> str:
    if score is not None and metric.startswith("acc"):
        return f"{100 * score.value:.2f} %"
    if score is not None and metric == "bits_per_byte":
        return f"{score.value:.4f}"
    return readable(None if score is None else score.value)
