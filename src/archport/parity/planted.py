"""Modules that are wrong on purpose: each is one of ours with one step changed, planted by its class."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Attention, Block, Decoder, Embed, PositionedEmbed
from ..rotary import Rotary, Rotation
from ..step import Step


class QuickGELU(nn.Module):
    """GELU by a sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class RMSNorm(nn.LayerNorm):
    """Does not subtract the mean."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight + self.bias


class UnbiasedNorm(nn.LayerNorm):
    """Does not add its bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, None, self.eps)


class SteppedAttention(Attention):
    """Not wrong: attention step by step, each step a method that a fault overrides."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        q, k, v = self.split(self.qkv(x))
        q, k, v = self.turned(q, k, v, step)
        k, v = step.remember(k, v)
        scores = self.masked(q @ k.transpose(-1, -2) * self.scale, step)
        return self.projected((self.probabilities(scores) @ v).transpose(1, 2).flatten(-2))

    def turned(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        return step.rotate(q), step.rotate(k), v

    def masked(self, scores: Tensor, step: Step, ahead: int = 1, value: float = -math.inf) -> Tensor:
        past = scores.shape[-1] - scores.shape[-2]
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(past + ahead)
        return scores.masked_fill(hidden if step.mask is None or ahead > 1 else ~step.mask, value)

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.softmax(-1)

    def projected(self, mixed: Tensor) -> Tensor:
        return self.out(mixed)


class KeysForQueries(SteppedAttention):
    """Takes keys for queries and queries for keys."""

    def split(self, fused: Tensor) -> tuple[Tensor, ...]:
        k, q, v = super().split(fused)
        return q, k, v


class ValuesForKeys(SteppedAttention):
    """Takes values for keys and keys for values."""

    def split(self, fused: Tensor) -> tuple[Tensor, ...]:
        q, v, k = super().split(fused)
        return q, k, v


class ThirdsForHeads(SteppedAttention):
    """Takes the first third of the fused product for queries, the second for keys, the last for values."""

    def split(self, fused: Tensor) -> tuple[Tensor, ...]:
        by_third = fused.unflatten(-1, (3, self.heads, self.head_width))
        return by_third.permute(2, 0, 3, 1, 4).unbind()


class RotaryOnValues(SteppedAttention):
    """Turns the values too."""

    def turned(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        return step.rotate(q), step.rotate(k), step.rotate(v)


class RotaryOnKeysOnly(SteppedAttention):
    """Leaves the queries as they are."""

    def turned(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        return q, step.rotate(k), v


class NoRotary(SteppedAttention):
    """Turns nothing."""

    def turned(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v


class NoMask(SteppedAttention):
    """Sees every token."""

    def masked(self, scores: Tensor, step: Step, ahead: int = 1, value: float = -math.inf) -> Tensor:
        return scores


class MaskOneTooFar(SteppedAttention):
    """Sees the next token."""

    def masked(self, scores: Tensor, step: Step, ahead: int = 2, value: float = -math.inf) -> Tensor:
        return super().masked(scores, step, ahead, value)


class FiniteMask(SteppedAttention):
    """Masks by a large number."""

    def masked(self, scores: Tensor, step: Step, ahead: int = 1, value: float = -1e4) -> Tensor:
        return super().masked(scores, step, ahead, value)


class HalfSoftmax(SteppedAttention):
    """Softmax in float16."""

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.half().softmax(-1).to(scores.dtype)


class NoOutProjection(SteppedAttention):
    """Hands the mixed values on as they are."""

    def projected(self, mixed: Tensor) -> Tensor:
        return mixed


class ShiftedRotary(Rotary):
    """Counts positions from 1."""

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        return super().forward(positions + 1, dtype)


class InvertedRotary(Rotary):
    """Turns the other way."""

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        return super().forward(-positions, dtype)


class HalfRotary(Rotary):
    """Computes angles in float16."""

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        exponents = torch.arange(0, self.width, 2, device=positions.device).half() / self.width
        angles = positions[..., None].half() * (1.0 / self.base**exponents / self.factor)
        return Rotation(angles.cos().to(dtype), angles.sin().to(dtype), self.pairing)


class PositionsOffByOne(PositionedEmbed):
    """Learned positions that start at 1."""

    start = 1

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        last = self.positions.num_embeddings - 1
        return self.tokens(ids) + self.positions((positions + self.start).clamp(max=last))


class PositionsShiftedByTwo(PositionsOffByOne):
    """Learned positions that start at 2, as OPT's do."""

    start = 2


