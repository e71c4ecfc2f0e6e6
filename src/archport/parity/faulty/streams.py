"""Blocks that lose the stream, or norm the wrong thing, on purpose."""

from torch import Tensor, nn

from ...layers import AttentionContext, Block


class LostAtAttention(Block):
    """What attention makes goes on, not added to the stream."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = self.attn(self.norm_attn(x), context)
        return x + self.mlp(self.norm_mlp(x))


class LostAtMLP(Block):
    """What the MLP makes goes on, not added to the stream."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = x + self.attn(self.norm_attn(x), context)
        return self.mlp(self.norm_mlp(x))


class LostParallel(Block):
    """What the branches make goes on, not added to the stream."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        return self.attn(self.norm_attn(x), context) + self.mlp(self.norm_mlp(x))


class LostSharedNorm(Block):
    """What the branches make goes on, not added to the stream."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        normed = self.norm(x)
        return self.attn(normed, context) + self.mlp(normed)


class OneNormInSequence(Block):
    """The norm before attention is used before the MLP too."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = x + self.attn(self.norm_attn(x), context)
        return x + self.mlp(self.norm_attn(x))


class SecondNormInSequence(Block):
    """The norm before the MLP is used before attention too."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        x = x + self.attn(self.norm_mlp(x), context)
        return x + self.mlp(self.norm_mlp(x))


class Unnormed(nn.Module):
    """Norms nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x
