"""The product of a low-rank adapter, computed with fewer passes over tokens than peft's own.

    y = W x + s B A x

peft casts x for A, multiplies by s and adds, each in a pass of its own over [tokens, inputs or outputs];
here x is cast once, and s and the sum are part of the product with B.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn import functional


class LowRankLinear(Linear):
    """peft's layer with an adapter without dropout. Where it is not the only one, or is merged or off, or
    types differ without autocast, the layer computes as peft's does.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """y [..., outputs] of x [..., inputs]."""
        kind = x.device.type
        autocast, names = torch.is_autocast_enabled(kind), list(self.lora_A)
        if args or kwargs or self.merged or self.disable_adapters or names != self.active_adapters:
            return super().forward(x, *args, **kwargs)
        a, b = (cast(Tensor, factor[names[0]].weight) for factor in (self.lora_A, self.lora_B))
        if autocast:
            x = x.to(torch.get_autocast_dtype(kind))
        elif not x.dtype == a.dtype == self.get_base_layer().weight.dtype:
            return super().forward(x)
        y: Tensor = self.base_layer(x)
        low = functional.linear(x, a).flatten(0, -2)
        return torch.addmm(y.flatten(0, -2), low, b.T, alpha=self.scaling[names[0]]).view_as(y)
