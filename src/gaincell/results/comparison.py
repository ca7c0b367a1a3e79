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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from gaincell.errors import RunError
from gaincell.results import evaluation as of
from gaincell.results.codec import Kind
from gaincell.results.common import Part, Result, Value
from gaincell.results.provenance import made
from gaincell.standard_error import PER_UNIT, ratio_error

Item = TypeVar("Item")
Column: TypeAlias = str
"""task/metric."""
PERPLEXITIES = ("perplexity", "word_perplexity", "byte_perplexity")
NAMES = {"wikitext2": "wikitext"}
"""One task under two names."""
HEADINGS: Mapping[Column, str] = {
    "arc_easy/acc": "ARC-E",
    "arc_challenge/acc_norm": "ARC-C",
    "winogrande/acc": "WinoGrande",
    "hellaswag/acc_norm": "HellaSwag",
    "lambada_openai/perplexity": "LAMBADA ppl",
    "lambada_openai/acc": "LAMBADA acc",
    "piqa/acc": "PIQA",
    "wikitext/word_perplexity": "WikiText-2 ppl",
}
"""The paper's columns. Of other tasks all metrics are shown."""


class ComparedScore(of.Metric):
    """A score beside that of the reference; accuracies in %.

    Attributes:
        difference: To the reference, on the same items; points of an accuracy, the ratio of perplexities.
        difference_error: Its standard error.
    """

    difference: Value | None = None
    difference_error: Value | None = None

    @property
    def numbers(self) -> tuple[float, float | None, float | None, float | None]:
        """Score, error, difference and its error."""
        others = (self.error, self.difference, self.difference_error)
        error, difference, its_error = (None if x is None else x.value for x in others)
        return self.score.value, error, difference, its_error


class ComparedModel(Part):
    """The scores of one model."""

    name: str
    entries: Mapping[Column, ComparedScore]

    @property
    def cited(self) -> bool:
        """Whether the row is from the literature."""
        return bool(self.entries) and all(entry.score.kind == "cited" for entry in self.entries.values())


class Comparison(Part, kw_only=True):
    """Several evaluations side by side.

    Attributes:
        reference: Name of the model that the others are compared to.
        notes: What a reader has to know.
    """

    reference: str
    rows: tuple[ComparedModel, ...]
    notes: tuple[str, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of all rows."""
        return _in_order([column for row in self.rows for column in row.entries])

    def scores(self, name: str) -> Mapping[Column, ComparedScore]:
        """The row of a model."""
        return next(row.entries for row in self.rows if row.name == name)


class ComparisonResult(Comparison, Result, kw_only=True, command="table"):
    """Of `gaincell table`."""


def compare(
    runs: Mapping[str, of.TasksResult],
    reference: str | None = None,
    cited: Mapping[str, Mapping[Column, ComparedScore]] = MappingProxyType({}),
) -> Comparison:
    """Put results of `gaincell evaluate --tasks` beside one another and compare them to one, by default the
    first; cited rows of the literature come below.

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
    scored = (one for each in tasks.values() for one in each.items())
    columns = _in_order([f"{task}/{metric}" for task, entry in scored for metric in entry.metrics])
    rows = []
    for name, each in tasks.items():
        theirs, entries = {} if name == reference else tasks[reference], {}
        for column in columns:
            task, metric = task_and_metric(column)
            if task in each and metric in each[task].metrics:
                entries[column] = _score(each[task], metric, runs[name].numbers, theirs.get(task))
        rows.append(ComparedModel(name, entries))
    rows += [ComparedModel(name, {c: row[c] for c in columns if c in row}) for name, row in cited.items()]
    notes = _notes(runs, tasks, reference, bool(cited))
    return Comparison(reference=reference, rows=tuple(rows), notes=notes)


def comparison_result(
    found: Comparison, runs: Mapping[str, of.TasksResult], command: Sequence[str]
) -> ComparisonResult:
    """For a file: how it came about."""
    inputs: dict[str, str] = {}
    for name, run in runs.items():
        if run.design is not None:
            inputs[f"design of {name}"] = run.design.hash
        inputs[f"model of {name}"] = run.model.sha256
    protocol = "; ".join(f"{name}: {run.provenance.protocol}" for name, run in runs.items())
    provenance = made(command=command, seed=0, protocol=protocol, inputs=inputs)
    return ComparisonResult(provenance=provenance, **vars(found))


def task_and_metric(column: Column) -> tuple[str, str]:
    """Both parts of a column."""
    task, _, metric = column.rpartition("/")
    return task, metric


def unit_of(metric: str) -> str:
    """Of the numbers of a metric in the table; accuracies and their like are in %."""
    others = {"bits_per_byte": "bit/byte", "likelihood_diff": "nat"}
    return "1" if metric in PERPLEXITIES else others.get(metric, "%")


def _in_order(found: Collection[Column]) -> tuple[Column, ...]:
    """Those of the paper first, then all of other tasks."""
    tasks = {task_and_metric(column)[0] for column in HEADINGS}
    others = (column for column in found if task_and_metric(column)[0] not in tasks)
    return (*(column for column in HEADINGS if column in found), *dict.fromkeys(others))


def _score(task: of.TaskScores, metric: str, kind: Kind, reference: of.TaskScores | None) -> ComparedScore:
    found, unit = task.metrics[metric], unit_of(metric)
    scale = 100.0 if unit == "%" else 1.0
    error = None if found.error is None else found.error.value * scale
    numbers = (found.score.value * scale, error, *_difference(task, reference, metric))
    return ComparedScore(*(None if x is None else Value(x, unit, kind) for x in numbers))  # type: ignore[arg-type]


def _difference(
    task: of.TaskScores, reference: of.TaskScores | None, metric: str
) -> tuple[float | None, float | None]:
    """To the reference, on the same items: a ratio of perplexities, points of accuracies, bits; its standard
    error, which that of a single item lacks. Neither of other items, nor of a score that is no mean of its
    items (f1).
    """
    import numpy as np

    if reference is None or reference.fingerprint != task.fingerprint or metric not in reference.per_item:
        return None, None
    ours, theirs = (np.asarray(t.per_item[metric], dtype=float) for t in (task, reference))
    if ours.shape != theirs.shape or not (_adds_up(task, metric) and _adds_up(reference, metric)):
        return None, None
    weight = np.ones(len(ours))
    if metric in PER_UNIT:
        change, weight = theirs[:, 0] - ours[:, 0], ours[:, 1]
    else:
        scale = 100.0 if unit_of(metric) == "%" else 1.0
        change = theirs - ours if metric in PERPLEXITIES else scale * (ours - theirs)
    mean, error = float(change.sum() / weight.sum()), ratio_error(change.tolist(), weight.tolist())
    if metric in PERPLEXITIES:
        ratio = math.exp(min(mean, 700.0))
        return ratio, None if error is None else ratio * error
    if metric == "bits_per_byte":
        return mean / math.log(2), None if error is None else error / math.log(2)
    return mean, error


def _adds_up(task: of.TaskScores, metric: str) -> bool:
    """Whether a score is what `_difference` takes it for: of log-likelihoods per unit, or a mean of items."""
    items = task.per_item[metric]
    single = [item for item in items if isinstance(item, float)]
    if metric in PER_UNIT:
        return not single
    if not single or len(single) < len(items) or metric in PERPLEXITIES:
        return len(single) == len(items)
    return math.isclose(fmean(single), task.metrics[metric].score.value, abs_tol=1e-4)


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
