"""Many virtual chips, for `gaincell evaluate --chips`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gaincell.cli._options import LARGEST_SEED, fraction
from gaincell.errors import InputError

if TYPE_CHECKING:
    from gaincell.arrays import Refresh
    from gaincell.devices.variability import Mismatch
    from gaincell.integrations.hf.base_model import LoadedModel
    from gaincell.progress import StageProgress
    from gaincell.reports.tables import Rows
    from gaincell.results.evaluation import ChipSpread, ChipsResult, ScoreSpread, TaskChips


@dataclass(frozen=True)
class ChipOptions:
    """Virtual chips."""

    chips: Annotated[
        int | None,
        typer.Option("--chips", metavar="N", help="Perplexity of N virtual chips, with its spread."),
    ] = None
    mismatch: Annotated[
        str | None,
        typer.Option(
            "--mismatch", metavar="P%", help="Spread of the cells' currents, of full scale, for --chips."
        ),
    ] = None
    within: Annotated[
        str | None,
        typer.Option("--yield-within", metavar="X%", help="Good: up to X % above nominal; by default 5 %."),
    ] = None
    seed: Annotated[
        int | None, typer.Option("--chip-seed", metavar="N", min=0, max=LARGEST_SEED, help="Of the chips.")
    ] = None

    def check(self) -> None:
        """Raise InputError for numbers that say nothing."""
        if self.chips is not None and self.chips < 1:
            raise InputError(f"{self.chips} chips: give 1 or more")
        if self.chips is not None:
            _ = self.spread, self.good

    @property
    def count(self) -> int:
        """How many."""
        assert self.chips is not None
        return self.chips

    @property
    def spread(self) -> float | None:
        """Of the cells, a fraction of full scale; None for the design's. Raises InputError."""
        return None if self.mismatch is None else fraction(self.mismatch, "--mismatch")

    @property
    def good(self) -> float:
        """Up to which increase over the nominal chip. Raises InputError."""
        return fraction(self.within or "5%", "--yield-within")

    def mismatch_of(self, loaded: LoadedModel) -> Mismatch:
        """The spread of the cells of a model's chips."""
        from gaincell.devices.variability import Mismatch
        from gaincell.integrations.hf.attach import attached_layers

        layers = attached_layers(loaded.model)
        own = layers[0].design.mismatch if layers else Mismatch()
        if self.spread is not None:
            own = Mismatch(current_offset_std=self.spread, seed=own.seed)
        return own if self.seed is None else replace(own, seed=self.seed)


def by_chips(
    loaded: LoadedModel,
    tokens: Any,
    protocol: str,
    pause: tuple[float, Refresh] | None,
    options: ChipOptions,
    progress: StageProgress,
) -> tuple[Rows, ChipsResult]:
    """Table and result of a perplexity; pause: idle time and refresh policy."""
    from gaincell.cli._perplexity import result
    from gaincell.evaluation.chips import evaluate_chips
    from gaincell.evaluation.pause import perplexity_after_pause
    from gaincell.evaluation.perplexity import perplexity, window_and_stride
    from gaincell.results.evaluation import ChipsResult

    length, _ = window_and_stride(protocol)
    words: list[str] = []

    def measure() -> float:
        if pause is not None:
            row, protocol_in_words = perplexity_after_pause(
                loaded.model, tokens, pause[0], length, refresh=pause[1]
            )
            words.append(f"{protocol_in_words}, {pause[0]:g} s, refresh {pause[1].kind}")
            return row.perplexity
        found = perplexity(loaded.model, tokens, protocol)
        words.append(found.protocol)
        return found.perplexity

    mismatch = options.mismatch_of(loaded)
    bar = progress("chips")
    found = evaluate_chips(loaded.model, measure, options.count, mismatch, options.good, bar)
    head = result(loaded, words[0], tokens)
    made = replace(head.provenance, seed=mismatch.seed)
    return _table(found, words[0]), ChipsResult(**vars(replace(head, provenance=made)), chips=found)


def tasks_by_chips(
    measure: Callable[[], dict[str, float]],
    loaded: LoadedModel,
    options: ChipOptions,
    progress: StageProgress,
) -> tuple[Rows, TaskChips]:
    """Table and result of the scores that `measure` gives, task/metric by task/metric."""
    from gaincell.evaluation.chips import over_chips, spread_of
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.reports.tables import Rows
    from gaincell.results.evaluation import TaskChips

    mismatch = options.mismatch_of(loaded)
    nominal, numbers, found = over_chips(loaded.model, measure, options.count, mismatch, progress("chips"))
    caption = (
        f"{len(numbers)} chips and the nominal one on the same items; change: ratio of perplexities, "
        "difference of other scores, with its interval of 95 % over chips (Student)"
    )
    within = f"yield (≤ +{100 * options.good:g} %)"
    headings = ("score", "nominal", "mean", "std", "change", "95 %", "worst chip", within)
    entries, rows = {}, []
    for name, reference in nominal.items():
        scores = tuple(each[name] for each in found)
        entries[name], row = _spread_of(name, reference, numbers, scores, options.good)
        rows.append([name, *row])
    chip = attached_layers(loaded.model)[0].design.replace(mismatch=mismatch)
    return Rows("", headings, rows, caption), TaskChips(numbers, entries, options.good, spread_of(chip))


def _spread_of(
    name: str, nominal: float, numbers: tuple[int, ...], scores: tuple[float, ...], within: float
) -> tuple[ScoreSpread, list[str]]:
    """Entry and row of one score."""
    from gaincell.evaluation.chips import perplexity_spread, score_spread
    from gaincell.results.evaluation import ScoreSpread

    good = "–"
    if "perplexity" in name:
        chips = perplexity_spread(nominal, numbers, scores, within)
        change, interval, good = f"× {chips.ratio:.4f}", chips.ratio_interval, f"{100 * chips.yield_:.0f} %"
        found = ScoreSpread(
            nominal, scores, chips.mean, chips.worst, chips.std, chips.ratio, interval, chips.yield_,
            chips.yield_interval,
        )  # fmt: skip
    else:
        found = score_spread(nominal, numbers, scores, lower_is_better=name.endswith("bits_per_byte"))
        change, interval = f"{found.mean - nominal:+.4f}", found.difference_interval
    std = "–" if found.std is None else _score(found.std)
    limits = "–" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
    bad = f"{_score(scores[numbers.index(found.worst)])} (no. {found.worst})"
    return found, [_score(nominal), _score(found.mean), std, change, limits, bad, good]


def _score(number: float) -> str:
    from gaincell.reports.tables import readable

    return f"{number:.4f}" if number < 10 else readable(number)


def _table(found: ChipSpread, protocol: str) -> Rows:
    from gaincell.reports.tables import Rows, readable

    low, high = found.yield_interval
    caption = (
        f"{protocol}; {len(found.number)} chips and the nominal one on the same text; intervals of 95 %, of "
        f"the ratio over chips (Student), of the yield (Wilson): {100 * low:.0f} to {100 * high:.0f} %"
    )
    interval = found.ratio_interval
    row = (
        readable(found.nominal),
        readable(found.mean),
        "–" if found.std is None else readable(found.std),
        f"{found.ratio:.4f}",
        "–" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
        f"{readable(max(found.perplexity))} (no. {found.worst})",
        f"{100 * found.yield_:.0f} %",
    )
    within = f"yield (≤ +{100 * found.yield_within:g} %)"
    headings = ("nominal", "mean", "std", "× nominal", "95 %", "worst chip", within)
    return Rows("", headings, [row], caption, text=())
