"""MPT: scores lowered by distance, no biases at all. Source: MosaicML 2023; `MptForCausalLM`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import LayerNorm, Linear

from ..config import DecoderConfig
from ..layers import MLP, Attention, Decoder, Embed, SequentialBlock, SlotAlibi


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Sizes of an MPT: `clip` bounds queries, keys and values, `score_scale` is 1 / sqrt(head_width) unless given."""

    tied: bool = True
    clip: float | None = None
    score_scale: float | None = None

    def faults(self) -> Iterator[tuple[str, str]]:
        """There is one rate, for scores and for what joins the stream."""
        yield from super().faults()
        if self.attention_dropout != self.residual_dropout:
            found = f"found {self.attention_dropout}, but residual_dropout is {self.residual_dropout}"
            yield "attention_dropout", f"{found}: one rate"


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps, bias=False)
    attention = partial(Attention, bias=False, dropout=cfg.residual_dropout, score_dropout=cfg.attention_dropout)
    mlp = partial(MLP, activation=cfg.activation, bias=False, dropout=cfg.residual_dropout)
    alibi = SlotAlibi(cfg.heads)
    return Decoder(
        embed=Embed(cfg.vocab_size, cfg.width),
        blocks=[
            SequentialBlock(
                norm_attn=norm(),
                attn=attention(cfg.width, cfg.heads, mask=alibi, clip=cfg.clip, scale=cfg.score_scale),
                norm_mlp=norm(),
                mlp=mlp(cfg.width, cfg.mlp_width),
            )
            for _ in range(cfg.layers)
        ],
        norm=norm(),
        head=Linear(cfg.width, cfg.vocab_size, bias=False),
        tied=cfg.tied,
    )


SIZES: dict[str, Any] = {
    "vocab_size": 113,
    "context": 43,
    "width": 70,
    "layers": 3,
    "heads": 5,
    "norm_eps": 3e-5,
    "clip": 1.7,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "heads a power of two": {"heads": 2},
    "clip None": {"clip": None},
    "score_scale 0.4": {"score_scale": 0.4},
    "tied False": {"tied": False},
}
PUBLISHED = {
    "mosaicml/mpt-7b": {"vocab_size": 50432, "context": 2048, "width": 4096, "layers": 32, "heads": 32},
    "mosaicml/mpt-30b": {"vocab_size": 50432, "context": 8192, "width": 7168, "layers": 48, "heads": 64},
}
