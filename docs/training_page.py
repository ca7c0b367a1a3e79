"""The tables and figures of docs/training.md, from docs/results/training."""
# ruff: noqa: E501 (sentences of the page)

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import conversions
import recorded_recipes
import seeds
import token_curve
import tokens_page
from reproduction_circuits import uncommitted
from transformers import AutoConfig

from gaincell.mapping.recipe import ModelRecipe
from gaincell.reports import tables, training
from gaincell.reports.style import save
from gaincell.reports.tables import Rows
from gaincell.results.run import TrainedResult

ARCHITECTURES = {"small-gpt2": "GPT-2", "small-llama": "Llama"}
TARGETS = (
    ("adapted", "linear", "nonlinear, adapted, against linear hardware", 1.10),
    ("fine-tuned", None, "nonlinear, fine-tuned, against the pretrained model", 1.07),
    ("fine-tuned-longer", None, "nonlinear, fine-tuned longer, against the pretrained model", 1.07),
)
"""Stage, what its perplexity is divided by, in words, and the most that was aimed at before the runs."""
CONTINUED_LONGER = "software-continued-longer"
"""The stage that shows whether pretraining ended at its plateau."""
SECTIONS = {
    "gradients": """## Cheaper gradients of the cells

The forward pass is the same in every row; only the gradient of the cells differs (`gradient` of a stage):
exact, in bfloat16 with one age of a cell per block of queries, or that of linear cells. `recipes/gradients.toml` converts the embedded model
straight to the paper's chip, on the same tokens for each, by distillation from itself in software.

""",
    "smollm2-paper": """## The paper's pipeline on SmolLM2-135M

`recipes/smollm2-paper.toml` has the paper's stages and arrays, without paired rows or mixing. It departs from
the paper in training an adapter of rank 14 in place of all weights, in using a teacher, in first gains chosen
among candidates and attention transfer, in one sequence a step, no weight decay and repeated passages in the
text, in adapting in closed form, and in the readout (`counter`, where the released code has `published-code`).
On WikiText-2 the same model is further from software than on its own mixture
([below](#a-pretrained-model-against-the-tokens-of-its-conversion)). The software model with the same adapter, loss and number of tokens is
`recipes/low-tokens-control.toml`; its shares of the texts and its learning rate are others, so it is no exact
control.

""",
}
"""What stands before the tables of results that may not be there yet."""
OFF = {"bf16": "one age per block, bfloat16", "surrogate": "linear surrogate"}
"""Gradients of benchmarks/gradients.py, in the words of the recipe."""
AIMED = {
    "leroux2025-rotated": {1.0: (1.60, 1.45), 3.0: (1.42, 1.32), 10.0: (1.28, 1.22)},
    "leroux2025-states": {1.0: (1.60, 1.45)},
    "leroux2025-extended-fitted": {3.0: (1.22, 1.17)},
}
"""Chip -> millions of tokens -> the most over software that was aimed at, stated before, and if possible."""
IDEAS = f"""## What parts of a conversion give

Every row of a table has the same recipe, text and tokens with one part changed, on held-out text of the same
mixture; bias vectors cannot be left out alone, for the normaliser needs them. Not tried one by one: the range
of first output gains, a longer transfer. [Experiments](experiments.md) has other rates. Run twice with the same
seed, one recipe ended {100 * seeds.AGAIN:.1f} % apart ([experiments](experiments.md#what-the-error-of-an-untrained-head-is-made-of)):
a smaller difference of single runs is no effect of its part, whatever its ±.

"""


def token_points(chip: str) -> list[token_curve.TokenPoint]:
    """The trainings of SmolLM2-135M on a chip."""
    known = tokens_page.trainings(tokens_page.TOKENS / chip)
    controls = ("software-continued", "software-distilled")
    return token_curve.points(
        [(one.run, one.tasks, one.software, *(one.controls.get(name) for name in controls)) for one in known]
    )


