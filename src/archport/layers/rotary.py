"""Rotary positions: queries and keys are turned by angles that grow with their position."""

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .scaling import Scaling, positions_per_radian
from .sharding import WHOLE


class Rotation(NamedTuple):
    """Rotary angles of some positions, ready to turn queries and keys."""

    cos: Tensor  # (seq, pairs), or (batch, 1, seq, pairs) where rows differ
    sin: Tensor
    pairing: str

    def __call__(self, x: Tensor) -> Tensor:  # (batch, heads, seq, head_width), same out
        """Turn the first 2 * pairs elements of every head, in the dtype of the angles; leave the rest."""
        turned, rest = x.tensor_split((2 * self.cos.shape[-1],), dim=-1)
        if self.pairing == "halves":
            a, b = self.pair(*turned.chunk(2, dim=-1))
            return torch.cat((a, b, rest), dim=-1).to(x.dtype)
        a, b = self.pair(turned[..., 0::2], turned[..., 1::2])
        return torch.cat((torch.stack((a, b), dim=-1).flatten(-2), rest), dim=-1).to(x.dtype)

    def pair(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # (batch, heads, seq, pairs) each
        """Turn each point (a, b) of the plane by its angle."""
        return a * self.cos - b * self.sin, b * self.cos + a * self.sin


class Rotary(nn.Module):
    """Rotary position embedding: each pair of elements is turned by an angle proportional to its position.

    `width` elements of each head, one more where that is odd, are turned, in pairs of (i, i + pairs) for `halves` or
    (2i, 2i + 1) for `neighbours`. Pair i turns by position * base ** (-2i / width) radians, changed by `scaling`.

    Source: RoFormer, arXiv 2104.09864.
    """

    sharding: ClassVar = WHOLE

    def __init__(
        self, width: int, *, base: float = 10000.0, pairing: str = "halves", scaling: Scaling | None = None
    ) -> None:
        super().__init__()
        self.width, self.base, self.pairing, self.scaling = width, base, pairing, scaling

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:  # (seq) or (batch, 1, seq)
        """Angles in float32 from whole positions, cast last: half precision cannot hold position 2049."""
        return self.rotation(positions[..., None].float() * self.frequencies(positions), dtype)

    def frequencies(self, positions: Tensor) -> Tensor:  # (pairs)
        """Radians a position for each pair, in a pass over these positions."""
        plain = 1.0 / positions_per_radian(self.width, self.base, positions.device)
        if self.scaling is None:
            return plain
        length = positions.max() + 1 if positions.numel() else positions.new_zeros(())
        return self.scaling.frequencies(plain, self.width, self.base, length)

    def rotation(self, angles: Tensor, dtype: torch.dtype) -> Rotation:  # (seq, pairs) or (batch, 1, seq, pairs)
        """Cosines and sines of angles, in the stream's dtype."""
        factor = 1.0 if self.scaling is None else self.scaling.attention_factor
        return Rotation((angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype), self.pairing)

    def extra_repr(self) -> str:
        """The settings, for print."""
        scaling = "" if self.scaling is None else f", scaling={self.scaling}"
        return f"{self.width}, base={self.base:g}, pairing={self.pairing!r}{scaling}"


class WideRotary(Rotary):
    """Rotary that turns in float32 or wider and casts what is turned, not the angles. Source: `OlmoRotaryEmbedding`."""

    sharding: ClassVar = WHOLE

    def rotation(self, angles: Tensor, dtype: torch.dtype) -> Rotation:  # (seq, pairs) or (batch, 1, seq, pairs)
        """Cosines and sines of angles, in float32 or the stream's wider dtype."""
        return super().rotation(angles, torch.promote_types(dtype, torch.float32))
