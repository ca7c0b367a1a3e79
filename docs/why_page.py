"""Write docs/why.md, which circuit to change next, from docs/results/why: `python docs/why_page.py`.

Files there: `fidelity-transfer.json` and `fidelity.json` (`gaincell fidelity`, after attention transfer and
at the end), `ablation.json`, and of arrays and software `repetition.json` and `repetition-software.json`
(`gaincell evaluate --by-repetition`); scores on LAMBADA are those of results/evaluation/all-items. The folder
`retrained` has trainings on the chip (base) and on chips with one change each.
Without them there is no page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean

from seeds import Runs, quotients, ratio_to, read_seeds, trials_markdown

from gaincell.costs.activity import Activity
from gaincell.costs.roll_up import of_model
from gaincell.costs.technology import load_technology
from gaincell.files import write_text
from gaincell.integrations.hf.size import model_size
from gaincell.mapping.recipe_file import load_recipe, parse_overrides
from gaincell.reports import evaluation, heads
from gaincell.reports.style import save
from gaincell.reports.tables import Rows, readable
from gaincell.results import read
from gaincell.results.comparison import Column, ComparedScore, compare
from gaincell.results.evaluation import (
    AblationResult,
    AblationRow,
    FidelityResult,
    RepetitionPoint,
    RepetitionResult,
    TasksResult,
)
from gaincell.results.run import TrainedResult
from gaincell.standard_error import paired_ratio, student

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "why"
ALL_ITEMS = RESULTS.parent / "evaluation" / "all-items"
SHOWN = ("error", "cosine", "pulses", "score ceiling", "tile ceiling", "tile zero", "output codes")
"""Columns of the heads' table: see evaluation/fidelity.py."""
NO_CIRCUIT = ("all quantisation", "tiling")
"""Rows of the ablation that stand for no single circuit."""
MOST_FORGOTTEN = 1.2
"""Times its error after transfer that a layer was to have at most in the end."""
ADAPTER = "adapters/smollm2-135m"
ACTIVITY = RESULTS.parent / "costs" / "activity-smollm2-135m.json"
COSTS = ("energy", "latency", "area")
BEHIND = (10, 6)
"""Points of accuracy on LAMBADA that the model was to be behind software at most, and if possible."""


def write_why(docs: Path) -> None:
    """The page and its figures."""
    if not (RESULTS / "ablation.json").exists():
        return
    before, after = (
        read(RESULTS / f"{name}.json", FidelityResult) for name in ("fidelity-transfer", "fidelity")
    )
    ablated = read(RESULTS / "ablation.json", AblationResult)
    arrays, software = (
        read(RESULTS / f"{name}.json", RepetitionResult) for name in ("repetition", "repetition-software")
    )
    save(heads.fidelity_figure(after), docs / "figures" / "why-heads.png")
    save(evaluation.ablation_figure(ablated), docs / "figures" / "why-constraints.png")
    assert ablated.design is not None
    apart = student(blocks_of(ablated))
    retrained = read_seeds(RESULTS / "retrained")
    wins = wins_of(retrained)
    write_text(
        docs / "why.md",
        PAGE.format(
            model=ablated.model.name,
            design=ablated.design.name,
            heads=of_heads(before, after),
            said_heads=said_of_heads(before, after),
            constraints=evaluation.ablation_rows(ablated).markdown(),
            said_constraints=said_of_constraints(ablated.ablation, apart),
            retrained=trials_markdown(retrained),
            said_retrained=f"{said_of_retrained(wins)} {beside_the_adapter(retrained)}",
            priced=priced(retrained),
            retrieval=of_retrieval(arrays, software),
            said_retrieval=said_of_retrieval(arrays, software),
            lambada=said_of_lambada(),
            concluded=concluded(ablated.ablation, apart, wins),
        ),
    )


def blocks_of(ablated: AblationResult) -> int:
    """Its blocks, of its protocol's words."""
    found = re.search(r"(\d+) non-overlapping blocks", ablated.provenance.protocol)
    assert found
    return int(found[1])


