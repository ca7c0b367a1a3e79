"""Tokens against quality on README.md and docs/reproduction.md: docs/results/training/tokens beside the paper.

tokens/CHIP/N: of a model after N tokens, its run.json and its tasks.json (evaluate --tasks); where they are,
software-STAGE.json, the software model trained on the same tokens by that stage of the recipe (evaluate --stage).
tokens/CHIP/software.json: the software model, where they were scored in another type of weights than in
docs/results/evaluation/tasks. What is added there shows up in table and figure by itself.
"""
# ruff: noqa: E501 (sentences of the page)

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conversions import ConversionPoint, Conversions, conversions_markdown, counted
from recorded_recipes import count_candidates, recipe_of, shown
from reproduction_circuits import RESULTS, uncommitted
from scipy import stats
from token_curve import COLUMN, compared, tokens_of

from gaincell.errors import RunError
from gaincell.mapping.recipe import Recipe
from gaincell.mapping.recipe_file import load_recipe
from gaincell.reports.comparison import cited_rows
from gaincell.reports.paper import cited
from gaincell.reports.tables import Rows
from gaincell.results import read
from gaincell.results.evaluation import TasksResult
from gaincell.results.run import TrainedResult

ROOT = Path(__file__).parents[1]
TOKENS = RESULTS / "training" / "tokens"
CURVES = ROOT / "docs" / "data" / "training_curves.csv"
ADAPTATION = ROOT / "docs" / "data" / "adaptation_curve.csv"
LINEAR = "linear, from GPT-2"
"""The run of `CURVES` that is compared with."""
SHOWN = (100, 500, 2000)
"""Its iterations that the table has, with the last."""
ARRAYS = {
    "leroux2025": "the paper's arrays",
    "leroux2025-extended": "an extended chip other than the paper's",
}
ADDED = {
    "paired": "paired rows",
    "balanced": "balanced rows",
    "mixing": "mixing",
    "biases": "biases",
    "exponents": "exponents",
    "array_normaliser": "a normaliser",
    "rotated_values": "rotated values",
}
"""What a recipe can add to the paper's mapping."""
UNLIKE = ", hidden states in the loss from the start"
"""What a second series of the same mapping has."""
CONTROL = "low-tokens-control.toml"
"""The recipe of the software model with the adapter and loss of another recipe."""
MODELS = {"smollm2-135m": "SmolLM2-135M"}
WIKITEXT = "word perplexity, WikiText-2"
TUNED = "nonlinear, adapted, fine-tuned"
"""The paper's model of Table 1 that ours are compared with."""
STAGES = ("software", "linear", "adapted")
"""Ends of names of results, in the order of the stages; the saved stage is last and has no end."""
HALF = float(stats.norm.ppf(0.975))
LOWER = " (at the row's own it may end lower)"


@dataclass(frozen=True)
class Training:
    """One folder of `TOKENS`: run.json, tasks.json, results of the software model on the same tokens by name,
    and that of the software model as pretrained, with the same type of weights; control.json, the run that
    trained the software model by the row's own loss, which earlier ones lack.
    """

    run: TrainedResult
    tasks: TasksResult
    controls: dict[str, TasksResult]
    software: TasksResult
    control_run: TrainedResult | None = None

    @property
    def recipe(self) -> Recipe:
        return recipe_of(self.run)


def trainings(chip: Path) -> list[Training]:
    """Of one folder CHIP, by tokens."""
    usual = RESULTS / "evaluation/tasks/smollm2-software.json"
    known = [read(path, TasksResult) for path in (usual, *chip.glob("software.json"))]
    software = {one.dtype: one for one in known}
    found = []
    for place in sorted(chip.glob("*/"), key=lambda place: int(place.name)):
        tasks = read(place / "tasks.json", TasksResult)
        controls = {path.stem: read(path, TasksResult) for path in sorted(place.glob("software-*.json"))}
        wanted = {one.dtype for one in (tasks, *controls.values())}
        if len(wanted) > 1 or not wanted <= software.keys():
            raise RunError(
                f"{place}: scored in {wanted}, the software model in {software.keys()}; score alike"
            )
        run = read(place, TrainedResult)
        control = read(path, TrainedResult) if (path := place / "control.json").is_file() else None
        if control and _text_of(control) != _text_of(run):
            raise RunError(f"{path}: of another text or number of tokens than {place / 'run.json'}")
        found.append(Training(run, tasks, controls, software[tasks.dtype], control))
    return found


