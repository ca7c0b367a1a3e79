"""Many virtual chips, for `gaincell evaluate --chips`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from gaincell.arrays import Refresh
from gaincell.cli._models import one_row, result
from gaincell.cli.evaluate import ChipOptions
from gaincell.devices.variability import Mismatch
from gaincell.evaluation.chips import evaluate_chips, over_chips, perplexity_spread, score_spread, spread_of
from gaincell.evaluation.pause import perplexity_after_pause
from gaincell.evaluation.perplexity import perplexity, window_and_stride
from gaincell.integrations.hf.attach import attached_layers
from gaincell.integrations.hf.base_model import LoadedModel
from gaincell.progress import StageProgress
from gaincell.reports.tables import Rows, readable
from gaincell.reports.task_chips import chip_rows, interval
from gaincell.results import evaluation as of


def by_chips(
    loaded: LoadedModel,
    tokens: Tensor,
    protocol: str,
    pause: tuple[float, Refresh] | None,
    options: ChipOptions,
    progress: StageProgress,
) -> tuple[Rows, of.ChipsResult]:
    """Table and result of a perplexity; pause: idle time and refresh policy."""
    length, _ = window_and_stride(protocol)
    words: list[str] = []

    def measure() -> float:
        if pause is not None:
            after = perplexity_after_pause(loaded.model, tokens, pause[0], length, refresh=pause[1])
            words.append(f"{after.protocol}, {pause[0]:g} s, refresh {pause[1].kind}")
            return after.row.perplexity
        found = perplexity(loaded.model, tokens, protocol)
        words.append(found.protocol)
        return found.perplexity

    mismatch, bar = mismatch_of(options, loaded), progress("chips")
    found = evaluate_chips(loaded.model, measure, options.count, mismatch, options.good, bar)
    head = result(loaded, words[0], tokens)
    made = replace(head.provenance, seed=mismatch.seed)
    low, high = found.yield_interval
    caption = (
        f"{words[0]}; {len(found.number)} chips and the nominal one on the same text; intervals of 95 %, of "
        f"the ratio over chips (Student), of the yield (Wilson): {100 * low:.0f} to {100 * high:.0f} %"
    )
    row = {
        "nominal": readable(found.nominal),
        "mean": readable(found.mean),
        "std": readable(found.std),
        "× nominal": f"{found.ratio:.4f}",
        "95 %": interval(found.ratio_interval),
        "worst chip": f"{readable(max(found.perplexity))} (no. {found.worst})",
        f"yield (≤ +{100 * found.yield_within:g} %)": f"{100 * found.yield_:.0f} %",
    }
    return one_row(row, caption), of.ChipsResult(**vars(replace(head, provenance=made)), chips=found)


def mismatch_of(options: ChipOptions, loaded: LoadedModel) -> Mismatch:
    """The spread of the cells of a model's chips: the design's, with the one that was asked for in it."""
    layers = attached_layers(loaded.model)
    own = layers[0].design.mismatch if layers else Mismatch()
    if options.spread is not None:
        own = replace(own, current_offset_std=options.spread)
    return own if options.seed is None else replace(own, seed=options.seed)


def tasks_by_chips(
    measure: Callable[[], dict[str, float]],
    loaded: LoadedModel,
    options: ChipOptions,
    progress: StageProgress,
) -> tuple[Rows, of.TaskChips]:
    """Table and result of the scores that `measure` gives, task/metric by task/metric."""
    mismatch, good = mismatch_of(options, loaded), options.good
    nominal, numbers, found = over_chips(loaded.model, measure, options.count, mismatch, progress("chips"))
    entries = {
        name: _spread_of(name, reference, numbers, tuple(each[name] for each in found), good)
        for name, reference in nominal.items()
    }
    chip = attached_layers(loaded.model)[0].design.replace(mismatch=mismatch)
    chips = of.TaskChips(numbers, entries, good, spread_of(chip))
    return chip_rows(chips), chips


def _spread_of(
    name: str, nominal: float, numbers: tuple[int, ...], scores: tuple[float, ...], within: float
) -> of.ScoreSpread:
    """Of one score: perplexities have a ratio and a yield, others a difference."""
    if "perplexity" in name:
        chips = perplexity_spread(nominal, numbers, scores, within)
        return of.ScoreSpread(
            nominal, scores, chips.mean, chips.worst, chips.std, chips.ratio, chips.ratio_interval,
            chips.yield_, chips.yield_interval,
        )  # fmt: skip
    return score_spread(nominal, numbers, scores, lower_is_better=name.endswith("bits_per_byte"))
