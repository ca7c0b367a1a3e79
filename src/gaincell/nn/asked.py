"""What the arrays of a layer are asked for, and how they are called."""

from typing import NamedTuple, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from gaincell.chips.design import Design
from gaincell.ops.gain_cell_attention import BackendName, Gradient, Scaling
from gaincell.ops.gain_cell_attention.input_stage import scaled

At = tuple[Tensor | None, Tensor | None, int | None]
"""Key index, query index and the model's own window."""


class Asked(NamedTuple):
    """What the arrays of a layer are asked for."""

    q: Float[Tensor, "B H Tq D"]
    k: Float[Tensor, "B Hk Tk D"]
    v: Float[Tensor, "B Hk Tk D"]
    scaling: Scaling | None
    """What whoever computes the arrays has to apply; None: q, k and v are pulse widths and volts."""
    scales_output: bool
    """Whether that is all of the output's scaling, too."""
    columns: Int[Tensor, "#B Tq"] | None
    """That every query reads: see `GainCellAttention.columns`."""

    @property
    def volts(self) -> tuple[Float[Tensor, "B Hk Tk D"], Float[Tensor, "B Hk Tk D"]]:
        """Of keys and values."""
        if self.scaling is None:
            return self.k, self.v
        return scaled(self.k, *self.scaling[2:4]), scaled(self.v, *self.scaling[4:6])


class Attend(Protocol):
    """What `gain_cell_attention` is called with."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        design: Design,
        scaling: Scaling | None,
        backend: BackendName,
        *,
        key_index: Tensor | None,
        query_index: Tensor | None,
        sliding_window: int | None,
        layer: int,
        gradient: Gradient,
    ) -> Tensor: ...
