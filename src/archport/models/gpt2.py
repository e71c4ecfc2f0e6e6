"""GPT-2: learned positions, sequential residual, tied head. Source: Radford et al. 2019; `GPT2LMHeadModel`."""

import math
from dataclasses import dataclass
from functools import partial

from torch.nn import LayerNorm, Linear

from ..config import DecoderConfig
from ..layers import MLP, Attention, Decoder, PositionedEmbed, SequentialBlock


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Sizes of a GPT-2, and its two rarely used ways to scale attention scores."""

    activation: str = "gelu_tanh"
    tied: bool = True
    embed_dropout: float = 0.1
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    scale_scores: bool = True
    scale_scores_by_depth: bool = False

    @property
    def residual_init_std(self) -> float:
        """Smaller with depth, so that the sum of all branches keeps its size."""
        return self.init_std / math.sqrt(2 * self.layers)

    def score_scale(self, layer: int) -> float:
        """What attention scores of a layer are multiplied by."""
        scale = self.head_width**-0.5 if self.scale_scores else 1.0
        return scale / (layer + 1) if self.scale_scores_by_depth else scale


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    attention = partial(Attention, dropout=cfg.residual_dropout, score_dropout=cfg.attention_dropout)
    return Decoder(
        embed=PositionedEmbed(cfg.vocab_size, cfg.width, context=cfg.context, dropout=cfg.embed_dropout),
        blocks=[
            SequentialBlock(
                norm_attn=norm(),
                attn=attention(cfg.width, cfg.heads, kv_heads=cfg.kv_heads, scale=cfg.score_scale(layer)),
                norm_mlp=norm(),
                mlp=MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, dropout=cfg.residual_dropout),
            )
            for layer in range(cfg.layers)
        ],
        norm=norm(),
        head=Linear(cfg.width, cfg.vocab_size, bias=False),
        tied=cfg.tied,
    )


SIZES = {"vocab_size": 113, "context": 43, "width": 70, "layers": 3, "heads": 5, "mlp_width": 102, "norm_eps": 3e-5}
VARIANTS = {
    "activation gelu": {"activation": "gelu"},
    "activation relu": {"activation": "relu"},
    "tied False": {"tied": False},
    "scale_scores False": {"scale_scores": False},
    "scale_scores_by_depth True": {"scale_scores_by_depth": True},
}
_PUBLISHED = {"vocab_size": 50257, "context": 1024}
PUBLISHED = {
    "openai-community/gpt2": _PUBLISHED | {"layers": 12, "width": 768, "heads": 12},
    "distilbert/distilgpt2": _PUBLISHED | {"layers": 6, "width": 768, "heads": 12},
    "openai-community/gpt2-medium": _PUBLISHED | {"layers": 24, "width": 1024, "heads": 16},
    "openai-community/gpt2-large": _PUBLISHED | {"layers": 36, "width": 1280, "heads": 20},
    "openai-community/gpt2-xl": _PUBLISHED | {"layers": 48, "width": 1600, "heads": 25},
}
