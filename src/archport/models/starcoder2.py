"""StarCoder 2: rotary halves, grouped heads, LayerNorm, a plain MLP, biases, a window. Source: arXiv 2402.19173."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import LayerNorm, Linear

from ..config import bounded
from ..layers import MLP, Attention, Decoder, Embed, SequentialBlock, Window
from . import RotaryConfig, llama


@dataclass(frozen=True, kw_only=True)
class Config(RotaryConfig):
    """Sizes of a StarCoder 2: `bias` is that of all linear maps but the head; layers see `window` tokens, or all."""

    activation: str = "gelu_tanh"
    bias: bool = True
    tied: bool = True
    window: int | None = None
    padding: int | None = bounded(None, least=-1)
    init_std: float = bounded(0.018042, least=0)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    attention = partial(
        Attention,
        kv_heads=cfg.kv_heads,
        head_width=cfg.head_width,
        bias=cfg.bias,
        rotary=cfg.rotary(),
        mask=None if cfg.window is None else Window(cfg.window),
        dropout=cfg.residual_dropout,
        score_dropout=cfg.attention_dropout,
    )
    mlp = partial(MLP, activation=cfg.activation, bias=cfg.bias, dropout=cfg.residual_dropout)
    return Decoder(
        embed=Embed(cfg.vocab_size, cfg.width, padding=cfg.padding, dropout=cfg.embed_dropout),
        blocks=[
            SequentialBlock(
                norm_attn=norm(),
                attn=attention(cfg.width, cfg.heads),
                norm_mlp=norm(),
                mlp=mlp(cfg.width, cfg.mlp_width),
            )
            for _ in range(cfg.layers)
        ],
        norm=norm(),
        head=Linear(cfg.width, cfg.vocab_size, bias=False),
        tied=cfg.tied,
    )


SIZES = llama.SIZES | {"window": 9}
VARIANTS: dict[str, dict[str, Any]] = {
    "window None": {"window": None},
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation relu": {"activation": "relu"},
    "bias False": {"bias": False},
    "tied False": {"tied": False},
    **llama.ROTARY_VARIANTS,
}
_ALL: dict[str, Any] = {"vocab_size": 49152, "context": 16384, "window": 4096, "residual_dropout": 0.1}
_ALL |= {"attention_dropout": 0.1, "embed_dropout": 0.1}
PUBLISHED = {
    "bigcode/starcoder2-3b": _ALL
    | {"width": 3072, "layers": 30, "heads": 24, "kv_heads": 2, "rotary_base": 999999.4420358813},
    "bigcode/starcoder2-7b": _ALL | {"width": 4608, "layers": 32, "heads": 36, "kv_heads": 4, "rotary_base": 1e6},
}
