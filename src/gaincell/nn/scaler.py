"""One scaling stage: a gain and an offset per head, and where wanted a gain that follows the tokens held."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gaincell.nn.balanced_rows import DIRECTIONS, Balance, rows_of
from gaincell.ops.autocast import without_autocast
from gaincell.ops.gain_cell_attention.input_stage import scaled

COLUMNS = 1024
"""Columns at which an exponent changes nothing: those of the paper's ring, whatever the ring of a design."""

STAGES = ("q", "k", "v", "out")
"""Of a layer, each scaled by its own gains and offsets."""

SMALLEST_GAIN = 1e-20
"""Training keeps every gain at or above this value, as the authors' released code does [R]."""


class Scaler(nn.Module):
    """``y = a x + b`` with one gain ``a`` and one offset ``b`` per head (the paper's equation (3)) [M].

    With `kept`, the row index, which names D/2 of the D components of every head, x is first replaced by
    (x_c, -x_c): paired rows (`GainCellAttention.pair_rows`, before a state dict that has them is loaded).
    With `turn_in` and `turn_out`, x is first multiplied by matrices (`GainCellAttention.balance_rows`).

    With `add_exponent`, y = a (n / 1024)^g x + b for a query that reads n columns, with one exponent g per
    head: a sum over n tokens grows with n, and the digital block knows n exactly. An extension, of q and of
    the output.

    Every layer has four: q and the output per query head; k and v per key/value head, for an array is
    written once for its whole group of query heads. A forward hook on a stage sees what the clamp of the next
    circuit sees.

    Args:
        heads: Number of heads. Gains begin at 1 (dimensionless, or volts where the output is a voltage).
        offset: Initial offset, in the unit of the output: pulse widths for q, volts for k and v.
        dtype: Of the parameters. The adaptation needs statistics of a stage in float64, whatever type the
            model computes in.
        device: Of the parameters.

    Not modelled: errors of the digital scaling itself, which is exact.
    """

    def __init__(
        self,
        heads: int,
        *,
        offset: float = 0.0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(heads, dtype=dtype, device=device))
        self.offset = nn.Parameter(torch.full((heads,), offset, dtype=dtype, device=device))
        self.exponent: nn.Parameter | None
        self.register_parameter("exponent", None)
        self.kept: Tensor | None
        self.register_buffer("kept", None)
        self.turn_in: nn.Parameter | None
        self.turn_out: nn.Parameter | None
        for name in ("turn_in", "turn_out"):
            self.register_parameter(name, None)
        self.turned: Tensor | None
        self.register_buffer("turned", None, persistent=False)
        self.balance: Balance | None = None

    def turn(self, head_dim: int, balance: Balance | None) -> None:
        """Multiply every head's x by (1 + turn_in turn_out) H, and add a row: what `balance` makes of the
        others, else full pulses; see balanced_rows.py.

        Raises:
            ModelError: D is no power of two.
        """
        self.balance = balance
        heads, like = len(self.gain), self.gain
        self.turned = rows_of(head_dim).to(like)
        self.register_load_state_dict_post_hook(_fill)  # type: ignore[no-untyped-call]
        into = torch.eye(head_dim, dtype=like.dtype, device=like.device)[:, :DIRECTIONS]
        self.turn_in = nn.Parameter(into.repeat(heads, 1, 1))  # turn_out learns from it
        self.turn_out = nn.Parameter(like.new_zeros(heads, into.shape[1], head_dim))

    @property
    def plain(self) -> bool:
        """Whether a x + b is all that happens, and nobody watches it."""
        # asked for in every layer at every token, where a module's own look-up of attributes takes longer
        # than the scaling; a forward in the instance is accelerate's, which fetches offloaded weights; a gain
        # that is no parameter is computed from others (torch.nn.utils.parametrize)
        here = vars(self)
        numbers = here["_parameters"]
        watched = here["_forward_hooks"] or here["_forward_pre_hooks"]
        watched = watched or here["_backward_hooks"] or here["_backward_pre_hooks"]
        more = any(b is not None for b in here["_buffers"].values()) or numbers["exponent"] is not None
        return not (watched or more or "forward" in here) and "gain" in numbers and "offset" in numbers

    def add_exponent(self) -> None:
        """Give every head an exponent, of 0, to be trained."""
        self.exponent = nn.Parameter(torch.zeros_like(self.gain))

    def forward(
        self, x: Float[Tensor, "B H T D"], columns: Int[Tensor, "#B T"] | None = None
    ) -> Float[Tensor, "B H T D"]:
        """Scale each head of ``x`` [B, heads, T, D], in its type or in float32 where that is narrower.

        The `columns` that each query reads are needed with an exponent, and not used without.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        found = scaled(self.rows(x, columns), self.gain.to(dtype), self.offset.to(dtype))
        if self.turned is None:
            return found
        if self.balance is None:
            return nn.functional.pad(found, (0, 1), value=1.0)
        balanced: Tensor = self.balance(found, self.offset)
        return balanced

    def rows(
        self, x: Float[Tensor, "B H T D"], columns: Int[Tensor, "#B T"] | None = None
    ) -> Float[Tensor, "B H T D"]:
        """What gain and offset see: ``x``, with ``kept`` the components that it names and their negatives,
        with ``turned`` multiplied, and with an exponent times (n / 1024)^g.
        """
        if self.kept is not None:
            chosen = x.gather(-1, self.kept[None, :, None].expand(*x.shape[:-1], -1))
            x = torch.cat([chosen, -chosen], dim=-1)
        if self.turned is not None and self.turn_in is not None and self.turn_out is not None:
            with without_autocast(x):
                dtype = torch.promote_types(x.dtype, torch.float32)
                x, into, out = x.to(dtype), self.turn_in.to(dtype), self.turn_out.to(dtype)
                x = (x + x @ into @ out) @ self.turned.to(dtype)
        if self.exponent is None:
            return x
        assert columns is not None, "a stage with an exponent is told how many columns are read"
        share = columns[:, None].to(self.exponent.dtype) / COLUMNS  # [B, 1, T]
        factor = (self.exponent[:, None] * share.log()).exp()
        return x * factor[..., None].to(torch.promote_types(x.dtype, torch.float32))

    def extra_repr(self) -> str:
        return f"heads={self.gain.numel()}"


def _fill(stage: Scaler, _: object) -> None:
    """H of balanced rows is in no file, and what was moved from the meta device has none."""
    if stage.turned is not None:
        stage.turned.copy_(rows_of(len(stage.turned)))


@torch.no_grad()
def keep_gains_positive(model: nn.Module) -> None:
    """Raise every gain of a model to SMALLEST_GAIN, in place, where it is below."""
    for module in model.modules():
        if isinstance(module, Scaler | Balance):
            module.gain.clamp_(min=SMALLEST_GAIN)
