"""Blocks and decoders that string their parts together in a wrong way on purpose."""

from typing import Any

import torch
from torch import Tensor

from ...layers import (
    AttentionContext,
    Block,
    Decoder,
    NormedStreamBlock,
    NormedSumBlock,
    PostNormBlock,
    SandwichBlock,
    ScaledBlock,
)


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


class SandwichParallel(SandwichBlock):
    """Both branches read the same stream."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        attended: Tensor = self.norm_attn_out(self.attn(self.norm_attn(x), context))
        return x + attended + self.norm_mlp_out(self.mlp(self.norm_mlp(x)))


class SandwichNormedSum(SandwichBlock):
    """Norms each sum, not what is added."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = self.norm_attn_out(x + self.attn(self.norm_attn(x), context))
        normed: Tensor = self.norm_mlp_out(x + self.mlp(self.norm_mlp(x)))
        return normed


class PostNormBefore(PostNormBlock):
    """Norms before each branch, not after it."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = x + self.attn(self.norm_attn_out(x), context)
        return x + self.mlp(self.norm_mlp_out(x))


class PostNormParallel(PostNormBlock):
    """Both branches read the same stream."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        return x + self.norm_attn_out(self.attn(x, context)) + self.norm_mlp_out(self.mlp(x))


class PostNormOfSum(PostNormBlock):
    """Norms each sum, not what is added."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = self.norm_attn_out(x + self.attn(x, context))
        normed: Tensor = self.norm_mlp_out(x + self.mlp(x))
        return normed


class SumNotNormed(NormedSumBlock):
    """Norms what is added, not each sum."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = x + self.norm_attn_out(self.attn(x, context))
        return x + self.norm_mlp_out(self.mlp(x))


class PlainStream(NormedStreamBlock):
    """Adds to the stream, not to the normed stream."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = x + self.attn(self.norm_attn(x), context)
        return x + self.mlp(self.norm_mlp(x))


class ScaledParallel(ScaledBlock):
    """Both branches read the same stream."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        return x + (self.attn(self.norm_attn(x), context) + self.mlp(self.norm_mlp(x))) * self.scale


class ScaledStream(ScaledBlock):
    """Scales the sum, not what is added."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = (x + self.attn(self.norm_attn(x), context)) * self.scale
        return (x + self.mlp(self.norm_mlp(x))) * self.scale


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
        logits: Tensor = self.head(stream)
        return logits if self.finish is None else self.finish(logits)


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