def _text_of(run: TrainedResult) -> tuple[str, float | None]:
    """What a run was trained on, and on how many tokens."""
    return run.provenance.inputs["training text"], run.saved_stage.training_tokens


def mapping(run: TrainedResult) -> str:
    """How a model came onto which arrays, from the recipe of its run."""
    recipe, chip = recipe_of(run), run.design.name
    added = [name for key, name in ADDED.items() if getattr(recipe, key)]
    arrays = ARRAYS.get(chip, f"{chip} instead of the paper's chip")
    rank = f", rank {recipe.lora.rank}" if recipe.lora else ""
    return " with ".join([arrays, *([_listed(added)] if added else [])]) + rank


def by_mapping(paths: list[Path]) -> dict[str, TasksResult]:
    """Results MODEL-NAME.json of the paper's tasks, software first: by the mapping of the training in `TOKENS`
    that has the same result or, where NAME is CHIP, nearly the same on WikiText-2; those of its other stages
    with the stage's title (NAME is CHIP-STAGE); otherwise by NAME.
    """
    known = [(one.tasks, _called(one)) for chip in sorted(TOKENS.glob("*/")) for one in trainings(chip)]
    found = {}
    for path in sorted(paths, key=_place):
        run = read(path, TasksResult)
        name = path.stem.partition("-")[2]
        title = next((title for tasks, title in known if tasks == run), _of_last(name, run) or name)
        if title in found:
            raise RunError(f"{path}: a second result of {title!r}; name in ADDED what is different")
        found[title] = run
    return {name: found[name] for name in sorted(found, key=lambda name: name != "software")}


def _place(path: Path) -> tuple[str, int]:
    """Stages of a model or a chip in their order, the last one behind them."""
    name, _, stage = path.stem.rpartition("-")
    return (name, STAGES.index(stage)) if stage in STAGES else (path.stem, len(STAGES))


def _called(training: Training) -> str:
    """Its mapping, and the saved stage where it goes through the paper's."""
    of_several = any(stage.task == "adapt" for stage in training.recipe.stages)
    return mapping(training.run) + f", {training.recipe.stage(training.run.saved).title}" * of_several


def _of_last(name: str, run: TasksResult) -> str:
    """By the last training of a chip, or by a stage of it."""
    chip, _, stage = (name, "", None) if (TOKENS / name).is_dir() else name.rpartition("-")
    if stage != run.stage or not (TOKENS / chip).is_dir():
        return ""
    training = trainings(TOKENS / chip)[-1]
    if stage is not None:
        return f"{mapping(training.run)}, {training.recipe.stage(stage).title}"
    same = math.isclose(_on_wikitext(run), _on_wikitext(training.tasks), rel_tol=1e-3)  # saved in 16 bits
    return _called(training) if same else ""


def _on_wikitext(run: TasksResult) -> float:
    (found,) = (task.metrics[COLUMN.rpartition("/")[2]] for task in run.tasks if task.task == "wikitext2")
    return found.score.value


def _title(training: Training, tasks: TasksResult) -> str:
    """Model and mapping; of the software model, how it was trained."""
    model = MODELS.get(training.run.model.name, training.run.model.name)
    if tasks.design is None:
        assert tasks.stage is not None
        recipe = recipe_with(tasks.stage, training)
        rank = f", rank {training.recipe.lora.rank}" if training.recipe.lora else ""
        rates = _rates(tasks, training, recipe) if recipe.name != training.recipe.name else ""
        return f"{model} in software, trained by {recipe.stage(tasks.stage).loss}{rank}{rates}"
    cell = ", linear cells" if tasks.design.cell == "linear" else ""
    return f"{model} on {mapping(training.run)}{cell}"


