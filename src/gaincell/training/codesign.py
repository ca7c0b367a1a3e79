"""Co-design: circuits of the chip learned together with gains, offsets and weights, by gradients.

One chip for all layers, so one S_sat, one O_sat, and one set of levels for all query drivers and for all
write DACs. With s, o and the numbers g free, from 0 (or from the design's own levels) on,

    S_sat = S_sat,0 e^s,    O_sat = O_sat,0 e^o
    pulse widths 0 < ... < 1:  cumulative sums of gaps(g),  gap_c = e + (1 - n e) softmax(g)_c over n gaps
    voltages:  the same on either side of 0, down to V_min - V_offset and up to V_max - V_offset

so that 0 stays a code, levels keep their order and a gap e, and the ends stay those of the design's levels
(of even ones, those of the converter's range): narrower signals are a matter of the gains. The gain of the
outputs follows O_sat, a_o = a e^o (without a normalising column), so that o moves the resolution and the
ceiling of the readout and not the size of what the model goes on with, as in learned step sizes: S. K. Esser
et al., ICLR 2020. Gradients: ops, learned.py.

Every step computes with the chip as it is then, quantised. What comes out is an ordinary design, its numbers
rounded; it is evaluated, saved and costed as any other.
Not modelled: a price for levels or saturations; noise and mismatch weigh in only where the design has them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaincell.chips.design import Design
from gaincell.circuits.levels import LevelTable, pulse_widths, stored_volts
from gaincell.errors import InputError
from gaincell.integrations.hf.attach import required_layers, set_design
from gaincell.nn.attention import GainCellAttention
from gaincell.ops.gain_cell_attention import gain_cell_attention
from gaincell.ops.gain_cell_attention.call import Call
from gaincell.ops.gain_cell_attention.learned import attention_of_learned
from gaincell.quantity import one_of
from gaincell.schema import Factor, check_value
from gaincell.training.loop import Blocks, TrainResult, train
from gaincell.training.loss import Loss, name_of, next_token_loss
from gaincell.training.settings import TrainSettings

LEARNED = ("saturations", "levels")
"""What can be learned: S_sat and O_sat; the levels of query drivers and write DACs."""
SMALLEST_GAP = 1e-3
"""e: of the range of levels; a tenth of an even gap where there are many levels."""
MOST_LEVELS = 256
DIGITS = 5
"""Decimals of learned levels: 10 uV, 1e-5 of the longest pulse; and significant digits of saturations."""
NOTE = "learned with the model (gaincell codesign)"


def stated_levels(design: Design) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Pulse widths and voltages, as they are stated or even; empty where nothing is quantised."""
    storage = stored_volts(design.dac_levels, design.v_min, design.v_max)
    return pulse_widths(design.driver_levels), storage


def with_zero_code(design: Design, *, more_below: bool = False) -> LevelTable:
    """Levels of a write DAC of which one is V_offset, evenly spaced on either side; pulse widths as they are.

    Args:
        design: The chip.
        more_below: Of an even number, whether one more is below V_offset than above, or the other way round.
            An odd number of even levels has a zero already.
    """
    levels = design.storage_levels
    if levels is None:
        return design.levels
    down = levels // 2 if more_below else (levels - 1) // 2
    up = levels - 1 - down
    low, high = design.v_min - design.v_offset, design.v_max - design.v_offset
    below = [low * (down - c) / down for c in range(down)]
    above = [high * (c + 1) / up for c in range(up)]
    return LevelTable(design.levels.query, (*below, 0.0, *above))


