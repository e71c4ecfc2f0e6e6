"""Norms, MLPs, embeddings and what follows the head, wrong on purpose."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import (
    Embed,
    GatedMLP,
    LateRMSNorm,
    OffsetRMSNorm,
    PositionedEmbed,
    RMSNorm,
    ScaledEmbedding,
    SoftCap,
)
from ...layers.experts import ClampedGatedMLP


class MeanKept(nn.LayerNorm):
    """Does not subtract the mean."""

    def forward(self, x: Tensor) -> Tensor:
        normed = x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
        scaled = normed if self.weight is None else normed * self.weight
        return scaled if self.bias is None else scaled + self.bias


class UnbiasedNorm(nn.LayerNorm):
    """Does not add its bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, None, self.eps)


class OffByOne(nn.Embedding):
    """Learned positions that start one row too late."""

    start = 1

    def forward(self, indices: Tensor) -> Tensor:
        return super().forward((indices + self.start).clamp(max=self.num_embeddings - 1))


class OffByTwo(OffByOne):
    """Learned positions that start two rows too late, as OPT's do."""

    start = 2


class NoPositions(PositionedEmbed):
    """Does not add the positions."""

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:
        return vectors


class ScaledBySqrt(Embed):
    """Scales token vectors by the square root of the width, as some models do."""

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:
        return super().place(vectors * self.tokens.embedding_dim**0.5, positions)


class MeanSubtracted(RMSNorm):
    """Subtracts the mean, as LayerNorm does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(-1, keepdim=True))


class UnweightedRMSNorm(RMSNorm):
    """Does not use its weights."""

    def weighted(self, normed: Tensor, dtype: torch.dtype) -> Tensor:
        return normed.to(dtype)


class WeightedFromOne(RMSNorm):
    """Takes its weights for distances from one."""

    def weighted(self, normed: Tensor, dtype: torch.dtype) -> Tensor:
        return super().weighted(normed, dtype) + normed.to(dtype)


class WeightedFromZero(OffsetRMSNorm):
    """Takes its weights as they are, not as distances from one."""

    def weighted(self, normed: Tensor, dtype: torch.dtype) -> Tensor:
        return super().weighted(normed, dtype) - normed.to(dtype)


class CastEarly(LateRMSNorm):
    """Casts before it weighs."""

    def weighted(self, normed: Tensor, dtype: torch.dtype) -> Tensor:
        return self.weight * normed.to(dtype)


class OffsetCastEarly(OffsetRMSNorm):
    """Casts before it weighs."""

    def weighted(self, normed: Tensor, dtype: torch.dtype) -> Tensor:
        return (1.0 + self.weight) * normed.to(dtype)


class UpForGate(GatedMLP):
    """Activates what it up-projects, and not the gate."""

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(self.activation(self.up(x)) * self.gate(x))
        return self.dropout(down)


class Unclamped(ClampedGatedMLP):
    """Lets numbers of any size through."""

    def forward(self, x: Tensor) -> Tensor:
        down: Tensor = self.down(self.activation(self.gate(x)) * (self.up(x) + 1))
        return self.dropout(down)


class NotRaised(ClampedGatedMLP):
    """Does not raise what it up-projects by one."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x).clamp(max=self.limit), self.up(x).clamp(-self.limit, self.limit)
        return self.dropout(self.down(self.activation(gate) * up))


class UnroundedScale(ScaledEmbedding):
    """Keeps all bits of the factor."""

    def forward(self, indices: Tensor) -> Tensor:
        return F.embedding(indices, self.weight, self.padding_idx) * self.scale


class NoSoftCap(SoftCap):
    """Bends nothing."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits
