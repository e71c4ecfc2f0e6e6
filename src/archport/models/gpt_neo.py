"""GPT-Neo: global and local attention in turns, scores not scaled. Source: Black et al. 2021; `GPTNeoForCausalLM`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch.nn import LayerNorm, Linear

from ..config import DecoderConfig
from ..layers import MLP, Attention, Decoder, PositionedEmbed, SequentialBlock, Window

Kind = Literal["global", "local"]


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Sizes of a GPT-Neo; `attention_types` are runs of kinds of layers, each with how often it is repeated.

    A local layer sees `window` tokens, its own among them.
    """

    activation: str = "gelu_tanh"
    tied: bool = True
    attention_types: tuple[tuple[tuple[Kind, ...], int], ...] = ((("global", "local"), 12),)
    window: int = 256

    def faults(self) -> Iterator[tuple[str, str]]:
        """Each layer has a kind."""
        yield from super().faults()
        count = sum(len(kinds) * times for kinds, times in self.attention_types)
        if count != self.layers:
            yield "attention_types", f"found {count} layers, expected {self.layers}"

    @property
    def attention_layers(self) -> tuple[Kind, ...]:
        """The kind of each layer."""
        return tuple(kind for kinds, times in self.attention_types for kind in kinds * times)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    attention = partial(Attention, bias=False, out_bias=True, scale=1.0, dropout=cfg.residual_dropout)
    masks = {"global": None, "local": Window(cfg.window)}
    return Decoder(
        embed=PositionedEmbed(cfg.vocab_size, cfg.width, context=cfg.context, dropout=cfg.embed_dropout),
        blocks=[
            SequentialBlock(
                norm_attn=norm(),
                attn=attention(cfg.width, cfg.heads, mask=masks[kind], score_dropout=cfg.attention_dropout),
                norm_mlp=norm(),
                mlp=MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, dropout=cfg.residual_dropout),
            )
            for kind in cfg.attention_layers
        ],
        norm=norm(),
        head=Linear(cfg.width, cfg.vocab_size, bias=False),
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
    "attention_types": ((("global", "local"), 1), (("local",), 1)),
    "window": 9,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "activation gelu": {"activation": "gelu"},
    "tied False": {"tied": False},
    "attention_types local first": {"attention_types": ((("local", "global", "global"), 1),)},
}


def _published(layers: int, width: int, heads: int) -> dict[str, object]:
    sizes = {"vocab_size": 50257, "context": 2048, "layers": layers, "width": width, "heads": heads}
    return sizes | {"attention_types": ((("global", "local"), layers // 2),)}


PUBLISHED = {
    "EleutherAI/gpt-neo-125m": _published(12, 768, 12),
    "EleutherAI/gpt-neo-1.3B": _published(24, 2048, 16),
    "EleutherAI/gpt-neo-2.7B": _published(32, 2560, 20),
}
