"""The hardware itself, token by token: arrays that hold voltages, a ring of columns, a clock."""

from gaincell.arrays.head import HeadArray, StepTrace
from gaincell.arrays.refresh import Refresh
from gaincell.arrays.schedule import Event, Phase, Schedule

__all__ = ["Event", "HeadArray", "Phase", "Refresh", "Schedule", "StepTrace"]
