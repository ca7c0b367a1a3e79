"""How long-running functions say how far they are: they call a function, and never print.

A `Progress` is called after every unit of work with (done, total, numbers worth showing). Raising from it
(KeyboardInterrupt, for instance) stops the work where it stands.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int, dict[str, float]], None]
"""(units done, units in all, {"cross-entropy (nats per token)": ..., ...}); in brackets: the unit. Of an
iteration `units in all` is its limit, and "expected" among the numbers is how many it will take as it looks
now, 0 where that is not known yet."""

StageProgress: TypeAlias = Callable[[str], Progress]
"""Opens the progress of one named step of a longer job."""


def silent(done: int, total: int, numbers: Mapping[str, float]) -> None:
    """The progress that shows nothing."""


def silent_stages(step: str) -> Progress:
    """The stage progress that shows nothing."""
    return silent
