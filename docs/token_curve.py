"""How the perplexity of a converted model falls with the tokens it was trained on.

Of every training: the tokens N, and the ratio r of its word perplexity on WikiText-2 to that of the software
model on the same articles. Fitted is

    ln r = A N^(-b)

by least squares of ln r, weighted with its standard errors over articles. Its band of 95 % has two parts,
added in squares, each to first order. One is over articles: all points are scored on the same ones, so their
errors go together, with the covariance C of their deviations article by article. The other is what points lie
off the law beyond it, a scatter k times the errors' variance, independent from point to point,

    k = max(0, (chi^2 - E[chi^2 | C]) / (n - 2))

with Student's t of n - 2 degrees of freedom, for it is known from the points alone. The trainings end their
schedules at different lengths and are one run each, and longer ones go on from shorter ones: the band is no
better than the law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import optimize, stats

from gaincell.reports.style import BLACK, BLUE, ORANGE, styled
from gaincell.reports.tables import Rows
from gaincell.results.comparison import NAMES, compare, task_and_metric
from gaincell.results.evaluation import TasksResult
from gaincell.results.run import TrainedResult

COLUMN = "wikitext/word_perplexity"
FEWEST = 3
"""Points of a fit."""
Array = NDArray[np.float64]


CLOSE = 0.01
"""Share of tokens by which the law is not followed further than it was measured."""


@dataclass(frozen=True)
class TokenPoint:
    """One training.  tokens: N.  perplexity: per word.  ratio: r.  error: standard error of r.  continued:
    ratio to the software model trained on the same tokens by cross-entropy, and its standard error, where
    there is one.  control: r of the software model trained on them by the hardware's own loss, and its error.
    deviations: what every article adds to the error of ln r; empty: the points have no articles in common.
    """

    tokens: float
    perplexity: float
    ratio: float
    error: float
    continued: tuple[float, float] | None = None
    control: tuple[float, float] | None = None
    deviations: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fit:
    """ln r = A N^-b.  logs: ln A and b.  articles, scatter: covariance of both over articles, and from what
    the points lie off the law beyond that.  freedom: degrees of the latter.
    """

    logs: tuple[float, float]
    articles: Array
    scatter: Array
    freedom: int

    def half(self, slopes: Array) -> Array:
        """Half of the interval of 95 % of something with these slopes [2, ...] by ln A and b."""
        parts = (self.articles, stats.norm.ppf(0.975)), (self.scatter, stats.t.ppf(0.975, self.freedom))
        squares = (np.einsum("i...,ij,j...", slopes, part, slopes) * q**2 for part, q in parts)
        return np.sqrt(np.asarray(sum(squares)))

    def __call__(self, tokens: Array) -> tuple[Array, Array, Array]:
        """r, and its lower and upper limits of 95 %, for numbers of tokens."""
        excess = _law(np.log(tokens), *self.logs)
        half = self.half(np.stack([np.ones_like(tokens), -np.log(tokens)]))  # of ln ln r
        low, high = excess * np.exp(-half), excess * np.exp(half)
        return np.exp(excess), np.exp(low), np.exp(high)


def points(
    trainings: Sequence[
        tuple[TrainedResult, TasksResult, TasksResult, TasksResult | None, TasksResult | None]
    ],
) -> list[TokenPoint]:
    """From run.json of every training, its result, that of the software model, and those of the software
    models trained on the same tokens by cross-entropy and by its own loss, if any (results of `gaincell
    evaluate --tasks`).
    """
    found = []
    for run, result, software, other, same_loss in trainings:
        perplexity, ratio = compared(result, software)
        continued = None if other is None else compared(result, other)[1]
        control = None if same_loss is None else compared(same_loss, software)[1]
        shares = deviations(result, software)
        found.append(TokenPoint(tokens_of(run, result), perplexity, *ratio, continued, control, shares))
    return sorted(found, key=lambda point: point.tokens)


def tokens_of(run: TrainedResult, result: TasksResult) -> float:
    """Those of the stage that a result names; of the saved one where it names none that the run has."""
    return (run.stage(result.stage or "") or run.saved_stage).training_tokens


def compared(result: TasksResult, to: TasksResult) -> tuple[float, tuple[float, float]]:
    """Perplexity, its ratio to that of another result on the same articles, and the error of the ratio."""
    entry = compare({"reference": to, "trained": result}, "reference").scores("trained")[COLUMN]
    perplexity, _, ratio, error = entry.numbers
    assert ratio is not None
    assert error is not None
    return perplexity, (ratio, error)


def deviations(result: TasksResult, to: TasksResult) -> tuple[float, ...]:
    """What every article adds to the error of ln r: d_i = sqrt(n / (n - 1)) (s_i - w_i ln r) / sum w, with
    the nats s_i that `result` needs more for its w_i words. The root of their squares' sum is that error.
    """
    name, metric = task_and_metric(COLUMN)
    tasks = (task for one in (result, to) for task in one.tasks if NAMES.get(task.task, task.task) == name)
    (ours, words), (theirs, _) = (np.asarray(task.per_item[metric], dtype=float).T for task in tasks)
    more, n = theirs - ours, len(ours)
    off = more - words * more.sum() / words.sum()
    return tuple((math.sqrt(n / (n - 1)) * off / words.sum()).tolist())


def can_be_fitted(found: Sequence[TokenPoint]) -> bool:
    """Whether there are enough points, and the law can have them."""
    return len(found) >= FEWEST and all(point.ratio > 1 for point in found)


def fit(found: Sequence[TokenPoint]) -> Fit:
    """Of at least three points whose ratios are above 1, so that their scatter about the law is known. Raises
    ValueError: there are fewer.
    """
    if not can_be_fitted(found):
        raise ValueError(f"a fit needs {FEWEST} points with ratios above 1")
    tokens = np.array([point.tokens for point in found])
    logs = np.log([point.ratio for point in found])
    errors = np.array([point.error / point.ratio for point in found])
    exponent = math.log(logs[0] / logs[-1]) / math.log(tokens[-1] / tokens[0])
    start = (math.log(logs[0]) + exponent * math.log(tokens[0]), exponent)
    best, own = optimize.curve_fit(_law, np.log(tokens), logs, p0=start, sigma=errors, absolute_sigma=True)
    law = (float(best[0]), float(best[1]))
    excess, freedom = _law(np.log(tokens), *law), len(found) - 2
    slopes = np.stack([excess, -excess * np.log(tokens)]) / errors  # in standard errors, as all below
    shared = np.array([point.deviations for point in found]) / errors[:, None]
    together = shared @ shared.T if shared.size else np.eye(len(found))
    off = np.eye(len(found)) - slopes.T @ own @ slopes
    beyond = (((logs - excess) / errors) ** 2).sum() - np.trace(off @ together)
    return Fit(law, own @ slopes @ together @ slopes.T @ own, own * max(0.0, beyond / freedom), freedom)


def _law(log_tokens: Array, log_a: float, b: float) -> Array:
    excess: Array = np.exp(log_a - b * log_tokens)
    return excess


def token_markdown(found: Sequence[TokenPoint]) -> str:
    """A table, and the law where there is one."""
    columns: dict[str, list[tuple[float, float] | None]] = {"× software": [(p.ratio, p.error) for p in found]}
    if controlled := any(p.control is not None for p in found):
        columns["control, × software"] = [p.control for p in found]
    if any(p.continued is not None for p in found):
        columns["× continued"] = [p.continued for p in found]
    rows = []
    for n, p in enumerate(found):
        ratios = (_with_error(column[n]) for column in columns.values())
        rows.append((f"{p.tokens:,.0f}", f"{p.perplexity:.2f}", *ratios))
    caption = "±: standard error over articles."
    if controlled:
        caption += (
            " Control: the software model with a like adapter, trained on the same tokens by distillation; "
            "at which rates: [reproduction](reproduction.md#tokens-against-quality)."
        )
    if can_be_fitted(found):
        law = fit(found)
        half = float(law.half(np.array([0.0, 1.0])))
        far = [
            f"{_at(law, million)} at {million} M"
            for million in (10, 50)
            if million * 1e6 > (1 + CLOSE) * found[-1].tokens
        ]
        caption += (
            f" Fitted: ln r ∝ N^(−b), b = {law.logs[1]:.2f} ± {half:.2f} (95 %); it would reach "
            f"{' and '.join(far)} tokens, if it holds that far. 95 %: over the articles, which all "
            "points share, and of what the points lie off the law beyond that, with Student's t of "
            f"{law.freedom} degree{'s' * (law.freedom > 1)} of freedom; the spread of repeated trainings is "
            "not in it, nor that the points differ in text, rates, batch and loss, too."
        )
    return Rows("", ("tokens", "word perplexity", *columns), rows, caption, text=()).markdown()


def _with_error(ratio: tuple[float, float] | None) -> str:
    return "–" if ratio is None else "{:.3f} ± {:.3f}".format(*ratio)


def _at(law: Fit, million: float) -> str:
    ratio, low, high = (float(x[0]) for x in law(np.array([million * 1e6])))
    return f"{ratio:.2f} ({low:.2f} to {high:.2f})"


@styled()
def draw_tokens(found: Sequence[TokenPoint]) -> Figure:
    """Ratio against tokens, with the fitted law and its band."""
    figure = Figure(figsize=(6.4, 4.2))
    axes = figure.add_subplot()
    half = [float(stats.norm.ppf(0.975)) * p.error for p in found]
    axes.errorbar(
        [p.tokens for p in found], [p.ratio for p in found], half, fmt="o", color=BLACK, capsize=3,
        label="simulated, 95 % over articles",
    )  # fmt: skip
    if can_be_fitted(found):
        tokens = np.geomspace(found[0].tokens / 1.5, max(found[-1].tokens * 4, 1e7), 200)
        ratio, low, high = fit(found)(tokens)
        axes.plot(tokens, ratio, color=BLUE, label="ln r = A N$^{-b}$")
        axes.fill_between(tokens, low, high, color=BLUE, alpha=0.18, linewidth=0, label="its 95 %")
    style: dict[str, Any] = {"color": ORANGE, "linewidth": 0.9, "linestyle": "--"}
    axes.axhline(1.0, label="software", **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_millions())
    axes.set_xlabel("tokens of training")
    axes.set_ylabel("word perplexity, × software")
    axes.set_title("WikiText-2 after conversion")
    axes.legend()
    return figure


def _millions() -> Callable[[float, object], str]:
    return lambda x, _: f"{x / 1e6:g} M"