class Circuits(nn.Module):
    """The numbers that are learned of a chip, as parameters.

    Args:
        design: The chip to start from.
        learn: Some of LEARNED.

    Raises:
        InputError: nothing known is to be learned, or levels that cannot be.
    """

    def __init__(self, design: Design, learn: Collection[str]) -> None:
        super().__init__()
        unknown = [name for name in learn if name not in LEARNED]
        if unknown:
            raise InputError(f"{unknown[0]!r} cannot be learned; allowed: {one_of(LEARNED)}")
        self.start = design
        self.learns_levels = "levels" in learn
        self.log_score, self.log_output = (
            nn.Parameter(torch.zeros((), dtype=torch.float64), "saturations" in learn) for _ in range(2)
        )
        query, storage = _start_levels(design, self.learns_levels)
        self._fixed = LevelTable(query, storage)
        learned = (query, storage) if self.learns_levels else ((), ())
        zero = storage.index(0.0) if learned[1] else 0
        self.query_gaps = _gaps(learned[0])
        self.gaps_below = _gaps([-u for u in reversed(learned[1][: zero + 1])])
        self.gaps_above = _gaps(learned[1][zero:])

    def levels(self) -> tuple[Float[Tensor, " L"] | None, Float[Tensor, " L"] | None]:
        """Pulse widths and voltages, differentiable; None where nothing is quantised."""
        query, storage = (
            torch.tensor(t, dtype=torch.float64, device=self.log_score.device) if t else None
            for t in (self._fixed.query, self._fixed.storage)
        )
        if query is not None and self.query_gaps is not None:
            query = _rising(self.query_gaps, self._fixed.query[-1])
        if storage is not None and self.learns_levels:
            zero = storage.new_zeros(1)
            below, above = (
                zero if gaps is None else _rising(gaps, abs(self._fixed.storage[end]))
                for gaps, end in ((self.gaps_below, 0), (self.gaps_above, -1))
            )
            storage = torch.cat([-below.flip(0)[:-1], above])
        return query, storage

    def chip(self) -> Design:
        """The chip as it is now; where levels are learned, all of them stated."""
        score, output = (math.exp(log.item()) for log in (self.log_score, self.log_output))
        levels = self.start.levels
        if self.learns_levels:
            levels = LevelTable(*(() if t is None else tuple(t.tolist()) for t in self.levels()))
        return self.start.replace(
            levels=levels,
            score_saturation_per_row=self.start.score_saturation_per_row * score,
            output_saturation_per_column=self.start.output_saturation_per_column * output,
        )

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, design: Design, scaling: object, *rest: Any, **options: Any
    ) -> Tensor:
        """In place of `gain_cell_attention` in a layer, which scales itself."""
        assert scaling is None
        call = Call(q, k, v, design, *rest, **options)
        total = attention_of_learned(call, *self.levels(), self.log_score, self.log_output)
        return total if design.normaliser.present else total * self.log_output.exp().to(total.dtype)

    def apply_to(self, layers: Collection[GainCellAttention]) -> None:
        """Put layers on the chip as it is now, with the draws of noise and the chip's number they are on."""
        chip = self.chip()
        for layer in layers:
            own = layer.design
            drawn = {"noise": own.noise, "writing": own.writing, "mismatch": own.mismatch}
            same = all(getattr(chip, table) == part for table, part in drawn.items())
            layer.design = chip if same else chip.replace(**drawn)

    def result(self) -> Design:
        """The learned chip as a design of its own, numbers rounded."""
        start, now = self.start, self.chip()
        changes: dict[str, Any] = {}
        if self.log_score.requires_grad:
            for key in ("score_saturation_per_row", "output_saturation_per_column"):
                changes[key] = float(f"{getattr(now, key):.{DIGITS}g}")
        if self.learns_levels:
            rounded = (
                tuple(round(level, DIGITS) for level in t) for t in (now.levels.query, now.levels.storage)
            )
            changes["levels"] = LevelTable(*rounded)
        if not changes:
            return start
        design = start.replace(**changes, name=f"{start.name}-codesigned")
        volts = (start.v_min - start.v_offset, start.v_max - start.v_offset)
        ranges, provenance = {"query": (0.0, 1.0), "storage": volts}, dict(design.provenance)
        for key, stated in provenance.items():
            name = key.rpartition(".")[2] if key.startswith("levels.") else ""
            if key in changes or (name and self.learns_levels):
                provenance[key] = dataclasses.replace(
                    stated, source="D", note=NOTE, range=ranges.get(name, stated.range)
                )
        return dataclasses.replace(design, provenance=provenance)


