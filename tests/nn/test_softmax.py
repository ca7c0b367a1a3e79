"""The softmax attention that the arrays replace."""

import pytest
import torch
from torch import Tensor

from gaincell.nn import softmax
from gaincell.nn.softmax import SoftmaxAttention

T = 37


def _inputs(padding: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, heads, T, 16, generator=generator) for heads in (6, 2, 2))
    index = torch.arange(T).repeat(2, 1)
    index[1] = (index[1] - padding).clamp(min=-1)
    return q, k, v, index


@pytest.mark.parametrize("padding", [0, 5])
def test_it_equals_the_sum_written_out(padding: int) -> None:
    q, k, v, index = _inputs(padding)
    keys, values = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    hidden = (index[:, None, :] > index[:, :, None]) | (index < 0)[:, None, :]
    weights = (0.3 * q @ keys.mT).masked_fill(hidden[:, None], -torch.inf).softmax(-1)
    wanted = (weights @ values).masked_fill((index < 0)[:, None, :, None], 0.0)
    found = SoftmaxAttention()(q, k, v, (index, index, None), 0.3)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_padding_no_mask_is_made_and_no_bit_changes(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    *tensors, index = _inputs(0)
    q, k, v = (tensor.to(dtype) for tensor in tensors)
    attention, given = SoftmaxAttention(), list[bool]()
    own = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Tensor, **keywords: object) -> Tensor:
        given.append("attn_mask" in keywords)
        return own(*args, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(softmax.nn.functional, "scaled_dot_product_attention", watched)
    causal = attention(q, k, v, (index, index, None), None)
    masked = attention(q, k, v, (index, index, T), None)
    assert given == [False, True]
    assert torch.equal(causal, masked)


def test_later_tokens_and_padding_are_masked() -> None:
    q, k, v, index = _inputs(5)
    every = SoftmaxAttention()(q, k, v, (index, index, None), None)
    last = SoftmaxAttention()(q[:, :, -3:], k, v, (index, index[:, -3:], None), None)
    torch.testing.assert_close(last, every[:, :, -3:])
