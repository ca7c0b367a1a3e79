"""One recipe run with several seeds: means and their spread in place of single runs.

NAME.json and NAME.seedN.json are the run.json of one recipe. A run without all stages counts where it has
them. Of n runs the table shows the mean and the standard deviation (of a sample, n - 1); of one its number
alone, which says nothing about seeds.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recorded_recipes import today

from gaincell.reports.tables import Rows, number_and_error, readable
from gaincell.results import read
from gaincell.results.run import StageResult, TrainedResult
from gaincell.standard_error import paired_ratio

_NAME = re.compile(r"(?P<recipe>.+?)(?:\.seed\d+)?")
APART = 2
"""Standard errors from which on two recipes are told apart."""
AGAIN = 0.007
"""By how much one recipe run twice with one seed differed (docs/experiments.md): less is no difference."""
TITLES = {"one slab in bfloat16": "one age per block, bfloat16"}
"""What recipes called a stage when it was run -> what they call it now."""
FREE = ("seed", "model.run")
"""What seeds of one recipe may set."""
SHOWN: Mapping[str, Callable[[StageResult], float | None]] = {
    "perplexity": lambda stage: stage.perplexity,
    "× software": lambda stage: stage.ratio_to_software,
    "× compared": lambda stage: stage.ratio_to_continued,
}
Runs = Sequence[TrainedResult]


def read_seeds(folder: Path) -> dict[str, list[TrainedResult]]:
    """All results in a folder by the name of their recipe, the first run first.

    Raises:
        ValueError: runs of one name are not the same but for their seed.
    """
    found: dict[str, list[TrainedResult]] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
        parts = _NAME.fullmatch(path.stem)
        assert parts is not None
        found.setdefault(parts["recipe"], []).append(read(path, TrainedResult))
    for name, runs in found.items():
        check_seeds(runs, name)
    return found


def check_seeds(runs: Runs, name: str) -> None:
    """Raise ValueError unless runs differ in their seed alone: in nothing they were begun with, and in the
    pretrained model neither.
    """
    alike = [_alike(run) for run in runs]
    odd = next((key for key in alike[0] for one in alike if one[key] != alike[0][key]), None)
    if odd is not None:
        raise ValueError(f"runs of {name} differ in {odd}; seeds of one recipe differ in their seed alone")
    seeds = [run.provenance.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"runs of {name} have the seeds {seeds}; give each once")


def _alike(run: TrainedResult) -> dict[str, Any]:
    return {
        "recipe": today(run.recipe)[0],
        "what was set": _set(run),
        "design": run.design.hash,
        "pretrained model": run.model.sha256,
        "text": run.provenance.inputs,
        "protocol": run.provenance.protocol,
    }


def _set(run: TrainedResult) -> dict[str, str]:
    """What was set otherwise than in today's recipe, and is the same for all seeds."""
    recorded = {key: text for key, _, text in (change.partition("=") for change in today(run.recipe)[1])}
    return recorded | {key: text for key, text in run.set.items() if key not in FREE}


def seeds_markdown(columns: Mapping[str, Runs]) -> str:
    """A table of stages, with the runs of one recipe under every title; an empty title is left out."""
    shown = {
        title: [
            name
            for name, get in SHOWN.items()
            if any(get(stage) is not None for run in runs for stage in run.stages)
        ]
        for title, runs in columns.items()
    }
    heads = [
        f"{title}: {name}" if title else name for title, keys in shown.items() for name in (*keys, "runs")
    ]
    stages = {stage.name: stage for runs in columns.values() for run in runs for stage in run.stages}
    lines = []
    for name, stage in stages.items():
        cells = [
            TITLES.get(stage.title, stage.title),
            f"{stage.training_tokens:,}" if stage.training_tokens else "–",
        ]
        for title, runs in columns.items():
            found = [entry for run in runs for entry in run.stages if entry.name == name]
            for key in shown[title]:
                cells.append(spread([x for entry in found if (x := SHOWN[key](entry)) is not None]))
            cells.append({0: "–", 1: "a single run"}.get(len(found), str(len(found))))
        lines.append(cells)
    return Rows("", ["stage", "tokens", *heads], lines, _caption(columns)).markdown()


