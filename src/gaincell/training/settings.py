"""What a training run is asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from gaincell.errors import InputError
from gaincell.schema import LARGEST, Count, Factor, OneOf, Rate, Share, Whole, checked, or_inf

REDRAWS = ("nothing", "noise", "chip")
""""noise": noise of reads and writes, where the design has any; "chip": these and the chip itself, so that
what is learnt leans on no single chip.
"""
DECAYED = ("matrices-and-scales", "all")
""""matrices-and-scales": matrices, embeddings among them, gains and offsets, but not biases, norms and
exponents, as in the authors' released code [R]; "all": every trained tensor but gains that are learnt as
logarithms, normalisers and balanced rows, which never decay.
"""
Precision: TypeAlias = Literal["float32", "bfloat16"]
Beta: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


@checked
@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run. Betas, decay and clip are by default those of the released code [R]."""

    learning_rate: Rate = 6e-4
    """Peak learning rate."""
    scale_learning_rate: Rate | None = None
    """Peak learning rate of gains and offsets, and of what stands beside them; None = the same."""
    offset_learning_rate: Rate | None = None
    """The same of offsets alone; None = that of gains."""
    bias_learning_rate: Rate | None = None
    """The same of bias vectors (integrations/hf/reparametrisation.py)."""
    exponent_learning_rate: Rate | None = None
    """The same of the exponents of gains that depend on the columns read."""
    mixing_learning_rate: Rate | None = None
    """The same of the matrices of mixing, and of the directions of array normalisers."""
    turn_learning_rate: Rate | None = None
    """The same of the matrices of balanced rows (nn/balanced_rows.py)."""
    log_gains: bool = False
    """Gains are learnt as logarithms: a step multiplies them, and they do not decay. Files hold the gains."""
    warmup_steps: Whole = 10
    """Steps of linear warm-up from zero."""
    final_fraction: Share = 0.05
    """The cosine ends at this fraction of the peak."""
    decay_steps: Count | None = None
    """Steps after which the cosine ends; None = with the run. The paper's is far longer than its runs."""
    batch: Count = 8
    """Sequences a step."""
    micro_batch: Count = 2
    """Sequences a forward pass; `batch` is a multiple of it."""
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = (0.9, 0.95)
    """Of AdamW."""
    weight_decay: Factor = 0.1
    """Of the tensors that `decayed` names."""
    decayed: Annotated[str, OneOf(DECAYED)] = "matrices-and-scales"
    """Which trained tensors decay: one of DECAYED."""
    clip: Annotated[float, or_inf(above=0)] = 1.0
    """Largest global gradient norm."""
    clip_tensors: Annotated[float, or_inf(above=1)] = math.inf
    """Largest norm of one tensor's gradient, in multiples of its running mean; inf = any."""
    bf16: bool | None = None
    """bf16 autocast of the linear layers; the hardware attention always computes in float32. None = where
    that is faster, by a measurement of a second (machine.py).
    """
    gradient_checkpointing: bool | None = False
    """Keep only every layer's input and compute the rest again in the backward pass: less memory, a third
    more time. None = where the activations of a step would not fit (machine.py), unless it is sharded.
    """
    redraw: Annotated[str, OneOf(REDRAWS)] = "noise"
    """What every forward pass draws anew: one of REDRAWS."""
    sharded: bool = False
    """With several processes: each keeps a share of weights and optimiser states (FSDP) instead of all."""
    checkpoint_every: Count = 100
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Checkpoints on disk at the most; older ones are removed."""
    evaluate_every: Whole = 0
    """Steps between evaluations; 0 = none."""
    patience: Whole = 0
    """Evaluations in a row that are no better after which training stops and returns to the best; 0 = never.
    """
    divergence: Annotated[float, or_inf(above=1)] = 3.0
    """Stop when the mean loss of ten steps is this many times the lowest such mean so far."""

    def __post_init__(self) -> None:
        if self.batch % self.micro_batch:
            raise InputError(f"batch = {self.batch} is not a multiple of micro_batch = {self.micro_batch}")
        rate = max(getattr(self, f.name) or 0.0 for f in fields(self) if f.name.endswith("learning_rate"))
        if rate * max(1 / (1 - self.betas[0]), self.weight_decay) > LARGEST * (1 + 1e-9):
            raise InputError(
                f"learning rate {rate} with betas = {self.betas} and weight_decay = {self.weight_decay}: its "
                "steps do not fit float32, give a lower one"
            )
        if self.patience and not self.evaluate_every:
            raise InputError("patience needs evaluate_every: without evaluations nothing tells when to stop")
        if self.sharded and self.evaluate_every:
            raise InputError(
                f"evaluate_every = {self.evaluate_every}: a sharded model is not evaluated in training, "
                "leave out one of the two"
            )


def learning_rate_at(step: int, total: int, settings: TrainSettings) -> float:
    """Fraction of the peak learning rate at a step: linear warm-up, then a cosine to `final_fraction`."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    end = settings.decay_steps or total
    done = (step - settings.warmup_steps) / max(1, end - settings.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return settings.final_fraction + (1 - settings.final_fraction) * cosine
