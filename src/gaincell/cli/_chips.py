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
    from gaincell.evaluation.chips import Chips
    from gaincell.integrations.hf.base_model import LoadedModel
    from gaincell.progress import StageProgress
    from gaincell.reports.tables import Rows
    from gaincell.results.evaluation import ChipsResult, ScoreSpread, Strength, TaskChips


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
    from gaincell.results.evaluation import ChipSpread, ChipsResult

    length, _ = window_and_stride(protocol)
    words: list[str] = []

    def measure() -> float:
        if pause is not None:
            paused = perplexity_after_pause(loaded.model, tokens, pause[0], length, refresh=pause[1])
            words.append(f"{paused.found.protocol}, {pause[0]:g} s, refresh {pause[1].kind}")
            return paused.found.perplexity
        found = perplexity(loaded.model, tokens, protocol)
        words.append(found.protocol)
        return found.perplexity

    mismatch = options.mismatch_of(loaded)
    bar = progress("chips")
    found = evaluate_chips(loaded.model, measure, options.count, mismatch, options.good, bar)
    head = result(loaded, words[0], tokens)
    made = replace(head.provenance, seed=mismatch.seed)
    chips = ChipSpread(
        perplexity=found.perplexities,
        number=found.chips,
        nominal=found.nominal,
        mean=found.mean,
        ratio=found.ratio,
        worst=found.worst,
        yield_within=found.within,
        yield_=found.yield_share,
        yield_interval=found.yield_interval,
        spread=spread_of(loaded, mismatch),
        std=found.std,
        ratio_interval=found.ratio_interval,
    )
    return _table(found, words[0]), ChipsResult(**vars(replace(head, provenance=made)), chips=chips)


def spread_of(loaded: LoadedModel, mismatch: Mismatch) -> dict[str, Strength]:
    """Which chips they are: the basic mismatch, and whatever else differs from one to the next."""
    from gaincell.chips.fields import TABLE_NUMBERS
    from gaincell.integrations.hf.attach import attached_layers
    from gaincell.results.evaluation import Strength

    chip = attached_layers(loaded.model)[0].design.replace(mismatch=mismatch)
    others = {}
    for name in sorted(chip.drawn("chip")):
        table, key = name.split(".")
        strength = getattr(getattr(chip, table), key)
        others[name.removeprefix("mismatch.")] = Strength(strength, TABLE_NUMBERS[table][key].unit)
    return others | {
        "seed": Strength(mismatch.seed, "1"),
        "gain_std": Strength(mismatch.gain_std, "of the current"),
        "offset_voltage_std": Strength(mismatch.offset_voltage_std, "V"),
        "current_offset_std": Strength(mismatch.current_offset_std, "of full scale"),
    }


def tasks_by_chips(
    measure: Callable[[], dict[str, float]],
    loaded: LoadedModel,
    options: ChipOptions,
    progress: StageProgress,
) -> tuple[Rows, TaskChips]:
    """Table and result of the scores that `measure` gives, task/metric by task/metric."""
    from gaincell.evaluation.chips import over_chips
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
    return Rows("", headings, rows, caption), TaskChips(
        numbers, entries, options.good, spread_of(loaded, mismatch)
    )


def _spread_of(
    name: str, nominal: float, numbers: tuple[int, ...], scores: tuple[float, ...], within: float
) -> tuple[ScoreSpread, list[str]]:
    """Entry and row of one score."""
    from gaincell.evaluation.chips import Chips, ChipScores
    from gaincell.results.evaluation import ScoreSpread

    good = "–"
    if "perplexity" in name:
        chips = Chips(nominal, numbers, scores, within)
        mean, std, worst, change = chips.mean, chips.std, chips.worst, f"× {chips.ratio:.4f}"
        interval = chips.ratio_interval
        found = ScoreSpread(
            nominal, scores, mean, worst, std, chips.ratio, interval, chips.yield_share, chips.yield_interval
        )
        good = f"{100 * chips.yield_share:.0f} %"
    else:
        others = ChipScores(nominal, numbers, scores, lower_is_better=name.endswith("bits_per_byte"))
        mean, std, worst, change = others.mean, others.std, others.worst, f"{others.difference:+.4f}"
        interval = others.difference_interval
        changed = {"difference": others.difference, "difference_interval": interval}
        found = replace(ScoreSpread(nominal, scores, mean, worst, std), **changed)  # type: ignore[arg-type]
    limits = "–" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
    bad = f"{_score(scores[numbers.index(worst)])} (no. {worst})"
    row = [_score(nominal), _score(mean), "–" if std is None else _score(std), change, limits, bad, good]
    return found, row


def _score(number: float) -> str:
    from gaincell.reports.tables import readable

    return f"{number:.4f}" if number < 10 else readable(number)


def _table(found: Chips, protocol: str) -> Rows:
    from gaincell.reports.tables import Rows, readable

    low, high = found.yield_interval
    caption = (
        f"{protocol}; {len(found.chips)} chips and the nominal one on the same text; intervals of 95 %, of "
        f"the ratio over chips (Student), of the yield (Wilson): {100 * low:.0f} to {100 * high:.0f} %"
    )
    interval = found.ratio_interval
    row = (
        readable(found.nominal),
        readable(found.mean),
        "–" if found.std is None else readable(found.std),
        f"{found.ratio:.4f}",
        "–" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
        f"{readable(max(found.perplexities))} (no. {found.worst})",
        f"{100 * found.yield_share:.0f} %",
    )
    within = f"yield (≤ +{100 * found.within:g} %)"
    headings = ("nominal", "mean", "std", "× nominal", "95 %", "worst chip", within)
    return Rows("", headings, [row], caption, text=())
