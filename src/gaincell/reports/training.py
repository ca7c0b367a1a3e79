"""The figures of a training: loss and evaluations against tokens, and the stages of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gaincell import files
from gaincell.reports.figures import perplexities
from gaincell.reports.results import number, numbers
from gaincell.reports.style import BLACK, PALETTE, styled

SMOOTH = 0.02
"""Share of a run that the bold line averages over."""
LABELS = ("stage", "part")


def draw_loss(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the lines of a `log.jsonl` into a PNG file, one colour for every training in it."""
    with styled():
        figure = losses(lines)
        if figure is not None:
            files.write_atomic(path, figure.savefig)


@styled()
def losses(lines: Sequence[dict[str, Any]]) -> Figure | None:
    """Loss against tokens and, in a panel below, the evaluations there are; None without a loss."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if "loss" in line:
            runs.setdefault(" ".join(str(line[key]) for key in LABELS if key in line), []).append(line)
    if not runs:
        return None
    panels = 2 if any("evaluation" in point for points in runs.values() for point in points) else 1
    figure = Figure(figsize=(7.6, 4.6 if panels == 1 else 6.8), layout="constrained")
    axes = figure.subplots(panels, sharex=True, squeeze=False, height_ratios=(3, 2)[:panels])[:, 0]
    for n, (name, points) in enumerate(runs.items()):
        colour = PALETTE[n % len(PALETTE)]
        tokens = [point.get("tokens", point["step"] + 1) for point in points]
        values = [point["loss"] for point in points]
        axes[0].plot(tokens, values, color=colour, linewidth=0.5, alpha=0.35)
        axes[0].plot(tokens, smoothed(values), color=colour, linewidth=1.6, label=name or "loss")
        tested = [(t, point["evaluation"]) for t, point in zip(tokens, points, strict=True)
                  if "evaluation" in point]  # fmt: skip
        if tested:
            axes[1].plot(*zip(*tested, strict=True), "o-", color=colour, markersize=4, linewidth=0.8)
    for panel, label in zip(axes, ("loss", "perplexity (evaluation)"), strict=False):
        panel.set_yscale("log")
        panel.set_ylabel(label)
    axes[-1].set_xlabel("tokens of this training" if "tokens" in lines[-1] else "step")
    axes[0].legend()
    axes[0].set_title("Loss (thin: every step)")
    return figure


def draw_stages(run: Mapping[str, Any], folder: Path) -> None:
    """Of a finished recipe: the perplexity of every stage and, where stages were evaluated in training,
    how it fell with their steps.
    """
    with styled():
        files.write_atomic(folder / "perplexity.png", perplexities(run).savefig)
        figure = curves(run)
        if figure is not None:
            files.write_atomic(folder / "training.png", figure.savefig)


@styled()
def curves(run: Mapping[str, Any]) -> Figure | None:
    """The perplexities that stages had in training, in the manner of the paper's Fig. 4d; None without any.

    They are of the first tokens of the evaluation text (a recipe's `watched_tokens`); those of the table, and
    the software model's, are of all.
    """
    trained = [stage for stage in run["stages"] if "curve" in stage]
    if not trained:
        return None
    figure = Figure(figsize=(7.6, 4.6))
    axes = figure.add_subplot()
    for number_of, stage in enumerate(trained):
        steps, values = numbers(stage["curve"]["step"]), numbers(stage["curve"]["perplexity"])
        style = "--" if stage["perplexity"]["kind"] == "measured" else "-"
        colour = PALETTE[number_of % len(PALETTE)]
        axes.plot(steps, values, style, color=colour, marker="o", markersize=3, label=stage["title"])
    axes.axhline(
        number(run["software"]),
        color=BLACK,
        linewidth=0.8,
        linestyle=":",
        label="software, on the whole text",
    )
    axes.set_yscale("log")
    axes.set_xlabel("steps of the stage")
    axes.set_ylabel("perplexity (first part of the evaluation text)")
    axes.legend()
    axes.set_title("Training (dashed: softmax attention)")
    return figure


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over the last SMOOTH of the run at every point."""
    width = max(1, round(SMOOTH * len(values)))
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[n + 1] - sums[max(0, n + 1 - width)]) / min(n + 1, width) for n in range(len(values))]
