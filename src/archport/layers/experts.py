"""A mixture of experts in place of an MLP: a router chooses a few for each token, and mixes what they give."""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .mlp import GatedMLP, QuickGELU
from .sharding import Cut, Sharding


class Experts(nn.Module):
    """Each token goes through the experts that the router chooses for it, and all through the `shared` one, if any.

    A router takes tokens (tokens, width) and gives the weights (tokens, top) of the chosen experts (tokens, top).
    An expert is any part that stands where an MLP does; only those that are chosen run.

    Source: arXiv 1701.06538; a shared expert arXiv 2401.06066.
    """

    sharding: ClassVar = Sharding({"experts": Cut.SUMMED})

    def __init__(self, router: nn.Module, experts: Sequence[nn.Module], shared: nn.Module | None = None) -> None:
        super().__init__()
        self.router = router
        self.experts = nn.ModuleList(experts)
        self.shared = shared

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Route, mix, add what is shared."""
        tokens = x.flatten(0, -2)
        weights, chosen = self.router(tokens)
        # How many tokens an expert gets depends on the data: traced, each number of them would be compiled anew.
        mix = torch.compiler.disable(self.mix) if torch.compiler.is_compiling() else self.mix
        mixed: Tensor = mix(tokens, weights, chosen).view_as(x)
        return mixed if self.shared is None else mixed + self.shared(x)

    def mix(self, tokens: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:  # (tokens, width), (tokens, top) twice
        """The weighted sum of the chosen experts (tokens, width), added in their order, as the reference does."""
        mixed = torch.zeros_like(tokens)
        by_expert = chosen.flatten().argsort(stable=True)
        rows = by_expert // chosen.shape[-1]
        scales = weights.flatten()[by_expert, None]
        hit, counts = torch.stack(chosen.unique(return_counts=True)).tolist()
        for index, row, scale in zip(hit, rows.split(counts), scales.split(counts), strict=True):
            added = self.experts[index](tokens[row]) * scale
            mixed.index_add_(0, row, added.to(mixed.dtype))
        return mixed


class SharedExpert(nn.Module):
    """A part that every token goes through, scaled by a gate between 0 and 1. Source: Qwen2MoeSparseMoeBlock."""

    def __init__(self, width: int, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp
        self.gate = nn.Linear(width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Run and scale."""
        return self.gate(x).sigmoid() * self.mlp(x)


class ClampedGatedMLP(GatedMLP):
    """A gated MLP whose up-projection is raised by one, both clamped at `limit`. Source: GptOssExperts."""

    sharding: ClassVar = GatedMLP.sharding

    def __init__(self, width: int, mlp_width: int, *, alpha: float, limit: float, bias: bool = True) -> None:
        super().__init__(width, mlp_width, activation="silu", bias=bias)
        self.activation = QuickGELU(alpha)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        """Clamp, gate, down-project; the gate has no lower limit."""
        gate, up = self.gate(x).clamp(max=self.limit), self.up(x).clamp(-self.limit, self.limit)
        return self.dropout(self.down(self.activation(gate) * (up + 1)))


class Router(nn.Module):
    """Scores the experts for each token with a linear map; a subclass chooses `top` of them, and their weights."""

    def __init__(self, width: int, experts: int, *, top: int, bias: bool = False) -> None:
        super().__init__()
        if not 1 <= top <= experts:
            raise ConfigError({"top": f"found {top}, expected 1 to {experts}, the number of experts"})
        self.top = top
        self.score = nn.Linear(width, experts, bias=bias)

    def extra_repr(self) -> str:
        """The setting, for print."""
        return f"top={self.top}"


