"""What a page may ask for: the chip's sliders, and a text. Everything is checked here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.quantity import LARGEST_SEED
from gaincell.schema import Json, parse, table
from gaincell.units import Second

MOST_CHARACTERS = 50_000
"""Of a prompt."""
MOST_TOKENS = 4000
"""Of a text, without its prompt."""
HIGHEST_TEMPERATURE = 2.0
LARGEST_SHARE = {"mismatch": 0.3, "noise": 0.1}
"""Of full scale."""
LONGEST_IDLE: Second = 10.0
SHORTEST_RETENTION: Second = 1e-9
NO_DECAY: Second = 1e6
"""Retention time that stands for a chip without decay: a text takes milliseconds of it."""


@dataclass(frozen=True)
class Chip:
    """What the sliders set.

    Attributes:
        retention_time: Tau, s.
        mismatch: Standard deviation of every cell's current offset, fraction of full scale (as in `gaincell
            evaluate --mismatch`); another than the design's stands for all its differences of currents.
        noise: Of one cell's current in one read, fraction of full scale (`Noise.cell_std`).
        idle: Pause after every token, s.
    """

    retention_time: Second
    mismatch: float
    noise: float
    idle: Second

    @classmethod
    def of(cls, design: Design) -> Chip:
        """As a design has it."""
        tau = NO_DECAY if design.retention_time is None else design.retention_time
        return cls(tau, design.mismatch.current_offset_std, design.noise.cell_std, 0.0)

    @classmethod
    def read(cls, given: Any, design: Design) -> Chip:
        """From a page.

        Raises:
            InputError: a number is missing, unknown or out of range.
        """
        limits: Json = {
            name: Annotated[float, Field(ge=low, le=high)] for name, (low, high) in ranges(design).items()
        }
        given = given if isinstance(given, dict) else {}
        return cls(**parse(table(needed=limits, **limits), given, "the chip"))

    def on(self, design: Design) -> Design:
        """The design with these numbers; everything else stays."""
        own = Chip.of(design)
        changes: dict[str, Any] = {}
        if self.retention_time != own.retention_time:
            changes["retention_time"] = self.retention_time
        if self.mismatch != own.mismatch:
            changes["mismatch"] = design.mismatch.with_spread(self.mismatch)
        if self.noise != own.noise:
            changes["noise"] = dataclasses.replace(design.noise, cell_std=self.noise)
        return design.replace(**changes) if changes else design


def ranges(design: Design) -> dict[str, tuple[float, float]]:
    """Lowest and highest number of every slider; of the retention time that of the design file, unless it is
    the confidence interval of a fit. The number that the design has is always among them.
    """
    stated = design.provenance["retention_time"]
    low, high = (SHORTEST_RETENTION, NO_DECAY) if stated.source == "F" else stated.range
    found = {
        "retention_time": (max(low, SHORTEST_RETENTION), min(high, NO_DECAY)),
        **{name: (0.0, most) for name, most in LARGEST_SHARE.items()},
        "idle": (0.0, LONGEST_IDLE),
    }
    own = dataclasses.asdict(Chip.of(design))
    return {name: (min(low, own[name]), max(high, own[name])) for name, (low, high) in found.items()}


@dataclass(frozen=True)
class Request:
    """A text that is asked for.

    Attributes:
        tokens: To write.
        temperature: Of sampling; 0: the likeliest token.
        seed: Of the random numbers, the same for both models.
    """

    prompt: str
    tokens: Annotated[int, Field(ge=1, le=MOST_TOKENS)]
    temperature: Annotated[float, Field(ge=0, le=HIGHEST_TEMPERATURE)]
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)]

    @classmethod
    def read(cls, given: Any) -> Request:
        """From a page.

        Raises:
            InputError: the prompt is empty or too long, a number is missing, unknown or out of range.
        """
        prompt = given.get("prompt") if isinstance(given, Mapping) else None
        if not isinstance(prompt, str):
            raise InputError("a text needs a prompt, in words")
        if not prompt.strip():
            raise InputError("the prompt is empty: type what the text shall begin with")
        if len(prompt) > MOST_CHARACTERS:
            raise InputError(
                f"the prompt has {len(prompt):,} characters; allowed: up to {MOST_CHARACTERS:,}. Shorten it"
            )
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise InputError("the prompt holds half of a character (a lone surrogate); remove it") from None
        return cls(**parse(REQUEST, given, "a text"))


REQUEST = table(Request, needed=("prompt", "tokens", "temperature", "seed"))
