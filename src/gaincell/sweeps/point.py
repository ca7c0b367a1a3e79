"""One point of a sweep: a design (and how it is adapted) measured by the objectives.

    gains and offsets as made -> the point's chip without spread -> adapted (-> fine-tuned)
        -> perplexity of the nominal chip, of chips, or of the design as it is; activity -> energy

Perplexity: of the design as it is (chip `mismatch.chip` of it) without chips; with N chips exp of their mean
negative log-likelihood, all on the same text. Chip n has cells `mismatch.chip` + n and noise of reads and
writes `seed` + n, where there are any; the nominal chip has the noise of the first. Adapted one by one, all
chips start from the gains and offsets of the nominal one; the model ends as the first chip, and the activity
is that one's, else of the nominal chip. The interval of the perplexity, of 95 % (Student, of the logarithm),
takes blocks and chips as independent: variance of the mean over blocks + variance of the mean over chips.
Yield: share of chips within 1 + x of the nominal one; interval of Wilson. Energy, latency, area: bottom-up,
of all attention of the model and one token; the energy with the activity on the text's first blocks.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from gaincell.backend_names import BackendName
from gaincell.chips.design import Design
from gaincell.costs import roll_up
from gaincell.costs.activity import Activity
from gaincell.costs.technology import load_technology
from gaincell.errors import ModelError
from gaincell.evaluation.activity import measure_activity
from gaincell.evaluation.chips import check_nominal, perplexity_spread
from gaincell.evaluation.perplexity import Perplexity, cut_blocks, perplexity
from gaincell.files import is_number
from gaincell.integrations.hf.attach import set_design
from gaincell.integrations.hf.checkpoint import save_beside_results
from gaincell.integrations.hf.context import read_tokens
from gaincell.integrations.hf.size import model_size
from gaincell.mapping import summary
from gaincell.results import write
from gaincell.results.codec import Json, to_json
from gaincell.results.common import Value, Values
from gaincell.results.evaluation import ChipSpread
from gaincell.results.provenance import code, hash_of, made
from gaincell.results.run import FILE
from gaincell.results.sweep import Point, PointChips, PointResult, Setting, SweptBlocks
from gaincell.standard_error import exp_or_infinity, half_width
from gaincell.sweeps.prepare import Preparation, State
from gaincell.sweeps.settings import ACTIVITY_BLOCKS, OBJECTIVES, Sweep
from gaincell.sweeps.space import Values as ParameterValues
from gaincell.sweeps.space import applied, shown
from gaincell.text import open_text

Blocks: TypeAlias = tuple[tuple[float, int], ...]
"""Negative log-likelihood (mean over chips) and predictions of every block."""


class Bench:
    """A model, a text and all else that points share.

    Raises:
        GaincellError: model, text or design cannot be used.
    """

    def __init__(self, sweep: Sweep, backend: BackendName = "auto", device: str = "cpu") -> None:
        self.sweep = sweep
        self.size = model_size(sweep.model)
        self.technology = load_technology(sweep.technology)
        if not sweep.measures:
            return
        text = open_text(sweep.text)
        self._ready = Preparation(sweep, text, backend, device)
        self.loaded, self.model, self.length = self._ready.loaded, self._ready.model, self._ready.length
        self.evaluation = read_tokens(self.loaded, text, "evaluation", sweep.limit, block=self.length)

    def measure(self, number: int, values: ParameterValues) -> tuple[Point, Design, Activity | None]:
        """One point, its design, and the activity where that was measured.

        Raises:
            GaincellError: its values do not fit together, or the model gives no finite number.
        """
        begun = time.perf_counter()
        sweep, design = self.sweep, applied(self.sweep.design, values).replace(layers=self.size.layers)
        found: dict[str, float] = {}
        intervals: dict[str, tuple[float, ...] | None] = {}
        blocks: Blocks = ()
        chips, activity = None, None
        if sweep.measures:
            self._ready.prepare(design, values)
            common = self._ready.state()
            if {"perplexity", "yield"} & set(sweep.objectives):
                found["perplexity"], chips, blocks = self._perplexity(design, values, common)
                intervals["perplexity"] = interval(blocks, chips)
            single = self._become(design, values, common)
            if "energy" in sweep.objectives:
                set_design(self.model, design if single else design.without("chip"))
                some = cut_blocks(self.evaluation, self.length)[:ACTIVITY_BLOCKS]
                activity = measure_activity(self.model, [some], Path(sweep.text).name)
            set_design(self.model, design)
        if chips is not None:
            found["yield"], intervals["yield"] = chips.yield_, chips.yield_interval
        found |= self._costs(design, activity)
        for name in sweep.objectives:
            if math.isnan(found[name]):
                raise ModelError(f"{name} is not a number")
        ends = {name: both for name, both in intervals.items() if name in sweep.objectives and both}
        nll, predictions = zip(*blocks, strict=True) if blocks else ((), ())
        point = Point(
            point=number,
            state="complete",
            design=summary.chip_of(design),
            parameters=settings_of(sweep, values),
            values={n: Value(found[n], OBJECTIVES[n][1], "simulated") for n in sweep.objectives},
            intervals={n: Values(both, OBJECTIVES[n][1], "simulated") for n, both in ends.items()},
            seconds=time.perf_counter() - begun,
            code=code(),
            blocks=SweptBlocks(tuple(round(x, 6) for x in nll), predictions) if blocks else None,
            chips=None if chips is None else PointChips(chips.nominal, chips.perplexity),
        )
        return point, design, activity

    def _costs(self, design: Design, activity: Activity | None) -> dict[str, float]:
        if not {"energy", "latency", "area"} & set(self.sweep.objectives):
            return {}
        used, context = activity or Activity.assumed(design), self.sweep.context
        cost = roll_up.of_model(self.size, design, self.technology, used, context=context)
        return {"energy": cost.energy_bottom_up, "latency": cost.latency[1], "area": cost.area[1]}

    def _become(self, chip: Design, values: ParameterValues, common: State) -> bool:
        """Put the model on a chip; returns whether it is adapted to this very one, from what is common."""
        set_design(self.model, chip)
        single = bool(values.get("adapt", self.sweep.adapt) == "chip")
        if single:
            self._ready.put(common)
            self._ready.adapt(values)
        return single

    def _perplexity(
        self, design: Design, values: ParameterValues, common: State
    ) -> tuple[float, ChipSpread | None, Blocks]:
        """Perplexity, chips, and blocks, of the prepared model."""
        if not self.sweep.chips:
            found = self._of(design)
            return found.perplexity, None, found.per_block
        alike = self._of(design.without("chip"))
        first = design.mismatch.chip
        numbers = tuple((first + n) % 2**32 for n in range(self.sweep.chips))
        each: list[Perplexity] = []
        for n, number in enumerate(numbers):
            if not design.drawn("chip") and (n == 0 or not design.drawn("operation")):
                each.append(alike)
                continue
            other = design.redrawn(n)
            chip = other.replace(mismatch=dataclasses.replace(other.mismatch, chip=number))
            self._become(chip, values, common)
            each.append(self._of(chip))
        perplexities = tuple(p.perplexity for p in each)
        check_nominal(alike.perplexity)
        chips = perplexity_spread(alike.perplexity, numbers, perplexities, self.sweep.within)
        blocks = tuple(
            (math.fsum(p.per_block[b][0] for p in each) / len(each), predictions)
            for b, (_, predictions) in enumerate(alike.per_block)
        )
        return _mean(blocks), chips, blocks

    def _of(self, design: Design) -> Perplexity:
        set_design(self.model, design)
        return perplexity(self.model, self.evaluation, self.sweep.protocol)


def _mean(blocks: Blocks) -> float:
    return exp_or_infinity(math.fsum(nll for nll, _ in blocks) / sum(n for _, n in blocks))


def interval(blocks: Blocks, chips: ChipSpread | None) -> tuple[float, float] | None:
    """95 % of the perplexity, over blocks and chips; None of a single block, whose variance is not known, or
    where it is infinite.
    """
    mean = _mean(blocks)
    if not mean < math.inf:
        return None
    nll, predictions = zip(*blocks, strict=True)
    half = half_width(nll, predictions, [] if chips is None else [math.log(p) for p in chips.perplexity])
    middle = math.log(mean)
    return None if half is None else (math.exp(middle - half), exp_or_infinity(middle + half))


def settings_of(sweep: Sweep, values: ParameterValues) -> dict[str, Setting]:
    """Values of parameters in a result: numbers with unit, words as they are."""
    units = {parameter.name: parameter.unit for parameter in sweep.parameters}
    return {
        name: Value(value, units[name], "simulated") if is_number(value) else shown(value)
        for name, value in values.items()
    }


Measure = Callable[[int, ParameterValues], tuple[tuple[float, ...], Json]]
"""Number and values of a point -> its objectives in order, and its entry; the RUN is written."""


def measure_into(bench: Bench, folder: Path, command: list[str], *, weights: bool = False) -> Measure:
    """What a worker does with a point: measure it and write its RUN into `folder`, run.json last."""
    sweep = bench.sweep

    def measure(number: int, values: ParameterValues) -> tuple[tuple[float, ...], Json]:
        point, design, activity = bench.measure(number, values)
        place = folder / f"{number:04d}"
        inputs: dict[str, str] = {}
        if weights and sweep.measures:
            save_beside_results(bench.model, place)
        if sweep.measures:
            inputs |= summary.inputs(bench.loaded)
            inputs["evaluation text"] = hash_of(bench.evaluation)
        how = made(
            command=command, seed=sweep.seed, protocol=sweep.protocol, design_hash=design.hash, inputs=inputs
        )
        design.save(place / "design.toml")
        run = PointResult(provenance=how, sweep=sweep.name, activity=activity, **vars(point))
        write(run, place / FILE)
        return tuple(point.values[name].value for name in sweep.objectives), to_json(point)

    return measure
