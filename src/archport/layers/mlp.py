"""What happens at each position alone: up-project, activate, down-project."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from ..errors import ConfigError

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
}


class MLP(nn.Module):
    """Two linear maps with an activation between, at each position alone. Raises: ConfigError."""

    def __init__(self, width: int, mlp_width: int, *, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ConfigError({"activation": f"found {activation!r}, expected one of {', '.join(ACTIVATIONS)}"})
        self.up = nn.Linear(width, mlp_width)
        self.activation = ACTIVATIONS[activation]()
        self.down = nn.Linear(mlp_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Up-project, activate, down-project."""
        return self.dropout(self.down(self.activation(self.up(x))))