def aims(chip: str, points: Sequence[token_curve.TokenPoint]) -> str:
    """What became of what was aimed at."""
    told = []
    for million, limits in AIMED.get(chip, {}).items():
        ratio = min(points, key=lambda point: abs(point.tokens - million * 1e6)).ratio
        words = [f"× {limit:.2f} ({'met' if ratio <= limit else '**missed**'})" for limit in limits]
        told.append(f"{words[0]}, if possible {words[1]}, after {million:g} M tokens")
    return f"\nAimed at beforehand: {'; '.join(told)}.\n" if told else ""


def control_sentence(adapter: TrainedResult) -> str:
    """What the loss of an included adapter makes of the software model, if that was trained for its chip, and
    what differs: tokens, rate, hidden states in the loss.
    """
    chip, name = adapter.design.name, "software-distilled"
    folders = [tokens_page.trainings(folder) for folder in sorted(tokens_page.TOKENS.glob("*/"))]
    known = [one for found in folders for one in found if one.run.design.name == chip]
    there = [one for one in known if name in one.controls]
    if not there:
        return ""
    last = max(there, key=_tokens)
    control = last.controls[name]
    _, (ratio, error) = token_curve.compared(control, last.software)
    tokens, own = _tokens(last), next(of for of in folders if any(one.run == adapter for one in of))
    begun = next(one for one in own if _tokens(one) == tokens)
    ranks = [one.lora.rank for one in (tokens_page.recipe_with(name, last), begun.recipe) if one.lora]
    rates = [
        recipe.stage(stage).training.learning_rate
        for recipe, stage in (
            (tokens_page.recipe_with(name, last), name),
            (begun.recipe, begun.run.saved_stage.name),
        )
    ]
    trained = {one.name: one.training_tokens or 0.0 for one in begun.run.stages}
    first = trained.get("transfer", 0.0)
    more, states = _tokens(own[-1]) - tokens, own[-1].recipe.stage(own[-1].run.saved_stage.name).states
    after = f", and then from {more:,.0f} more{' with hidden states in its loss' if states else ''}"
    return (
        f" Control for `{chip}`: the software model with an adapter of rank {ranks[0]} (the included one: {ranks[1]}), trained by "
        f"distillation and cross-entropy on {tokens:,.0f} tokens at a learning rate of {rates[0]:g}, is at × {ratio:.3f} ± "
        f"{error:.3f} (weights in {control.dtype}): it learns the text, too. It is no exact control: the "
        f"included adapter had {first:,.0f} of these tokens in attention transfer, the others in "
        f"distillation at {rates[1]:g}{after if more else ''}."
    )


def _tokens(one: tokens_page.Training) -> float:
    return token_curve.tokens_of(one.run, one.tasks)


def small_models(found: Mapping[str, list[TrainedResult]]) -> dict[str, list[TrainedResult]]:
    """Those of some runs whose recipes are in `ARCHITECTURES`, by title."""
    return {title: found[name] for name, title in ARCHITECTURES.items() if name in found}


def targets_reached(by_title: dict[str, list[TrainedResult]]) -> list[str]:
    """What became of each of `TARGETS`."""
    lines = []
    for stage, to, words, most in TARGETS:
        reached = {title: seeds.quotients(runs, stage, to) for title, runs in by_title.items()}
        told = [
            f"{title} × {seeds.spread(found)} ({'met' if max(found) <= most else '**missed**'}"
            f"{'' if len(found) > 1 else ', a single run'})"
            for title, found in reached.items()
            if found
        ]
        if told:
            lines.append(f"{words}, at most × {most:.2f} in every run: {', '.join(told)}")
    return lines


def weights_trained(by_title: dict[str, list[TrainedResult]]) -> str:
    """Which weights are trained in all stages but those from scratch, which train all."""
    frozen = [
        title for title, runs in by_title.items() if any(run.values["embeddings"] == "false" for run in runs)
    ]
    return (
        "all weights"
        + f" (of {' and '.join(frozen)} but the token embeddings, which are the output layer, too)"
        * bool(frozen)
    )


