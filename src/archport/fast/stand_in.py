"""What stands in for an nn.Linear on a CPU, and only goes forward."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..config import dtype_name

FORWARD_ONLY = (
    "direct, packed or quantised linear maps cannot be copied or saved: take the model as it was loaded without them"
)
FILLED = "direct, packed or quantised linear maps cannot take other weights: give these to the model without them"


class StandIn(nn.Module, ABC):
    """A linear map whose weight is held in a form that only its own operator reads: (.., in) -> (.., out)."""

    operators: ClassVar[tuple[str, ...]]  # of torch's that it needs
    words: ClassVar[str]  # how it multiplies
    copies: ClassVar[bool] = True  # so that the weight itself can go
    taken_over: int = 0  # numbers of the weight, where no parameter has them any more
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.dtype = linear.weight.dtype  # of what goes in and comes out
        self.pack(linear.weight.detach())

    def forward(self, x: Tensor) -> Tensor:  # (.., in) -> (.., out)
        """Multiply and add. Raises: ValueError where a gradient is wanted, or for another device or dtype."""
        if x.requires_grad and torch.is_grad_enabled():
            raise ValueError(
                "direct, packed or quantised linear maps only go forward: use torch.no_grad(), or load without them"
            )
        loaded = "these linear maps were loaded: load them anew"
        if x.device.type != "cpu":
            raise ValueError(f"found {x.device}, expected cpu, on which {loaded}")
        if x.dtype != self.dtype:
            raise ValueError(f"found {dtype_name(x.dtype)}, expected {dtype_name(self.dtype)}, in which {loaded}")
        return self.multiply(x)

    @abstractmethod
    def multiply(self, x: Tensor) -> Tensor:  # (.., in) -> (.., out)
        """Multiply and add."""

    def __reduce_ex__(self, protocol: Any) -> Any:  # by which copy and pickle go
        raise TypeError(FORWARD_ONLY)

    def _save_to_state_dict(self, *_: Any) -> None:
        raise TypeError(FORWARD_ONLY)

    def refuse_weights(self) -> None:
        """Say that it takes no others. Raises: TypeError."""
        raise TypeError(FILLED)

    def _load_from_state_dict(self, *_: Any) -> None:
        self.refuse_weights()

    @classmethod
    def takes(cls, weight: Tensor) -> bool:  # noqa: ARG003
        """Whether it can hold a weight's numbers."""
        return True

    @abstractmethod
    def pack(self, weight: Tensor) -> None:
        """Take a weight (out, in) over."""

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
