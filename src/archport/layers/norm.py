"""Norms that torch lacks: RMSNorm in the roundings that families use, and norms of queries and keys as a whole.

All are computed in float32 or wider; where the weight is multiplied before or after the cast shows in half precision.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlp import activation_called
from .sharding import WHOLE, Cut, Sharding


class RMSNorm(nn.Module):
    """Divides by the root of the mean square of the last axis: normed, cast, then weighted.

    Source: arXiv 1910.07467; `LlamaRMSNorm`.
    """

    sharding: ClassVar = WHOLE

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def draw(self, std: float, generator: torch.Generator | None = None) -> None:  # noqa: ARG002
        """Fresh weights, in place, which change nothing."""
        self.weight.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:  # (.., width), same out
        """Norm, each position alone."""
        return self.weighted(F.rms_norm(_wide(x), x.shape[-1:], eps=self.eps), x.dtype)

    def weighted(self, normed: Tensor, dtype: torch.dtype) -> Tensor:  # (.., width), same out
        """Give each element its weight."""
        return self.weight * normed.to(dtype)

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"{len(self.weight)}, eps={self.eps:g}"


class LateRMSNorm(RMSNorm):
    """RMSNorm that is weighted first and cast last. Source: `Olmo2RMSNorm`."""

    sharding: ClassVar = WHOLE

    def weighted(self, normed: Tensor, dtype: torch.dtype) -> Tensor:  # (.., width), same out
        """Give each element its weight."""
        return (self.weight * normed).to(dtype)


class OffsetRMSNorm(RMSNorm):
    """RMSNorm whose weights are kept as their distance from one, cast last. Source: `GemmaRMSNorm`."""

    sharding: ClassVar = WHOLE

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__(width, eps=eps)
        nn.init.zeros_(self.weight)

    def draw(self, std: float, generator: torch.Generator | None = None) -> None:  # noqa: ARG002
        """Fresh weights, in place, which change nothing."""
        self.weight.zero_()

    def weighted(self, normed: Tensor, dtype: torch.dtype) -> Tensor:  # (.., width), same out
        """Give each element its weight."""
        return (normed * (1.0 + _wide(self.weight))).to(dtype)


class OffsetLayerNorm(nn.LayerNorm):
    """LayerNorm whose weights are kept as their distance from one. Source: `NemotronLayerNorm1P`."""

    sharding: ClassVar = WHOLE

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__(width, eps=eps)
        nn.init.zeros_(self.weight)

    def draw(self, std: float, generator: torch.Generator | None = None) -> None:  # noqa: ARG002
        """Fresh weights, in place, which change nothing."""
        self.weight.zero_()
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:  # (.., width), same out
        """Norm, each position alone."""
        return F.layer_norm(x, self.normalized_shape, self.weight + 1, self.bias, self.eps)


class AcrossHeads(nn.Module):
    """Norms the heads of queries or keys as one vector, with a norm of that width. Source: `Olmo2Attention`."""

    sharding: ClassVar = Sharding({"norm": Cut.ACROSS})

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:  # (batch, heads, seq, head_width), same out
        """Norm all heads of a position together."""
        heads = x.transpose(1, 2)
        whole: Tensor = self.norm(heads.flatten(-2))
        return whole.view(heads.shape).transpose(1, 2)


class LayerNormByHead(nn.Module):
    """LayerNorm of each head with weights of its own, without bias. Source: `CohereLayerNorm`."""

    sharding: ClassVar = Sharding({"weight": Cut.HEADS})

    def __init__(self, heads: int, head_width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(heads, head_width))

    def draw(self, std: float, generator: torch.Generator | None = None) -> None:  # noqa: ARG002
        """Fresh weights, in place, which change nothing."""
        self.weight.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:  # (batch, heads, seq, head_width), same out
        """Norm each head of a position alone; weighted first, cast last."""
        normed = F.layer_norm(_wide(x), x.shape[-1:], eps=self.eps)
        return (normed * self.weight[:, None]).to(x.dtype)

    def extra_repr(self) -> str:
        """The settings, for print."""
        heads, head_width = self.weight.shape
        return f"heads={heads}, head_width={head_width}, eps={self.eps:g}"


class ProjectedNorm(nn.Module):
    """The stream after the last block, normed and projected to the width of token vectors. Source: `OPTDecoder`."""

    def __init__(self, norm: nn.Module, width: int, token_width: int) -> None:
        super().__init__()
        self.norm = norm
        self.project = nn.Linear(width, token_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (.., width) -> (.., token_width)
        """Norm, then project."""
        return self.project(self.norm(x))


class TransformedNorm(nn.Module):
    """The stream after the last block, normed, mapped, activated, and normed again by `last`.

    Raises: ConfigError. Source: `BertPredictionHeadTransform`.
    """

    def __init__(self, norm: nn.Module, last: nn.Module, width: int, *, activation: str) -> None:
        super().__init__()
        self.norm = norm
        self.dense = nn.Linear(width, width)
        self.activation = activation_called(activation)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:  # (.., width), same out
        """Norm, map, activate, norm."""
        return self.last(self.activation(self.dense(self.norm(x))))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