def trials_markdown(trials: Mapping[str, Runs]) -> str:
    """A table of one recipe as it is and with other values, a row each: every stage in arrays, × software.

    trials: runs that differ in their seed alone, each. Those of "base" are the recipe as it is; what was set
    in it stands below the table. A row whose changes are another's and more is compared with that one, too.
    """
    base = trials["base"]
    first, common = base[0], _set(base[0])
    changes = {name: _changes(runs[0], common) for name, runs in trials.items()}
    stages = [stage for stage in first.stages if not stage.name.startswith("software")]
    last = stages[-1]
    heads = ["what is set", *(f"{stage.title}, × software" for stage in stages)]
    heads += [f"{last.title}, × nothing set", "seeds"]
    lines, alike, besides = [], [], []
    for name in sorted(trials, key=lambda name: len(changes[name])):
        runs, own = trials[name], changes[name]
        cells = [spread(quotients(runs, stage.name, None)) for stage in stages]
        against = ratio_to(runs, base, last.name) if own else None
        cells.append(_ratio(against))
        if against and against[1] is not None and abs(against[0] - 1) < max(APART * against[1], AGAIN):
            alike.append(_told(own))
        seeds = sorted(run.provenance.seed for run in runs)
        lines.append([_told(own), *cells, ", ".join(map(str, seeds))])
        besides += [
            f"{_told(own)} is × {_ratio(ratio)} of {_told(less)}"
            for part, less in changes.items()
            if {} != less != own
            and less.items() <= own.items()
            and (ratio := ratio_to(runs, trials[part], last.name))
        ]
    tokens = ", ".join(f"{stage.training_tokens:,} ({stage.title})" for stage in stages)
    most = max(len(runs) for runs in trials.values())
    about = (
        f"`recipes/{today(first.recipe)[0]}` with {_told(common, 'nothing else')}; tokens {tokens}; "
        f"{first.provenance.protocol}; software {readable(first.software)}. × software: mean ± standard "
        "deviation over seeds. "
        "× nothing set: with the same seeds on the same blocks, ± standard error over blocks, which does not "
        f"include what another seed changes{'' if most > 1 else '; none was tried'}."
        + (
            f" Less than {APART:g} of these errors, or {100 * AGAIN:.1f} %, from nothing set: "
            f"{'; '.join(alike)}."
            if alike
            else ""
        )
        + "".join(f" Last stage: {one}." for one in besides)
    )
    return Rows("", heads, lines, about).markdown()


def _changes(run: TrainedResult, common: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in _set(run).items() if common.get(key) != value}


def _told(values: Mapping[str, str], nothing: str = "nothing") -> str:
    return ", ".join(f"`{key} = {value}`" for key, value in values.items()) or nothing


def ratio_to(runs: Runs, others: Runs, stage: str) -> tuple[float, float | None] | None:
    """Ratio of perplexities of a stage on the same blocks with its error, over the seeds that both have; None
    without any.
    """
    losses = [
        {run.provenance.seed: found.blocks for run in some if (found := run.stage(stage)) and found.blocks}
        for some in (runs, others)
    ]
    shared = [(own, other) for seed, own in losses[0].items() if (other := losses[1].get(seed))]
    if not shared:
        return None
    sums = [[math.fsum(of) for of in zip(*(pair[n].nll for pair in shared), strict=True)] for n in (0, 1)]
    weights = [len(shared) * count for count in shared[0][0].predictions]
    return paired_ratio(*sums, weights)


def _ratio(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "–"
    ratio, error = found
    return f"{ratio:.3f}" if error is None else " ± ".join(number_and_error(ratio, error))


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation; one value as it is."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.3f}" if values[0] < 10 else readable(values[0])
    return " ± ".join(number_and_error(statistics.fmean(values), statistics.stdev(values)))


def quotients(runs: Runs, of: str, to: str | None) -> list[float]:
    """Perplexity of a stage over that of another, None: of the software model, of every run that has both."""
    found = []
    for run in runs:
        score = {stage.name: stage.perplexity for stage in run.stages}
        base = run.software if to is None else score.get(to)
        if of in score and base is not None:
            found.append(score[of] / base)
    return found


def _caption(columns: Mapping[str, Runs]) -> str:
    first = [runs[0] for runs in columns.values()]
    software = "; ".join(
        f"software{f' ({title})' if title else ''} {readable(run.software)}"
        for title, run in zip(columns, first, strict=True)
    )
    chips = ", ".join(dict.fromkeys(run.design.name for run in first))
    return (
        f"{chips}; {first[0].provenance.protocol}; {software}. Mean ± standard deviation over seeds; "
        "they share the pretrained model. A single run has no ±; its error over blocks "
        "stands in its result."
    )
