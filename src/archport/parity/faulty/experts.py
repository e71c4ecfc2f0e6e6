"""Mixtures of experts, wrong on purpose."""

import torch
from torch import Tensor

from ...layers.experts import (
    ChosenSoftmaxRouter,
    Experts,
    NormalisedRouter,
    SigmoidRouter,
    SoftmaxRouter,
    UncastNormalisedRouter,
)


class NotNormalised(NormalisedRouter):
    """Leaves the weights as they are among those of all experts."""

    def weigh(self, probabilities: Tensor, dtype: torch.dtype) -> Tensor:
        return SoftmaxRouter.weigh(self, probabilities, dtype)


class NotNormalisedUncast(UncastNormalisedRouter):
    """The same, left in float32."""

    def weigh(self, probabilities: Tensor, dtype: torch.dtype) -> Tensor:
        return probabilities


class Sigmoids(SoftmaxRouter):
    """Weighs by sigmoids, where a softmax is taken."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.score(tokens)
        sigmoids, chosen = logits.sigmoid().topk(self.top)
        return self.weigh(sigmoids, logits.dtype), chosen


class WeightedFirst(Experts):
    """Weighs what experts are given, not what they make."""

    def mix(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        each = [
            super(WeightedFirst, self).mix(tokens * one, torch.ones_like(one), which)
            for one, which in zip(weights.split(1, -1), chosen.split(1, -1), strict=True)
        ]
        return torch.stack(each).sum(0)


class Normalised(SoftmaxRouter):
    """Lets the weights of the chosen experts sum to one."""

    def weigh(self, probabilities: Tensor, dtype: torch.dtype) -> Tensor:
        return super().weigh(probabilities / probabilities.sum(-1, keepdim=True), dtype)


class SoftmaxBeforeChoice(ChosenSoftmaxRouter):
    """Takes a softmax over all experts, not over the chosen ones."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        weights, chosen = self.score(tokens).softmax(-1).topk(self.top)
        return weights, chosen


class ByPreference(SigmoidRouter):
    """Weighs by what it chooses by: with the preference added."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        sigmoids = self.score(tokens).sigmoid() + self.preference
        chosen = self.in_best_groups(sigmoids).topk(self.top).indices
        return self.weigh(sigmoids.gather(-1, chosen)), chosen


class NoPreference(SigmoidRouter):
    """Chooses by the sigmoids alone."""

    def in_best_groups(self, preferred: Tensor) -> Tensor:
        return super().in_best_groups(preferred - self.preference)


class NothingShared(Experts):
    """Leaves the shared expert out."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        return self.mix(tokens, *self.router(tokens)).view_as(x)


class Unweighted(Experts):
    """Adds what the chosen experts make, whatever their weights."""

    def mix(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        return super().mix(tokens, torch.ones_like(weights), chosen)
