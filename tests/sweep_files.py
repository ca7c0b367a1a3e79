"""What tests of sweeps share: the head of a file, and measurements in this process."""

from __future__ import annotations

from pathlib import Path

from gaincell.results.sweep import SweepResult
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


def measured(sweep: Sweep, place: Path) -> SweepResult:
    """The result of a sweep measured in this process."""
    storage = open_storage(str(place / "points.journal"))
    study = open_study(sweep, storage)
    enqueue(study, sweep.plan(), range(sweep.points))
    work(sweep, storage, measure_into(Bench(sweep), place / "points", ["gaincell", "sweep"]))
    return assemble(sweep, survey(study, sweep.points), ["gaincell", "sweep"])
