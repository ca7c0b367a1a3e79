"""Attention of one new token over the keys and values of the tokens before it, in several implementations.

    out_h = softmax(q_h K_k^T / sqrt(D)) V_k,    k = h div (H / Hk)

for every head of every sequence of a batch. Nothing is masked: all keys are older than the query. That is
what a decoder computes for each generated token and layer.

    published   torch's scaled_dot_product_attention with is_causal=True, as the paper's authors timed it [R].
                Torch aligns that mask with the first key, so that the one query sees the first key only:
                out = v_0. Faulty; kept to reproduce their protocol.
    matmul      the equation in three batched operations
    sdpa        scaled_dot_product_attention, whichever kernel torch chooses
    flash       its flash kernel; on a GPU it splits long caches over the processors (flash decoding)
    efficient, cudnn    its other fused kernels, GPU only
    flex        torch's flex_attention, compiled (flash decoding for single queries), GPU only
    int8        the cache in 8 bits with a scale for every token and head; converted on the fly by plain
                torch, so that a conversion costs time which a fused kernel would save

Dimensions: B batch, H query heads, Hk key/value heads, g = H / Hk, T keys of the context, D head dimension.
Not modelled: paged caches; appending the new key and value; several layers in one launch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from gaincell.errors import InputError

PUBLISHED = "published"
FUSED = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION"}
"""Kernels of scaled_dot_product_attention that can be asked for, by torch's names."""
GPU_ONLY = ("efficient", "cudnn", "flex")
IMPLEMENTATIONS = (PUBLISHED, "matmul", "sdpa", "flash", "efficient", "cudnn", "flex", "int8")
LARGEST_CODE = 127
CONVERTED = 2**20
"""Numbers of an int8 cache converted at a time on a CPU."""


class Cache(NamedTuple):
    """Keys and values [B, Hk, T, D]; for int8 their codes, with the scale of every token [B, Hk, T, 1]."""

    k: Tensor
    v: Tensor
    k_scale: Tensor | None = None
    v_scale: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Read by one step."""
        return sum(t.numel() * t.element_size() for t in self if t is not None)

    def each(self, change: Callable[[Tensor], Tensor]) -> Cache:
        """All tensors that there are, changed alike."""
        k_scale, v_scale = (None if t is None else change(t) for t in (self.k_scale, self.v_scale))
        return Cache(change(self.k), change(self.v), k_scale, v_scale)


Step = Callable[[Tensor, Cache], Tensor]
"""(query [B, H, 1, D], cache) -> [B, H, 1, D]"""


def implementation(name: str, device: torch.device) -> Step:
    """One of IMPLEMENTATIONS as a function.

    Raises:
        InputError: there is none of that name, or it needs a GPU.
    """
    if name not in IMPLEMENTATIONS:
        raise InputError(f"implementation {name!r}; choose one of {', '.join(IMPLEMENTATIONS)}")
    if name in GPU_ONLY and device.type != "cuda":
        raise InputError(
            f"implementation {name!r} needs a GPU; on {device.type} choose matmul, sdpa or flash"
        )
    if name == "matmul":
        return _matmul
    if name == "int8":
        return _int8
    if name == "flex":
        return _flex()
    kernel = FUSED.get(name)

    def step(q: Tensor, cache: Cache) -> Tensor:
        with nullcontext() if kernel is None else sdpa_kernel(getattr(SDPBackend, kernel)):
            return scaled_dot_product_attention(
                q, cache.k, cache.v, is_causal=name == PUBLISHED, enable_gqa=q.shape[1] != cache.k.shape[1]
            )

    return step


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The equation in float64, on the CPU."""
    return _matmul(q.double().cpu(), Cache(k.double().cpu(), v.double().cpu()))


def quantised(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Codes in int8 of x [B, Hk, T, D], and scales [B, Hk, T, 1] in `dtype`: x is about code * scale."""
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST_CODE
    codes = torch.round(x / scale).clamp(-LARGEST_CODE, LARGEST_CODE)
    return codes.to(torch.int8), scale.to(dtype)


def _matmul(q: Tensor, cache: Cache) -> Tensor:
    grouped = _grouped(q, cache)
    scores = torch.matmul(grouped, cache.k.transpose(2, 3)) * (q.shape[-1] ** -0.5)
    return torch.matmul(torch.softmax(scores, -1), cache.v).reshape(q.shape)


def _int8(q: Tensor, cache: Cache) -> Tensor:
    """A few heads at a time on a CPU, so that what is converted stays in its caches."""
    rows = _grouped(q, cache).flatten(0, 1)  # [B Hk, g, D]
    flat = cache.each(lambda t: t.flatten(0, 1))
    at_once = len(rows) if q.device.type != "cpu" else max(1, CONVERTED // flat.k[0].numel())
    parts = [
        _int8_part(rows[n : n + at_once], flat.each(lambda t, n=n: t[n : n + at_once]))  # type: ignore[misc]
        for n in range(0, len(rows), at_once)
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(q.shape)


def _int8_part(q: Tensor, cache: Cache) -> Tensor:
    """The scales of the keys multiply the scores, those of the values the weights."""
    assert cache.k_scale is not None
    assert cache.v_scale is not None
    scores = torch.matmul(q, cache.k.to(q.dtype).transpose(1, 2)) * cache.k_scale.transpose(1, 2)
    weights = torch.softmax(scores * (q.shape[-1] ** -0.5), -1) * cache.v_scale.transpose(1, 2)
    return torch.matmul(weights, cache.v.to(q.dtype))


def _grouped(q: Tensor, cache: Cache) -> Tensor:
    """Queries [B, Hk, g, D]: the heads of a group share a product."""
    return q.reshape(q.shape[0], cache.k.shape[1], -1, q.shape[3])


def _flex() -> Step:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Any = torch.compile(flex_attention, dynamic=False)

    def step(q: Tensor, cache: Cache) -> Tensor:
        out: Tensor = compiled(q, cache.k, cache.v, enable_gqa=q.shape[1] != cache.k.shape[1])
        return out

    return step
