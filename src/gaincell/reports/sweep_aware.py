"""What noise-aware fine-tuning buys back, from the JSON of a sweep over `fine_tune` and one strength.

Of a strength, with three models measured on the same blocks and chips: A without the strength, B with it,
C with it and fine-tuned,

    share = (NLL_B - NLL_C) / (NLL_B - NLL_A)

of the mean negative log-likelihoods. Its interval of 95 % is Fieller's: all shares s for which gain - s loss
is not told from zero (Student; variances over blocks, and over chips where there are some). None where the
loss NLL_B - NLL_A is not surely above zero. One training was done: its spread is not in the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gaincell.files import is_number
from gaincell.reports.sweep import answers, failures, without_reference, word
from gaincell.reports.tables import Rows
from gaincell.results.sweep import Point, SweepResult
from gaincell.standard_error import half_width

TRAINED, NONE = "fine_tune", "–"
Changes: TypeAlias = tuple[list[float], list[float]]
"""Of two points: see `Point.changes`."""


@dataclass(frozen=True)
class BoughtBack:
    """Of one strength.

    Attributes:
        before: Perplexity over that without the strength and without training, with its half-width of 95 %;
            NaN of a single block.
        after: The same after training.
        share: Of the loss, and the ends of its interval; None: there is no sure loss.
    """

    strength: float
    before: tuple[float, float]
    after: tuple[float, float]
    share: tuple[float, float, float] | None


def strength_of(result: SweepResult) -> str | None:
    """The parameter besides `fine_tune`; None where there is none, or there are several."""
    names = [name for name in result.units if name != TRAINED]
    return names[0] if len(names) == 1 and len(result.parameters) == 2 else None


def bought_back(result: SweepResult) -> list[BoughtBack]:
    """Every strength that was measured before and after the longest training; 0 is the control.

    Nothing of another kind of sweep, or where the strength 0 without training was not measured.
    """
    if (name := strength_of(result)) is None:
        return []
    found = {
        (strength, steps): p
        for p in result.complete
        if p.blocks and is_number(steps := p.setting(TRAINED)) and is_number(strength := p.setting(name))
    }
    steps = max((steps for _, steps in found), default=0)
    return [
        _compare(s, found[0.0, 0], found[s, 0], found[s, steps])
        for s in sorted({s for s, _ in found})
        if steps and {(0.0, 0), (s, 0), (s, steps)} <= found.keys()
    ]


def _compare(strength: float, reference: Point, before: Point, after: Point) -> BoughtBack:
    assert reference.blocks is not None
    loss, weights = before.changes(reference), reference.blocks.predictions
    lost = _mean(loss, weights)
    sure = lost[0] - lost[1] > 0
    return BoughtBack(
        strength,
        _factor(lost),
        _factor(_mean(after.changes(reference), weights)),
        _fieller(before.changes(after), loss, weights) if sure else None,
    )


def _mean(changes: Changes, weights: Sequence[float]) -> tuple[float, float]:
    """Over blocks, with the half-width of 95 % over blocks and chips; NaN where a single block has no
    variance.
    """
    blocks, chips = changes
    half = half_width(blocks, weights, chips)
    return math.fsum(blocks) / math.fsum(weights), math.nan if half is None else half


def _fieller(gain: Changes, loss: Changes, weights: Sequence[float]) -> tuple[float, float, float]:
    """gain / loss and the roots s of (gain - s loss)^2 = half-width^2 of gain - s loss, for a sure loss."""

    def half_squared(sign: float) -> float:
        blocks, chips = (
            [g + sign * x for g, x in zip(*pair, strict=True)] for pair in zip(gain, loss, strict=True)
        )
        return _mean((blocks, chips), weights)[1] ** 2

    (g, hg), (x, hx) = _mean(gain, weights), _mean(loss, weights)
    mixed = (half_squared(1.0) - half_squared(-1.0)) / 4
    a, b, c = x * x - hx * hx, g * x - mixed, g * g - hg * hg
    root = math.sqrt(max(0.0, b * b - a * c))
    return g / x, (b - root) / a, (b + root) / a


def _factor(nats: tuple[float, float]) -> tuple[float, float]:
    ratio = math.exp(nats[0])
    return ratio, ratio * math.expm1(nats[1])


def aware_lines(result: SweepResult) -> list[str]:
    """For a terminal: a line a strength; nothing where a sweep does not say what training buys back."""
    if (table := aware_rows(result)) is None:
        return []
    lines = []
    for strength, before, after, share in table.rows:
        bought = f"; {share} of the loss bought back" if share != NONE else ""
        lines.append(f"{table.headings[0]} = {strength}: {before} before training, {after} after{bought}")
    return [*lines, table.caption]


def remarks(result: SweepResult) -> list[str]:
    """What has to be said beneath the table of any sweep: failures, a hint, and what follows."""
    said = [*failures(result), without_reference(result), *answers(result), *aware_lines(result)]
    return [line for line in said if line]


def aware_rows(result: SweepResult) -> Rows | None:
    """A row a strength; None where a sweep does not say what training buys back."""
    name, found = strength_of(result), bought_back(result)
    if name is None or not found:
        return None
    head = [name, "before training", "after", "of the loss bought back"]
    rows = []
    for row in found:
        share = NONE
        if row.share is not None:
            middle, low, high = (100 * x for x in row.share)
            share = f"{middle:.0f} % ({low:.0f} to {high:.0f})"
        unseen = row.strength and row.before[0] == 1 and not row.before[1] > 0
        before = "not exercised" if unseen else _pair(row.before)
        rows.append([word(row.strength, result.units[name]), before, _pair(row.after), share])
    chips = " and chips" if result.chips > 1 else ""
    remark = (
        f"95 % intervals over blocks{chips}; that of the share is Fieller's. They leave out the spread "
        "between trainings: another order of the text or other noise in training can change a share by more."
    )
    return Rows("", head, rows, remark, text=())


def _pair(ratio: tuple[float, float]) -> str:
    error = NONE if math.isnan(ratio[1]) else f"{ratio[1]:.4f}"
    return f"× {ratio[0]:.4f} ± {error}"
