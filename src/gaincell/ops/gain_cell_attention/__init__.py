"""Attention of all heads of one layer in gain-cell arrays, for all tokens at once: equations (5) to (9).

`naive.py` is the definition, literal and slow. `backends/` computes it fast: `native` is the compiled
kernel for CPUs, `triton` that for GPUs, `blocked` plain torch, `decode` that of a single query. `pipeline.py`
is what stands around them. A call is described once, by `call.Call`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaincell import features
from gaincell.backend_names import BACKENDS, BackendName
from gaincell.chips.design_file import Design
from gaincell.circuits.normaliser import normalised
from gaincell.devices.writing import write_errors
from gaincell.errors import InputError
from gaincell.ops.gain_cell_attention import backends
from gaincell.ops.gain_cell_attention.call import GRADIENTS, Call, Gradient, Scaling, check
from gaincell.ops.gain_cell_attention.input_stage import decay_factor, drive_queries, with_normaliser_column
from gaincell.ops.gain_cell_attention.pipeline import attend
from gaincell.renamed import renamed

OF_STORED = features.ARRAYS - {"writing.discharge_residual"} | features.NORMALISER | {"nonideality"}
"""Features of a chip (features.py) that `attention_from_voltages` implements."""

__all__ = [
    "BACKENDS",
    "GRADIENTS",
    "BackendName",
    "Gradient",
    "Scaling",
    "attention_from_voltages",
    "gain_cell_attention",
]


@renamed("impl", "backend")
def gain_cell_attention(
    q: Float[Tensor, "B H Tq D"],
    k: Float[Tensor, "B Hk Tk D"],
    v: Float[Tensor, "B Hk Tk D"],
    design: Design,
    scaling: Scaling | None = None,
    backend: BackendName = "auto",
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

    Example:

        >>> import gaincell, torch
        >>> q, k, v = torch.rand(1, 2, 8, 64), 0.9 * torch.rand(1, 1, 8, 64), 0.9 * torch.rand(1, 1, 8, 64)
        >>> gaincell.gain_cell_attention(q, k, v, gaincell.load_design("leroux2025")).shape
        torch.Size([1, 2, 8, 64])

    Args:
        q: Queries after rotary embedding. With `scaling=None` in pulse widths, 0 to 1 (signed drivers: -1 to
            1).
        k: Keys; H is a multiple of Hk. With `scaling=None` in volts, v_min to v_max.
        v: Values, likewise.
        design: The chip. Its `token_period` sets the decay from token to token.
        scaling: Gains and offsets applied to q, k, v and the output; None for gain 1, offset 0.
        backend: "naive", "blocked", "native" (or "native-portable", "native-avx2", "native-avx512",
            "native-amx", for one level of instructions), "triton", "decode" (one query, no gradients), or
            "auto", the fastest on a CPU: "native" for what it serves, else "decode", "blocked" or "naive",
            which alone computes non-idealities of one's own.
        key_index: Index j of the real token in each key slot, consecutive, -1 for padding, which is never
            written: ages and physical columns count real tokens. None for 0 ... Tk - 1.
        query_index: Index i of each query, -1 for padding. None for the last Tq of key_index. "naive" alone
            takes queries in any order; to the others they are consecutive, as keys are.
        sliding_window: The model's own window W >= 1: columns of age W and more are gated.
        layer: Layer of the chip, selects the cells' mismatch.
        gradient: "exact", "surrogate" for a backward pass through linear cells of slope
            `design.cell.linear_slope`, or a cheaper approximation of either, "bf16" or "surrogate-bf16", by
            "native" alone: see call.py.

    Returns:
        Output of every head, in the precision of q, in units of a sub-tile's full-scale output times
        out_gain (with a normalising column divided by its sum: circuits/normaliser.py); out_offset where
        query_index is -1. Nothing is computed below float32.

    Raises:
        InputError: shapes, precisions, devices or options that do not fit.

    Not modelled: attention sinks, soft-capping, additive biases, dropout.
    A NaN reaches the outputs of the queries that see its token (one in a component of a value: that component
    of them), in its own sequence and group of heads, and no others. What stands in padding reaches none.
    """
    call = Call(q, k, v, design, backend, key_index, query_index, sliding_window, layer, gradient, scaling)
    check(call)
    return attend(call).to(q.dtype)


