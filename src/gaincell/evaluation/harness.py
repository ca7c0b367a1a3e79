"""The field's evaluation harness on a live model: its tasks, its prompts, its scoring.

`evaluate_tasks` wraps a model object of transformers, attached to arrays or not, in the harness's own HFLM
(harness_model.py) and hands it to the harness's own `simple_evaluate`; nothing of the scoring is ours. Ours
are: local files in place of downloads (tasks/), the count of contexts that are too long, the answers that a
broken run goes on from (answers.py), and the score of every single item, so that two models can be compared
item by item.

Source: lm-evaluation-harness (L. Gao et al., Zenodo 10.5281/zenodo.10256836), a dependency.
Not modelled: chat templates, generation tasks, and another number of examples before a question than the
task's own; the harness's own command has them.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, SupportsFloat, TypeAlias, TypedDict

from torch import nn
from transformers import PreTrainedTokenizerBase

from gaincell.errors import InputError
from gaincell.evaluation.answers import Answers
from gaincell.evaluation.harness_model import GainCellLM, data_of_hub, quiet
from gaincell.evaluation.tasks.local import file_of
from gaincell.files import is_number
from gaincell.integrations.hf.attach import layers_in_use
from gaincell.progress import StageProgress, silent_stages
from gaincell.results.common import Kind, Value
from gaincell.results.evaluation import Harness, Metric, TaskScores, TasksRun
from gaincell.results.provenance import hash_of
from gaincell.standard_error import PER_UNIT, ratio_error
from gaincell.text import sha256

try:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
except ImportError as error:
    raise InputError("the tasks need lm-evaluation-harness: pip install 'gaincell[eval]'") from error

PAPER_TASKS = (
    "arc_easy", "arc_challenge", "winogrande", "hellaswag", "lambada_openai", "piqa", "wikitext2",
)  # fmt: skip
"""Those of the paper's table, under the names of the local files."""
LOCAL = Path(__file__).parent / "tasks"
CANONICAL = {"wikitext2": "wikitext"}
"""What the harness calls a task that we call otherwise."""
LOCAL_NAMES = {name: ours for ours, name in CANONICAL.items()}
PAPER = "paper"
"""In place of names: the tasks of the paper's table."""
BATCH = 8


Item: TypeAlias = float | tuple[float, ...]


class _Sample(TypedDict):
    """An item; what it contributes to every metric stands beside these, under its name."""

    doc_id: int
    doc_hash: str
    arguments: Sequence[Sequence[str]]


class _Config(TypedDict, total=False):
    """Of a task."""

    test_split: str | None
    validation_split: str | None
    metadata: Mapping[str, str | None] | None
    dataset_kwargs: Mapping[str, str] | None


_Found = TypedDict(
    "_Found",
    {
        "samples": Mapping[str, Sequence[_Sample]],
        "results": Mapping[str, Mapping[str, object]],
        "configs": Mapping[str, _Config],
        "versions": Mapping[str, object],
        "n-shot": Mapping[str, int],
        "n-samples": Mapping[str, Mapping[str, int]],
        "higher_is_better": Mapping[str, Mapping[str, bool]],
    },
)
"""What the harness returns, as far as it is read; all but samples by task."""


class AfterTasks(NamedTuple):
    """What the tasks give.

    Attributes:
        run: Scores and counts. Metrics are as the harness gives them; where it gives no standard error of a
            perplexity of documents, it is ours (first order, over documents). Items are what every one
            contributes, in order: 0 or 1, a log-likelihood, a log-likelihood and how much it is divided by
            (words, bytes; `PER_UNIT`), or what else the harness makes the score of.
        protocol: In words.
    """

    run: TasksRun
    protocol: str


