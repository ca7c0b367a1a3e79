"""Adaptation: give a model on another cell the statistics of the model it came from, by gains and offsets
alone.
"""

from gaincell.adaptation.adapt import adapt, set_neutral
from gaincell.adaptation.result import AdaptationResult
from gaincell.adaptation.statistics import Place, Statistics, collect_statistics

__all__ = ["AdaptationResult", "Place", "Statistics", "adapt", "collect_statistics", "set_neutral"]