def of_heads(before: FidelityResult, after: FidelityResult) -> str:
    """A row a layer: the error after transfer, and all that is shown at the end, means over heads."""
    rows = []
    for layer, errors in enumerate(before.fidelity["error"]):
        ends = (f"{mean(after.fidelity[key][layer]):.3f}" for key in SHOWN)
        rows.append((str(layer), f"{mean(errors):.3f}", *ends))
    caption = f"{after.text.name}; {after.provenance.protocol}; means over the heads of a layer."
    return Rows("", ("layer", "error after transfer", *SHOWN), rows, caption, text=()).markdown()


def said_of_heads(before: FidelityResult, after: FidelityResult) -> str:
    """In how many heads the error fell, and what goes with a large one."""
    pairs = [
        pair
        for rows in zip(before.fidelity["error"], after.fidelity["error"], strict=True)
        for pair in zip(*rows, strict=True)
    ]
    fell = sum(b > a for b, a in pairs)
    errors = [a for _, a in pairs]
    found = {name: rank_correlation(errors, flat(after, name)) for name in SHOWN[2:]}
    found["q clipped"] = rank_correlation(errors, flat(after, "q clipped"))
    strongest = sorted(found.items(), key=lambda entry: -abs(entry[1]))[:3]
    said = ", ".join(f"{name} {value:+.2f}" for name, value in strongest)
    layers = zip(before.fidelity["error"], after.fidelity["error"], strict=True)
    above = sum(mean(b) > MOST_FORGOTTEN * mean(a) for a, b in layers)
    fate = f"fell in {fell}" if 2 * fell > len(pairs) else f"rose in {len(pairs) - fell}"
    return (
        f"From the end of attention transfer to the end of distillation the error {fate} of {len(pairs)} "
        f"heads (mean {mean(b for b, _ in pairs):.3f} to {mean(errors):.3f}), and in {above} of "
        f"{len(after.fidelity['error'])} layers by more than a factor of {MOST_FORGOTTEN:g}, the most that "
        "was aimed at for a layer's output (here the mean of its heads' errors): the whole model is then "
        f"fitted, not each head. Over the heads, its strongest rank correlations at the end are: {said}."
    )


def flat(result: FidelityResult, name: str) -> list[float]:
    """One number of all heads."""
    return [x for row in result.fidelity[name] for x in row]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's; 0 where one of both does not vary."""
    from scipy.stats import spearmanr

    if len(set(first)) == 1 or len(set(second)) == 1:
        return 0.0
    return float(spearmanr(first, second).statistic)


def said_of_constraints(rows: Sequence[AblationRow], errors: float) -> str:
    """Which constraints the model would be better without, and which it was trained to need: all but tiling,
    in whose place another comes.
    """
    off = [row for row in rows if row.kind == "off" and row.name != "tiling"][1:]

    def named(chosen: Callable[[AblationRow], bool]) -> str:
        found = sorted((row for row in off if row.exercised and chosen(row)), key=lambda row: row.ratio)
        return ", ".join(f"{row.name} (× {row.ratio:.3f})" for row in found) or "none"

    def apart(row: AblationRow) -> float:
        return (row.ratio - 1) / row.ratio_error if row.ratio_error else 0.0

    return (
        f"Told apart by {errors:.2f} standard errors (95 %, by the number of blocks), the model is better "
        f"without: {named(lambda row: apart(row) < -errors)}; worse without, having been trained with it: "
        f"{named(lambda row: apart(row) > errors)}; not told apart: "
        f"{named(lambda row: abs(apart(row)) <= errors)}.{_all_lifted(rows)}"
    )


def _all_lifted(rows: Sequence[AblationRow]) -> str:
    """What follows from the perplexity with all constraints and without any."""
    at = {row.name: row.perplexity for row in rows}
    if "free" not in at:
        return ""
    free, chip = readable(at["free"]), readable(at["chip"])
    said = f" With none of them the perplexity is {free}, with all of them {chip}"
    if at["free"] > 0.98 * at["chip"]:
        said += ": without training again, lifting all of them wins nothing back"
    return f"{said}."


def wins_of(trials: Mapping[str, Runs]) -> dict[str, tuple[float, float]]:
    """Of every change of the chip: perplexity of the model trained on with it over that of the model trained
    on as much on the chip as it is, on the same blocks, and 95 % of its error.
    """
    found = {}
    for name, runs in trials.items():
        last = runs[0].stages[-1]
        against = None if name == "base" else ratio_to(runs, trials["base"], last.name)
        if against is not None:
            ratio, error = against
            assert last.blocks is not None
            assert error is not None
            found[changed(runs[0])] = ratio, student(len(last.blocks.nll)) * error
    return found