def evaluate_tasks(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    *,
    data: str | None = None,
    limit: int | None = None,
    batch: int = BATCH,
    max_length: int | None = None,
    window: int | None = None,
    cache: Path | None = None,
    progress: StageProgress = silent_stages,
) -> AfterTasks:
    """Run tasks of the harness.

    Args:
        model: A causal language model of transformers, attached or not.
        tokenizer: Its tokenizer.
        tasks: Names of the harness, or of `PAPER_TASKS`; one that names several (a group) gives several.
        data: Folder of local files (see tasks/local.py); None: the harness downloads its own.
        limit: First so many items of every task; None for all.
        batch: Requests of one forward pass.
        max_length: Longest context in tokens; longer ones lose tokens on the left, and are counted.
        window: Columns of the chip, to count contexts that are longer.
        cache: File in which every answer is kept (answers.py); it must belong to this model and chip alone.
        progress: Opens a bar for the requests of a kind.

    Raises:
        InputError: an unknown task, no local file for one and no hub that gives it, a row that does not fit,
            a limit below 1, a task that generates text.
        ModelError: a logit is not finite.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit = {limit}: give a number of items of 1 or more, or none for all")
    local = {"include_path": str(LOCAL), "include_defaults": False, "metadata": {"data": data}}
    with quiet():
        manager = TaskManager() if data is None else TaskManager(**local)
    names = _known(tasks, manager, data)
    with nullcontext() if cache is None else closing(Answers(cache)) as answers:
        lm = GainCellLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=max_length,
            progress=progress, answers=answers, generates=False,
        )  # fmt: skip
        with quiet(), data_of_hub() if data is None else nullcontext():
            found: _Found = simple_evaluate(model=lm, tasks=names, task_manager=manager, limit=limit)
    asked = [a for task in found["samples"].values() for sample in task for a in sample["arguments"]]
    lengths = [n for arguments in asked for n in _lengths(lm, arguments)]
    read = [min(n - 1, lm.max_length) for n in lengths]
    kind: Kind = "simulated" if layers_in_use(model) else "measured"
    run = TasksRun(
        numbers=kind,
        harness=Harness("lm-evaluation-harness", metadata.version("lm_eval")),
        longest_context=lm.max_length,
        requests=len(asked),
        requests_cached=len(asked) - lm.asked,
        requests_truncated=sum(n > lm.max_length + 1 for n in lengths),
        requests_beyond_window=0 if window is None else sum(n > window for n in read),
        model_seconds=lm.seconds,
        tasks=tuple(_scores(name, found, kind) for name in found["samples"]),
        softmax=lm.softmax_name,
    )
    return AfterTasks(
        run, describe_tasks(run, {task: int(found["n-shot"].get(task, 0)) for task in found["samples"]})
    )


def describe_tasks(run: TasksRun, shots: Mapping[str, int]) -> str:
    """The protocol in words; `shots` are the examples before a question, by task."""
    several = len(set(shots.values())) > 1
    said = sorted({f"{task} {n}-shot" if several else f"{n}-shot" for task, n in shots.items()})
    items = ", ".join(f"{task.task} {task.items} of {task.of}" for task in run.tasks)
    return (
        f"{run.harness.name} {run.harness.version}, {', '.join(said)}, contexts up to {run.longest_context} "
        f"tokens; items: {items}"
    )


def _lengths(lm: GainCellLM, arguments: Sequence[str]) -> list[int]:
    """Tokens of a request; documents are cut into windows that fit."""
    if len(arguments) == 2:
        context, wanted = lm._encode_pair(*arguments) if arguments[0] else ([0], lm.tok_encode(arguments[1]))
        return [len(context) + len(wanted)]
    tokens = len(lm.tok_encode(arguments[0]))
    return [min(tokens, lm.max_length) + 1] * max(1, math.ceil(tokens / lm.max_length))


def _known(tasks: Sequence[str], manager: TaskManager, data: str | None) -> list[str]:
    """Names that the harness knows, in the order given."""
    if not tasks:
        raise InputError("no task was given; give names with commas between them, such as arc_easy,piqa")
    known, renamed = set(manager.all_tasks), CANONICAL if data is None else LOCAL_NAMES
    wanted = [t for task in tasks for t in (PAPER_TASKS if task == PAPER else (task,))]
    for task in wanted:
        if renamed.get(task, task) not in known:
            choices = known.union(PAPER_TASKS if data is None else ())
            close = difflib.get_close_matches(task, choices, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            there = f"; with --data there are {', '.join(sorted(known))}" if data is not None else ""
            raise InputError(f"unknown task {task!r}{hint}{there}")
    return list(dict.fromkeys(renamed.get(task, task) for task in wanted))


def _scores(task: str, found: _Found, kind: Kind) -> TaskScores:
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    metrics: dict[str, Metric] = {}
    items: dict[str, tuple[Item, ...]] = {}
    for key, score in found["results"][task].items():
        metric, _, _ = key.partition(",")
        if is_number(score) and not metric.endswith("_stderr") and all(metric in s for s in samples):
            items[metric] = tuple(_item(sample, metric) for sample in samples)
            given = found["results"][task].get(key.replace(metric, f"{metric}_stderr", 1))
            error = given if isinstance(given, float) else _error(items[metric], metric, score)
            unit = "bit/byte" if metric == "bits_per_byte" else "1"
            spread = None if error is None else Value(error, unit, kind)
            metrics[metric] = Metric(Value(float(score), unit, kind), spread)
    counts = found["n-samples"][task]
    return TaskScores(
        task=task,
        version=str(found["versions"].get(task, "")),
        split=_split(found["configs"][task]),
        items=int(counts["effective"]),
        of=int(counts["original"]),
        fingerprint=hash_of([str(sample["doc_hash"]) for sample in samples]),
        metrics=metrics,
        per_item=items,
        lower_is_better=tuple(m for m in metrics if found["higher_is_better"].get(task, {}).get(m) is False),
    )


def _split(config: _Config) -> str:
    """Of the harness's data set; of local rows the file and what is in it."""
    split = str(config.get("test_split") or config.get("validation_split"))
    data = (config.get("metadata") or {}).get("data")
    if split != "local" or not data:
        return split
    own = config.get("dataset_kwargs") or {}
    file = file_of(data, own["task"], own.get("layout", ""))
    return f"{file.name}, sha256 {sha256(file)[:12]}"


def _item(sample: Mapping[str, object], metric: str) -> Item:
    item = sample[metric]
    if isinstance(item, (tuple, list)):
        return tuple(float(part) for part in item)
    assert isinstance(item, SupportsFloat)
    return float(item)


def _error(items: Sequence[Item], metric: str, score: float) -> float | None:
    """Standard error of a perplexity of documents, or of bits per byte: first order, of a ratio of sums."""
    if metric not in PER_UNIT:
        return None
    spread = ratio_error(*zip(*(item for item in items if isinstance(item, tuple)), strict=True))
    if spread is None:
        return None
    return spread / math.log(2) if metric == "bits_per_byte" else score * spread
