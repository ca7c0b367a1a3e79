"""The figure of a training run: loss, evaluations and learning rate against tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gaincell import files
from gaincell.reports.figures import BLACK, PALETTE, STYLE, perplexities
from gaincell.reports.results import number, numbers

SMOOTH = 0.02
"""Share of a run that the bold line averages over."""
LABELS = ("stage", "part")


def draw_loss(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the lines of a `log.jsonl` into a PNG file, one colour for every training in it."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if "loss" in line:
            runs.setdefault(" ".join(str(line[key]) for key in LABELS if key in line), []).append(line)
    if not runs:
        return
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(7.6, 4.6))
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(runs.items()):
            colour = PALETTE[number % len(PALETTE)]
            tokens = [point.get("tokens", point["step"] + 1) for point in points]
            losses = [point["loss"] for point in points]
            axes.plot(tokens, losses, color=colour, linewidth=0.5, alpha=0.35)
            axes.plot(tokens, smoothed(losses), color=colour, linewidth=1.6, label=name or "loss")
            tested = [(t, point["evaluation"]) for t, point in zip(tokens, points, strict=True)
                      if "evaluation" in point]  # fmt: skip
            if tested:
                axes.plot(*zip(*tested, strict=True), "o", color=colour, markersize=4, markeredgecolor=BLACK)
        axes.set_yscale("log")
        axes.set_xlabel("tokens of this training" if "tokens" in lines[-1] else "step")
        axes.set_ylabel("loss")
        axes.legend(fontsize=8)
        axes.set_title("Loss (thin: every step; dots: evaluation)")
        files.write_atomic(path, figure.savefig)


def draw_stages(run: Mapping[str, Any], folder: Path) -> None:
    """Of a finished recipe: the perplexity of every stage and, where stages were evaluated in training,
    how it fell with their steps (the manner of the paper's Fig. 4d).
    """
    trained = [stage for stage in run["stages"] if "curve" in stage]
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        files.write_atomic(folder / "perplexity.png", perplexities(run).savefig)
        if not trained:
            return
        figure = Figure(figsize=(7.6, 4.6))
        axes = figure.add_subplot()
        for number_of, stage in enumerate(trained):
            steps, values = numbers(stage["curve"]["step"]), numbers(stage["curve"]["perplexity"])
            style = "--" if stage["perplexity"]["kind"] == "measured" else "-"
            colour = PALETTE[number_of % len(PALETTE)]
            axes.plot(steps, values, style, color=colour, marker="o", markersize=3, label=stage["title"])
        axes.axhline(number(run["software"]), color=BLACK, linewidth=0.8, linestyle=":", label="software")
        axes.set_yscale("log")
        axes.set_xlabel("steps of the stage")
        axes.set_ylabel("perplexity of evaluation text")
        axes.legend(fontsize=8)
        axes.set_title("Training (dashed: softmax attention)")
        files.write_atomic(folder / "training.png", figure.savefig)


def smoothed(values: Sequence[float]) -> list[float]:
    """Mean over the last SMOOTH of the run at every point."""
    width = max(1, round(SMOOTH * len(values)))
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[n + 1] - sums[max(0, n + 1 - width)]) / min(n + 1, width) for n in range(len(values))]