def _unlike(begun: Training) -> str:
    """What tells a series from one that begins with the same mapping."""
    if not begun.recipe.stage(begun.run.saved).states:
        raise RunError(
            f"{begun.recipe.name}: a second series of {mapping(begun.run)}; name what is different"
        )
    return UNLIKE


def recipe_with(stage: str | None, training: Training) -> Recipe:
    """The recipe that a stage is of: the training's own, or that of its control."""
    own = training.recipe
    if stage is None or any(one.name == stage for one in own.stages):
        return own
    return (
        recipe_of(training.control_run) if training.control_run else load_recipe(ROOT / "recipes" / CONTROL)
    )


def made_by(scored: TasksResult, training: Training) -> str:
    """The recipe of a result of a training, in the table."""
    recipe = recipe_with(scored.stage if scored.design is None else None, training)
    if recipe.name == training.recipe.name:
        return shown(training.run)
    if training.control_run:
        return ", ".join(
            [f"`{recipe.name}`", *(f"`{key} = {value}`" for key, value in recipe.changes.items())]
        )
    own, other = (one.lora.rank if one.lora else None for one in (training.recipe, recipe))
    return f"`{recipe.name}`" + (f", `lora.rank = {own}`" if own != other else "")


def of_wikipedia(of_a_chip: Sequence[Training]) -> Iterator[float]:
    """Share of Wikipedia of all tokens of every training of a chip, with those of the one it went on from."""
    wiki = {0.0: 0.0}  # tokens -> those of Wikipedia among them
    for one in of_a_chip:
        taken = one.run.texts or one.recipe.files
        share = (taken["wiki_passages"] or 0) / sum(x or 0 for x in taken.values())
        stage = one.recipe.stage(one.tasks.stage or one.run.saved)
        tokens, own = tokens_of(one.run, one.tasks), one.recipe.tokens_of(stage)
        if tokens - own not in wiki:
            raise RunError(
                f"{one.recipe.name} went on from {tokens - own:,} tokens to {tokens:,}; "
                "put the training that it went on from into the same folder"
            )
        wiki[tokens] = own * share + wiki[tokens - own]
        yield wiki[tokens] / tokens


def ours() -> list[Conversions]:
    """Every model, and after them the software models trained on the same tokens."""
    arrays: dict[str, list[ConversionPoint]] = {}
    software: dict[str, list[ConversionPoint]] = {}
    chips: dict[str, Path] = {}
    for chip in sorted(TOKENS.glob("*/")):
        known = trainings(chip)
        for training in known:
            run = training.run
            tokens = tokens_of(run, training.tasks)
            for scored in (training.tasks, *training.controls.values()):
                _, (ratio, error) = compared(scored, training.software)
                point = ConversionPoint(tokens, ratio, HALF * error, made_by(scored, training))
                title = _title(training, scored)
                if scored.design is not None and chips.setdefault(title, chip) != chip:
                    title += _unlike(known[0])
                (software if scored.design is None else arrays).setdefault(title, []).append(point)
    return [
        Conversions(title, f"{WIKITEXT} validation", sorted(points, key=lambda p: p.tokens), kind)
        for kind, found in (("simulated", arrays), ("measured", software))
        for title, points in found.items()
    ]


def curve(run: str) -> list[tuple[int, float, float]]:
    """Iteration, tokens and perplexity of one of the paper's released runs."""
    with CURVES.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["run"] == run]
    return [
        (int(row["iteration"]), float(row["tokens"]), math.exp(float(row["cross_entropy"]))) for row in rows
    ]


def adaptation_curve() -> list[float]:
    """Perplexity at every iteration of the paper's adaptation as first submitted, each on another batch."""
    with ADAPTATION.open(encoding="utf-8", newline="") as file:
        return [math.exp(float(row["cross_entropy"])) for row in csv.DictReader(file)]


