"""What a training run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gaincell.errors import InputError

REDRAWS = ("nothing", "noise", "chip")
""""noise": noise of reads and writes, where the design has any; "chip": these and the chip itself, so that
what is learnt leans on no single chip.
"""


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run. Defaults for betas, decay and clip are those of the authors' released
    code [R].
    """

    learning_rate: float = 6e-4
    """Peak learning rate."""
    scale_learning_rate: float | None = None
    """Peak learning rate of gains and offsets; None = the same."""
    warmup_steps: int = 10
    """Steps of linear warm-up from zero."""
    final_fraction: float = 0.05
    """The cosine ends at this fraction of the peak."""
    decay_steps: int | None = None
    """Steps after which the cosine ends; None = with the run. The paper's is far longer than its runs."""
    batch: int = 8
    """Sequences a step."""
    micro_batch: int = 2
    """Sequences a forward pass; `batch` is a multiple of it."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    weight_decay: float = 0.1
    """Applied to every trained tensor, gains and offsets included, as in the paper [R]."""
    clip: float = 1.0
    """Largest global gradient norm."""
    bf16: bool = True
    """bf16 autocast of the linear layers; the hardware attention always computes in float32."""
    gradient_checkpointing: bool = False
    """Keep only every layer's input and compute the rest again in the backward pass: less memory, a third
    more time.
    """
    redraw: str = "noise"
    """What every forward pass draws anew: one of REDRAWS."""
    sharded: bool = False
    """With several processes: each keeps a share of weights and optimiser states (FSDP) instead of all."""
    checkpoint_every: int = 100
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints on disk at the most; older ones are removed."""
    evaluate_every: int = 0
    """Steps between evaluations; 0 = none."""
    patience: int = 0
    """Evaluations in a row that are no better after which training stops and returns to the best; 0 = never.
    """
    divergence: float = 3.0
    """Stop when the mean loss of ten steps is this many times the lowest such mean so far."""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.micro_batch < 1 or self.batch % self.micro_batch:
            raise InputError(f"batch = {self.batch} is not a multiple of micro_batch = {self.micro_batch}")
        if self.redraw not in REDRAWS:
            raise InputError(f"redraw = {self.redraw!r} is unknown; allowed: {', '.join(REDRAWS)}")
        for name in ("learning_rate", "scale_learning_rate", "clip"):
            number = getattr(self, name)
            if number is not None and not (math.isfinite(number) and number > 0):
                raise InputError(f"{name} = {number}; give a finite number above 0")
        for name, least in (("checkpoint_every", 1), ("keep_checkpoints", 1), ("evaluate_every", 0),
                            ("patience", 0), ("warmup_steps", 0)):  # fmt: skip
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)}; give {least} or more")
        if self.patience and not self.evaluate_every:
            raise InputError("patience needs evaluate_every: without evaluations nothing tells when to stop")
        if self.divergence <= 1:
            raise InputError(f"divergence = {self.divergence}; give a number above 1")


def learning_rate_at(step: int, total: int, settings: TrainSettings) -> float:
    """Fraction of the peak learning rate at a step: linear warm-up, then a cosine down to
    `final_fraction`.
    """
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    end = settings.decay_steps or total
    done = (step - settings.warmup_steps) / max(1, end - settings.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return settings.final_fraction + (1 - settings.final_fraction) * cosine
