"""What one call of the attention is: its tensors and options, checked once and passed on whole.

`GRADIENTS` name what a backward pass takes. The forward pass is the same whichever it is.

* "exact": the derivative of the cells' own curve, in float32.
* "surrogate": the derivative of linear cells of slope `design.cell.linear_slope`, as in the paper; the
  clamps' masks are those of the true forward pass.
* "bf16", "surrogate-bf16": cheaper approximations of these, by the compiled kernel alone. All queries of a
  block of 64 see a column at one age, that at the middle one of them. The products with gradients are of
  numbers in bf16, summed in float32. Pulses and masks are exact, and so is the sub-tile of first tokens.
  With the paper's cell the gradients of q, k and v are off by less than 0.6 % of their norm without decay,
  1.2 % with that of 12 layers, 3 % with that of 30; those of gains and offsets, as vectors of all heads, by
  up to twice as much (tests/ops/test_native.py). They are sums over tokens: where the terms of a head all
  but cancel, what is left can be off by any share. The steeper a cell, the faster its current decays: x^5 is
  off by 3 % where the paper's cell is by 1.2 %.
"""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell.backend_names import BACKENDS
from gaincell.chips.design_file import Design
from gaincell.errors import InputError

Gradient = Literal["exact", "bf16", "surrogate", "surrogate-bf16"]
GRADIENTS = get_args(Gradient)
SURROGATES = ("surrogate", "surrogate-bf16")
APPROXIMATED = {"bf16": "exact", "surrogate-bf16": "surrogate"}
"""What the approximate ones stand for."""
LARGEST_DECAY = 0.05
"""Of a stored voltage over half a block of 64 queries, for an approximate gradient to be worth its name."""
Stage = Literal["requested", "written", "driven"]
"""How far the input stage has come: q, k and v are pulse widths and volts as requested; k and v are voltages
in the cells, relative to V_offset; q, too, is what the drivers give.
"""


class Scaling(NamedTuple):
    """Gains a and offsets b of one layer (3): per query head for q, out; per key/value head for k, v."""

    q_gain: Float[Tensor, " H"]
    q_offset: Float[Tensor, " H"]
    k_gain: Float[Tensor, " Hk"]
    k_offset: Float[Tensor, " Hk"]
    v_gain: Float[Tensor, " Hk"]
    v_offset: Float[Tensor, " Hk"]
    out_gain: Float[Tensor, " H"]
    out_offset: Float[Tensor, " H"]


