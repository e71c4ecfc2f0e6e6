"""Attention in steps: project, norm, rotate, attend, output; a variant overrides one of them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .context import AttentionContext
from .rotary import Rotary

# The rows of a fused `qkv` weight: head by head, and within a head its query, its key, its value. So a contiguous
# slice of rows is a set of whole heads, and q, k and v are views of one product.
QKV = "(head qkv dim)"


class Attention(nn.Module):
    """Causal self-attention with one fused projection for queries, keys and values.

    With fewer `kv_heads` than `heads`, groups of queries share a key and a value, and the rows of the projection go
    group by group: its queries, its key, its value. `scale` multiplies the scores: 1 / sqrt(head_width) unless given.
    `q_norm` and `k_norm` norm each head, `rotary` gives queries and keys their positions. `dropout` acts on the output,
    `score_dropout` on the attention probabilities.

    Raises: ConfigError for heads that do not divide into groups.
    Source: arXiv 1706.03762; grouped queries arXiv 2305.13245.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_width: int | None = None,
        bias: bool = True,
        scale: float | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        rotary: Rotary | None = None,
        dropout: float = 0.0,
        score_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, heads if kv_heads is None else kv_heads
        if self.kv_heads < 1 or heads % self.kv_heads:
            raise ConfigError({"kv_heads": f"found {kv_heads}, expected a divisor of {heads} heads"})
        self.head_width = head_width or width // heads
        self.scale = self.head_width**-0.5 if scale is None else scale
        self.score_dropout = score_dropout
        self.qkv = nn.Linear(width, (heads + 2 * self.kv_heads) * self.head_width, bias=bias)
        self.q_norm, self.k_norm, self.rotary = q_norm, k_norm, rotary
        self.out = nn.Linear(heads * self.head_width, width, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """Each position gathers values from itself and the positions before it."""
        q, k, v = self.project(x)
        q, k = self.norm(q, k)
        q, k = self.rotate(q, k, context)
        k, v = context.extend(k, v)
        return self.dropout(self.output(self.attend(q, k, v, context)))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (batch, seq, width) -> (batch, heads, seq, ..)
        """Queries, keys and values of every head."""
        return self.split(self.qkv(x))

    def split(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, heads, seq, head_width), keys and values (batch, kv_heads, ..), out of the fused product."""
        rows = self.heads // self.kv_heads + 2  # of a group: its queries, its key, its value
        by_group = fused.unflatten(-1, (self.kv_heads, rows, self.head_width))
        *queries, k, v = by_group.transpose(1, 2).unbind(-2)  # (batch, kv_heads, seq, head_width) each
        return queries[0] if rows == 3 else torch.stack(queries, dim=2).flatten(1, 2), k, v

    def norm(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:  # (batch, heads, seq, head_width), same out
        """Norm queries and keys, in models that do."""
        return q if self.q_norm is None else self.q_norm(q), k if self.k_norm is None else self.k_norm(k)

    def rotate(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:  # same out
        """Give queries and keys their positions, in models that do so here."""
        return context.rotated(q, self.rotary), context.rotated(k, self.rotary)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        """What each head gathers, (batch, heads, seq, head_width): values by how well the query matches their keys."""
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=context.mask,
            dropout_p=self.score_dropout if self.training else 0.0,
            is_causal=context.causal,
            scale=self.scale,
            enable_gqa=self.kv_heads < self.heads,
        )

    def attend_eagerly(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        """The same as `attend`, which torch fuses, with scores and probabilities as steps of their own."""
        probabilities = self.probabilities(self.scores(q, k, context))
        return F.dropout(probabilities, self.score_dropout, self.training) @ self.for_queries(v)

    def scores(self, q: Tensor, k: Tensor, context: AttentionContext) -> Tensor:  # (batch, heads, seq, keys)
        """How well each query matches each key; minus infinity where the key is not visible."""
        scores = (q * self.scale) @ self.for_queries(k).transpose(-1, -2)  # scaled first, or half precision overflows
        return scores.masked_fill(~context.visible, -math.inf)

    def probabilities(self, scores: Tensor) -> Tensor:  # (batch, heads, seq, keys), same out
        """How much each query takes of each value."""
        return scores.softmax(-1)

    def for_queries(self, x: Tensor) -> Tensor:  # (batch, kv_heads, keys, head_width) -> (batch, heads, ..)
        """Keys or values once for each query that shares them."""
        return x if self.kv_heads == self.heads else x.repeat_interleave(self.heads // self.kv_heads, dim=1)

    def output(self, heads: Tensor) -> Tensor:  # (batch, heads, seq, head_width) -> (batch, seq, width)
        """What all heads together add to the stream."""
        return self.out(heads.transpose(1, 2).flatten(-2))

    def output_by_head(self, heads: Tensor) -> Tensor:  # (batch, heads, seq, head_width) -> (batch, seq, width)
        """The same as `output`, with what each head adds as a step of its own."""
        added = self.project_heads(heads).sum(dim=2)
        return added if self.out.bias is None else added + self.out.bias

    def project_heads(self, heads: Tensor) -> Tensor:  # (batch, heads, seq, head_width) -> (batch, seq, heads, width)
        """What each head adds to the stream, before the bias of the output."""
        weight = self.out.weight.unflatten(1, (self.heads, self.head_width))  # (width, heads, head_width)
        return torch.einsum("bhsd,whd->bshw", heads, weight)

    def extra_repr(self) -> str:
        """The settings, for print."""
        groups = f", kv_heads={self.kv_heads}" if self.kv_heads < self.heads else ""
        dropout = f", score_dropout={self.score_dropout:g}" if self.score_dropout else ""
        return f"heads={self.heads}{groups}, head_width={self.head_width}, scale={self.scale:g}" + dropout
