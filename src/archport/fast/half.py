"""Linear maps in float16 that are multiplied in float32, for CPUs that can only convert half precision."""

import math

import torch
from torch import Tensor

from .stand_in import StandIn

PIECE = 1 << 24  # elements that are widened at a time while packing
LARGEST = 15  # the power of two that no number in float16 has to pass
WIDEST = 126  # the same of float32, whose inverse it has too


class HalfLinear(StandIn):
    """A weight in half precision, held in float16, with products and sums in float32 and one rounding at the end.

    float16 is held as it is. bfloat16 is held times a power of two, and so is exact where it is at least 2^-31 of the
    weight's largest; what is smaller moves by at most 2^-39 of that, far below what float32 rounds.

    Source: FBGEMM, arXiv 2101.05615.
    """

    operators = ("quantized.linear_prepack_fp16", "quantized.linear_dynamic_fp16")
    words = "held in float16, multiplied in float32 by FBGEMM"

    @classmethod
    def takes(cls, weight: Tensor) -> bool:
        """Whether all are finite: float16 would make the largest of what is not."""
        return math.isfinite(_largest(weight))

    def pack(self, weight: Tensor) -> None:
        """Hold it. Raises: RuntimeError for a dtype whose numbers float16 does not have."""
        if weight.dtype not in (torch.float16, torch.bfloat16):
            raise RuntimeError("float16 does not hold its numbers")
        self.hold(weight)

    def hold(self, weight: Tensor) -> None:
        """Hold a weight (out, in) of any dtype, rounded to float16's 11 bits."""
        bias = None if self.bias is None else self.bias.detach().float()
        self.factor = 1.0 if weight.dtype == torch.float16 else _factor(_largest(weight), bias)
        bias = None if bias is None else bias * self.factor
        rows = max(1, PIECE // max(1, self.in_features))
        self.pieces = [
            torch.ops.quantized.linear_prepack_fp16(
                weight[at : at + rows].float() * self.factor, None if bias is None else bias[at : at + rows]
            )
            for at in range(0, self.out_features, rows)
        ]

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply and add."""
        wide = x.float()
        products = [torch.ops.quantized.linear_dynamic_fp16(wide, piece) for piece in self.pieces]
        product = products[0] if len(products) == 1 else torch.cat(products, -1)
        return (product if self.factor == 1.0 else product.mul_(1 / self.factor)).to(x.dtype)


def _factor(largest: float, bias: Tensor | None) -> float:
    """The power of two by which a weight just fits into float16; less where it or a bias times it left float32."""
    if not largest:
        return 1.0
    power = LARGEST - math.frexp(largest)[1]
    of_bias = 0 if bias is None else math.frexp(_largest(bias))[1]
    return 2.0 ** min(power, WIDEST - max(0, of_bias))


def _largest(weight: Tensor) -> float:
    """The largest distance from zero."""
    return max(abs(end.item()) for end in weight.aminmax()) if weight.numel() else 0.0