def attention_from_voltages(
    q: Float[Tensor, "B H Tq D"],
    ku: Float[Tensor, "B Hk Tk D"],
    vu: Float[Tensor, "B Hk Tk D"],
    design: Design,
    backend: BackendName = "auto",
    *,
    key_index: Int[Tensor, "B Tk"] | None = None,
    query_index: Int[Tensor, "B Tq"] | None = None,
    sliding_window: int | None = None,
    layer: int = 0,
    extra_age: Float[Tensor, "B held"] | None = None,
) -> Float[Tensor, "B H Tq D"]:
    """`gain_cell_attention` on voltages that are stored already, instead of on keys and values to be written.

    Args:
        q: Requested pulse widths, 0 to 1 (signed drivers: -1 to 1).
        ku: Voltages of keys that the write DACs give, of its levels where the design has some, relative to
            V_offset, volts; errors of writes are added here.
        vu: Of values, likewise.
        design: The chip.
        backend: As in `gain_cell_attention`, but plain torch computes in place of "native" and "triton" where
            `extra_age` is not 0, and in place of "triton" where the chip's drivers and writes are exact.
        key_index: As there.
        query_index: As there.
        sliding_window: As there.
        layer: As there.
        extra_age: Of all slots written before the first query, which come first: by how much their age at the
            first query exceeds the token periods in between, s; above 0 after idle time, below 0 after a
            refresh.

    Raises:
        InputError: as there; an incomplete discharge, or columns of first tokens; slots without extra_age.
    """
    call = Call(q, ku, vu, design, backend, key_index, query_index, sliding_window, layer, stage="written")
    check(call)
    if more := features.missing(design.in_use, OF_STORED):
        raise InputError(
            f"attention to stored voltages does not implement {more} of design {design.name!r}; "
            "let the model use its own cache"
        )
    total = _sums_of_stored(with_normaliser_column(call), extra_age).to(q.dtype)
    return normalised(total, design.normaliser) if design.normaliser.present else total


def _sums_of_stored(call: Call, extra_age: Tensor | None) -> Tensor:
    """The digital sum; of voltages without the errors of their writes."""
    design, native = call.design, call.in_kernel
    k, v = (write_errors(u, design, call.layer, n, call.keys) for n, u in enumerate((call.k, call.v)))
    call = call._replace(k=k, v=v)
    if extra_age is not None and not _as_old_as_tokens(extra_age, design):
        held = extra_age.shape[1]
        later = call.keys[:, held:]
        if bool(((later >= 0) & (later < call.first_query)).any()):
            raise InputError(
                f"extra_age is of the first {held} slots, but more hold tokens before the first query; give "
                "one for each of them, 0 for those as old as their tokens say"
            )
        k, v = (_leaked(call, u, array, extra_age) for array, u in enumerate((call.k, call.v)))
        call = call._replace(k=k, v=v, aged=True, backend="auto" if native else call.backend)
    elif native and not design.input_stage_differs:  # what was written is written again
        again = call._replace(k=call.k + design.v_offset, v=call.v + design.v_offset, stage="requested")
        found = backends.in_kernel(again)
        if found is not None:
            return found
    return backends.run(backends.in_plain_torch(drive_queries(call)))


def _as_old_as_tokens(extra_age: Tensor, design: Design) -> bool:
    """Whether all columns are as old as their tokens say, to less than float32 tells of what is left."""
    largest = float(extra_age.abs().max()) if extra_age.numel() else 0.0
    return design.tau is None or largest < 2.0**-28 * design.tau


def _leaked(call: Call, u: Tensor, array: int, extra_age: Tensor) -> Tensor:
    """What is left at the first query of voltages `u`, of which the first ones have an age."""
    design, held = call.design, extra_age.shape[1]
    keys, old, target = call.keys[:, :held], u[:, :, :held], design.decay_target
    distance = (call.first_query - keys).double()
    left = decay_factor(call, array, old, keys % design.window, distance, extra_age)
    return torch.cat([target + (old - target) * left, u[:, :, held:]], 2)
