"""The draws of the Triton kernels, one by one; imported once triton_random is without type checks."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

from gaincell.ops.gain_cell_attention.triton_random import standard_normal

_BLOCK = 256


@triton.jit
def _fill(out, seed, chip, layer, head, array, column, row, effect, step, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    z = standard_normal(
        tl.load(seed), tl.load(chip), tl.load(layer), tl.load(head + at, inside, 0), tl.load(array),
        tl.load(column + at, inside, 0), tl.load(row + at, inside, 0), tl.load(effect),
        tl.load(step + at, inside, 0),
    )  # fmt: skip
    tl.store(out + at, z, inside)


def normals(
    *,
    seed: int,
    chip: int,
    layer: int,
    head: Tensor | int,
    array: int,
    column: Tensor | int,
    row: Tensor | int,
    effect: int,
    step: Tensor | int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """As devices.random.normal, drawn on a GPU (or in Triton's interpreter), float32."""
    parts = torch.broadcast_tensors(*(torch.as_tensor(t, device=device) for t in (head, column, row, step)))
    heads, columns, rows, steps = (t.contiguous().to(torch.int64).to(torch.uint32) for t in parts)
    words = (
        torch.tensor([w], dtype=torch.int64, device=device).to(torch.uint32)
        for w in (seed, chip, layer, array, effect)
    )
    seeds, chips, layers, arrays, effects = words
    out = torch.empty(parts[0].shape, device=device)
    grid = (triton.cdiv(out.numel(), _BLOCK),)
    _fill[grid](
        out, seeds, chips, layers, heads, arrays, columns, rows, effects, steps, out.numel(), BLOCK=_BLOCK
    )
    return out
