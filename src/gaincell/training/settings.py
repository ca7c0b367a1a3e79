"""What a training run is asked to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, TypeAlias, get_args

from gaincell.errors import InputError
from gaincell.quantity import one_of

REDRAWS = ("nothing", "noise", "chip")
""""noise": noise of reads and writes, where the design has any; "chip": these and the chip itself, so that
what is learnt leans on no single chip.
"""


DECAYED = ("matrices-and-scales", "all")
""""matrices-and-scales": matrices, embeddings among them, gains and offsets, but not biases and norms, as in
the authors' released code [R]; "all": every trained tensor.
"""


@dataclass(frozen=True)
class Number:
    """Which numbers a setting takes: finite ones from `least` to `most`.

    whole: an int.  above, below: without `least`, without `most` itself.  endless: inf as well.
    many: a list of so many; 0 = a single one.
    """

    least: float = 0
    most: float = math.inf
    whole: bool = False
    above: bool = False
    below: bool = False
    endless: bool = False
    many: int = 0

    def holds(self, value: Any) -> bool:
        """Whether `value` is such a number; true and false are none."""
        if self.many:
            listed = isinstance(value, (list, tuple)) and len(value) == self.many
            return listed and all(map(self._holds_one, value))
        return self._holds_one(value)

    def _holds_one(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        low = value > self.least if self.above else value >= self.least
        without = self.below or (math.isinf(self.most) and not self.endless)
        return low and (value < self.most if without else value <= self.most)

    def __str__(self) -> str:
        number = "a whole number" if self.whole else "a number"
        if self.many:
            number = f"a list of {self.many} numbers"
        if self.most < math.inf:
            low = f"above {self.least} up to" if self.above else f"from {self.least} to"
            return f"{number} {low} {'below ' if self.below else ''}{self.most}"
        low = f"above {self.least}" if self.above else f"of {self.least} or more"
        return f"{number} {low}{', or inf' if self.endless else ''}"


Allowed: TypeAlias = Number | tuple[str, ...] | type | UnionType
"""What a setting takes: numbers, one of some words, or whatever is of a type."""
TYPE_NAMES = {bool: "true or false", str: "text", list: "a list", dict: "a table", type(None): "none"}


def check_value(value: Any, allowed: Allowed, where: str) -> Any:
    """`value` itself. Raises InputError, with `where` it stands, if it is not allowed."""
    if isinstance(allowed, Number):
        fits, what = allowed.holds(value), str(allowed)
    elif isinstance(allowed, tuple):
        fits, what = value in allowed, one_of(allowed)
    else:
        fits = isinstance(value, allowed)
        what = one_of(TYPE_NAMES[kind] for kind in get_args(allowed) or (allowed,))
    if not fits:
        raise InputError(f"{where} = {value!r}; allowed: {what}")
    return value


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run. Defaults for betas, decay and clip are those of the authors' released
    code [R].
    """

    learning_rate: float = 6e-4
    """Peak learning rate."""
    scale_learning_rate: float | None = None
    """Peak learning rate of gains and offsets, and of what stands beside them; None = the same."""
    offset_learning_rate: float | None = None
    """The same of offsets alone; None = that of gains."""
    bias_learning_rate: float | None = None
    """The same of bias vectors (integrations/hf/digital_scaling.py)."""
    exponent_learning_rate: float | None = None
    """The same of the exponents of gains that depend on the columns read."""
    mixing_learning_rate: float | None = None
    """The same of the matrices of mixing, and of the directions of array normalisers."""
    log_gains: bool = False
    """Gains are learnt as logarithms: a step multiplies them, and they do not decay. Files hold the gains."""
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
    """Of the tensors that `decayed` names."""
    decayed: str = "matrices-and-scales"
    """Which trained tensors decay: one of DECAYED."""
    clip: float = 1.0
    """Largest global gradient norm."""
    clip_tensors: float = math.inf
    """Largest norm of one tensor's gradient, in multiples of its running mean; inf = any."""
    bf16: bool | None = None
    """bf16 autocast of the linear layers; the hardware attention always computes in float32. None = where
    that is faster, by a measurement of a second (precision.py).
    """
    gradient_checkpointing: bool | None = False
    """Keep only every layer's input and compute the rest again in the backward pass: less memory, a third
    more time. None = where the activations of a step would not fit (activations.py), unless it is sharded.
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
        for setting in fields(self):
            given = getattr(self, setting.name)
            if given is not None or setting.default is not None:
                check_value(given, TRAINING[setting.name], setting.name)
        if self.batch % self.micro_batch:
            raise InputError(f"batch = {self.batch} is not a multiple of micro_batch = {self.micro_batch}")
        rate = max(self.learning_rate, *(getattr(self, name) or 0.0 for name in SCALE_RATES.values()))
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


SCALE_RATES = {
    "gain": "scale_learning_rate",
    "offset": "offset_learning_rate",
    "bias": "bias_learning_rate",
    "exponent": "exponent_learning_rate",
    "mix": "mixing_learning_rate",
    "direction": "mixing_learning_rate",
}
"""Settings with the peak learning rate of each kind of number in a layer's arrays."""
LARGEST = 3e38
"""About the largest number of float32, in which weights and gradients are."""
FACTOR = Number(most=LARGEST)
RATE = Number(most=LARGEST, above=True)
TRAINING: Mapping[str, Allowed] = {
    "learning_rate": RATE,
    **dict.fromkeys(SCALE_RATES.values(), RATE),
    "log_gains": bool,
    "warmup_steps": Number(whole=True),
    "final_fraction": Number(0, 1),
    "decay_steps": Number(1, whole=True),
    "batch": Number(1, whole=True),
    "micro_batch": Number(1, whole=True),
    "betas": Number(0, 1, below=True, many=2),
    "weight_decay": FACTOR,
    "decayed": DECAYED,
    "clip": Number(above=True, endless=True),
    "clip_tensors": Number(1, above=True, endless=True),
    "bf16": bool,
    "gradient_checkpointing": bool | None,
    "redraw": REDRAWS,
    "sharded": bool,
    "checkpoint_every": Number(1, whole=True),
    "keep_checkpoints": Number(1, whole=True),
    "evaluate_every": Number(whole=True),
    "patience": Number(whole=True),
    "divergence": Number(1, above=True, endless=True),
}
"""What every field of TrainSettings takes."""


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