class NoPositions(PositionedEmbed):
    """Does not add the positions."""

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.tokens(ids)


class ScaledEmbed(Embed):
    """Scales token vectors by the square root of the width, as some models do."""

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.tokens(ids) * self.tokens.embedding_dim**0.5


class ScaledPositionedEmbed(PositionedEmbed):
    """The same beside learned positions."""

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.tokens(ids) * self.tokens.embedding_dim**0.5 + self.positions(positions)


class PostNorm(Block):
    """Norms after each branch is added, as the first transformer did."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        x = self.norm_attn(x + self.attn(x, step))
        return self.norm_mlp(x + self.mlp(x))


class PostSharedNorm(Block):
    """One norm, after both branches are added."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.norm(x + self.attn(x, step) + self.mlp(x))


class SequentialSharedNorm(Block):
    """One norm, used before each of two branches in sequence."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        x = x + self.attn(self.norm(x), step)
        return x + self.mlp(self.norm(x))


class OneNormForTwo(Block):
    """Parallel branches that both read the first norm."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        normed = self.norm_attn(x)
        return self.attn(normed, step) + self.mlp(normed) + x


class ResidualAfterNorm(Block):
    """Sequential, with the normed stream going on."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        normed = self.norm_attn(x)
        x = normed + self.attn(normed, step)
        normed = self.norm_mlp(x)
        return normed + self.mlp(normed)


class ResidualAfterParallelNorm(Block):
    """Parallel, with the normed stream going on."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        normed = self.norm_attn(x)
        return self.attn(normed, step) + self.mlp(self.norm_mlp(x)) + normed


class ResidualAfterSharedNorm(Block):
    """Parallel through one norm, with the normed stream going on."""

    def forward(self, x: Tensor, step: Step) -> Tensor:
        normed = self.norm(x)
        return self.attn(normed, step) + self.mlp(normed) + normed


class NormedTwice(Decoder):
    """Applies the final norm twice."""

    def forward(self, ids: Tensor, **how: Any) -> Tensor:
        return self.head(self.norm(self.norm(self.stream(ids, **how))))


class NeverNormed(Decoder):
    """Forgets the final norm."""

    def forward(self, ids: Tensor, **how: Any) -> Tensor:
        return self.head(self.stream(ids, **how))


class ForgetfulDecoder(Decoder):
    """Hides the first token of the cache from those that come later."""

    def stream(self, ids: Tensor, *, cache: Any = None, **how: Any) -> Tensor:
        if cache is not None and cache.length:
            keys = cache.length + ids.shape[-1]
            how["positions"] = torch.arange(cache.length, keys, device=ids.device)
            how["mask"] = torch.ones(len(ids), keys, dtype=torch.bool, device=ids.device)
            how["mask"][:, 0] = False
        return super().stream(ids, cache=cache, **how)


class RestartingDecoder(Decoder):
    """Counts the positions of every pass from 0, whatever is in the cache."""

    def stream(self, ids: Tensor, **how: Any) -> Tensor:
        if how.get("mask") is None:
            how["positions"] = torch.arange(ids.shape[-1], device=ids.device)
        return super().stream(ids, **how)


class PaddingCounted(Decoder):
    """Counts padding as positions."""

    def stream(self, ids: Tensor, *, cache: Any = None, **how: Any) -> Tensor:
        past = cache.length if cache else 0
        how["positions"] = torch.arange(past, past + ids.shape[-1], device=ids.device)
        return super().stream(ids, cache=cache, **how)