def weights_rates(by_title: dict[str, list[TrainedResult]]) -> str:
    """The learning rate of the weights, of every architecture where they differ."""
    key = "stage.linear.training.learning_rate"
    rates = {title: runs[0].values[key] for title, runs in by_title.items()}
    if len(set(rates.values())) == 1:
        return next(iter(rates.values()))
    return " and ".join(f"{rate} ({title})" for title, rate in rates.items())


def straight_ahead(by_title: dict[str, list[TrainedResult]]) -> str:
    """The paper's stages over training straight from software, and from scratch arrays over softmax."""
    told = []
    for words, stage, to in (
        (
            "The paper's stages over training straight from software (above 1: the detour by linear cells did not pay here)",
            "fine-tuned",
            "nonlinear-straight",
        ),
        (
            "Arrays over softmax from scratch, too few tokens for either",
            "nonlinear-scratch",
            "software-scratch",
        ),
    ):
        found = {title: seeds.quotients(runs, stage, to) for title, runs in by_title.items()}
        ratios = [
            f"{title} × {seeds.spread(of)} ({'a single run' if len(of) == 1 else f'{len(of)} seeds'})"
            for title, of in found.items()
            if of
        ]
        told += [f" {words}, after as many tokens: {', '.join(ratios)}."] if ratios else []
    return "".join(told)


def plateau(by_title: dict[str, list[TrainedResult]]) -> str:
    """What more tokens of the same training gave the softmax models, if that was tried."""
    told = [
        f"{title} goes on to × {seeds.spread(found)} of its perplexity in {stage.training_tokens:,} more tokens"
        for title, runs in by_title.items()
        if (found := seeds.quotients(runs, CONTINUED_LONGER, None))
        for stage in [next(filter(None, (run.stage(CONTINUED_LONGER) for run in runs)))]
    ]
    return f"; with softmax attention {', '.join(told)}" if told else ", perhaps before a plateau"


def architectures(by_title: dict[str, list[TrainedResult]]) -> str:
    """One table of the same recipe on several architectures, and what became of the targets."""
    lines = [f"* {line}" for line in targets_reached(by_title)]
    heading = "## GPT-2's architecture and Llama's\n\n"
    first = next(iter(by_title.values()))[0]
    recipe = recorded_recipes.recipe_of(first)
    own, made = recipe.stage("linear"), recipe.model
    assert isinstance(made, ModelRecipe)  # both recipes make their model
    shape = AutoConfig.for_model(made.architecture, **made.config)
    tried = recorded_recipes.count_candidates(recipe, own)
    runs = [run for of in by_title.values() for run in of]
    silent = "; ".join(f"{title} {_silent(of)}" for title, of in by_title.items())
    missing = [f"`recipes/{name}.toml`" for name, title in ARCHITECTURES.items() if title not in by_title]
    about = (
        "Models of one size, trained from scratch on the same text, then the paper's stages: "
        f"{weights_trained(by_title)}, cross-entropy, neither teacher nor paired rows nor mixing "
        "(`recipes/small-gpt2.toml`, `recipes/small-llama.toml`). The rate of the weights was changed after first runs "
        "([why, and what they gave](experiments.md#the-learning-rate-of-the-small-models)). Beside learned positions and biases, GPT-2's has "
        "layer norms and GELU where Llama's has RMS norms and SwiGLU, so no difference between the two is one of "
        f"positions alone. They have {shape.num_hidden_layers} layers of width "
        f"{shape.hidden_size}, and were pretrained on {made.blocks * recipe.block / 1e6:.1f} M tokens; that "
        f"ended by schedule{plateau(by_title)}. Where a softmax model that was trained further is above 1, it is the stage that "
        "costs this, at its rate and batch, not the arrays. Text of pretraining, stages and evaluation: "
        f"{', '.join(recipe.files)}. Not the paper's: size, text and tokens; {own.training.batch} sequences "
        f"a step; gains and offsets that begin with the best of {tried} candidates, and have a learning rate of "
        f"their own, {own.training.scale_learning_rate:g} beside {weights_rates(by_title)}; rates that "
        f"rise over {own.training.warmup_steps} steps and fall along a cosine; one linear model for the adapted "
        "and the fine-tuned row; the adaptation in closed form; the readout (`counter`, where the released code "
        f"has `published-code`). Stages of the adaptation without variance, of every seed: {silent}."
        f"{straight_ahead(by_title)}{uncommitted(*runs)}"
        f"{' Not run yet: ' if missing else ''}{', '.join(missing)}{'.' if missing else ''}\n\n"
    )
    targets = "\nTargets, stated before the runs:\n\n" + "\n".join(lines) + "\n" if lines else ""
    paper = next(point for point in tokens_page.paper()[1].points if point.note == tokens_page.TUNED)
    targets += (
        f"\nThe limit of fine-tuned models is about the paper's × {paper.ratio:.2f} after "
        f"{conversions.counted(paper.tokens)} tokens (Table 1, cited).\n"
    )
    return heading + about + seeds.seeds_markdown(by_title) + targets


