"""What noise-aware fine-tuning buys back, from the JSON of a sweep over `fine_tune` and one strength.

Of a strength, with three models measured on the same blocks and chips: A without the strength, B with it,
C with it and fine-tuned,

    share = (NLL_B - NLL_C) / (NLL_B - NLL_A)

of the mean negative log-likelihoods. Its interval of 95 % (Student) is to first order that of a ratio of sums
over blocks, and over chips where there are some; None where the loss NLL_B - NLL_A is not surely above zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from gaincell.reports.results import numbers
from gaincell.reports.sweep import complete, is_number, setting, word
from gaincell.spread import ratio_error

Result = Mapping[str, Any]
Point = Mapping[str, Any]
TRAINED = "fine_tune"


@dataclass(frozen=True)
class BoughtBack:
    """Of one strength.

    before, after: perplexity over that without the strength and without training, with half-widths of 95 %.
    share: of the loss, with its half-width; None: there is no sure loss.
    """

    strength: float
    before: tuple[float, float]
    after: tuple[float, float]
    share: tuple[float, float] | None


def strength_of(result: Result) -> str:
    """The parameter besides `fine_tune`. Raises ValueError: none or several."""
    names = [p["name"] for p in result["parameters"] if p["name"] != TRAINED]
    if len(names) != 1 or len(result["parameters"]) != 2:
        raise ValueError(f"a sweep over {TRAINED} and one strength is wanted, not over {names}")
    return str(names[0])


def bought_back(result: Result) -> list[BoughtBack]:
    """Every strength above zero that was measured before and after training."""
    name = strength_of(result)
    found = {(setting(p, name), setting(p, TRAINED)): p for p in complete(result)}
    steps = max(steps for _, steps in found)
    return [
        _compare(s, found[0.0, 0], found[s, 0], found[s, steps])
        for s in sorted({s for s, _ in found if is_number(s) and s > 0})
        if (s, 0) in found and (s, steps) in found
    ]


def _compare(strength: float, reference: Point, before: Point, after: Point) -> BoughtBack:
    loss, gain = _differences(before, reference), _differences(before, after)
    left = _differences(after, reference)
    weights = [numbers(reference["blocks"]["predictions"]), [1.0] * len(loss[1])]
    lost = _mean(loss, weights)
    sure = lost[0] - lost[1] > 0
    return BoughtBack(
        strength, _factor(lost), _factor(_mean(left, weights)), _mean(gain, loss) if sure else None
    )


def _differences(a: Point, b: Point) -> list[list[float]]:
    """Nats by which a is above b: of every block, and a token of every chip."""
    blocks = [x - y for x, y in zip(numbers(a["blocks"]["nll"]), numbers(b["blocks"]["nll"]), strict=True)]
    chips: list[float] = []
    if "chips" in a and "chips" in b:
        pair = (numbers(p["chips"]["perplexity"]) for p in (a, b))
        chips = [math.log(x / y) for x, y in zip(*pair, strict=True)]
    return [blocks, chips]


def _mean(sums: Sequence[Sequence[float]], weights: Sequence[Sequence[float]]) -> tuple[float, float]:
    """sum(sums) / sum(weights) over blocks, with the half-width of 95 % over blocks and chips."""
    middle = math.fsum(sums[0]) / math.fsum(weights[0])
    squares = 0.0
    for some, their in zip(sums, weights, strict=True):
        error = ratio_error(some, their) if len(some) > 1 else None
        if error is not None:
            squares += (error * float(stats.t.ppf(0.975, len(some) - 1))) ** 2
    return middle, math.sqrt(squares)


def _factor(nats: tuple[float, float]) -> tuple[float, float]:
    ratio = math.exp(nats[0])
    return ratio, ratio * math.expm1(nats[1])


def aware_markdown(result: Result) -> str:
    """A table, a row a strength."""
    name = strength_of(result)
    unit = next(p["unit"] for p in result["parameters"] if p["name"] == name)
    lines = [[name, "before training", "after", "of the loss bought back"], ["---:"] * 4]
    for row in bought_back(result):
        share = "–" if row.share is None else f"{100 * row.share[0]:.0f} ± {100 * row.share[1]:.0f} %"
        lines.append([word(row.strength, unit), _pair(row.before), _pair(row.after), share])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _pair(ratio: tuple[float, float]) -> str:
    return f"× {ratio[0]:.4f} ± {ratio[1]:.4f}"
