"""Mistral: a Llama whose attention sees a window, in later models everything. Source: arXiv 2310.06825."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..config import fixed
from ..layers import Block, Decoder, RMSNorm, SequentialBlock, Window
from . import llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of a Mistral; every layer sees the last `window` tokens, or all of them."""

    attention_bias: bool = fixed(False)
    mlp_bias: bool = fixed(False)
    window: int | None = 4096


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, cfg.width, eps=cfg.norm_eps)
    rotary = cfg.rotary()
    window = None if cfg.window is None else Window(cfg.window)

    def block(_: int) -> Block:
        attn = llama.attention(cfg, rotary=rotary, mask=window)
        return SequentialBlock(norm_attn=norm(), attn=attn, norm_mlp=norm(), mlp=llama.mlp(cfg))

    return llama.decoder(cfg, block, norm=norm())


SIZES = llama.SIZES | {"window": 9}
VARIANTS: dict[str, dict[str, Any]] = {
    "window None": {"window": None},
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "tied True": {"tied": True},
    **llama.ROTARY_VARIANTS,
}
_7B: dict[str, Any] = {"context": 32768, "width": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "mlp_width": 14336}
_7B |= {"norm_eps": 1e-5}
PUBLISHED = {
    "mistralai/Mistral-7B-v0.1": _7B | {"vocab_size": 32000},
    "mistralai/Mistral-7B-v0.3": _7B | {"vocab_size": 32768, "rotary_base": 1e6, "window": None},
    "mistralai/Mistral-Nemo-Base-2407": {
        "vocab_size": 131072,
        "context": 131072,
        "width": 5120,
        "layers": 40,
        "heads": 32,
        "kv_heads": 8,
        "head_width": 128,
        "mlp_width": 14336,
        "norm_eps": 1e-5,
        "rotary_base": 1e6,
        "window": None,
    },
}
