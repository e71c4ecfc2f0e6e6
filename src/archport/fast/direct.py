"""Linear maps whose weights stay as and where they are: there is nothing to prepare, and nothing is held twice."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .stand_in import StandIn

PIECE = 1 << 20  # elements that are widened at a time, few enough for a cache
FEW = 6  # rows up to which torch's own product in half precision is faster than widening


class DirectLinear(StandIn):
    """The weight as it lies, or turned where a file has it the other way round, multiplied by oneDNN in its dtype."""

    copies = False
    operators = ("mkldnn._linear_pointwise",)
    words = "as it lies, multiplied by oneDNN"

    def pack(self, weight: Tensor) -> None:
        """Remember it."""
        self.weight = weight.contiguous()

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply and add."""
        return by_onednn(x, self.weight, self.bias)


class WideLinear(DirectLinear):
    """A weight in half precision that is multiplied in float32, widened piece by piece, and rounded once at the end.

    For CPUs that can only convert half precision; few rows are left to torch, which reads the weight only once.
    """

    words = "as it lies, for many rows widened to float32 in pieces"

    def pack(self, weight: Tensor) -> None:
        """Remember it. Raises: RuntimeError for a dtype that float32 does not widen."""
        if weight.dtype not in (torch.float16, torch.bfloat16):
            raise RuntimeError("float32 does not widen it")
        super().pack(weight)

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply and add."""
        flat = x.flatten(0, -2)
        if len(flat) <= FEW:
            return F.linear(x, self.weight, self.bias)
        wide, product = flat.float(), x.new_empty(len(flat), self.out_features)
        bias = None if self.bias is None else self.bias.float()
        step = max(1, PIECE // max(1, self.in_features))
        piece = torch.empty(min(step, self.out_features), self.in_features)
        for at in range(0, self.out_features, step):
            rows = slice(at, min(at + step, self.out_features))
            weight = piece[: rows.stop - at].copy_(self.weight[rows])
            product[:, rows] = by_onednn(wide, weight, None if bias is None else bias[rows])
        return product.reshape(*x.shape[:-1], self.out_features)


def by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """oneDNN's product, plus the bias."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
