"""The random numbers of devices/random.py in Triton: for kernels that disturb what they read."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def standard_normal(seed, chip, layer, head, array, column, row, effect, step):
    """Box-Muller on Philox4x32-10, float32; arguments are integers or blocks of uint32 that broadcast."""
    key = (chip.to(tl.uint64) << 32) | seed.to(tl.uint64)
    zero = (column + row + step) * 0
    c0, c1 = column + zero, (row | (effect << 16) | (array << 24)) + zero
    w0, w1, _, _ = tl.philox(key, c0, c1, step + zero, ((layer << 16) | head) + zero)
    # near 1 the logarithm is taken of the distance to 1, which is exact
    upper = w0 >= 2147483648
    small = tl.where(upper, 4294967295 - w0, w0)
    u = small.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    near = u * (1.0 + u * (0.5 + u * (1.0 / 3 + u * (0.25 + u * (0.2 + u / 6)))))  # -ln(1 - u) for small u
    exact = -tl.log(tl.where(upper, 1.0 - u, u))
    minus_log = tl.where(upper & (u < 0.02), near, exact)
    angle = (w1.to(tl.float32) + 0.5) * 1.4629180792671596e-09
    return tl.sqrt(2.0 * minus_log) * tl.cos(angle)