def codesign(
    model: nn.Module,
    blocks: Blocks,
    settings: TrainSettings,
    learn: Collection[str] = LEARNED,
    *,
    rate: float | None = None,
    loss_of: Loss | None = None,
    **options: Any,
) -> TrainResult:
    """Train an attached model and its chip together, in place; it is then on the learned, ordinary design.

    Args:
        model: Attached; its parameters that require a gradient are trained along.
        blocks: As of `train`.
        settings: As of `train`.
        learn: Some of LEARNED; nothing of it: the same training on the fixed chip.
        rate: Peak learning rate of the circuits, about the largest relative change of a saturation or of a
            gap between levels a step; None: that of gains and offsets.
        loss_of: As of `train`.
        **options: Others of `train`: progress, checkpoint, log.

    Raises:
        ModelError: the model is not attached.
        InputError: what is to be learned cannot be; and see `train`.
        RunError: see `train`.
    """
    if options.get("evaluate") is not None:
        raise InputError("evaluate: a chip that is being learned is not evaluated on the way; leave it out")
    layers = required_layers(model)
    circuits = Circuits(layers[0].design, learn).to(layers[0].out.gain.device)
    loss = loss_of or next_token_loss
    own_rate = next(r for r in (rate, settings.scale_learning_rate, settings.learning_rate) if r is not None)
    check_value(own_rate, Factor, "rate")

    def on_the_chip(model: nn.Module, tokens: Tensor) -> Tensor:
        circuits.apply_to(layers)
        return loss(model, tokens)

    on_the_chip.loss_name = name_of(loss)  # type: ignore[attr-defined]
    model.add_module("codesign", circuits)
    try:
        for layer in layers:
            layer.attend = circuits.attend
        rates = {"codesign.": own_rate}
        done = train(model, blocks, settings, loss_of=on_the_chip, rates=rates, **options)
    finally:
        del model.codesign
        for layer in layers:
            layer.attend = gain_cell_attention
    if not circuits.start.normaliser.present:
        for layer in layers:
            layer.rescale(circuits.log_output.exp())
    set_design(model, circuits.result())
    return done


def _floor(gaps: int) -> float:
    return min(SMALLEST_GAP, 0.1 / gaps)


def _gaps(levels: Sequence[float]) -> nn.Parameter | None:
    """g of levels that rise from 0; None where there are none."""
    if len(levels) < 2:
        return None
    rising = torch.tensor(levels, dtype=torch.float64)
    share, floor = rising.diff() / rising[-1], _floor(len(levels) - 1)
    return nn.Parameter((share - floor).clamp(min=1e-6).log())


def _rising(gaps: Float[Tensor, " n"], top: float) -> Float[Tensor, " n_plus_1"]:
    """Levels from 0 to exactly `top`."""
    floor = _floor(len(gaps))
    inner = torch.cumsum(floor + (1 - len(gaps) * floor) * torch.softmax(gaps, 0), 0)[:-1] * top
    return torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), top)])


def _start_levels(design: Design, learned: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """All levels stated: those of the design, or even ones, with a zero code where they are learned."""
    query, storage = stated_levels(design)
    if learned and isinstance(design.dac_levels, int):
        storage = with_zero_code(design).storage
    if learned and storage and 0.0 not in storage:
        raise InputError(
            f"levels.storage of design {design.name!r} has no 0, which is kept while levels are learned; "
            "state one, or no levels.storage"
        )
    if learned and max(len(query), len(storage)) > MOST_LEVELS:
        raise InputError(f"at most {MOST_LEVELS} levels are learned; this chip has more")
    return query, storage