def paper() -> list[Conversions]:
    """The released run of the linear model, and Table 1."""
    said, known = cited().training, curve(LINEAR)
    public = said.public.value
    released = [
        ConversionPoint(tokens, perplexity / public, None, f"{n:,} iterations", n in (*SHOWN, known[-1][0]))
        for n, tokens, perplexity in known
        if n
    ]
    tokens = float(said.batch.value * said.block.value * said.iterations.value)
    final = [
        ConversionPoint(tokens, ratio, None, name)
        for name, ratio in table_1().items()
        if "software" not in name
    ]
    return [
        Conversions("paper, GPT-2, linear cells, released early run", "token perplexity, OpenWebText", released, "cited", curve=True),
        Conversions("paper, GPT-2, Table 1", f"{WIKITEXT} test", final, "cited"),
    ]  # fmt: skip


def table_1() -> dict[str, float]:
    """The paper's models on WikiText-2, over the public GPT-2."""
    rows = {name.removeprefix("GPT-2, "): row[COLUMN].score.value for name, row in cited_rows().items()}
    return {name: perplexity / rows["public software"] for name, perplexity in rows.items()}


def every() -> list[Conversions]:
    return [*ours(), *paper()]


def table() -> str:
    """The table of docs/reproduction.md, and what differs between its rows."""
    found = every()
    trained = [training for chip in sorted(TOKENS.glob("*/")) for training in trainings(chip)]
    scored = [result for one in trained for result in (one.tasks, one.software, *one.controls.values())]
    made = uncommitted(*(one.run for one in trained), *scored)
    between = [_row(one) for one in trained if uncommitted(one.run) or uncommitted(one.tasks)]
    made += f" Rows of theirs: {'; '.join(between)}." * bool(between)
    note = f"Tokens are those of the conversion; for the paper, iterations × batch × block.{made}"
    lines = "\n".join(f"* {line}" for line in differences(found))
    return f"{conversions_markdown(found)}\n\n{note} The rows differ in more than tokens:\n\n{lines}"


def differences(found: list[Conversions]) -> list[str]:
    """Between our rows and the paper's, from recipes and results."""
    recipe, said = load_recipe(ROOT / "recipes" / "gpt2.toml"), cited().training
    public, early = said.public.value, said.public_early.value
    theirs, known = recipe.stage("linear-for-transfer").training, curve(LINEAR)
    warm = theirs.warmup_steps * theirs.batch * recipe.block
    risen = next(perplexity for n, _, perplexity in known if n == theirs.warmup_steps) / public
    of_chips = [trainings(chip) for chip in sorted(TOKENS.glob("*/"))]
    own = [training.recipe for of_a_chip in of_chips for training in of_a_chip]
    tried = {
        count_candidates(one, stage)
        for one in own
        for stage in one.stages
        if stage.start == "software" and stage.attention == "arrays"
    }
    stages = [stage for one in own for stage in one.stages if stage.task == "train"]
    trained = [stage.training for stage in stages]
    ranks, wiki = (
        {one.lora.rank for one in own if one.lora},
        {round(100 * share) for of_a_chip in of_chips for share in of_wikipedia(of_a_chip)},
    )
    software = [
        f"× {p.ratio:.2f} after {counted(p.tokens)}, {p.note}"
        for series in found
        if series.kind == "measured"
        for p in series.points
    ]
    who, show = ("One software model", "shows") if len(software) == 1 else ("Software models", "show")
    return [
        f"Metric: ours is word perplexity on WikiText-2 (validation split, all articles, by the evaluation harness), relative to SmolLM2-135M. The paper's curve is perplexity per token on held-out blocks of OpenWebText, its training text, relative to the public GPT-2, which has {public:g} on that text by the authors' later plotting script (c), taken to be measured on the same blocks; the earlier script, which draws this curve, has {early:g} (c), with which every ratio of the curve would be × {public / early:.2f} as large. SmolLM2-135M is SmolLM2-135M-Instruct here, from a file of four-bit weights. A ratio per word is that per token to the power of the tokens a word has, so ours look worse beside a curve per token, not better. Compare ours with the paper's Table 1, WikiText-2, test split: after fine-tuning × {table_1()[TUNED]:.2f} of the public GPT-2.",
        f"Weights: ours are scored in {_types()}, and every row is relative to the software model in the same type.",
        *_controls([training for of_a_chip in of_chips for training in of_a_chip]),
        f"Pipeline: {_pipelines(own)}",
        f"Text: {_span(wiki)} % of our tokens are passages of Wikipedia. {who} trained on such text ({'; '.join(software)}) {show} what the text alone gives, and arrays trained on it may gain from it too. There are no more passages of Wikipedia: `low-tokens-further.toml` reads them a second time, `low-tokens-longer.toml` a third. In {_span({round(100 * one.repeated) for one in own})} % of the blocks, those of the control too, a passage stands twice.",
        f"What is trained: here, adapters of rank {_span(ranks)}, gains, offsets and what the mapping adds, while the weights stay fixed; in the paper, all weights.",
        f"Teacher: our models learn from {_listed(_taught(own))}; the paper's from the next token alone. Pretraining tokens count for neither.",
        f"Start: every head of ours begins with the best of some candidates of gains and offsets ({_span(tried)}, by recipe and chip), and with output gains by least squares. The paper's curve is at × {known[0][2] / public:,.0f} before its first iteration; the figure leaves this point out.",
        f"Warm-up: the paper's learning rate rises over {theirs.warmup_steps:,} iterations ({warm / 1e9:.1f} G tokens), and its curve is then at × {risen:.2f}. Ours rises over {_span({one.warmup_steps for one in trained})} steps.",
        f"Step: {theirs.batch:,} sequences in the paper, {_span({one.batch for one in trained})} here.",
        "Cells and models: the paper's curve has linear cells; our rows have the cubic ones unless they say otherwise. GPT-2 (124M) and SmolLM2-135M differ in architecture and pretraining.",
        "Intervals: ours are over articles, not over trainings. A point is one training, and our longer trainings continue shorter ones. The paper gives no intervals.",
    ]


