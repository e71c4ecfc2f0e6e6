"""Parts that are wrong on purpose: each is a class of ours with one step changed.

They are planted above the class a part has, so that what a subclass adds to ours stays; a step that calls `super()`
changes what the part's own step is given or makes, any other stands in its place.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers import Attention, AttentionContext, Block, Decoder, Embed, PositionedEmbed, Rotary, Rotation


class QuickGELU(nn.Module):
    """GELU by a sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class RMSNorm(nn.LayerNorm):
    """Does not subtract the mean."""

    def forward(self, x: Tensor) -> Tensor:
        normed = x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
        scaled = normed if self.weight is None else normed * self.weight
        return scaled if self.bias is None else scaled + self.bias


class UnbiasedNorm(nn.LayerNorm):
    """Does not add its bias."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, None, self.eps)


class EagerAttention(Attention):
    """Not wrong: attention whose scores and probabilities are steps of their own."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        return self.attend_eagerly(q, k, v, context)


class KeysForQueries(Attention):
    """Takes keys for queries and queries for keys."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, q, v = super().project(x)
        return q, k, v


class ValuesForKeys(Attention):
    """Takes values for keys and keys for values."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, v, k = super().project(x)
        return q, k, v


class ThirdsForHeads(Attention):
    """Takes the first third of the fused product for queries, the second for keys, the last for values."""

    def split(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = fused.unflatten(-1, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4).unbind()
        return q, k, v


class RotaryOnValues(Attention):
    """Turns the values too."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        q, k, v = self.project(x)
        q, k = self.rotate(*self.norm(q, k), context)
        k, v = context.extend(k, context.rotated(v, self.rotary))
        return self.output(self.attend(q, k, v, context))


class RotaryOnKeysOnly(Attention):
    """Leaves the queries as they are."""

    def rotate(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        return q, context.rotated(k, self.rotary)


class NoRotary(Attention):
    """Turns nothing."""

    def rotate(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        return q, k


class NoMask(Attention):
    """Sees every token."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        return super().attend(q, k, v, replace(context, mask=None, causal=False, masks={}))


class MaskOneTooFar(Attention):
    """Sees the next token."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        visible = context.visible
        ahead = torch.arange(context.keys, device=q.device) == context.places[:, None] + 1
        return super().attend(q, k, v, replace(context, mask=visible | ahead, causal=False, masks={}))


class FiniteMask(EagerAttention):
    """Masks by a large number."""

    def scores(self, q: Tensor, k: Tensor, context: AttentionContext) -> Tensor:
        return super().scores(q, k, context).clamp(min=-1e4)


class HalfSoftmax(EagerAttention):
    """Softmax in float16."""

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.half().softmax(-1).to(scores.dtype)


class NoOutProjection(Attention):
    """Hands the mixed values on as they are."""

    def output(self, heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(-2)


class ShiftedRotary(Rotary):
    """Counts positions from 1."""

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        return super().forward(positions + 1, dtype)


class InvertedRotary(Rotary):
    """Turns the other way."""

    def rotation(self, angles: Tensor, dtype: torch.dtype) -> Rotation:
        return super().rotation(-angles, dtype)


class HalfRotary(Rotary):
    """Computes angles in float16."""

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        return self.rotation(positions[..., None].half() * self.frequencies(positions).half(), dtype)


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


class ScaledEmbed(Embed):
    """Scales token vectors by the square root of the width, as some models do."""

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:
        return super().place(vectors * self.tokens.embedding_dim**0.5, positions)


class PostNorm(Block):
    """Norms after each branch is added, as the first transformer did."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = self.norm_attn(x + self.attn(x, context))
        return self.norm_mlp(x + self.mlp(x))


class PostSharedNorm(Block):
    """One norm, after both branches are added."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        return self.norm(x + self.attn(x, context) + self.mlp(x))


class SequentialSharedNorm(Block):
    """One norm, used before each of two branches in sequence."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = x + self.attn(self.norm(x), context)
        return x + self.mlp(self.norm(x))


class OneNormForTwo(Block):
    """Parallel branches that both read the first norm."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        normed = self.norm_attn(x)
        return self.attn(normed, context) + self.mlp(normed) + x


class ResidualAfterNorm(Block):
    """Sequential, with the normed stream going on."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        normed = self.norm_attn(x)
        x = normed + self.attn(normed, context)
        normed = self.norm_mlp(x)
        return normed + self.mlp(normed)


class ResidualAfterParallelNorm(Block):
    """Parallel, with the normed stream going on."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        normed = self.norm_attn(x)
        return self.attn(normed, context) + self.mlp(self.norm_mlp(x)) + normed


class ResidualAfterSharedNorm(Block):
    """Parallel through one norm, with the normed stream going on."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        normed = self.norm(x)
        return self.attn(normed, context) + self.mlp(normed) + normed


class NormedTwice(Decoder):
    """Applies the final norm twice."""

    def logits(self, stream: Tensor) -> Tensor:
        return super().logits(self.norm(stream))


class NeverNormed(Decoder):
    """Forgets the final norm."""

    def logits(self, stream: Tensor) -> Tensor:
        return self.head(stream)


class ForgetfulDecoder(Decoder):
    """Hides the first token of the cache from those that come later."""

    def stream(self, ids: Tensor | None = None, *, cache: Any = None, **how: Any) -> Tensor:
        if cache is not None and cache.length:
            rows, seq, device = _given(ids, how)
            keys = cache.length + seq
            how["positions"] = torch.arange(cache.length, keys, device=device)
            how["mask"] = torch.ones(rows, keys, dtype=torch.bool, device=device)
            how["mask"][:, 0] = False
        return super().stream(ids, cache=cache, **how)


class RestartingDecoder(Decoder):
    """Counts the positions of every pass from 0, whatever is in the cache."""

    def stream(self, ids: Tensor | None = None, **how: Any) -> Tensor:
        if how.get("mask") is None:
            _, seq, device = _given(ids, how)
            how["positions"] = torch.arange(seq, device=device)
        return super().stream(ids, **how)


class PaddingCounted(Decoder):
    """Counts padding as positions."""

    def stream(self, ids: Tensor | None = None, *, cache: Any = None, **how: Any) -> Tensor:
        _, seq, device = _given(ids, how)
        past = cache.length if cache else 0
        how["positions"] = torch.arange(past, past + seq, device=device)
        return super().stream(ids, cache=cache, **how)


def _given(ids: Tensor | None, how: dict[str, Any]) -> tuple[int, int, torch.device]:
    """Rows, tokens and device of what a pass is given."""
    tokens: Tensor = how["inputs_embeds"] if ids is None else ids
    return tokens.shape[0], tokens.shape[1], tokens.device
