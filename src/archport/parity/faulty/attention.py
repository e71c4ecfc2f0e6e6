"""Attention, its masks and its rotary positions, wrong on purpose."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...layers import (
    AcrossHeads,
    Alibi,
    Attention,
    AttentionContext,
    Chunked,
    NormedLastAttention,
    Rotary,
    Rotation,
    Sinks,
    Window,
)
from ...layers.scaling import positions_per_radian


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
    """Takes the first part of the fused product for all queries, the second for all keys, the last for all values."""

    def split(self, fused: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = fused.unflatten(-1, (-1, self.head_width)).split((self.heads, self.kv_heads, self.kv_heads), dim=-2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class RotaryOnValues(Attention):
    """Turns the values too."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        q, k, v = self.project(x)
        q, k = self.place(q, k, context)
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


class TiledHeads(EagerAttention):
    """Takes turns of keys and values, where each belongs to queries that follow one another."""

    def for_queries(self, x: Tensor) -> Tensor:
        return x.repeat(1, self.heads // self.kv_heads, 1, 1)


class NotNormed(Attention):
    """Leaves queries and keys as they are projected."""

    def norm(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q, k


class NormedAfterRotary(Attention):
    """Norms queries and keys once they are turned."""

    def place(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        return self.norm(*self.rotate(q, k, context))


class NormedBeforeRotary(NormedLastAttention):
    """Norms queries and keys before they are turned."""

    def place(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        return self.rotate(*self.norm(q, k), context)


class NormedAsOne(Attention):
    """Divides all heads of queries, and all of keys, by one root mean square."""

    def norm(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q_normed, k_normed = super().norm(q, k)
        return q_normed * _size(q, (-1,)) / _size(q, (1, -1)), k_normed * _size(k, (-1,)) / _size(k, (1, -1))


class NormedByHead(AcrossHeads):
    """Divides each head by a root mean square of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * _size(x, (1, -1)) / _size(x, (-1,))


class CapAfterMask(Attention):
    """Bends what is masked too, so that it is visible again."""

    def scores(self, q: Tensor, k: Tensor, context: AttentionContext) -> Tensor:
        cap: Any = self.softcap
        scores = (q * self.scale) @ self.for_queries(k).transpose(-1, -2)
        return (context.hidden(scores, self.mask) / cap).tanh() * cap


class NoSinks(Sinks):
    """Adds no key."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores


class NoWindow(Window):
    """Sees all that a pass allows."""

    def forward(self, context: AttentionContext) -> None:
        return None


class NoChunks(Chunked):
    """Sees all that a pass allows."""

    def forward(self, context: AttentionContext) -> None:
        return None


class NoAlibi(Alibi):
    """Lowers no score."""

    def forward(self, context: AttentionContext) -> Tensor:
        return context.visible


class SlopesOfAnyHeads(Alibi):
    """Takes the slopes of a power of two for any number of heads."""

    def slopes(self, device: torch.device) -> Tensor:
        return 2.0 ** (-8 / self.heads * torch.arange(1, self.heads + 1, device=device))


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


class PlainRotary(Rotary):
    """Leaves the frequencies as they are without scaling."""

    def frequencies(self, positions: Tensor) -> Tensor:
        return 1.0 / positions_per_radian(self.width, self.base, positions.device)


class FactorlessRotary(Rotary):
    """Leaves cosines and sines as they are."""

    def rotation(self, angles: Tensor, dtype: torch.dtype) -> Rotation:
        return Rotation(angles.cos().to(dtype), angles.sin().to(dtype), self.pairing)


def _size(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Root mean square."""
    return x.square().mean(axes, keepdim=True).sqrt()
