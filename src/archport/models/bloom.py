"""BLOOM: normed embeddings, scores lowered by distance. Source: arXiv 2211.05100; `BloomForCausalLM`."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import LayerNorm, Linear

from ..config import DecoderConfig
from ..layers import MLP, Alibi, Attention, Decoder, Embed, NormedStreamBlock, SequentialBlock


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Sizes of a BLOOM; `context` is the length it was trained on, which bounds nothing.

    `normed_stream` adds branches to the normed stream.
    """

    context: int = 2048
    activation: str = "gelu_tanh"
    tied: bool = True
    normed_stream: bool = False


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    attention = partial(Attention, dropout=cfg.residual_dropout, score_dropout=cfg.attention_dropout)
    block = NormedStreamBlock if cfg.normed_stream else SequentialBlock
    alibi = Alibi(cfg.heads)
    return Decoder(
        embed=Embed(cfg.vocab_size, cfg.width, norm=norm()),
        blocks=[
            block(
                norm_attn=norm(),
                attn=attention(cfg.width, cfg.heads, mask=alibi),
                norm_mlp=norm(),
                mlp=MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, dropout=cfg.residual_dropout),
            )
            for _ in range(cfg.layers)
        ],
        norm=norm(),
        head=Linear(cfg.width, cfg.vocab_size, bias=False),
        tied=cfg.tied,
    )


SIZES = {"vocab_size": 113, "context": 43, "width": 70, "layers": 3, "heads": 5, "norm_eps": 3e-5}
VARIANTS: dict[str, dict[str, Any]] = {
    "heads a power of two": {"heads": 2},
    "tied False": {"tied": False},
    "normed_stream True": {"normed_stream": True},
}


def _published(layers: int, width: int, heads: int) -> dict[str, object]:
    return {"vocab_size": 250880, "layers": layers, "width": width, "heads": heads}


PUBLISHED = {
    "bigscience/bloom-560m": _published(24, 1024, 16),
    "bigscience/bloom-1b1": _published(24, 1536, 16),
    "bigscience/bloom-1b7": _published(24, 2048, 16),
    "bigscience/bloom-3b": _published(30, 2560, 32),
    "bigscience/bloom-7b1": _published(30, 4096, 32),
    "bigscience/bloom": _published(70, 14336, 112),
}
