"""The products of `compiler.decoder.quantised` in the forms that are fast here.

    weight_only, one token     multiply and sum (`kernels.py`), int8 converted on the way: half the bytes are read
    weight_only, more          the weight made floating-point, and the ordinary product
    per_token                  as it is defined: through `_int_mm`

Measured once while this was written, eagerly but for the first line, with [5632, 2048] on a busy machine (read no cell
closer than a quarter; no benchmark repeats it). Microseconds, two threads:

| tokens | bfloat16 `F.linear` | weight_only | per_token |
|--------|---------------------|-------------|-----------|
| 1      | 5884                | 2342        | 2647      |
| 4      | 4481                | 6287        | 5271      |
| 16     | 5878                | 14884       | 8277      |
| 128    | 20468               | 26973       | 21439     |

So decoding one row gains, and batches from two rows on lose: they want a kernel of their own. Scales are multiplied in
float32 behind the product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compiler.decoder.mlp import gated
from compiler.decoder.quantised import QuantisedExperts, QuantisedLinear, finish
from compiler.ir.config import Activation
from compiler.targets.inductor.kernels import linear


def weight_only_one(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """See `QuantisedLinear` for the shapes. Sums in float32."""
    if x.device.type != "cpu":
        return weight_only_many(x, weight, scale, bias)
    return finish(linear(x.float(), weight), scale, bias, x.dtype)


def weight_only_many(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """See `QuantisedLinear` for the shapes. An int8 is exact in every floating dtype."""
    return finish(F.linear(x, weight.to(x.dtype)).float(), scale, bias, x.dtype)


def experts_of_one(product: QuantisedLinear) -> QuantisedExperts:
    """`quantised.experts` for a single token: only the experts that it chose are read."""

    def run(
        x: Tensor, chosen: Tensor, share: Tensor, gate_up: Tensor, gate_up_scale: Tensor, down: Tensor,
        down_scale: Tensor, kind: Activation,
    ) -> Tensor:  # fmt: skip
        total = torch.zeros_like(x, dtype=torch.float32)
        for expert, part in zip(chosen[0].unbind(), share[0].unbind(), strict=True):
            # A slice of one, then without its axis: indexing with a tensor alone would need its value while tracing.
            e = expert[None]
            inner = gated(product(x, gate_up[e][0], gate_up_scale[e][0], None), kind)
            total = total + product(inner, down[e][0], down_scale[e][0], None).float() * part
        return total.to(x.dtype)

    return run