class SoftmaxRouter(Router):
    """The largest of the probabilities over all experts, taken in float32, then cast. Source: OlmoeTopKRouter."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:  # (tokens, width) -> (tokens, top) twice
        """Weights and experts."""
        logits = self.score(tokens)
        probabilities, chosen = logits.softmax(-1, dtype=torch.float32).topk(self.top)
        return self.weigh(probabilities, logits.dtype), chosen

    def weigh(self, probabilities: Tensor, dtype: torch.dtype) -> Tensor:  # (tokens, top), same out
        """As they are, in the dtype of the stream."""
        return probabilities.to(dtype)


class NormalisedRouter(SoftmaxRouter):
    """The same, divided by their sum before the cast. Source: Qwen3MoeTopKRouter."""

    def weigh(self, probabilities: Tensor, dtype: torch.dtype) -> Tensor:  # (tokens, top), same out
        """Weights that sum to one."""
        return (probabilities / probabilities.sum(-1, keepdim=True)).to(dtype)


class UncastNormalisedRouter(NormalisedRouter):
    """The same, left in float32, in which the experts are then weighted. Source: MixtralTopKRouter."""

    def weigh(self, probabilities: Tensor, dtype: torch.dtype) -> Tensor:  # noqa: ARG002  # (tokens, top), same out
        """Weights that sum to one."""
        return super().weigh(probabilities, torch.float32)


class ChosenSoftmaxRouter(Router):
    """The largest logits, and a softmax over these alone, in the dtype of the stream. Source: GptOssTopKRouter."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:  # (tokens, width) -> (tokens, top) twice
        """Weights and experts."""
        logits, chosen = self.score(tokens).topk(self.top)
        return logits.softmax(-1), chosen

    def draw(self, std: float, generator: torch.Generator | None = None) -> None:
        """Fresh biases, in place."""
        if self.score.bias is not None:
            self.score.bias.normal_(0.0, std, generator=generator)


class FloatLinear(nn.Linear):
    """A linear map that multiplies in float32, whatever its weight is held in."""

    def forward(self, x: Tensor) -> Tensor:  # (.., in) -> (.., out)
        """Cast both, multiply."""
        return F.linear(x.float(), self.weight.float())


class SigmoidRouter(Router):
    """Sigmoids divided by their sum, times `scale`; a learned `preference` is added for the choice alone.

    They are not divided where they are not `normalised`.
    The experts lie in `groups`; only the `top_groups` whose two best are together preferred most are chosen from.

    Source: arXiv 2412.19437, Dots1TopkRouter.
    """

    def __init__(
        self,
        width: int,
        experts: int,
        *,
        top: int,
        groups: int = 1,
        top_groups: int = 1,
        scale: float = 1.0,
        normalised: bool = True,
    ) -> None:
        super().__init__(width, experts, top=top)
        self.groups, self.top_groups, self.scale, self.normalised = groups, top_groups, scale, normalised
        self.score = FloatLinear(width, experts, bias=False)
        self.preference = nn.Parameter(torch.zeros(experts), requires_grad=False)

    def draw(self, std: float, generator: torch.Generator | None = None) -> None:  # noqa: ARG002
        """Fresh preferences, in place: none."""
        self.preference.zero_()

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:  # (tokens, width) -> (tokens, top) twice
        """Weights and experts."""
        sigmoids = self.score(tokens).sigmoid()
        chosen = self.in_best_groups(sigmoids + self.preference).topk(self.top).indices
        return self.weigh(sigmoids.gather(-1, chosen)), chosen

    def weigh(self, sigmoids: Tensor) -> Tensor:  # (tokens, top), same out
        """What the chosen experts count for."""
        total = sigmoids.sum(-1, keepdim=True) + 1e-20 if self.normalised else 1.0
        return sigmoids / total * self.scale

    def in_best_groups(self, preferred: Tensor) -> Tensor:  # (tokens, experts), same out
        """Minus infinity outside the best groups."""
        by_group = preferred.unflatten(-1, (self.groups, -1))
        best = by_group.topk(2).values.sum(-1).topk(self.top_groups).indices
        kept = torch.zeros_like(by_group[..., 0], dtype=torch.bool).scatter(-1, best, True)
        return by_group.masked_fill(~kept[..., None], -math.inf).flatten(-2)
