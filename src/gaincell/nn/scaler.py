"""One scaling stage: a gain and an offset per head."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Scaler(nn.Module):
    """``y = a x + b`` with one gain ``a`` and one offset ``b`` per head (spec section 4, eq. (3)) [M].

    Every layer has four: q and the output per query head; k and v per key/value head, for an array is
    written once for its whole group of query heads. Whoever wants to observe a stage (adaptation,
    figures) hangs a forward hook on it: what comes out is what the clamp of the next circuit sees.

    Args:
        heads: number of heads.
        gain: initial gain of every head (dimensionless, or per volt where x is a voltage).
        offset: initial offset, in the unit of the output: pulse widths for q, volts for k and v.
        dtype: of the parameters, float32 or wider: a gain moves in steps far below what bfloat16 resolves.
        device: where the parameters live.

    Not modelled: errors of the digital scaling itself, which is exact.
    """

    def __init__(
        self,
        heads: int,
        gain: float = 1.0,
        offset: float = 0.0,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((heads,), gain, dtype=dtype, device=device))
        self.offset = nn.Parameter(torch.full((heads,), offset, dtype=dtype, device=device))

    def forward(self, x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H T D"]:
        """Scale each head of ``x`` [B, heads, T, D]; a narrower ``x`` is computed in the parameters' type."""
        return torch.addcmul(self.offset[:, None, None], self.gain[:, None, None], x)

    def extra_repr(self) -> str:
        """What ``print(module)`` shows in the brackets."""
        return f"heads={self.gain.numel()}"
