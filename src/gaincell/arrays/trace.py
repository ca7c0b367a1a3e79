"""What can be observed in the arrays of a head: everything of one step, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gaincell.chips.design import Design
from gaincell.errors import InputError
from gaincell.units import Second


@dataclass(frozen=True)
class StepTrace:
    """Everything that can be observed in one step: charges in charge units, pulse widths over the longest.

    Attributes:
        time: Of the reads, seconds since the head was made.
        column: Column that was written, per sequence; empty where the token was one of the first, which have
            columns of their own (circuits/sinks.py).
        valid: Columns that hold a token.
        key: Stored voltages of keys at the reads, relative to V_offset, volts.
        value: Stored voltages of values, likewise.
        key_current: Charge of every cell of the key array for a full pulse.
        value_current: Likewise of the value array.
        scores: Of every key column.
        tile_charge: Of every sub-tile's value bit lines.
        tile_output: Output of every sub-tile, digitised, in units of full scale; that of the first tokens'
            sub-tile comes last.
        output: Sum over the sub-tiles.
    """

    design: Design
    time: Second
    column: Int[Tensor, " B"]
    valid: Bool[Tensor, "B M"]
    key: Float[Tensor, "B Hk M D"]
    value: Float[Tensor, "B Hk M D"]
    key_current: Float[Tensor, "B Hk M D"]
    value_current: Float[Tensor, "B Hk M D"]
    query: Float[Tensor, "B H D"]
    scores: Float[Tensor, "B H M"]
    pulses: Float[Tensor, "B H M"]
    tile_charge: Float[Tensor, "B H t D"]
    tile_output: Float[Tensor, "B H t D"]
    output: Float[Tensor, "B H D"]

    @property
    def tile_codes(self) -> Int[Tensor, "B H t D"]:
        """Signed counts of the sub-tiles' counters.

        Raises:
            InputError: the design's readout is "none": there are no codes.
        """
        if self.design.readout == "none":
            raise InputError("the readout of this design is 'none': sub-tiles have no codes")
        return torch.round(self.tile_output * self.design.readout_steps).to(torch.int64)


@dataclass(frozen=True)
class HeadState:
    """What the arrays hold now. Shares memory with the head: copy what is to be kept.

    Attributes:
        key: Voltages of keys when last written, relative to V_offset, volts.
        value: Voltages of values, likewise.
        write_time: Time of that write, s.
        written_at: Steps made when the column was written.
        read_since: Step at which it was written or refreshed last.
        valid: Valid bits.
        pointer: Column that is written next.
    """

    key: Float[Tensor, "B Hk M D"]
    value: Float[Tensor, "B Hk M D"]
    write_time: Float[Tensor, "B M"]
    written_at: Int[Tensor, "B M"]
    read_since: Int[Tensor, "B M"]
    valid: Bool[Tensor, "B M"]
    pointer: Int[Tensor, " B"]