def changed(run: TrainedResult) -> str:
    """What was set of its chip."""
    keys = [key for key in run.set if key.startswith("design.")]
    return ", ".join(f"{key.removeprefix('design.')} = {run.set[key]}" for key in keys)


def priced(trials: Mapping[str, Runs]) -> str:
    """Energy, latency and area of the attention of a token on every changed chip with converters that can be
    built, over those of the chip as it is.
    """
    size, activity = model_size(str(ROOT / ADAPTER)), Activity.read(ACTIVITY)

    def costs(run: TrainedResult) -> tuple[float, float, float]:
        changes = [f"{key}={value}" for key, value in run.set.items() if key.startswith("design.")]
        chip = load_recipe(ROOT / "recipes" / run.recipe, changes=parse_overrides(changes)).design
        if chip.replace(layers=size.layers).hash != run.design.hash:
            raise ValueError(f"{run.recipe} with {changes} is another chip than that of the result")
        found = of_model(size, chip, load_technology("28nm"), activity)
        return found.energy_bottom_up, found.latency[1], found.area[1]

    base, said = costs(trials["base"][0]), []
    for name, runs in trials.items():
        what = changed(runs[0])
        if name != "base" and "= none" not in what and "cell = " not in what:
            compared = zip(COSTS, costs(runs[0]), base, strict=True)
            said.append(f"{what}: {', '.join(f'{of} × {own / other:.2f}' for of, own, other in compared)}")
    return (
        "What such a change costs the attention of a token (bottom-up, 28nm, activity of the adapter on the "
        f"chip as it is; simulated): {'; '.join(said)}. The others cannot be built."
    )


def said_of_retrained(wins: Mapping[str, tuple[float, float]]) -> str:
    """With which changes a model that is trained on is better, and worse."""

    def named(chosen: Callable[[float, float], bool]) -> str:
        found = sorted((*numbers, name) for name, numbers in wins.items() if chosen(*numbers))
        return ", ".join(f"{name} (× {ratio:.3f} ± {within:.3f})" for ratio, within, name in found) or "none"

    return (
        f"Better with the change, after that training: {named(lambda ratio, within: ratio < 1 - within)}; "
        f"worse: {named(lambda ratio, within: ratio > 1 + within)}; not told apart: "
        f"{named(lambda ratio, within: abs(ratio - 1) <= within)} (±: 95 %, over blocks; of one seed each)."
    )


def beside_the_adapter(trials: Mapping[str, Runs]) -> str:
    """What the training alone does to the shipped adapter, and which changes beat leaving it as it is.

    Raises:
        ValueError: the adapter was evaluated on other blocks.
    """
    adapter = read(ROOT / ADAPTER, TrainedResult)
    own = adapter.saved_stage.blocks
    assert own is not None
    found = {}
    for run in (runs[0] for runs in trials.values()):
        theirs = run.stages[-1].blocks
        assert theirs is not None
        text = {one.provenance.inputs["evaluation text"] for one in (adapter, run)}
        if len(text) > 1 or theirs.predictions != own.predictions:
            raise ValueError("the shipped adapter and a model trained on were evaluated on different blocks")
        ratio, error = paired_ratio(theirs.nll, own.nll, own.predictions)
        assert error is not None
        found[changed(run) or "nothing"] = ratio, student(len(own.nll)) * error
    told = {name: f"× {ratio:.3f} ± {within:.3f}" for name, (ratio, within) in found.items()}
    below = [f"{name} ({told[name]})" for name, (ratio, within) in found.items() if ratio < 1 - within]
    (over,) = quotients([adapter], adapter.saved_stage.name, None)
    return (
        f"The shipped adapter as it is has × {over:.3f} of software on the same blocks. Trained on without a "
        f"change, with rates that rise anew and no hidden states in its loss, it has {told['nothing']} of "
        f"that perplexity. Better than left alone: {', '.join(below) or 'none'}."
    )


