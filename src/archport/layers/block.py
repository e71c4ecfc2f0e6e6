"""Residual wiring: how a layer's attention and MLP read the stream and add to it."""

from typing import ClassVar

from torch import Tensor, nn

from .attention import Attention
from .context import AttentionContext


class Block(nn.Module):
    """One layer of the stack, made of the parts its subclass names; the subclass is the residual wiring."""

    wiring: ClassVar[str]
    attn: Attention
    mlp: nn.Module
    norm: nn.Module
    norm_attn: nn.Module
    norm_attn_out: nn.Module
    norm_mlp: nn.Module
    norm_mlp_out: nn.Module

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


class SandwichBlock(Block):
    """Sequential, each branch normed before and after. Source: Gemma 2, arXiv 2408.00118."""

    wiring = "sequential residual, norms before and after each branch"

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """Two residual branches, one after the other."""
        x = x + self.norm_attn_out(self.attn(self.norm_attn(x), context))
        return x + self.norm_mlp_out(self.mlp(self.norm_mlp(x)))


class PostNormBlock(Block):
    """Sequential, each branch normed after it only. Source: OLMo 2, arXiv 2501.00656."""

    wiring = "sequential residual, norms after each branch"

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """Two residual branches, one after the other."""
        x = x + self.norm_attn_out(self.attn(x, context))
        return x + self.norm_mlp_out(self.mlp(x))


class NormedSumBlock(Block):
    """Sequential, the stream normed after each sum. Source: arXiv 1706.03762; `OPTDecoderLayer`."""

    wiring = "sequential residual, norms after each sum"

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """Two residual branches, one after the other."""
        x = self.norm_attn_out(x + self.attn(x, context))
        return self.norm_mlp_out(x + self.mlp(x))


class NormedStreamBlock(Block):
    """Sequential, each branch added to the normed stream that it read. Source: `BloomBlock`."""

    wiring = "sequential residual around the normed stream"

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """Two residual branches, one after the other."""
        x = self.norm_attn(x)
        x = self.norm_mlp(x + self.attn(x, context))
        return x + self.mlp(x)


class ScaledBlock(Block):
    """Sequential, with each branch times `scale`. Source: `GraniteDecoderLayer`."""

    wiring = "sequential residual, scaled branches"

    def __init__(self, *, scale: float, **parts: nn.Module) -> None:
        super().__init__(**parts)
        self.scale = scale

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        """Two residual branches, one after the other."""
        x = x + self.attn(self.norm_attn(x), context) * self.scale
        return x + self.mlp(self.norm_mlp(x)) * self.scale

    def extra_repr(self) -> str:
        """The settings, for print."""
        return f"scale={self.scale:g}"
