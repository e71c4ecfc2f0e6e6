"""GPT-NeoX and Pythia: rotary halves, parallel or sequential residual. Source: arXiv 2204.06745."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch.nn import LayerNorm, Linear

from ..config import DecoderConfig
from ..layers import MLP, Attention, Decoder, Embed, ParallelBlock, Rotary, SequentialBlock


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Sizes of a GPT-NeoX; `rotary_fraction` of each head is turned, `rotary_factor` stretches linear scaling."""

    rotary_fraction: float = 0.25
    rotary_base: float = 10000.0
    rotary_scaling: str = "default"
    rotary_factor: float | None = None
    parallel: bool = True
    attention_bias: bool = True

    def faults(self) -> Iterator[tuple[str, str]]:
        """Rotary turns pairs, and no more than a head has."""
        yield from super().faults()
        turned = self.rotary_width + self.rotary_width % 2  # what is odd is turned with one more
        if self.rotary_width < 1 or turned > self.head_width:
            share = f"{self.rotary_fraction} of head width {self.head_width} is {self.rotary_width}"
            yield "rotary_fraction", f"{share}, expected a number from 1 whose pairs fit into the head"
        if self.embed_dropout != self.residual_dropout:
            yield (
                "embed_dropout",
                f"found {self.embed_dropout}, but residual_dropout is {self.residual_dropout}: one rate",
            )
        if self.rotary_scaling not in ("default", "linear"):
            yield "rotary_scaling", f"found {self.rotary_scaling!r}, expected default or linear"
        if self.rotary_scaling == "linear" and self.rotary_factor is None:
            yield "rotary_factor", "linear scaling needs a factor, found none"

    @property
    def rotary_width(self) -> int:
        """Elements of each head that are turned."""
        return int(self.head_width * self.rotary_fraction)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    attention = partial(Attention, dropout=cfg.residual_dropout, score_dropout=cfg.attention_dropout)
    block = ParallelBlock if cfg.parallel else SequentialBlock
    factor = (cfg.rotary_factor if cfg.rotary_scaling == "linear" else None) or 1.0
    rotary = Rotary(cfg.rotary_width, base=cfg.rotary_base, pairing="halves", factor=factor)
    return Decoder(
        embed=Embed(cfg.vocab_size, cfg.width, dropout=cfg.embed_dropout),
        blocks=[
            block(
                norm_attn=norm(),
                attn=attention(cfg.width, cfg.heads, bias=cfg.attention_bias, rotary=rotary),
                norm_mlp=norm(),
                mlp=MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, dropout=cfg.residual_dropout),
            )
            for _ in range(cfg.layers)
        ],
        norm=norm(),
        head=Linear(cfg.width, cfg.vocab_size, bias=False),
        tied=cfg.tied,
    )
