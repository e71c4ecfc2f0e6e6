"""What happens at each position alone: up-project, activate, down-project; in some models through a gate."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .sharding import WHOLE, Cut, Sharding


class QuickGELU(nn.Module):
    """GELU by a sigmoid: x sigmoid(alpha x). Source: arXiv 1606.08415."""

    sharding: ClassVar = WHOLE

    def __init__(self, alpha: float = 1.702) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Each element alone."""
        return x * torch.sigmoid(self.alpha * x)

    def extra_repr(self) -> str:
        """The setting, for print."""
        return f"{self.alpha:g}"


class ReLUSquared(nn.Module):
    """The square of what is positive. Source: Primer, arXiv 2109.08668."""

    sharding: ClassVar = WHOLE

    def forward(self, x: Tensor) -> Tensor:
        """Each element alone."""
        return x.relu().square()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "quick_gelu": QuickGELU,
    "relu": nn.ReLU,
    "relu_squared": ReLUSquared,
    "silu": nn.SiLU,
}


class MLP(nn.Module):
    """Two linear maps with an activation between, at each position alone. Raises: ConfigError."""

    sharding: ClassVar = Sharding({"up": Cut.OUTPUTS, "down": Cut.INPUTS})

    def __init__(self, width: int, mlp_width: int, *, activation: str, bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.activation = activation_called(activation)
        self.down = nn.Linear(mlp_width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Up-project, activate, down-project."""
        return self.dropout(self.down(self.activation(self.up(x))))


class GatedMLP(nn.Module):
    """An MLP whose up-projection is multiplied by a second one, which is activated: the gate.

    Raises: ConfigError. Source: arXiv 2002.05202.
    """

    sharding: ClassVar = Sharding({"gate": Cut.OUTPUTS, "up": Cut.OUTPUTS, "down": Cut.INPUTS})

    def __init__(
        self, width: int, mlp_width: int, *, activation: str, bias: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(width, mlp_width, bias=bias)
        self.up = nn.Linear(width, mlp_width, bias=bias)
        self.activation = activation_called(activation)
        self.down = nn.Linear(mlp_width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Gate and up-project, multiply, down-project."""
        return self.dropout(self.down(self.activation(self.gate(x)) * self.up(x)))


def activation_called(name: str) -> nn.Module:
    """A new activation by its name. Raises: ConfigError."""
    if name not in ACTIVATIONS:
        raise ConfigError({"activation": f"found {name!r}, expected one of {', '.join(ACTIVATIONS)}"})
    return ACTIVATIONS[name]()
