"""Several evaluations side by side: the table of the paper, with standard errors and paired differences.

Of every model and metric: the value and its standard error, and its difference to a reference model on the
same items, with a standard error of its own, which is far below that of either value because both models meet
the same difficult items:

    accuracies      d = mean of (a_i - r_i) over items i,           error: std / sqrt(n)
    LAMBADA         ratio = exp(mean of (log r_i - log a_i)),       error: ratio * std / sqrt(n)
    per word, byte  ratio = exp(sum of (log r_i - log a_i) / sum of words), over documents i; error: first
                    order, of a ratio of sums

where log is a log-likelihood. Items are the same if their texts are (fingerprint); otherwise there is no
difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from gaincell.errors import RunError
from gaincell.results import evaluation as of
from gaincell.results.codec import Kind
from gaincell.results.common import Value
from gaincell.results.provenance import made
from gaincell.standard_error import PER_UNIT, ratio_error

Item = TypeVar("Item")
PERPLEXITIES = ("perplexity", "word_perplexity", "byte_perplexity")
NAMES = {"wikitext2": "wikitext"}
"""One task under two names."""
HEADINGS = {
    ("arc_easy", "acc"): "ARC-E",
    ("arc_challenge", "acc_norm"): "ARC-C",
    ("winogrande", "acc"): "WinoGrande",
    ("hellaswag", "acc_norm"): "HellaSwag",
    ("lambada_openai", "perplexity"): "LAMBADA ppl",
    ("lambada_openai", "acc"): "LAMBADA acc",
    ("piqa", "acc"): "PIQA",
    ("wikitext", "word_perplexity"): "WikiText-2 ppl",
}
"""The paper's columns: task and metric. Of other tasks all metrics are shown."""
Column: TypeAlias = tuple[str, str]
Difference: TypeAlias = tuple[float | None, float | None]
"""To the reference: a ratio of perplexities, points of accuracies, bits; its standard error."""
UNKNOWN: Difference = (None, None)


@dataclass(frozen=True)
class Entry:
    """One number of the table; accuracies in %.

    Attributes:
        difference: To the reference, points of an accuracy or the ratio of perplexities.
        difference_error: Its standard error.
    """

    number: float
    error: float | None = None
    difference: float | None = None
    difference_error: float | None = None


Rows: TypeAlias = Mapping[str, Mapping[Column, Entry]]
"""By name and column."""
NOTHING: Rows = {}


@dataclass(frozen=True)
class Comparison:
    """Several evaluations side by side.

    Attributes:
        rows: Name -> column -> entry.
        reference: Its name.
        cited: Names of rows from the literature.
        notes: What a reader has to know.
    """

    columns: tuple[Column, ...]
    rows: Rows
    reference: str
    cited: frozenset[str]
    notes: tuple[str, ...]


def compare(
    runs: Mapping[str, of.TasksResult], reference: str | None = None, cited: Rows = NOTHING
) -> Comparison:
    """Put results of `gaincell evaluate --tasks` beside one another.

    Args:
        runs: Results by name.
        reference: Name of the one that the others are compared to; by default the first.
        cited: Rows of the literature to show below them.

    Raises:
        RunError: no results, or no such reference.
    """
    if not runs:
        raise RunError("no results were given; give files of `gaincell evaluate ... --tasks ... --json FILE`")
    if taken := runs.keys() & cited:
        raise RunError(f"{min(taken)!r} is a row of the literature; give the result another NAME=")
    tasks = {name: {NAMES.get(t.task, t.task): t for t in run.tasks} for name, run in runs.items()}
    reference = next(iter(runs)) if reference is None else reference
    if reference not in runs:
        raise RunError(f"there is no result {reference!r}; there are {', '.join(runs)}")
    found: list[Column] = [
        (task, metric) for each in tasks.values() for task, entry in each.items() for metric in entry.metrics
    ]
    known = [column for column in HEADINGS if column in found]
    paper_tasks = {task for task, _ in HEADINGS}
    columns = (*known, *dict.fromkeys(c for c in found if c[0] not in paper_tasks))
    theirs = tasks[reference]
    rows = {
        name: {
            (task, metric): _entry(each[task], metric, None if name == reference else theirs.get(task))
            for task, metric in columns
            if task in each and metric in each[task].metrics
        }
        for name, each in tasks.items()
    }
    chosen = {name: {c: x for c, x in row.items() if c in columns} for name, row in cited.items()}
    return Comparison(
        columns=columns,
        rows={**rows, **chosen},
        reference=reference,
        cited=frozenset(cited),
        notes=_notes(runs, tasks, reference, bool(cited)),
    )


def comparison_result(
    found: Comparison, runs: Mapping[str, of.TasksResult], command: Sequence[str]
) -> of.ComparisonResult:
    """For a file: every number with its unit and kind."""

    def score(name: str, metric: str, entry: Entry) -> of.ComparedScore:
        unit = unit_of(metric)
        origin: tuple[Kind, str | None] = ("cited", "Leroux et al. 2025, Table 1")
        if name not in found.cited:
            origin = (runs[name].numbers, None)
        numbers = (None if number is None else Value(number, unit, *origin) for number in astuple(entry))
        return of.ComparedScore(*numbers)  # type: ignore[arg-type]

    rows = tuple(
        of.ComparedModel(
            name, {"/".join(column): score(name, column[1], entry) for column, entry in row.items()}
        )
        for name, row in found.rows.items()
    )
    inputs: dict[str, str] = {}
    for name, run in runs.items():
        if run.design is not None:
            inputs[f"design of {name}"] = run.design.hash
        inputs[f"model of {name}"] = run.model.sha256
    return of.ComparisonResult(
        command="table",
        reference=found.reference,
        rows=rows,
        notes=found.notes,
        provenance=made(
            command=command,
            seed=0,
            protocol="; ".join(f"{name}: {run.provenance.protocol}" for name, run in runs.items()),
            inputs=inputs,
        ),
    )


