"""OPT: learned positions from row 2, norms before the branches or after the sums. Source: arXiv 2205.01068."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import Identity, LayerNorm, Linear, Module

from ..config import DecoderConfig, bounded, derived
from ..layers import (
    MLP,
    Attention,
    Block,
    Decoder,
    NormedSumBlock,
    PositionedEmbed,
    ProjectedEmbed,
    ProjectedNorm,
    SequentialBlock,
)

OFFSET = 2  # rows of the position table that no token uses


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Sizes of an OPT; the embedding's row `padding` is not trained.

    `norm_first` norms what a branch reads, and after the last block where `final_norm`; else the stream is normed after
    each sum. Where `token_width` is not `width`, token vectors are projected from it and back; `norm_affine` says
    whether norms have weights.
    """

    activation: str = "relu"
    tied: bool = True
    residual_dropout: float = 0.1
    padding: int | None = bounded(1, least=-1)
    token_width: int = derived(lambda cfg: cfg.width)
    norm_first: bool = True
    final_norm: bool = True
    norm_affine: bool = True
    bias: bool = True


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps, elementwise_affine=cfg.norm_affine)
    before, after = ("norm_attn", "norm_mlp"), ("norm_attn_out", "norm_mlp_out")
    wiring, norms = (SequentialBlock, before) if cfg.norm_first else (NormedSumBlock, after)

    def block() -> Block:
        attn = Attention(
            cfg.width,
            cfg.heads,
            bias=cfg.bias,
            dropout=cfg.residual_dropout,
            score_dropout=cfg.attention_dropout,
        )
        mlp = MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, bias=cfg.bias, dropout=cfg.residual_dropout)
        return wiring(attn=attn, mlp=mlp, **{name: norm() for name in norms})

    last: Module = norm() if cfg.norm_first and cfg.final_norm else Identity()
    embed: Any = partial(PositionedEmbed, context=cfg.context, offset=OFFSET, padding=cfg.padding)
    if cfg.token_width != cfg.width:
        last = ProjectedNorm(last, cfg.width, cfg.token_width)
        embed = partial(ProjectedEmbed, token_width=cfg.token_width, **embed.keywords)
    return Decoder(
        embed=embed(cfg.vocab_size, cfg.width),
        blocks=[block() for _ in range(cfg.layers)],
        norm=last,
        head=Linear(cfg.token_width, cfg.vocab_size, bias=False),
        tied=cfg.tied,
    )


SIZES = {"vocab_size": 113, "context": 43, "width": 70, "layers": 3, "heads": 5, "mlp_width": 102, "padding": 7}
VARIANTS: dict[str, dict[str, Any]] = {
    "activation gelu": {"activation": "gelu"},
    "tied False": {"tied": False},
    "padding None": {"padding": None},
    "bias False": {"bias": False},
    "norm_affine False": {"norm_affine": False},
    "final_norm False": {"final_norm": False},
    "norm_first False": {"norm_first": False},
    "token_width 44": {"token_width": 44},
    "token_width 44, norm_first False": {"token_width": 44, "norm_first": False},
}


def _published(layers: int, width: int, heads: int, **more: object) -> dict[str, object]:
    return {"vocab_size": 50272, "context": 2048, "layers": layers, "width": width, "heads": heads} | more


PUBLISHED = {
    "facebook/opt-125m": _published(12, 768, 12),
    "facebook/opt-350m": _published(24, 1024, 16, token_width=512, norm_first=False),
    "facebook/opt-1.3b": _published(24, 2048, 32),
    "facebook/opt-2.7b": _published(32, 2560, 32),
    "facebook/opt-6.7b": _published(32, 4096, 32),
    "facebook/opt-13b": _published(40, 5120, 40),
    "facebook/opt-30b": _published(48, 7168, 56),
    "facebook/opt-66b": _published(64, 9216, 72),
}
