"""Attention in steps: project, norm, rotate, attend, output; a variant overrides one of them."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ConfigError
from .context import AttentionContext
from .rotary import Rotary
from .sharding import Cut, Sharding

# The rows of a fused `qkv` weight: group by group, and within a group its queries, its key, its value. So a contiguous
# slice of rows is a set of whole groups, and q, k and v are views of one product.
QKV = "(kv [group k v] dim)"


class Sinks(nn.Module):
    """A score for each head that no key has: what it takes of the softmax goes nowhere. Source: `GptOssAttention`."""

    sharding: ClassVar = Sharding({"weight": Cut.HEADS})

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads))

    def draw(self, std: float, generator: torch.Generator | None = None) -> None:
        """Fresh weights, in place."""
        self.weight.normal_(0.0, std, generator=generator)

    def forward(self, scores: Tensor) -> Tensor:  # (batch, heads, seq, keys), with one more key out
        """Put it after the scores of the keys."""
        sink = self.weight.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.cat((scores, sink), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with one fused projection for queries, keys and values.

    With fewer `kv_heads` than `heads`, groups of queries share a key and a value. `clip` bounds what is projected,
    `q_norm` and `k_norm` norm it, `rotary` gives queries and keys their positions. `scale` multiplies the scores, by
    1 / sqrt(head_width) unless given, `softcap` bends them so that none passes it, `mask` narrows what a query sees,
    and `sinks` take a part of its attention. `dropout` acts on the output, `score_dropout` on the probabilities.

    Raises: ConfigError for heads that do not divide into groups.
    Source: arXiv 1706.03762; grouped queries arXiv 2305.13245.
    """

    sharding: ClassVar = Sharding(
        {"qkv": Cut.OUTPUTS, "out": Cut.INPUTS}, sizes=("heads", "kv_heads"), units="kv_heads"
    )

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_width: int | None = None,
        bias: bool = True,
        out_bias: bool | None = None,
        scale: float | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        rotary: Rotary | None = None,
        mask: nn.Module | None = None,
        clip: float | None = None,
        softcap: float | None = None,
        sinks: Sinks | None = None,
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
        self.q_norm, self.k_norm, self.rotary, self.mask = q_norm, k_norm, rotary, mask
        self.clip, self.softcap, self.sinks = clip, softcap, sinks
        self.out = nn.Linear(heads * self.head_width, width, bias=bias if out_bias is None else out_bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """Each position gathers values from itself and the positions before it."""
        q, k, v = self.project(x)
        q, k = self.place(q, k, context)
        k, v = context.extend(k, v)
        return self.dropout(self.output(self.attend(q, k, v, context)))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (batch, seq, width) -> (batch, heads, seq, ..)
        """Queries, keys and values of every head."""
        fused = self.qkv(x)
        return self.split(fused if self.clip is None else fused.clamp(-self.clip, self.clip))

    def split(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, heads, seq, head_width), keys and values (batch, kv_heads, ..), out of the fused product."""
        group = self.heads // self.kv_heads
        by_group = fused.unflatten(-1, (self.kv_heads, group + 2, self.head_width))
        q, k, v = (slot.flatten(2, 3).transpose(1, 2) for slot in by_group.split((group, 1, 1), dim=-2))
        return q, k, v

    def place(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        """Queries and keys (batch, heads, seq, head_width) ready to meet: normed, then turned."""
        return self.rotate(*self.norm(q, k), context)

    def norm(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:  # (batch, heads, seq, head_width), same out
        """Norm queries and keys, in models that do."""
        return q if self.q_norm is None else self.q_norm(q), k if self.k_norm is None else self.k_norm(k)

    def rotate(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:  # same out
        """Give queries and keys their positions, in models that do so here."""
        return context.rotated(q, self.rotary), context.rotated(k, self.rotary)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        """What each head gathers, (batch, heads, seq, head_width): values by how well the query matches their keys."""
        if self.softcap is not None or self.sinks is not None:  # which torch's fused attention does not have
            return self.attend_eagerly(q, k, v, context)
        mask, causal = context.masked(self.mask)
        return F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.score_dropout if self.training else 0.0,
            is_causal=causal,
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
        if self.softcap is not None:
            scores = (scores / self.softcap).tanh() * self.softcap
        return context.hidden(scores, self.mask)

    def probabilities(self, scores: Tensor) -> Tensor:  # (batch, heads, seq, keys), same out
        """How much each query takes of each value; in float32 or wider, then cast."""
        wide = torch.promote_types(scores.dtype, torch.float32)
        keys = scores.shape[-1]
        weighed = scores if self.sinks is None else self.sinks(scores)
        return weighed.softmax(-1, dtype=wide).to(scores.dtype)[..., :keys]

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
        settings = f"heads={self.heads}, head_width={self.head_width}, scale={self.scale:g}"
        rest: dict[str, float | None] = {"kv_heads": self.kv_heads if self.kv_heads < self.heads else None}
        rest |= {"clip": self.clip, "softcap": self.softcap, "score_dropout": self.score_dropout or None}
        return settings + "".join(f", {name}={value:g}" for name, value in rest.items() if value is not None)


class NormedLastAttention(Attention):
    """Attention that norms queries and keys after they are turned. Source: `HunYuanDenseV1Attention`."""

    sharding: ClassVar = Attention.sharding

    def place(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        """Queries and keys (batch, heads, seq, head_width) ready to meet: turned, then normed."""
        return self.norm(*self.rotate(q, k, context))