def _controls(all_of_them: Sequence[Training]) -> Iterator[str]:
    """What a software model trained on the tokens of a row says of it, and of rows trained on the same text."""
    for training in (one for one in all_of_them if one.controls):
        read_text = training.run.provenance.inputs["training text"]
        others = [
            one
            for one in all_of_them
            if one is not training and one.run.provenance.inputs["training text"] == read_text
        ]
        for control in training.controls.values():
            _, (ratio, error) = compared(training.tasks, control)
            _, (of_software, _) = compared(training.tasks, training.software)
            alike = [
                f"{_row(one)} (× {compared(one.tasks, control)[1][0]:.3f} of it)"
                for one in others
                if one.tasks.dtype == control.dtype
            ]
            unlike = [
                f"{_row(one)} (in {one.tasks.dtype})" for one in others if one.tasks.dtype != control.dtype
            ]
            recipe = recipe_with(control.stage, training)
            counted_by = (
                " on as many tokens of the same text"
                if training.control_run
                else "; that it had as many tokens as this row is said by its recipe, not by its result"
            )
            yield (
                f"Control: {made_by(control, training)}, in {control.dtype}, has the rank of the row made by {_row(training)}, and the loss of its last stage{_rates(control, training, recipe, LOWER)}{counted_by}. "
                f"The row's perplexity is × {of_software:.3f} that of the pretrained model and × {ratio:.3f} ± {error:.3f} that of this control. "
                f"On the same text, but with another rank or other rates: {'; '.join([*alike, *unlike]) or 'no row'}."
            )
    most = max(tokens_of(one.run, one.tasks) for one in all_of_them if one.controls)
    yield f"Control: rows after more than {counted(most)} tokens have none."


def of_text_alone() -> str:
    """What the controls by the same loss say of ratios to the pretrained model."""
    of_chips = (trainings(chip) for chip in sorted(TOKENS.glob("*/")))
    said = [
        f"{_row(one)} are at × {compared(one.tasks, one.software)[1][0]:.3f}, a softmax model trained alike on as many tokens is at "
        f"× {compared(control, one.software)[1][0]:.3f}{_rates(control, one, recipe_with(control.stage, one), LOWER)}, so the arrays are at × {compared(one.tasks, control)[1][0]:.3f} of it"
        for found in of_chips
        for one in found
        for control in one.controls.values()
    ]
    return f"These ratios include what the text teaches: {'; '.join(said)}. The included adapters have no such control."


