"""Attention of all heads of one layer in gain-cell arrays, for all tokens at once: equations (5) to (9).

`naive.py` is the definition, literal and slow; `native.py` the compiled kernel for CPUs, `triton.py` that for
GPUs, `blocked.py` the fast path in plain torch, `decode.py` that of a single query. Scaling, checks and the
choice are here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell import features
from gaincell.circuits import query_driver
from gaincell.circuits.normaliser import normalised
from gaincell.config import Design
from gaincell.devices.writing import write_errors
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention import naive
from gaincell.ops.gain_cell_attention.front import left_after, pulses, scaled, stored
from gaincell.ops.gain_cell_attention.gradients import APPROXIMATED, GRADIENTS, Gradient, check_gradient
from gaincell.ops.gain_cell_attention.naive import gain_cell_core_naive
from gaincell.ops.gain_cell_attention.sinks import ring_index, sink_tile, without_sinks
from gaincell.ops.gain_cell_attention.widened import widened, widened_design

Impl = Literal[
    "auto",
    "naive",
    "blocked",
    "native",
    "native-portable",
    "native-avx2",
    "native-avx512",
    "native-amx",
    "triton",
    "decode",
]
IMPLS = get_args(Impl)

OF_STORED = features.ARRAYS - {"writing.discharge_residual"} | features.NORMALISER | {"nonideality"}
"""Features of a chip (features.py) that `attend_to_stored` implements."""

__all__ = ["GRADIENTS", "IMPLS", "Gradient", "Impl", "Scaling", "attend_to_stored", "gain_cell_attention"]


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


def gain_cell_attention(
    q: Float[Tensor, "B H Tq D"],
    k: Float[Tensor, "B Hk Tk D"],
    v: Float[Tensor, "B Hk Tk D"],
    design: Design,
    scaling: Scaling | None = None,
    impl: Impl = "auto",
    *,
    key_index: Int[Tensor, "B Tk"] | None = None,
    query_index: Int[Tensor, "B Tq"] | None = None,
    sliding_window: int | None = None,
    layer: int = 0,
    gradient: Gradient = "exact",
) -> Float[Tensor, "B H Tq D"]:
    """Causal attention as the arrays compute it.

        out = a_o * sum_t Qout(clamp(O_t / O_sat, -1, 1)) + b_o,   O_t and S as in naive.py           (3)-(9)

    Source: Leroux et al. 2025, equations (3) and (5) to (9) and their section on sub-tiles [M].

    Args:
        q: queries after rotary embedding. With `scaling=None` in pulse widths, 0 to 1.
        k, v: keys and values; H is a multiple of Hk. With `scaling=None` in volts, v_min to v_max.
        design: the chip. Its `token_period` sets the decay from token to token.
        scaling: gains and offsets applied to q, k, v and the output; None for gain 1, offset 0.
        impl: "naive", "blocked", "native", "triton", "decode" (one query, no gradients), or "auto": "native"
            for what it serves (see native.py), else "decode" for one query without gradients, else "blocked".
        key_index: index j of the real token in each key slot, consecutive, -1 for padding, which is never
            written. Ages and physical columns count real tokens. None for 0 ... Tk - 1.
        query_index: index i of each query, -1 for padding. None for the last Tq of key_index.
        sliding_window: the model's own window W >= 1: columns of age W and more are gated.
        layer: layer of the chip, selects the cells' mismatch.
        gradient: "exact", "surrogate" for a backward pass through linear cells of slope
            `design.cell.linear_slope`, or a cheaper approximation of either, "bf16" or "surrogate-bf16":
            see gradients.py.

    Returns:
        Output of every head, in the precision of q, in units of a sub-tile's full-scale output times
        out_gain (with a normalising column divided by its sum: circuits/normaliser.py); out_offset where
        query_index is -1. Nothing is computed below float32.

    Raises:
        InputError: shapes, precisions, devices or options that do not fit.

    Not modelled: attention sinks, soft-capping, additive biases, dropout.
    A NaN reaches the outputs of the queries that see its token, in its own sequence and group of heads, and
    no others (one in a component of a value: that component of them). What stands in padding reaches none.
    """
    _check_tensors(q, k, v)
    _check_options(q, k, impl, key_index, query_index, sliding_window, layer)
    check_gradient(gradient, impl, design, q.shape[1] // k.shape[1])
    out_dtype = q.dtype
    if scaling is not None:
        _check_scaling(scaling, q.shape[1], k.shape[1])
        if _scales_in_kernel(scaling, design, impl):
            rest: Any = (key_index, query_index, sliding_window, layer, gradient)
            inside = _natively(q, k, v, design, impl, *rest, scaling)
            if inside is not None:
                return inside
        q = scaled(q, scaling.q_gain, scaling.q_offset)
        k = scaled(k, scaling.k_gain, scaling.k_offset)
        v = scaled(v, scaling.v_gain, scaling.v_offset)

    if impl == "decode" and not _one_query(q, k, v):
        raise InputError("impl='decode' takes one query and no gradients; give impl='auto'")
    if torch.compiler.is_compiling():
        from gaincell.ops.gain_cell_attention import compiled

        number = compiled.number_of(design)
        out: Tensor = compiled.attention(
            q, k, v, key_index, query_index, number, impl, sliding_window, layer, gradient
        )
    else:
        out = attention_core(q, k, v, design, impl, key_index, query_index, sliding_window, layer, gradient)
    if scaling is not None:
        out = scaled(out, scaling.out_gain, scaling.out_offset)
    return out.to(out_dtype)


def attention_core(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    design: Design,
    impl: Impl,
    key_index: Tensor | None,
    query_index: Tensor | None,
    sliding_window: int | None,
    layer: int,
    gradient: Gradient,
) -> Tensor:
    """`gain_cell_attention` without checks and scaling: from requested pulse widths and volts to the sum."""
    rest: Any = (key_index, query_index, sliding_window, layer, gradient)
    if design.normaliser.present:
        wide = widened(q, k, v, middle=design.v_offset, top=design.v_max)
        chip = widened_design(design, q.shape[3])
        return normalised(attention_core(*wide, chip, impl, *rest), design.normaliser)
    if design.sinks.tokens:
        keys = _token_indices(k) if key_index is None else key_index
        queries = keys[:, k.shape[2] - q.shape[2] :] if query_index is None else query_index
        rest = (
            *(ring_index(i, design.sinks.tokens) for i in (keys, queries)),
            sliding_window,
            layer,
            gradient,
        )
        total = attention_core(q, k, v, without_sinks(design), impl, *rest)
        return total + sink_tile(q, k, v, design, keys, queries, gradient)
    if not design.front_differs:
        out = _natively(q, k, v, design, impl, *rest)
        if out is not None:
            return out
    index = key_index
    if design.writing.present and index is None:
        index = _token_indices(k)
    ku, vu = stored(k, v, design, layer, q.shape[1] // k.shape[1], index)
    return _arrays(q, ku, vu, design, impl, *rest)


def attend_to_stored(
    q: Float[Tensor, "B H Tq D"],
    ku: Float[Tensor, "B Hk Tk D"],
    vu: Float[Tensor, "B Hk Tk D"],
    design: Design,
    impl: Impl = "auto",
    *,
    key_index: Int[Tensor, "B Tk"] | None = None,
    query_index: Int[Tensor, "B Tq"] | None = None,
    sliding_window: int | None = None,
    layer: int = 0,
    extra_age: Float[Tensor, "B held"] | None = None,
) -> Float[Tensor, "B H Tq D"]:
    """`gain_cell_attention` on voltages that are stored already, instead of on keys and values to be written.

    Args:
        q: requested pulse widths, 0 to 1.
        ku, vu: the write DACs' voltages, relative to V_offset, volts; errors of writes are added here.
        extra_age: of the first slots, which are those written before the first query: by how much their age
            at the first query exceeds the token periods in between, s; above 0 after idle time, below 0 after
            a refresh.
        impl: as in `gain_cell_attention`, but plain torch in place of "native" where `extra_age` is not 0,
            and always in place of "triton".

    Raises:
        InputError: as there; an incomplete discharge, or columns of first tokens.
    """
    _check_tensors(q, ku, vu)
    _check_options(q, ku, impl, key_index, query_index, sliding_window, layer)
    b, tq, tk = q.shape[0], q.shape[2], ku.shape[2]
    if key_index is None:
        key_index = torch.arange(tk, device=q.device).expand(b, tk)
    if query_index is None:
        query_index = key_index[:, tk - tq :]
    if impl == "decode" and not _one_query(q, ku, vu):
        raise InputError("impl='decode' takes one query and no gradients; give impl='auto'")
    if more := features.missing(design.in_use, OF_STORED):
        raise InputError(
            f"attention to stored voltages does not implement {more} of design {design.name!r}; "
            "let the model use its own cache"
        )
    if design.normaliser.present:
        total = attend_to_stored(
            *widened(q, ku, vu, middle=0.0, top=design.highest_write),
            widened_design(design, q.shape[3]),
            impl,
            key_index=key_index,
            query_index=query_index,
            sliding_window=sliding_window,
            layer=layer,
            extra_age=extra_age,
        )
        return normalised(total, design.normaliser)
    if design.writing.present:
        ku, vu = (write_errors(u, design, layer, array, key_index) for array, u in enumerate((ku, vu)))
    held = 0 if extra_age is None or _as_old_as_tokens(extra_age, design) else extra_age.shape[1]
    rest: tuple[Tensor, Tensor, int | None, int, Gradient]
    rest = (key_index, query_index, sliding_window, layer, "exact")
    fresh = not held and not design.front_differs
    if fresh and (impl == "auto" or impl.startswith("native")):  # what was written is written again
        k, v = ku + design.v_offset, vu + design.v_offset
        out = _natively(q, k, v, design, impl, *rest)
        if out is not None:
            return out.to(q.dtype)
    if held:
        assert extra_age is not None
        impl = "auto" if impl.startswith("native") else impl
        reads = q.shape[1] // ku.shape[1]
        ku, vu = (
            _leaked(u, extra_age, key_index, query_index, design, layer, array, reads)
            for array, u in enumerate((ku, vu))
        )
    return _arrays(q, ku, vu, design, impl, *rest, bool(held)).to(q.dtype)


def _as_old_as_tokens(extra_age: Tensor, design: Design) -> bool:
    """Whether all columns are as old as their tokens say, to less than float32 tells of what is left."""
    largest = float(extra_age.abs().max()) if extra_age.numel() else 0.0
    return design.tau is None or largest < 2.0**-28 * design.tau


def _leaked(
    u: Tensor,
    extra_age: Tensor,
    key_index: Tensor,
    query_index: Tensor,
    design: Design,
    layer: int,
    array: int,
    reads: int,
) -> Tensor:
    """What is left at the first query of voltages `u`, of which the first ones have an age."""
    held = extra_age.shape[1]
    queries = torch.where(query_index >= 0, query_index, torch.iinfo(torch.int64).max)
    distance = (queries.min(1, keepdim=True).values - key_index[:, :held]).double()
    column = key_index[:, :held] % design.window
    old, target = u[:, :, :held], design.decay_target
    left = left_after(design, layer, array, reads, old, column, distance, extra_age)
    return torch.cat([target + (old - target) * left, u[:, :, held:]], 2)


def _arrays(
    q: Tensor,
    ku: Tensor,
    vu: Tensor,
    design: Design,
    impl: Impl,
    key_index: Tensor | None,
    query_index: Tensor | None,
    sliding_window: int | None,
    layer: int,
    gradient: Gradient,
    aged: bool = False,
) -> Tensor:
    """From the query drivers to the digital sum, by an implementation that takes stored voltages."""
    x = query_driver(q, design.driver_levels, signed=design.drivers.signed)
    rest: Any = (key_index, query_index, sliding_window, layer, gradient, aged)
    return from_pulses(x, ku, vu, design, impl, *rest)


def from_pulses(
    x: Tensor,
    ku: Tensor,
    vu: Tensor,
    design: Design,
    impl: Impl,
    key_index: Tensor | None,
    query_index: Tensor | None,
    sliding_window: int | None,
    layer: int,
    gradient: Gradient,
    aged: bool = False,
) -> Tensor:
    """From pulse widths as the drivers were asked for, and stored voltages, to the digital sum.

    The gradients of all three are those of the arrays alone: no clamp of a converter is passed.
    """
    dtype = torch.promote_types(x.dtype, torch.promote_types(ku.dtype, vu.dtype))
    x, ku, vu = x.to(dtype), ku.to(dtype), vu.to(dtype)
    if design.front_differs:
        keys = _token_indices(ku) if key_index is None else key_index
        index = keys[:, ku.shape[2] - x.shape[2] :] if query_index is None else query_index
        x = pulses(x, design, layer, ku.shape[1], index)
        if not aged:
            out = _natively(x, ku, vu, design, impl, key_index, query_index, sliding_window, layer, gradient)
            if out is not None:
                return out
    if gradient in APPROXIMATED and _differentiated(x, ku, vu):
        raise InputError(
            f"gradient={gradient!r} is computed by the compiled kernel alone, which does not serve this call "
            f"(see native.py: float32 on a CPU ...); give gradient={APPROXIMATED[gradient]!r}"
        )
    core = _core(impl, design, _one_query(x, ku, vu))
    return core(x, ku, vu, design, key_index, query_index, sliding_window, layer, gradient, aged)


def _core(impl: Impl, design: Design, one_query: bool) -> Callable[..., Tensor]:
    """What computes stored voltages: as named, or for "auto" the fastest that implements the design."""
    from gaincell.ops.gain_cell_attention import blocked, decode

    if impl == "decode" or (impl == "auto" and one_query):
        more = features.missing(design.in_use, decode.IMPLEMENTS)
        if not more:
            return decode.gain_cell_core_decode
        if impl == "decode":
            raise InputError(f"impl='decode' does not implement {more}; give impl='auto'")
    if impl == "naive" or (impl == "auto" and features.missing(design.in_use, blocked.IMPLEMENTS)):
        more = features.missing(design.in_use, naive.IMPLEMENTS)
        if more:
            raise InputError(f"no implementation has {more} of design {design.name!r}; give a design without")
        return gain_cell_core_naive
    return blocked.gain_cell_core_blocked


def _token_indices(k: Tensor) -> Tensor:
    """Of keys without padding, [B, Tk]."""
    return torch.arange(k.shape[2], device=k.device).expand(k.shape[0], -1)


def _one_query(*tensors: Tensor) -> bool:
    """Whether this is one query without gradients."""
    return tensors[0].shape[2] == 1 and not _differentiated(*tensors)


def _differentiated(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _natively(q: Tensor, k: Tensor, v: Tensor, design: Design, impl: Impl, *rest: Any) -> Tensor | None:
    """The digital sum by a compiled kernel; None where it does not serve and need not."""
    if impl == "triton":
        return _on_a_gpu(q, k, v, design, *rest)
    if impl.startswith("native-"):
        from gaincell.ops.gain_cell_attention.native_library import instructions

        with instructions(impl.removeprefix("native-")):
            return _natively(q, k, v, design, "native", *rest)
    if impl not in ("native", "auto"):
        return None
    from gaincell.ops.gain_cell_attention.native import gain_cell_native, why_not

    reason = why_not(q, k, v, design)
    if reason is None:
        try:
            return gain_cell_native(q, k, v, design, *rest)
        except InputError:
            if impl == "native":
                raise
            return None
    if impl == "native":
        raise InputError(f"impl='native' does not serve this: {reason}; give impl='auto'")
    return None


def _on_a_gpu(q: Tensor, k: Tensor, v: Tensor, design: Design, *rest: Any) -> Tensor:
    """The digital sum by the Triton kernels."""
    try:
        from gaincell.ops.gain_cell_attention import triton
    except ImportError as error:
        raise InputError("impl='triton' needs triton: pip install 'gaincell[gpu]'") from error
    reason = triton.why_not(q, k, design)
    if reason is not None:
        raise InputError(f"impl='triton' does not serve this: {reason}; give impl='auto'")
    return triton.gain_cell_triton(q, k, v, design, *rest)


def _scales_in_kernel(scaling: Scaling, design: Design, impl: str) -> bool:
    """Whether nothing stands between the scaling and the kernel, if that serves the call."""
    between = design.normaliser.present or design.sinks.tokens or design.front_differs
    plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in scaling)
    return plain and impl != "triton" and not between and not torch.compiler.is_compiling()


def _check_tensors(q: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.dim() == k.dim() == v.dim() == 4:
        raise InputError(f"{shapes}: q must be [B, H, Tq, D], k and v [B, Hk, Tk, D]")
    if k.shape != v.shape:
        raise InputError(f"{shapes}: k and v must have the same shape")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise InputError(f"{shapes}: q, k and v must agree in batch size and head dimension")
    if 0 in q.shape or 0 in k.shape:
        raise InputError(f"{shapes}: no dimension may be 0")
    if q.shape[1] % k.shape[1]:
        raise InputError(
            f"{shapes}: the {q.shape[1]} query heads must be a multiple of the {k.shape[1]} key heads"
        )
    if q.shape[2] > k.shape[2]:
        raise InputError(
            f"{shapes}: there are more queries than keys; every query's own key must be among the keys"
        )
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.layout != torch.strided:
            raise InputError(f"{name} is {x.layout}; give a dense tensor")
        if not x.is_floating_point():
            raise InputError(f"{name} is {x.dtype}; give float32, float64, bfloat16 or float16")
    if not q.device == k.device == v.device:
        raise InputError(f"q is on {q.device}, k on {k.device}, v on {v.device}; put them on one device")


def _check_options(
    q: Tensor,
    k: Tensor,
    impl: str,
    key_index: Tensor | None,
    query_index: Tensor | None,
    sliding_window: int | None,
    layer: int,
) -> None:
    if impl not in IMPLS:
        raise InputError(f"impl={impl!r}; choose one of {', '.join(IMPLS)}")
    if sliding_window is not None and sliding_window < 1:
        raise InputError(
            f"sliding_window={sliding_window}; give a number of tokens >= 1, or None for no window"
        )
    if layer < 0:
        raise InputError(f"layer={layer}; give the number of the layer, counted from 0")
    for name, index, tokens in (
        ("key_index", key_index, k.shape[2]),
        ("query_index", query_index, q.shape[2]),
    ):
        if index is None:
            continue
        if index.dtype != torch.int64 or index.shape != (q.shape[0], tokens):
            raise InputError(
                f"{name} is {index.dtype} {tuple(index.shape)}; "
                f"give int64 ({q.shape[0]}, {tokens}) token indices"
            )
        if index.device != q.device:
            raise InputError(f"{name} is on {index.device}, q on {q.device}; put them on one device")


def _check_scaling(scaling: Scaling, heads: int, kv_heads: int) -> None:
    for name, value in scaling._asdict().items():
        expected = kv_heads if name[0] in "kv" else heads
        if value.shape != (expected,):
            raise InputError(
                f"scaling.{name} has shape {tuple(value.shape)}; give one number per head, ({expected},)"
            )
