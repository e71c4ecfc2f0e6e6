"""Linear maps in the order in which oneDNN reads them: the same numbers."""

import torch
from torch import Tensor

from .direct import by_onednn
from .stand_in import StandIn

ROWS = 8  # the order that is best for so many rows is as good for one, and better than one's for many


class PackedLinear(StandIn):
    """The same numbers, in the order in which oneDNN reads them."""

    operators = ("mkldnn._reorder_linear_weight", "mkldnn._linear_pointwise")
    words = "reordered once, multiplied by oneDNN"

    def pack(self, weight: Tensor) -> None:
        """Reorder it."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)

    def multiply(self, x: Tensor) -> Tensor:
        """Multiply and add."""
        return by_onednn(x, self.packed, self.bias)