class Call(NamedTuple):
    """One call of the arrays of a layer; what the fields mean: see `gain_cell_attention`.

    Attributes:
        stage: What q, k and v are.
        aged: k, v of tokens before the first query are what is left of them at the first query, and decay
            from there on.
    """

    q: Float[Tensor, "B H Tq D"]
    k: Float[Tensor, "B Hk Tk D"]
    v: Float[Tensor, "B Hk Tk D"]
    design: Design
    backend: str = "auto"
    key_index: Int[Tensor, "B Tk"] | None = None
    query_index: Int[Tensor, "B Tq"] | None = None
    sliding_window: int | None = None
    layer: int = 0
    gradient: Gradient = "exact"
    scaling: Scaling | None = None
    stage: Stage = "requested"
    aged: bool = False

    @property
    def kv_heads(self) -> int:
        return self.k.shape[1]

    @property
    def reads(self) -> int:
        """Of one column, per token: query heads of a key/value head."""
        return self.q.shape[1] // self.k.shape[1]

    @property
    def window(self) -> int:
        """Tokens that a query sees: the hardware's window or the model's own, whichever is smaller."""
        return min(self.design.window, self.sliding_window or self.design.window)

    @property
    def keys(self) -> Int[Tensor, "B Tk"]:
        """`key_index`, also where there is no padding."""
        if self.key_index is not None:
            return self.key_index
        return torch.arange(self.k.shape[2], device=self.k.device).expand(self.k.shape[0], -1)

    @property
    def queries(self) -> Int[Tensor, "B Tq"]:
        """`query_index`, by default of the last keys."""
        if self.query_index is not None:
            return self.query_index
        return self.keys[:, self.k.shape[2] - self.q.shape[2] :]

    @property
    def consecutive(self) -> bool:
        """Whether no index is given: every token is real, and the queries are of the last ones."""
        return self.key_index is None and self.query_index is None

    @property
    def first_query(self) -> Int[Tensor, "B 1"]:
        """The first of each sequence that is no padding; beyond all tokens where there is none."""
        queries = torch.where(self.queries >= 0, self.queries, torch.iinfo(torch.int64).max)
        return queries.min(1, keepdim=True).values

    @property
    def differentiated(self) -> bool:
        """Whether somebody may ask for gradients."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in (self.q, self.k, self.v))

    @property
    def in_kernel(self) -> bool:
        """Whether the compiled kernel may be what computes it."""
        return self.backend == "auto" or self.backend.startswith("native")


def check(call: Call) -> None:
    """Refuse tensors and options that do not fit.

    Raises:
        InputError: shapes, precisions, devices or options that do not fit.
    """
    if not isinstance(call.design, Design):
        raise InputError(f"design is {call.design!r}; give a Design, as load_design gives one by its name")
    q, k, v = call.q, call.k, call.v
    if wrong := _wrong_shapes(q, k, v):
        raise InputError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: {wrong}")
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.layout != torch.strided:
            raise InputError(f"{name} is {x.layout}; give a dense tensor")
        if not x.is_floating_point():
            raise InputError(f"{name} is {x.dtype}; give float32, float64, bfloat16 or float16")
    if not q.device == k.device == v.device:
        raise InputError(f"q is on {q.device}, k on {k.device}, v on {v.device}; put them on one device")
    if call.backend not in BACKENDS:
        raise InputError(f"backend={call.backend!r}; choose one of {', '.join(BACKENDS)}")
    if call.sliding_window is not None and call.sliding_window < 1:
        raise InputError(
            f"sliding_window={call.sliding_window}; give a number of tokens >= 1, or None for no window"
        )
    if call.layer < 0:
        raise InputError(f"layer={call.layer}; give the number of the layer, counted from 0")
    if call.scaling is not None and not isinstance(call.scaling, Scaling):
        raise InputError(
            f"scaling={call.scaling!r}; give a Scaling of gaincell.ops.gain_cell_attention, or None"
        )
    for name, index, of in (("key_index", call.key_index, k), ("query_index", call.query_index, q)):
        if index is None:
            continue
        expected = (of.shape[0], of.shape[2])
        if index.dtype != torch.int64 or index.shape != expected:
            raise InputError(
                f"{name} is {index.dtype} {tuple(index.shape)}; give int64 {expected} token indices"
            )
        if index.device != of.device:
            raise InputError(f"{name} is on {index.device}, q on {of.device}; put them on one device")
    _check_gradient(call)
    for name, value in () if call.scaling is None else call.scaling._asdict().items():
        heads = call.kv_heads if name[0] in "kv" else call.q.shape[1]
        if value.shape != (heads,):
            raise InputError(
                f"scaling.{name} has shape {tuple(value.shape)}; give one number per head, ({heads},)"
            )


def _check_gradient(call: Call) -> None:
    """Refuse an approximate gradient where it is not computed, or would be far off."""
    gradient, design = call.gradient, call.design
    if gradient not in GRADIENTS:
        raise InputError(f"gradient={gradient!r}; choose one of {', '.join(GRADIENTS)}")
    if gradient not in APPROXIMATED:
        return
    instead = f"give gradient={APPROXIMATED[gradient]!r}"
    if not call.in_kernel:
        raise InputError(
            f"backend={call.backend!r} does not compute gradient={gradient!r}; give backend='native', or "
            f"{instead}"
        )
    decay = 32 * (design.leak_per_token + call.reads * design.disturb_per_read)
    if decay > LARGEST_DECAY:
        raise InputError(
            f"gradient={gradient!r} takes voltages as constant over 32 tokens, but {design.name!r} loses "
            f"{decay:.0%} of them by then, above {LARGEST_DECAY:.0%}; {instead}"
        )


def _wrong_shapes(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    """What is wrong with the shapes, in words; None if it is nothing."""
    if not q.dim() == k.dim() == v.dim() == 4:
        return "q must be [B, H, Tq, D], k and v [B, Hk, Tk, D]"
    (batch, heads, queries, dim), (key_batch, kv_heads, keys, key_dim) = q.shape, k.shape
    if k.shape != v.shape:
        return "k and v must have the same shape"
    if batch != key_batch or dim != key_dim:
        return "q, k and v must agree in batch size and head dimension"
    if 0 in (batch, heads, queries, dim, kv_heads, keys):
        return "no dimension may be 0"
    if heads % kv_heads:
        return f"the {heads} query heads must be a multiple of the {kv_heads} key heads"
    if queries > keys:
        return "there are more queries than keys; every query's own key must be among the keys"
    return None