def of_retrieval(arrays: RepetitionResult, software: RepetitionResult) -> str:
    """Perplexities in software and in arrays by kind of token, and their ratio, paired by block."""
    rows = [
        (ours.kind, readable(theirs.perplexity), readable(ours.perplexity), f"{ratio:.3f} ± {error:.3f}")
        for ours, theirs, ratio, error in _by_kind(arrays, software)
    ]
    headings = ("tokens", "perplexity in software", "perplexity in arrays", "ratio")
    return Rows("", headings, rows, f"{arrays.text.name}; {arrays.provenance.protocol}.").markdown()


def said_of_retrieval(arrays: RepetitionResult, software: RepetitionResult) -> str:
    """Which kinds of tokens lose something."""
    errors = student(len(arrays.repetition[0].sums))
    found = [(ours.kind, ratio - errors * error > 1) for ours, _, ratio, error in _by_kind(arrays, software)]
    worse, others = (", ".join(kind for kind, loses in found if loses is which) for which in (True, False))
    return (
        f"Worse than in software by more than {errors:.2f} standard errors (95 %): {worse or 'none'}; "
        f"not so: {others or 'none'}."
    )


def _by_kind(
    arrays: RepetitionResult, software: RepetitionResult
) -> Iterator[tuple[RepetitionPoint, RepetitionPoint, float, float]]:
    """Of a kind of token what both have, and the ratio of perplexities, paired by block, with its error."""
    for ours, theirs in zip(arrays.repetition, software.repetition, strict=True):
        ratio, error = paired_ratio(ours.sums, theirs.sums, [float(n) for n in ours.counts])
        assert error is not None
        yield ours, theirs, ratio, error


def on_lambada(
    arrays: Path = ALL_ITEMS / "smollm2-leroux2025-rotated.json",
    software: Path = ALL_ITEMS / "smollm2-software.json",
) -> tuple[int, Mapping[Column, ComparedScore]]:
    """Items, and the arrays' scores on them beside software's."""
    runs = {"software": read(software, TasksResult), "arrays": read(arrays, TasksResult)}
    items = next(task.items for task in runs["arrays"].tasks if task.task == "lambada_openai")
    return items, compare(runs, "software").scores("arrays")


def said_of_lambada() -> str:
    """How many points of accuracy the last word of a passage loses, of all items and of the tables'."""
    items, scores = on_lambada()
    score, _, behind, error = scores["lambada_openai/acc"].numbers
    assert behind is not None
    assert error is not None
    limits = zip(BEHIND, ("{} at most", "if possible {}"), strict=True)
    aims = "; ".join(f"{aim.format(n)}, {'met' if -behind <= n else '**missed**'}" for n, aim in limits)
    tables = RESULTS.parent / "evaluation" / "tasks"
    fewer, of_fewer = on_lambada(tables / "smollm2-leroux2025.json", tables / "smollm2-software.json")
    _, _, less, its_error = of_fewer["lambada_openai/acc"].numbers
    assert less is not None
    return (
        f"The last word of a passage (LAMBADA, which needs its context) is right in {score:.1f} % of "
        f"{items:,} items, {-behind:.1f} ± {error:.1f} points fewer than in software (aims: {aims}); "
        f"on the {fewer:,} of them in the table of [all tasks](evaluation.md) it is {-less:.1f} ± "
        f"{its_error:.1f}."
    )


def concluded(rows: Sequence[AblationRow], errors: float, wins: Mapping[str, tuple[float, float]]) -> str:
    """What costs most where nothing else does, with what lifting it from the chip does; what wins alone, as
    the model was trained and trained on.
    """
    told = [row for row in rows if row.ratio_error and row.exercised and row.name not in NO_CIRCUIT]
    costly = [row for row in told if row.kind == "on" and row.ratio - 1 > errors * (row.ratio_error or 0)]
    off = {row.name: row.ratio for row in rows if row.kind == "off"}
    lifted = [row for row in told if row.kind == "off" and 1 - row.ratio > errors * (row.ratio_error or 0)]
    first = ", ".join(
        f"{row.name} (× {row.ratio:.3f}; lifted from the chip × {off[row.name]:.3f})"
        for row in sorted(costly, key=lambda row: -row.ratio)
    )
    won = ", ".join(f"{row.name} (× {row.ratio:.3f})" for row in sorted(lifted, key=lambda row: row.ratio))
    best = [
        f"{name} (× {ratio:.3f})"
        for name, (ratio, within) in sorted(wins.items(), key=lambda win: win[1])
        if ratio < 1 - within
    ]
    return (
        f"In this order: {', '.join(best) or 'none alone'} (× the perplexity of the "
        "model trained on as briefly on the chip as it is). Above stands what those that can be built "
        "cost. Lifted from the model without training it again, these win "
        f"something: {won or 'none'}. Imposed on it with no other constraint, for which it was not trained, "
        f"these cost it something: {first or 'none'}."
    )