def unit_of(metric: str) -> str:
    """Of the numbers of a metric in the table; accuracies and their like are in %."""
    return "1" if metric in PERPLEXITIES else "bit/byte" if metric == "bits_per_byte" else "%"


def _entry(task: of.TaskScores, metric: str, reference: of.TaskScores | None) -> Entry:
    scale = 100.0 if unit_of(metric) == "%" else 1.0
    found = task.metrics[metric]
    error = None if found.error is None else found.error.value * scale
    return Entry(found.score.value * scale, error, *_difference(task, reference, metric))


def _difference(task: of.TaskScores, reference: of.TaskScores | None, metric: str) -> Difference:
    """On the same items; of a single item it has no error. There is neither of other items, nor of a score
    that is no mean of its items (f1).
    """
    if reference is None or reference.fingerprint != task.fingerprint:
        return UNKNOWN
    ours, theirs = (np.asarray(t.per_item[metric], dtype=float) for t in (task, reference))
    if ours.shape != theirs.shape or not (_adds_up(task, metric) and _adds_up(reference, metric)):
        return UNKNOWN
    weight = np.ones(len(ours))
    if metric in PER_UNIT:
        change, weight = theirs[:, 0] - ours[:, 0], ours[:, 1]
    else:
        change = theirs - ours if metric in PERPLEXITIES else 100.0 * (ours - theirs)
    mean, error = float(change.sum() / weight.sum()), ratio_error(change.tolist(), weight.tolist())
    if metric in PERPLEXITIES:
        ratio = math.exp(min(mean, 700.0))
        return ratio, None if error is None else ratio * error
    if metric == "bits_per_byte":
        return mean / math.log(2), None if error is None else error / math.log(2)
    return mean, error


def _adds_up(task: of.TaskScores, metric: str) -> bool:
    """Whether a score is what `_difference` takes it for: of log-likelihoods per unit, or a mean of items."""
    items = np.asarray(task.per_item[metric], dtype=float)
    if metric in PER_UNIT or metric in PERPLEXITIES:
        return items.ndim == (2 if metric in PER_UNIT else 1)
    return items.ndim == 1 and math.isclose(items.mean(), task.metrics[metric].score.value, abs_tol=1e-4)


def _notes(
    runs: Mapping[str, of.TasksResult],
    tasks: Mapping[str, Mapping[str, of.TaskScores]],
    reference: str,
    cited: bool,
) -> tuple[str, ...]:
    versions = sorted({f"{run.harness.name} {run.harness.version}" for run in runs.values()})
    every = [(name, task, entry) for name, each in tasks.items() for task, entry in each.items()]
    notes = [
        f"Scored by {', '.join(versions)}, {weights(runs)}. Items: {', '.join(_items(tasks))}.",
        f"± is the standard error; differences and ratios are to {reference} on the same items, with their "
        "own.",
    ]
    contexts = names_by(runs, lambda run: f"{run.longest_context:,}")
    if len(contexts) > 1:
        notes.append(f"Contexts up to {_named(contexts)} tokens.")
    types = names_by({name: run for name, run in runs.items() if run.softmax}, lambda run: str(run.softmax))
    if len(types) > 1:
        notes.append(f"Softmax in {_named(types)}.")
    own = tasks[reference]
    if many := [name for name, run in runs.items() if run.chips is not None]:
        notes.append(f"Of the nominal chip: {', '.join(many)}.")
    unlike = [f"{task} of {name}" for name, task, entry in every
              if task in own and entry.fingerprint != own[task].fingerprint]  # fmt: skip
    if unlike:
        notes.append(f"No difference where the items are others than the reference's: {', '.join(unlike)}.")
    if cited:
        notes.append("Rows of GPT-2 are cited from the paper: full sets, WikiText-2 test split.")
    return tuple(notes)


def weights(runs: Mapping[str, of.TasksResult]) -> str:
    """In which type the weights were, and of which rows where rows differ."""
    rows = names_by(runs, lambda run: run.dtype or "a type not recorded")
    return f"weights in {next(iter(rows)) if len(rows) == 1 else _named(rows, ', in ')}"


def _named(rows: Mapping[str, Sequence[str]], between: str = ", ") -> str:
    return between.join(f"{what} ({', '.join(names)})" for what, names in rows.items())


def _items(tasks: Mapping[str, Mapping[str, of.TaskScores]]) -> Iterator[str]:
    """How many items of every task, and of which rows where rows differ."""
    rows: dict[str, dict[str, list[str]]] = {}
    for name, each in tasks.items():
        for task, entry in each.items():
            counts = rows.setdefault(task, {})
            counts.setdefault(f"{task} {entry.items:,} of {entry.of:,}", []).append(name)
    for counts in rows.values():
        yield next(iter(counts)) if len(counts) == 1 else _named(counts)


def names_by(results: Mapping[str, Item], said: Callable[[Item], str]) -> dict[str, list[str]]:
    """What is said of results -> their names."""
    named: dict[str, list[str]] = {}
    for name, one in results.items():
        named.setdefault(said(one), []).append(name)
    return named
