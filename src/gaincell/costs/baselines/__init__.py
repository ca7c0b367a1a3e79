"""Softmax attention of one query over a KV cache, timed on the machine at hand: what gain cells replace.

`measure` times one configuration, `sweep` many; `attention.IMPLEMENTATIONS` says what there is to time.
"""

from gaincell.costs.baselines.attention import IMPLEMENTATIONS, PUBLISHED
from gaincell.costs.baselines.grid import Sweep, measure_here, sweep
from gaincell.costs.baselines.measurement import Measurement, measure

__all__ = ["IMPLEMENTATIONS", "PUBLISHED", "Measurement", "Sweep", "measure", "measure_here", "sweep"]