PAGE = """# Which circuit to change next

For a circuit designer: what each constraint of the chip does to the converted model as it was trained, and
where. The model is {model} on `{design}` with the shipped adapter, which
`recipes/low-tokens.toml` made (RUN), and `recipes/low-tokens-further.toml` and
`recipes/low-tokens-longer.toml` trained further (LONGER). All add
[balanced rows and more](training.md#what-a-recipe-can-add-to-the-mapping) to the paper's
mapping. Simulated; only [one table](#trained-on-with-one-change) is of models that were trained again.

Written by `docs/why_page.py` from `docs/results/why`, the last two from `docs/results/evaluation/all-items`:

    gaincell fidelity RUN --stage transfer --json fidelity-transfer.json
    gaincell fidelity LONGER --json fidelity.json
    gaincell ablate LONGER --limit 32768 --json ablation.json
    gaincell evaluate LONGER --by-repetition --limit 32768 --json repetition.json
    gaincell evaluate {model} --by-repetition --limit 32768 --json repetition-software.json
    gaincell evaluate LONGER --tasks paper --data eval/ --dtype bfloat16 --json all.json
    gaincell evaluate {model} --tasks paper --data eval/ --dtype bfloat16 --json all-software.json

eval/ holds a random half of LAMBADA's items ([evaluation.md](evaluation.md)); without `--data` all are
downloaded.

## Head by head

Every head gets the hidden states of the pretrained model; its output is compared with that of softmax
attention (`error`: squared, relative). `pulses`: share of columns that give a pulse. Ceilings: shares of
pulses and sub-tile outputs that are clipped. `tile zero`: share of sub-tile outputs that count as zero.
`output codes`: how many codes the sub-tile outputs use in effect (exp of their entropy), as a share of all.

{said_heads} Both errors are upper bounds: transfer and distillation train the projections around the
arrays, so a head's output may have turned in its own space.

{heads}

![Every head](figures/why-heads.png)

## Constraint by constraint

One constraint at a time is lifted while the others stay; then one at a time is imposed on arrays without any.
*Tiling* cannot be lifted in the same sense: in its row, one converter with the range and codes of a
sub-tile's reads all columns of the ring at once, so another constraint takes its place. Where rows have other
cells, b of the balanced rows, which belongs to a cell, is set anew from the first block; nothing else is.

{said_constraints}

{constraints}

![Ratios of perplexity](figures/why-constraints.png)

The model was trained with all of them, and its gains fit them: a ratio near 1 or above says that this model
does not need the constraint lifted, not what training without it would give.

## Trained on with one change

{said_retrained}

{retrained}

{priced}

All go on from the shipped adapter, on the same blocks in the same order, which it has learnt from before, and
are evaluated on held-out text like those (tables above: `sample`):

    gaincell train recipes/low-tokens-longer.toml --text DIRECTORY --out RETRAINED --only longer \\
        --set seed=3 --set training.batch=2 --set training.warmup_steps=4 \\
        --set stage.longer.steps=24 --set stage.longer.states=0

and what the table says is set. Their gains begin where those of the chip as it is ended, and few tokens
follow: this is what a model wins soon, not what one made for such a chip from the start would.

## What is found again

Perplexity of tokens that, with the token before them, form a pair already met in the block (`seen`), of the
others (`new`), and of half a block that is given twice (`repeated`):

{retrieval}

{said_retrieval} Software is as pretrained, while the arrays learned books and
government web, most of this sample's text, so losses are probably larger than these ratios; no software model
trained alike was scored here. Which constraint causes them was not tested.
{lambada}

## What to change

{concluded} Heads that were not trained at all lose most by the
[counters](experiments.md#what-the-error-of-an-untrained-head-is-made-of). For `tiny`,
[sweeps.md](sweeps.md) has trainings with other circuits.
"""


if __name__ == "__main__":
    write_why(ROOT / "docs")
