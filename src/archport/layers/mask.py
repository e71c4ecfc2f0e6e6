"""What a query may see beside what a pass allows: a window, a chunk, or all at a price that grows with distance.

A mask is a part handed to attention. What it makes is worked out once a pass, for all layers that share it.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from .context import AttentionContext
from .sharding import WHOLE, Cut, Sharding


class Window(nn.Module):
    """Each query sees the last `size` tokens, its own among them. Source: Longformer, arXiv 2004.05150; Mistral."""

    sharding: ClassVar = WHOLE

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, context: AttentionContext) -> Tensor | None:  # (batch or 1, 1, seq, keys); None: sees all
        """True where a query may look."""
        if context.keys <= self.size:
            return None
        key = torch.arange(context.keys, device=context.places.device)
        return context.visible & (key > context.places[:, None] - self.size)

    def extra_repr(self) -> str:
        """The settings, for print."""
        return str(self.size)


class Chunked(nn.Module):
    """Each query sees its own chunk of `size` tokens of the text, up to itself. Source: `Llama4TextModel`."""

    sharding: ClassVar = WHOLE

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, context: AttentionContext) -> Tensor | None:  # (batch or 1, 1, seq, keys); None: sees all
        """True where a query may look."""
        if context.keys <= self.size:
            return None
        chunk = context.key_positions // self.size  # (batch or 1, keys)
        return context.visible & (chunk[:, context.places, None] == chunk[:, None])[:, None]

    def extra_repr(self) -> str:
        """The settings, for print."""
        return str(self.size)


class Alibi(nn.Module):
    """A score is lowered by the distance of query and key times a slope, another for each head, times `factor`.

    The slopes of n heads are 2 ** (-8 i / n) for i from 1; where n is no power of two, those of the power below it,
    then every second one of the power above. Source: arXiv 2108.12409.
    """

    sharding: ClassVar = Sharding({"slopes": Cut.HEADS})

    def __init__(self, heads: int, *, factor: float = 1.0) -> None:
        super().__init__()
        self.heads, self.factor = heads, factor

    def forward(self, context: AttentionContext) -> Tensor:  # (batch or 1, heads, seq, keys)
        """What is added to the scores; minus infinity where a query may not look."""
        bias = self.bias(context.key_positions, context.places) * self.factor
        return bias.masked_fill(~context.visible, -torch.inf).to(context.dtype)

    def bias(self, key_positions: Tensor, places: Tensor) -> Tensor:  # (batch or 1, keys), (seq)
        """The price of each distance, (batch or 1, heads, seq or 1, keys)."""
        distance = key_positions[:, None] - key_positions[:, places, None]
        return self.slopes(places.device)[:, None, None] * distance[:, None]

    def slopes(self, device: torch.device) -> Tensor:  # (heads)
        """What a token further away costs, for each head."""
        below = 1 << (self.heads.bit_length() - 1)
        first = [2 ** (-8 * i / below) for i in range(1, below + 1)]
        between = [2 ** (-4 * i / below) for i in range(1, 2 * below, 2)]
        return torch.tensor((first + between)[: self.heads], device=device)

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"heads={self.heads}" + (f", factor={self.factor:g}" if self.factor != 1 else "")


class SlotAlibi(Alibi):
    """Alibi over the slots of a row, in which padding between two tokens counts too. Source: `MptModel`."""

    sharding: ClassVar = Alibi.sharding

    def bias(self, key_positions: Tensor, places: Tensor) -> Tensor:  # (batch or 1, keys), (seq)
        """The price of each distance, (1, heads, seq, keys)."""
        return super().bias(torch.arange(key_positions.shape[-1], device=places.device)[None], places)


class RoundedAlibi(Alibi):
    """Alibi whose prices are rounded to bfloat16, counted from the first token. Source: `FalconModel`."""

    sharding: ClassVar = Alibi.sharding

    def bias(self, key_positions: Tensor, places: Tensor) -> Tensor:  # (batch or 1, keys), (seq)
        """The price of each key, (batch or 1, heads, 1, keys)."""
        slopes = self.slopes(places.device).to(torch.bfloat16)
        return (slopes[:, None, None] * key_positions[:, None, None]).float()
