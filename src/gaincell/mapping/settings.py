"""What a mapping is asked to do, and how its tokens are shared out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from gaincell.backend_names import BackendName
from gaincell.chips.design import Design
from gaincell.ops.gain_cell_attention import Gradient
from gaincell.schema import Instance, Rate, Whole, checked
from gaincell.training.loop import TrainSettings

Phase = Literal["transfer", "end-to-end", "fine-tuning"]
LARGEST_BATCH = 8
STEPS = 48
"""Optimiser steps a phase of training has at least, batches permitting."""
LOGITS = 2**24
"""Logits of one micro-batch (sequences x tokens x vocabulary) at most, one sequence excepted."""


@checked
@dataclass(frozen=True)
class MapSettings:
    """Settings of `gaincell map`.

    Attributes:
        model: As the user names it.
        text: As the user names it.
        design: The nonlinear chip; the linear model is the same chip with the linear cell.
        budget: Training tokens in all, shared between the linear model and the fine-tuning of the nonlinear
            one.
        seed: Of the order of the text's blocks.
        block: Tokens of a block, for training and for the protocol blocks-T; None: the model's context, at
            most 1024, whatever the window of the design.
        evaluation_tokens: The most that are used.
        calibration_tokens: The most that are used; the paper calibrates on 16 x 1024.
        linear_share: Part of the budget for the linear model, when no linear version of the model is
            shipped for this chip.
        transfer_share: Part of that for attention transfer, the rest is for end-to-end training; 0 where one
            is shipped for another chip.
        learning_rate: Peak, of end-to-end training of the linear model (and of the softmax model beside it).
        transfer_learning_rate: Peak of attention transfer.
        scale_learning_rate: Peak, of the gains and offsets in both.
        fine_tuning_learning_rate: Peak, of the fine-tuning of the nonlinear model, gains and offsets included
            (and of the softmax model beside it).
        lora: Rank of low-rank adapters, which are trained instead of the weights; 0: all weights are. (A
            linear version that is shipped with a model has weights of its own, and is not used with
            adapters.) Weights stored in bfloat16 then stay so; those that are trained are float32.
        published: Whether to run the published adaptation beside the closed form, for its curve.
        published_tokens: Of the calibration text that it sees; it takes up to 101 forward passes over them.
        backend: Of the arrays, see `gaincell.attach`.
        gradient: Of the arrays, see `gaincell.attach`.
        redraw: See `TrainSettings`.
        device: Where to compute, as torch names it.
    """

    model: str
    design: Annotated[Design, Instance]
    text: str = "sample"
    budget: Whole = 65_536
    seed: Whole = 0
    block: Annotated[int, Field(ge=2)] | None = None
    evaluation_tokens: Whole = 32_768
    calibration_tokens: Whole = 8_192
    linear_share: Annotated[float, Field(gt=0, lt=1)] = 0.6
    transfer_share: Annotated[float, Field(ge=0, lt=1)] = 0.4
    learning_rate: Rate = 3e-4
    fine_tuning_learning_rate: Rate = 1e-4
    transfer_learning_rate: Rate = 1e-3
    scale_learning_rate: Rate = 1e-2
    lora: Whole = 0
    published: bool = True
    published_tokens: Whole = 2_048
    backend: BackendName = "auto"
    gradient: Gradient = "exact"
    redraw: str = "noise"
    device: str = "cpu"

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on. (Where it runs, and the speed there, may differ.)"""
        may_differ = ("text", "block", "backend", "device")  # text and block are known by what was read
        own = {key: value for key, value in vars(self).items() if key not in may_differ}
        return own | {"model": self.model.rstrip("/").split("/")[-1], "design": self.design.hash}

    def training(self, phase: Phase, blocks: int, block: int, vocabulary: int) -> TrainSettings:
        """Settings of one phase of training on `blocks` blocks of `block` tokens."""
        batch = max(1, min(LARGEST_BATCH, blocks // STEPS))
        micro = next(m for m in (4, 2, 1) if batch % m == 0 and (m == 1 or m * block * vocabulary <= LOGITS))
        steps = blocks // batch
        peak = {
            "transfer": self.transfer_learning_rate,
            "end-to-end": self.learning_rate,
            "fine-tuning": self.fine_tuning_learning_rate,
        }
        return TrainSettings(
            learning_rate=peak[phase],
            scale_learning_rate=None if phase == "fine-tuning" else self.scale_learning_rate,
            warmup_steps=max(1, steps // 16),
            final_fraction=0.02,
            batch=batch,
            micro_batch=micro,
            gradient_checkpointing=None,
            redraw=self.redraw,
            checkpoint_every=max(10, steps // 8),
        )
