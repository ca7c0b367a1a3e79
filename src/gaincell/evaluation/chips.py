"""Many virtual chips of one design: the same model and items, other cells.

A chip is a number: every error of a cell or converter is drawn from (seed, chip, layer, head, array, column,
row), so chips of one seed are independent and each can be drawn again. All chips and the nominal one
(nothing that differs from chip to chip: `design.DRAWN`) see the same items, so that their ratios

    r_c = perplexity of chip c / nominal perplexity

hold nothing of the items' difficulty. Of N chips: mean and standard deviation of the perplexity, the mean
ratio with its confidence interval (Student, of log r over the chips), the worst chip, and the yield, that is
the share of chips with r_c <= 1 + x, with its interval (Wilson).

Not modelled: spread between wafers and lots; chips with defects that a test would have sorted out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats
from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.chips.fields import where_drawn
from gaincell.devices.variability import Mismatch
from gaincell.errors import InputError
from gaincell.integrations.hf.attach import computing_layers, set_design
from gaincell.progress import Progress, silent

CONFIDENCE = 0.95
Found = TypeVar("Found")


@dataclass(frozen=True)
class Chips:
    """nominal: perplexity without spread.  chips: their numbers.  perplexities: of each.
    within: x of the yield.
    """

    nominal: float
    chips: tuple[int, ...]
    perplexities: tuple[float, ...]
    within: float

    @property
    def mean(self) -> float:
        """Of the perplexities."""
        return float(np.mean(self.perplexities))

    @property
    def std(self) -> float | None:
        """Of the perplexities over chips; None for one chip."""
        return float(np.std(self.perplexities, ddof=1)) if len(self.chips) > 1 else None

    @property
    def ratio(self) -> float:
        """Geometric mean of r."""
        return float(math.exp(np.mean(self._log_ratios)))

    @property
    def ratio_interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of `ratio`; None for one chip."""
        interval = _student(self._log_ratios)
        return None if interval is None else (math.exp(interval[0]), math.exp(interval[1]))

    @property
    def worst(self) -> int:
        """Number of the chip with the highest perplexity."""
        return self.chips[int(np.argmax(self.perplexities))]

    @property
    def passing(self) -> int:
        """Chips within 1 + x of the nominal perplexity."""
        return sum(p <= self.nominal * (1 + self.within) for p in self.perplexities)

    @property
    def yield_share(self) -> float:
        """Share of them."""
        return self.passing / len(self.chips)

    @property
    def yield_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the yield (Wilson)."""
        found = stats.binomtest(self.passing, len(self.chips)).proportion_ci(CONFIDENCE, method="wilson")
        return float(found.low), float(found.high)

    @property
    def _log_ratios(self) -> list[float]:
        return [math.log(p / self.nominal) for p in self.perplexities]


@dataclass(frozen=True)
class ChipScores:
    """A score that is no perplexity: an accuracy, or bits per byte.

    nominal: without spread.  chips: their numbers.  scores: of each.  lower_is_better: of the score.
    """

    nominal: float
    chips: tuple[int, ...]
    scores: tuple[float, ...]
    lower_is_better: bool = False

    @property
    def mean(self) -> float:
        """Of the scores."""
        return float(np.mean(self.scores))

    @property
    def std(self) -> float | None:
        """Of the scores over chips; None for one chip."""
        return float(np.std(self.scores, ddof=1)) if len(self.chips) > 1 else None

    @property
    def difference(self) -> float:
        """Mean difference to the nominal chip, on the same items."""
        return self.mean - self.nominal

    @property
    def difference_interval(self) -> tuple[float, float] | None:
        """95 % confidence interval of `difference` (Student, over chips); None for one chip."""
        return _student([score - self.nominal for score in self.scores])

    @property
    def worst(self) -> int:
        """Number of the chip with the worst score."""
        worst = np.argmax(self.scores) if self.lower_is_better else np.argmin(self.scores)
        return self.chips[int(worst)]


def _student(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of their mean; None for a single one."""
    n = len(values)
    if n < 2:
        return None
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    middle = float(np.mean(values))
    return middle - half, middle + half


def evaluate_chips(
    model: PreTrainedModel,
    measure: Callable[[], float],
    chips: int,
    mismatch: Mismatch | None = None,
    within: float = 0.05,
    progress: Progress = silent,
) -> Chips:
    """Perplexity of the nominal chip and of `chips` chips: see `over_chips`.

    measure: gives the model's perplexity as it stands.  within: x of the yield, a fraction.
    """
    if not 0 < within < math.inf:
        raise InputError(f"yield within {within!r} of the nominal perplexity: give a fraction above 0")
    reference, numbers, found = over_chips(model, measure, chips, mismatch, progress)
    return Chips(reference, numbers, tuple(found), within)


def over_chips(
    model: PreTrainedModel,
    measure: Callable[[], Found],
    chips: int,
    mismatch: Mismatch | None = None,
    progress: Progress = silent,
) -> tuple[Found, tuple[int, ...], list[Found]]:
    """What `measure` gives on the nominal chip, numbers of chips, and what it gives on each.

    The model ends on the design it came with.

    Args:
        model: attached.
        measure: of the model as it stands.
        chips: N, at least 1; their numbers are those from the mismatch's own on.
        mismatch: the spread; None for the design's own.
        progress: called after every chip with (chips done, chips).

    Raises:
        InputError: a model in software, no chips, or a design whose chips are all alike.
    """
    layers = computing_layers(model)
    if not layers:
        raise InputError("a model in software has no chips: give a RUN")
    if chips < 1:
        raise InputError(f"{chips} chips: give 1 or more")
    own = layers[0].design
    spread = own.mismatch if mismatch is None else mismatch
    varied = own.replace(mismatch=spread)
    if not varied.drawn("chip"):
        raise InputError(
            "all chips of this design are alike: give --mismatch, or a design with a spread in "
            f"{where_drawn('chip')}"
        )
    numbers = tuple((spread.chip + n) % 2**32 for n in range(chips))
    found = []
    try:
        set_design(model, nominal(own))
        reference = measure()
        progress(0, chips, {})
        for done, chip in enumerate(numbers, 1):
            set_design(model, own.replace(mismatch=dataclasses.replace(spread, chip=chip)))
            found.append(measure())
            progress(done, chips, {})
    finally:
        set_design(model, own)
    return reference, numbers, found


def nominal(design: Design) -> Design:
    """The design without anything that differs from chip to chip; noise stays, if it has any."""
    return design.without("chip")
