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
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy import stats
from transformers import PreTrainedModel

from gaincell.chips.design import Design
from gaincell.chips.fields import TABLE_NUMBERS, where_drawn
from gaincell.devices.variability import Mismatch
from gaincell.errors import InputError
from gaincell.integrations.hf.attach import computing_layers, set_design
from gaincell.progress import Progress, silent
from gaincell.results.evaluation import ChipSpread, ScoreSpread, Strength
from gaincell.standard_error import CONFIDENCE, exp_or_infinity, half_width

Found = TypeVar("Found")


def perplexity_spread(
    nominal: float,
    numbers: tuple[int, ...],
    perplexities: tuple[float, ...],
    within: float,
    spread: Mapping[str, Strength] | None = None,
) -> ChipSpread:
    """Perplexities of chips beside the nominal one.

    Where one of them is infinite, the mean ratio is too, and has no interval.

    Args:
        nominal: Perplexity of the nominal chip.
        numbers: Of the other chips.
        perplexities: Of the other chips.
        within: x of the yield.
        spread: What differs.
    """
    if all(map(math.isfinite, (nominal, *perplexities))):
        logs = [math.log(p / nominal) for p in perplexities]
        ratio, interval = exp_or_infinity(float(np.mean(logs))), _student(logs)
    else:
        ratio, interval = math.inf, None
    passing = sum(p <= nominal * (1 + within) for p in perplexities)
    wilson = stats.binomtest(passing, len(numbers)).proportion_ci(CONFIDENCE, method="wilson")
    return ChipSpread(
        perplexity=perplexities,
        number=numbers,
        nominal=nominal,
        mean=float(np.mean(perplexities)),
        ratio=ratio,
        worst=numbers[int(np.argmax(perplexities))],
        yield_within=within,
        yield_=passing / len(numbers),
        yield_interval=(float(wilson.low), float(wilson.high)),
        spread=spread or {},
        std=_std(perplexities),
        ratio_interval=None if interval is None else tuple(map(exp_or_infinity, interval)),
    )


def check_nominal(perplexity: float) -> None:
    if not 0 < perplexity < math.inf:
        raise InputError(
            f"the nominal chip has perplexity {perplexity!r}, and ratios to it need a finite one above 0: "
            "train or adapt the model first"
        )


def score_spread(
    nominal: float, numbers: tuple[int, ...], scores: tuple[float, ...], *, lower_is_better: bool = False
) -> ScoreSpread:
    """Scores that are no perplexities: accuracies, or bits per byte."""
    mean, worst = float(np.mean(scores)), np.argmax(scores) if lower_is_better else np.argmin(scores)
    return ScoreSpread(
        nominal=nominal,
        chips=scores,
        mean=mean,
        worst=numbers[int(worst)],
        std=_std(scores),
        difference=mean - nominal,
        difference_interval=_student([score - nominal for score in scores]),
    )


def _std(values: Sequence[float]) -> float | None:
    """Standard deviation, infinity where a float cannot hold it; None for a single value."""
    if len(values) < 2:
        return None
    if math.inf in values:
        return math.inf
    with np.errstate(over="ignore"):
        return float(np.std(values, ddof=1))


def _student(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of their mean; None for a single one."""
    middle, half = float(np.mean(values)), half_width(values, [1.0] * len(values))
    return None if half is None else (middle - half, middle + half)


def spread_of(chip: Design) -> dict[str, Strength]:
    """Which chips they are: the basic mismatch, and whatever else differs from one to the next."""
    others = {}
    for name in sorted(chip.drawn("chip") - {"nonideality"}):  # which has numbers of its own
        table, key = name.split(".")
        strength = getattr(getattr(chip, table), key)
        others[name.removeprefix("mismatch.")] = Strength(strength, TABLE_NUMBERS[table][key].unit)
    return others | {
        "seed": Strength(chip.mismatch.seed, "1"),
        "gain_std": Strength(chip.mismatch.gain_std, "of the current"),
        "offset_voltage_std": Strength(chip.mismatch.offset_voltage_std, "V"),
        "current_offset_std": Strength(chip.mismatch.current_offset_std, "of full scale"),
    }


def evaluate_chips(
    model: PreTrainedModel,
    measure: Callable[[], float],
    chips: int,
    mismatch: Mismatch | None = None,
    within: float = 0.05,
    progress: Progress = silent,
) -> ChipSpread:
    """Perplexity of the nominal chip and of `chips` chips: see `over_chips`.

    Args:
        model: Attached.
        measure: Gives the model's perplexity as it stands.
        chips: As in `over_chips`.
        mismatch: As in `over_chips`.
        within: x of the yield, a fraction.
        progress: As in `over_chips`.

    Raises:
        InputError: as `over_chips`; a yield that cannot be; a nominal perplexity that is not finite or not
            above 0, before any other chip is measured.
    """
    if not 0 < within < math.inf:
        raise InputError(f"yield within {within!r} of the nominal perplexity: give a fraction above 0")
    reference, numbers, found = over_chips(model, measure, chips, mismatch, progress, check_nominal)
    chip = computing_layers(model)[0].design
    differs = spread_of(chip if mismatch is None else chip.replace(mismatch=mismatch))
    return perplexity_spread(reference, numbers, tuple(found), within, differs)


def over_chips(
    model: PreTrainedModel,
    measure: Callable[[], Found],
    chips: int,
    mismatch: Mismatch | None = None,
    progress: Progress = silent,
    check: Callable[[Found], None] | None = None,
) -> tuple[Found, tuple[int, ...], list[Found]]:
    """What `measure` gives on the nominal chip, numbers of chips, and what it gives on each.

    The model, which is attached, ends on the design it came with.

    Args:
        model: Attached.
        measure: Of the model as it stands.
        chips: N, at least 1; numbered from the mismatch's own on.
        mismatch: The spread; None for the design's own.
        progress: Called with (chips done, chips).
        check: Called with what the nominal chip gives; raises where the chips need not be measured.

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
        set_design(model, own.without("chip"))
        reference = measure()
        if check is not None:
            check(reference)
        progress(0, chips, {})
        for done, chip in enumerate(numbers, 1):
            set_design(model, own.replace(mismatch=dataclasses.replace(spread, chip=chip)))
            found.append(measure())
            progress(done, chips, {})
    finally:
        set_design(model, own)
    return reference, numbers, found
