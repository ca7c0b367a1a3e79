"""The tables and figures of docs/training.md, from docs/results/training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from gaincell.files import write_atomic, write_text
from gaincell.reports import results, seeds, tables, token_curve, training
from gaincell.reports.style import styled

ARCHITECTURES = {"small-gpt2": "GPT-2", "small-llama": "Llama"}
TARGETS = (
    ("adapted", "linear", "nonlinear, adapted, against linear hardware", 1.10),
    ("fine-tuned", None, "nonlinear, fine-tuned, against the pretrained model", 1.07),
)
"""Stage, what its perplexity is divided by, in words, and the most that was aimed at before the runs."""
SECTIONS = {
    "smollm2-paper": """## The paper's pipeline on SmolLM2-135M

`recipes/smollm2-paper.toml`: neither paired rows nor mixing, rank 14. *software, same adapter and loss* is
the control: it has the hardware models' adapter, teacher, loss and text, and softmax attention.

""",
}
"""What stands before the tables of results that may not be there yet."""


TASKS = ("tasks", "software-continued", "software-distilled")


def read_tasks(place: Path, name: str) -> results.Json | None:
    """A result of `gaincell evaluate --tasks`, where there is one."""
    path = place / f"{name}.json"
    return results.read(path) if path.is_file() else None


def token_points(docs: Path, chip: str) -> list[token_curve.TokenPoint]:
    """The trainings of SmolLM2-135M on a chip."""
    place = docs / "results" / "training" / "tokens" / chip
    alike = place / "software.json"
    software = docs / "results" / "evaluation" / "tasks" / "smollm2-software.json"
    trainings = []
    for run in sorted(place.glob("*/")):
        tasks, continued, control = (read_tasks(run, name) for name in TASKS)
        assert tasks is not None, run
        trainings.append((results.read(run), tasks, continued, control))
    return token_curve.points(results.read(alike if alike.is_file() else software), trainings)


def control_sentence(docs: Path, chip: str) -> str:
    """What the training of a chip's last adapter makes of the software model; nothing if it was not run."""
    last = max(token_points(docs, chip), key=lambda point: point.tokens, default=None)
    if last is None or last.control is None:
        return ""
    ratio, error = last.control
    return (
        f" Control for `{chip}`: the software model with a like adapter, trained on the same "
        f"{last.tokens:,.0f} tokens by the same loss, is at × {ratio:.3f} ± {error:.3f}."
    )


def architectures(by_title: dict[str, list[results.Json]]) -> str:
    """One table of the same recipe on several architectures, and what became of the targets."""
    lines = []
    for stage, to, words, most in TARGETS:
        reached = {title: seeds.quotients(runs, stage, to) for title, runs in by_title.items()}
        told = [
            f"{title} × {seeds.spread(found)} ({'met' if max(found) <= most else 'missed'}"
            f"{'' if len(found) > 1 else ', a single run'})"
            for title, found in reached.items()
            if found
        ]
        if told:
            lines.append(f"* {words}, at most × {most:.2f} in every run: {', '.join(told)}")
    heading = "## GPT-2's architecture and Llama's\n\n"
    about = (
        "Two models of one size, trained from nothing on the same text, then the paper's stages without any "
        "help: all weights, cross-entropy, neither teacher nor paired rows nor mixing "
        "(`recipes/small-gpt2.toml`, `recipes/small-llama.toml`).\n\n"
    )
    targets = "\nTargets, stated before the runs:\n\n" + "\n".join(lines) + "\n" if lines else ""
    return heading + about + seeds.seeds_markdown(by_title) + targets


def write_training(docs: Path, replaced: Callable[[str, str, str], str]) -> None:
    """NAME.json: the run.json of a recipe, its table and its curve; NAME.seedN.json beside it: of the same
    recipe with other seeds.  tokens/CHIP/N: of an adapter of SmolLM2-135M after N tokens, its run.json and
    its tasks.json, and of software models trained on the same tokens software-continued.json, by
    cross-entropy, and software-distilled.json, the control, by the adapter's own loss (all of evaluate
    --tasks); tokens/CHIP/software.json, where they were scored in another type than the software model.
    replaced: content between marks.
    """
    page, folder = docs / "training.md", docs / "results" / "training"
    text = page.read_text()
    found_runs = seeds.read_seeds(folder)
    for name, runs in found_runs.items():
        table = tables.stages_markdown(runs[0]) if len(runs) == 1 else seeds.seeds_markdown({"": runs})
        text = replaced(text, name, SECTIONS.get(name, "") + table)
        with tempfile.TemporaryDirectory() as drawn:
            training.draw_stages(runs[0], Path(drawn))
            if (curve := Path(drawn) / "training.png").is_file():
                curve.rename(docs / "figures" / f"training-{name}.png")
    by_title = {title: found_runs[name] for name, title in ARCHITECTURES.items() if name in found_runs}
    if by_title:
        text = replaced(text, "architectures", architectures(by_title))
    for chip in sorted(folder.glob("tokens/*/")):
        found = token_points(docs, chip.name)
        text = replaced(text, f"tokens-{chip.name}", token_curve.token_markdown(found))
        if len(found) >= token_curve.FEWEST:
            with styled():
                drawn_as = docs / "figures" / f"training-tokens-{chip.name}.png"
                write_atomic(drawn_as, token_curve.draw_tokens(found).savefig)
    write_text(page, text)
