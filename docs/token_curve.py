"""How the perplexity of a converted model falls with the tokens it was trained on.

Of every training: the tokens N, and the ratio r of its word perplexity on WikiText-2 to that of the software
model on the same articles. Fitted is

    ln r = A N^(-b)

by least squares of ln r, weighted with its standard errors over articles; the band of 95 % follows from the
covariance of A and b to first order. Where the points lie further from the law than those errors explain, by
chi^2 per degree of freedom, the covariance is multiplied by it (Birge's ratio), and the band is that of
Student's t with those degrees of freedom, for the scatter is then known from the points alone. The trainings
end their schedules at different lengths and are one run each, longer ones go on from shorter ones, and the
articles are the same for all points: the band is no better than the law.
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

from gaincell.reports.comparison import compare
from gaincell.reports.style import BLACK, BLUE, ORANGE, styled
from gaincell.reports.tables import Rows
from gaincell.results.evaluation import TasksResult
from gaincell.results.run import TrainedResult

COLUMN = ("wikitext", "word_perplexity")
FEWEST = 3
"""Points of a fit."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class TokenPoint:
    """One training.  tokens: N.  perplexity: per word.  ratio: r.  error: standard error of r.  continued:
    ratio to the software model trained on the same tokens by cross-entropy, and its standard error, where
    there is one.  control: r of the software model trained on them by the hardware's own loss, and its error.
    """

    tokens: float
    perplexity: float
    ratio: float
    error: float
    continued: tuple[float, float] | None = None
    control: tuple[float, float] | None = None


@dataclass(frozen=True)
class Fit:
    """ln r = A N^-b.  logs: ln A and b.  covariance: of both.  scatter: chi^2 per degree of freedom, of the
    errors over articles.  freedom: degrees of it.
    """

    logs: tuple[float, float]
    covariance: Array
    scatter: float
    freedom: int

    @property
    def quantile(self) -> float:
        """Half an interval of 95 % in standard errors."""
        return float(stats.t.ppf(0.975, self.freedom) if self.scatter > 1 else stats.norm.ppf(0.975))

    def __call__(self, tokens: Array) -> tuple[Array, Array, Array]:
        """r, and its lower and upper limits of 95 %, for numbers of tokens."""
        excess = _law(np.log(tokens), *self.logs)
        slopes = np.stack([np.ones_like(tokens), -np.log(tokens)])  # of ln ln r by ln A and b
        std = np.sqrt(np.einsum("in,ij,jn->n", slopes, self.covariance, slopes))
        half = self.quantile * std
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
        found.append(TokenPoint(tokens_of(run, result), perplexity, *ratio, continued, control))
    return sorted(found, key=lambda point: point.tokens)


def tokens_of(run: TrainedResult, result: TasksResult) -> float:
    """Those of the stage that a result names; of the saved one where it names none that the run has."""
    return (run.stage(result.stage or "") or run.saved_stage).training_tokens


def compared(result: TasksResult, to: TasksResult) -> tuple[float, tuple[float, float]]:
    """Perplexity, its ratio to that of another result on the same articles, and the error of the ratio."""
    entry = compare({"reference": to, "trained": result}, "reference").rows["trained"][COLUMN]
    assert entry.difference is not None
    assert entry.difference_error is not None
    return entry.number, (entry.difference, entry.difference_error)


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
    best, covariance = optimize.curve_fit(
        _law, np.log(tokens), logs, p0=start, sigma=errors, absolute_sigma=True
    )
    law = (float(best[0]), float(best[1]))
    distances = (logs - _law(np.log(tokens), *law)) / errors
    freedom = len(found) - 2
    scatter = float((distances**2).sum()) / freedom
    return Fit(law, covariance * max(1.0, scatter), scatter, freedom)


def _law(log_tokens: Array, log_a: float, b: float) -> Array:
    excess: Array = np.exp(log_a - b * log_tokens)
    return excess


def token_markdown(found: Sequence[TokenPoint]) -> str:
    """A table, and the law where there is one."""
    columns: dict[str, list[tuple[float, float] | None]] = {"× software": [(p.ratio, p.error) for p in found]}
    if controlled := any(p.control is not None for p in found):
        columns["control, × software"] = [p.control for p in found]
    columns["× continued"] = [p.continued for p in found]
    rows = []
    for n, p in enumerate(found):
        ratios = (_with_error(column[n]) for column in columns.values())
        rows.append((f"{p.tokens:,.0f}", f"{p.perplexity:.2f}", *ratios))
    caption = "±: standard error over articles."
    if controlled:
        caption += (
            " Control: the software model with the same adapter, trained on the same tokens by the same loss."
        )
    if can_be_fitted(found):
        law = fit(found)
        half = law.quantile * math.sqrt(law.covariance[1, 1])
        far = [_at(law, million) for million in (10, 50)]
        caption += (
            f" Fitted: ln r ∝ N^(−b), b = {law.logs[1]:.2f} ± {half:.2f} (95 %); it would reach {far[0]} at "
            f"10 M and {far[1]} at 50 M tokens, if it holds that far."
        )
        if law.scatter > 1:
            caption += (
                f" The points scatter about it more than the articles explain (χ² = {law.scatter:.1f} per "
                "degree of freedom); the intervals are widened by that, with Student's t of "
                f"{law.freedom} degrees of freedom."
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
