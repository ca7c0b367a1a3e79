"""What tests of sweeps share: the head of a file, and measurements in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gaincell.results import read
from gaincell.results.common import Value
from gaincell.results.sweep import Point, PointChips, SweepResult, SweptBlocks, SweptParameter
from gaincell.sweeps.point import Bench, measure_into
from gaincell.sweeps.result import assemble
from gaincell.sweeps.settings import Sweep
from gaincell.sweeps.study import enqueue, open_storage, open_study, survey
from gaincell.sweeps.work import work

HEAD = """objectives = ["perplexity"]
limit = 128
protocol = "blocks-64"
calibration = 64
"""
COSTS = 'objectives = ["area", "latency"]\n'


def measured(sweep: Sweep, place: Path) -> SweepResult:
    """The result of a sweep measured in this process."""
    storage = open_storage(str(place / "points.journal"))
    study = open_study(sweep, storage)
    enqueue(study, sweep.plan(), range(sweep.points))
    work(sweep, storage, measure_into(Bench(sweep), place / "points", ["gaincell", "sweep"]))
    return assemble(sweep, survey(study, sweep.points), ["gaincell", "sweep"])


def strength(
    number: int,
    name: str,
    value: float,
    steps: int,
    nll: Sequence[float],
    chips: Sequence[float] | None = None,
) -> Point:
    """A point of a sweep over a strength and steps of training, in blocks of 100 predictions."""
    return Point(
        point=number,
        state="complete",
        parameters={name: Value(value, "1", "simulated"), "fine_tune": Value(steps, "steps", "simulated")},
        blocks=SweptBlocks(tuple(nll), (100,) * len(nll)),
        chips=None if chips is None else PointChips(chips[0], tuple(chips)),
    )


def swept(points: Sequence[Point], units: Mapping[str, str]) -> SweepResult:
    """A result over parameters with these units; all else is that of a committed one."""
    committed = Path(__file__).parents[1] / "docs" / "results" / "sweeps" / "aware-noise.json"
    parameters = (SweptParameter(name, unit, "", Value(0, unit, "simulated")) for name, unit in units.items())
    return replace(read(committed, SweepResult), parameters=tuple(parameters), points=tuple(points))
