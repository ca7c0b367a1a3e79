"""The hardware itself, token by token: arrays that hold voltages, a ring of columns, a clock."""

from gaincell.arrays.head import HeadArray
from gaincell.arrays.refresh import Refresh
from gaincell.arrays.schedule import Event, Phase, Schedule
from gaincell.arrays.trace import StepTrace

__all__ = ["Event", "HeadArray", "Phase", "Refresh", "Schedule", "StepTrace"]