def _rates(control: TasksResult, training: Training, recipe: Recipe, remark: str = "") -> str:
    """A control's rates, where they are not those of its row."""
    assert control.stage is not None
    own, its = (
        one.stage(stage).training.learning_rate
        for one, stage in ((recipe, control.stage), (training.recipe, training.run.saved))
    )
    return f", at {own / its:.3g} times the row's rates{remark}" if own != its else ""


def _row(training: Training) -> str:
    return f"{shown(training.run)} after {counted(tokens_of(training.run, training.tasks))}"


def _pipelines(recipes: Sequence[Recipe]) -> str:
    """Which recipes go through a linear model and an adaptation, as the paper does."""
    whole = sorted({one.name for one in recipes if any(stage.task == "adapt" for stage in one.stages)})
    return f"linear cells, an adaptation and fine-tuning, as in the paper: {_listed([f'`{name}`' for name in whole])}. All our other rows in arrays train the chip's own cells straight from the software model."


def _types() -> str:
    """Types of the weights that our rows were scored with: the commonest, and which rows have another."""
    found: dict[str, list[str]] = {}
    for chip in sorted(TOKENS.glob("*/")):
        for one in trainings(chip):
            for scored in (one.tasks, *one.controls.values()):
                row = f"{made_by(scored, one)} after {counted(tokens_of(one.run, one.tasks))}"
                found.setdefault(scored.dtype or "a type not recorded", []).append(row)
    usual, *others = sorted(found, key=lambda dtype: -len(found[dtype]))
    return usual + "".join(f" ({_listed(found[dtype])}: in {dtype})" for dtype in others)


def _taught(recipes: Sequence[Recipe]) -> list[str]:
    """What trainings take from the pretrained model, and what they learn beside it."""
    stages = [stage for one in recipes for stage in one.stages]
    having = {one.name for one in recipes if any(stage.states for stage in one.stages)}
    states = sorted(f"`{name}`{'' if _has_states(name) else ' where `states` is set'}" for name in having)
    told = [
        ("its distribution", any(one.loss == "distillation" for one in stages)),
        ("its attention outputs", any(one.loss == "transfer" or one.outputs for one in stages)),
        (f"(in {_listed(states)}) its hidden states", bool(states)),
    ]
    own = [one for one in stages if one.loss == "distillation" and one.weight < 1]
    words = [word for word, is_so in told if is_so]
    words[0] = words[0].replace("its", "the pretrained model's", 1)
    return [*words, "in part the next token"] if own else words


def _has_states(recipe: str) -> bool:
    """Whether a shipped recipe has hidden states in a loss of its own accord."""
    return any(stage.states for stage in load_recipe(ROOT / "recipes" / recipe).stages)


def _span(found: set[float] | set[int]) -> str:
    low, high = f"{min(found):g}", f"{max(found):g}"
    return low if low == high else f"{low} to {high}"


def ends() -> dict[str, ConversionPoint]:
    """Of every model in arrays, by title: the one that saw most tokens."""
    return {series.title: series.points[-1] for series in ours() if series.kind == "simulated"}


def front_table() -> str:
    """The table of README.md: where every series of ours ends, the best first, but for a second one of the same
    mapping; points of the paper's curve, its last model.
    """
    released, final = paper()
    listed = [p for p in released.points if p.listed][: len(SHOWN)]
    tuned = [p for p in final.points if p.note == TUNED]
    simulated = [one for one in ours() if one.kind == "simulated" and not one.title.endswith(UNLIKE)]
    found = [
        *sorted(simulated, key=lambda series: series.points[-1].ratio),
        replace(released, points=listed),
        replace(final, title=f"paper, GPT-2, {TUNED}", points=tuned),
    ]
    rows = [
        (series.label, counted(p.tokens), f"{p.ratio:#.3g}", series.measure)
        for series in found
        for p in (series.points[-1:] if series.kind == "simulated" else series.points)
    ]
    heads = ("model and attention", "tokens", "perplexity, × software", "metric")
    return Rows("", heads, rows, text=(0, 3)).markdown().rstrip()


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