def _silent(runs: Sequence[TrainedResult]) -> str:
    """How many stages the adaptation of every run leaves alone."""
    adapted = (run.stage("adapted") for run in runs)
    return ", ".join(str(len(one.adaptation.skipped)) for one in adapted if one and one.adaptation)


def gradients_by_layer(bench: Mapping[str, Any]) -> str:
    """What the gradients of every layer are off by, from `python -m benchmarks.gradients`."""
    parts = list(next(iter(bench["off"].values()))[0])
    rows = [
        [f"{OFF[gradient]}, layer {n}", *(f"{100 * layer[part]:.1f}" for part in parts)]
        for gradient, layers in bench["off"].items()
        for n, layer in enumerate(layers, 1)
    ]
    caption = (
        "Norm of the difference from the exact gradient over the norm of the exact one, for the projections "
        "of q, k and v and for all gains and offsets of a layer. The embedded model, trained on linear "
        f"cells, on the paper's chip; {bench['provenance']['protocol']}; `python -m benchmarks.gradients`."
    )
    return "\n" + Rows("", ["gradient off by, %", *parts], rows, caption).markdown()


def stages_markdown(run: TrainedResult) -> str:
    about = f"{run.design.name}; {tables.of_stages(run)}."
    return Rows("", tables.STAGE_HEADINGS, tables.perplexity_rows(run), about).markdown()


def parts(docs: Path) -> dict[str, str]:
    """What stands between the marks of docs/training.md, by name; its figures drawn.

    NAME.json: the run.json of a recipe, its table and its curve; NAME.seedN.json beside it: of the same
    recipe with other seeds.  tokens: as in tokens_page.py, and the figure of all of them beside the paper.
    ideas: a folder for every recipe with other values, NAME.json and NAME.seedN.json.
    """
    folder = docs / "results" / "training"
    found: dict[str, str] = {}
    found_runs = seeds.read_seeds(folder)
    for name, runs in found_runs.items():
        table = stages_markdown(runs[0]) if len(runs) == 1 else seeds.seeds_markdown({"": runs})
        if name == "gradients":
            measured = docs.parent / "benchmarks" / "results" / "gradients.json"
            table += gradients_by_layer(json.loads(measured.read_text()))
        found[name] = SECTIONS.get(name, "") + table
        with tempfile.TemporaryDirectory() as drawn:
            training.draw_stages(runs[0], Path(drawn))
            if (curve := Path(drawn) / "training.png").is_file():
                curve.rename(docs / "figures" / f"training-{name}.png")
    if by_title := small_models(found_runs):
        found["architectures"] = architectures(by_title)
    trials = sorted((folder / "ideas").iterdir(), reverse=True)
    found["ideas"] = IDEAS + "\n".join(seeds.trials_markdown(seeds.read_seeds(of)) for of in trials)
    for chip in sorted(tokens_page.TOKENS.glob("*/")):
        points = token_points(chip.name)
        found[f"tokens-{chip.name}"] = token_curve.token_markdown(points) + aims(chip.name, points)
        if token_curve.can_be_fitted(points):
            save(token_curve.draw_tokens(points), docs / "figures" / f"training-tokens-{chip.name}.png")
    save(conversions.draw_conversions(tokens_page.every()), docs / "figures" / "tokens.png")
    return found
