"""Other orders of the same sum: what a matrix product rounds to when its terms are added in pieces."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class summed_in_pieces(TorchFunctionMode):
    """Lets linear maps add their terms in so many pieces, one after another."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.linear:
            return self._linear(*args, **(kwargs or {}))
        if func is torch.addmm and not kwargs and len(args) == 3:  # as transformers' Conv1D calls it
            return self._linear(args[1], args[2].T, args[0])
        return func(*args, **(kwargs or {}))

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        parts = zip(input.chunk(self.pieces, dim=-1), weight.chunk(self.pieces, dim=-1), strict=True)
        made = torch.stack([part @ rows.T for part, rows in parts]).sum(0)
        return made if bias is None else made + bias
