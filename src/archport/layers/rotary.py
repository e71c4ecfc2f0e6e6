"""Rotary positions: queries and keys are turned by angles that grow with their position."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rotation:
    """Rotary angles of some positions, ready to turn queries and keys."""

    cos: Tensor  # (seq, pairs), or (batch, 1, seq, pairs) where rows differ
    sin: Tensor
    pairing: str

    def __call__(self, x: Tensor) -> Tensor:  # (batch, heads, seq, head_width), same out
        """Turn the first 2 * pairs elements of every head; leave the rest."""
        turned, rest = x.tensor_split((2 * self.cos.shape[-1],), dim=-1)
        if self.pairing == "halves":
            a, b = self.pair(*turned.chunk(2, dim=-1))
            return torch.cat((a, b, rest), dim=-1)
        a, b = self.pair(turned[..., 0::2], turned[..., 1::2])
        return torch.cat((torch.stack((a, b), dim=-1).flatten(-2), rest), dim=-1)

    def pair(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # (batch, heads, seq, pairs) each
        """Turn each point (a, b) of the plane by its angle."""
        return a * self.cos - b * self.sin, b * self.cos + a * self.sin


class Rotary(nn.Module):
    """Rotary position embedding: each pair of elements is turned by an angle proportional to its position.

    `width` elements of each head, one more where that is odd, are turned, in pairs of (i, i + pairs) for `halves` or
    (2i, 2i + 1) for `neighbours`. Pair i turns by position * base ** (-2i / width) / factor radians.

    Source: RoFormer, arXiv 2104.09864; `factor`: position interpolation, arXiv 2306.15595.
    """

    def __init__(self, width: int, *, base: float = 10000.0, pairing: str = "halves", factor: float = 1.0) -> None:
        super().__init__()
        self.width, self.base, self.pairing, self.factor = width, base, pairing, factor

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:  # (seq) or (batch, 1, seq)
        """Angles in float32 from whole positions, cast last: half precision cannot hold position 2049."""
        angles = positions[..., None].float() * self.frequencies(positions.device)  # (seq, pairs)
        return Rotation(angles.cos().to(dtype), angles.sin().to(dtype), self.pairing)

    def frequencies(self, device: torch.device) -> Tensor:  # (pairs)
        """Radians a position, for each pair."""
        exponents = torch.arange(0, self.width, 2, device=device).float() / self.width
        return 1.0 / self.base**exponents / self.factor

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"{self.width}, base={self.base:g}, pairing={self.pairing!r}" + (
            f", factor={self.factor:g}" if self.factor != 1 else ""
        )
