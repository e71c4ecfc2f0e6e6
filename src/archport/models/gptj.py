"""GPT-J: rotary neighbours, parallel residual through one norm, biased head. Source: `GPTJForCausalLM`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch.nn import LayerNorm, Linear

from ..config import DecoderConfig
from ..layers import MLP, Attention, Decoder, Embed, Rotary, SharedNormBlock


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Sizes of a GPT-J; `rotary_width` elements of each head are turned, all of them when it is None."""

    activation: str = "gelu_tanh"
    rotary_width: int = 64

    def __post_init__(self) -> None:
        if self.rotary_width is None and type(self.width) is type(self.heads) is int and self.heads > 0:
            object.__setattr__(self, "rotary_width", self.head_width)
        super().__post_init__()

    def faults(self) -> Iterator[tuple[str, str]]:
        """Rotary turns pairs, and no more than a head has."""
        yield from super().faults()
        if self.rotary_width % 2 or self.rotary_width > self.head_width:
            yield (
                "rotary_width",
                f"found {self.rotary_width}, expected an even number up to head width {self.head_width}",
            )

    @property
    def axes(self) -> dict[str, int]:
        """Lengths of the axes that the patterns of a key table may name."""
        return super().axes | {"rotary": self.rotary_width}


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    rotary = Rotary(cfg.rotary_width, pairing="neighbours")
    attention = partial(Attention, dropout=cfg.residual_dropout, score_dropout=cfg.attention_dropout)
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    return Decoder(
        embed=Embed(cfg.vocab_size, cfg.width, dropout=cfg.embed_dropout),
        blocks=[
            SharedNormBlock(
                norm=norm(),
                attn=attention(cfg.width, cfg.heads, bias=False, rotary=rotary),
                mlp=MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, dropout=cfg.residual_dropout),
            )
            for _ in range(cfg.layers)
        ],
        norm=norm(),
        head=Linear(cfg.width, cfg.vocab_size),
        tied=cfg.tied,
    )


SIZES = {
    "vocab_size": 113,
    "context": 43,
    "width": 70,
    "layers": 3,
    "heads": 5,
    "mlp_width": 102,
    "norm_eps": 3e-5,
    "rotary_width": 8,
}
VARIANTS = {
    "activation gelu": {"activation": "gelu"},
    "activation relu": {"activation": "relu"},
    "tied True": {"tied": True},
    "rotary_width 14": {"rotary_width": 14},
}
PUBLISHED = {
    "EleutherAI/gpt-j-6b": {
        "vocab_size": 50400,
        "context": 2048,
        "layers": 28,
        "width": 4096,
        "heads": 16,
        "rotary_width": 64,
    },
}
