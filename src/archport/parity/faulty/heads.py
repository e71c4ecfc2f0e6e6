"""Attention that takes its heads, or queries, keys and values, for each other on purpose."""

import torch
from torch import Tensor

from ...layers import Attention, AttentionContext
from .attention import EagerAttention


class QueriesForValues(Attention):
    """Takes queries for values and values for queries."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, k, q = super().project(x)
        return q, k, v


class Cycled(Attention):
    """Takes queries for keys, keys for values and values for queries."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        k, v, q = super().project(x)
        return q, k, v


class CycledBack(Attention):
    """Takes queries for values, values for keys and keys for queries."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, q, k = super().project(x)
        return q, k, v


class HeadsForThirds(Attention):
    """Takes what goes all queries, all keys, all values for going head by head."""

    def split(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        thirds = [slot.transpose(1, 2).flatten(2) for slot in super().split(fused)]
        return super().split(torch.cat(thirds, dim=-1))


class HeadsApart(Attention):
    """Reads what the heads gathered as it lies: head by head, not token by token."""

    def output(self, heads: Tensor) -> Tensor:
        batch, _, seq, _ = heads.shape
        return self.out(heads.reshape(batch, seq, -1))


class OverQueries(EagerAttention):
    """Softmax over the queries of a key, not over the keys of a query."""

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.softmax(-2)


class HidesItself(EagerAttention):
    """Hides each token from itself; the first sees all alike."""

    def scores(self, q: Tensor, k: Tensor, context: AttentionContext) -> Tensor:
        own = torch.arange(context.keys, device=q.device) == context.places[:, None]
        return (
            super().scores(q, k, context).clamp(min=torch.finfo(q.dtype).min).masked_fill(own, torch.finfo(q.dtype).min)
        )


class TiledKeys(EagerAttention):
    """Takes turns of keys among the queries, but not of values."""

    def for_queries(self, x: Tensor) -> Tensor:
        return x if x.shape[1] == self.heads else super().for_queries(x)

    def scores(self, q: Tensor, k: Tensor, context: AttentionContext) -> Tensor:
        return super().scores(q, k.repeat(1, self.heads // self.kv_heads, 1, 1), context)


class TiledValues(EagerAttention):
    """Takes turns of values among the queries, but not of keys."""

    def for_queries(self, x: Tensor) -> Tensor:
        return x if x.shape[1] == self.heads else super().for_queries(x)

    def attend_eagerly(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        return super().attend_eagerly(q, k, v.repeat(1, self.heads // self.kv_heads, 1, 1), context)


class RoundedSoftmax(EagerAttention):
    """Softmax in bfloat16."""

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.bfloat16().softmax(-1).to(scores.dtype)


class NoKeyBias(Attention):
    """Forgets the bias of keys."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x)
        return q, k - _bias(self, -2), v


class NoValueBias(Attention):
    """Forgets the bias of values."""

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(x)
        return q, k, v - _bias(self, -1)


def _bias(attention: Attention, slot: int) -> Tensor:
    """That of keys or values, (kv_heads, 1, head_width)."""
    slots = attention.heads // attention.kv_heads + 2
    return attention.qkv.bias.view(attention.kv_heads, slots, 1, attention.head_width)[:, slot]


class RotaryOnQueriesOnly(Attention):
    """Leaves the keys as they are."""

    def rotate(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        return context.rotated(q, self.rotary), k
