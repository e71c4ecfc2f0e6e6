"""Residual wiring: how a layer's attention and MLP read the stream and add to it."""

from typing import ClassVar

from torch import Tensor, nn

from .attention import Attention
from .context import AttentionContext
from .mlp import MLP


class Block(nn.Module):
    """One layer of the stack, made of the parts its subclass names; the subclass is the residual wiring."""

    wiring: ClassVar[str]
    attn: Attention
    mlp: MLP
    norm: nn.Module
    norm_attn: nn.Module
    norm_mlp: nn.Module

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)


class SequentialBlock(Block):
    """Attention first, then the MLP on what attention left. Source: GPT-2."""

    wiring = "sequential residual"

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """Two residual branches, one after the other."""
        x = self.add_attention(x, context)
        return x + self.mlp(self.norm_mlp(x))

    def add_attention(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """The stream between the branches."""
        return x + self.attn(self.norm_attn(x), context)


class ParallelBlock(Block):
    """Attention and the MLP read the same stream, each through its own norm. Source: GPT-NeoX, arXiv 2204.06745."""

    wiring = "parallel residual"

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """The branches are added first, as the reference does, so that both round alike."""
        return self.attn(self.norm_attn(x), context) + self.mlp(self.norm_mlp(x)) + x


class SharedNormBlock(Block):
    """Attention and the MLP read the same stream through one norm. Source: GPT-J, Wang and Komatsuzaki 2021."""

    wiring = "parallel residual, one norm"

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """The branches are added first, as the reference does, so that both round alike."""
        normed = self.norm(x)
        return self.attn(normed, context) + self.mlp(normed) + x
