"""Phi-3 and Phi-4: a Llama with a window in some models, and in others frequencies for long texts.

Source: arXiv 2404.14219; `Phi3ForCausalLM`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..config import bounded, fixed
from ..layers import Block, Decoder, GatedMLP, RMSNorm, SequentialBlock, Window
from . import llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of a Phi-3; every layer sees the last `window` tokens, or all of them."""

    norm_eps: float = 1e-5
    rotary_scaling: Literal["default", "longrope"] = "default"
    rotary_context: int | None = 4096
    attention_bias: bool = fixed(False)
    mlp_bias: bool = fixed(False)
    padding: int | None = bounded(32000, least=-1)
    window: int | None = None


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, cfg.width, eps=cfg.norm_eps)
    mlp = partial(GatedMLP, cfg.width, cfg.mlp_width, activation=cfg.activation, dropout=cfg.residual_dropout)
    attention = partial(llama.attention, rotary=cfg.rotary(), dropout=cfg.residual_dropout)
    window = None if cfg.window is None else Window(cfg.window)

    def block(_: int) -> Block:
        return SequentialBlock(norm_attn=norm(), attn=attention(cfg, mask=window), norm_mlp=norm(), mlp=mlp())

    return llama.decoder(cfg, block, norm=norm())


SIZES = llama.SIZES | {"head_width": None, "rotary_fraction": 0.84, "rotary_context": 43}
_LONGROPE = llama.ROTARY_VARIANTS["rotary_scaling longrope"]
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "window 9": {"window": 9},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "tied True": {"tied": True},
    "padding None": {"padding": None},
    "rotary_fraction 1.0": {"rotary_fraction": 1.0},
    "rotary_scaling longrope": _LONGROPE,
    "rotary_factor 3.0": _LONGROPE | {"rotary_attention_factor": None, "rotary_factor": 3.0},
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "microsoft/Phi-3-mini-4k-instruct": {
        "vocab_size": 32064,
        "context": 4096,
        "width": 3072,
        "layers": 32,
        "heads": 32,
        "mlp_width": 8192,
        "window": 2047,
    },
    "microsoft/phi-4": {
        "vocab_size": 100352,
        "context": 16384,
        "width": 5120,
        "layers": 40,
        "heads": 40,
        "kv_heads": 10,
        "mlp_width": 17920,
        "rotary_base": 250000.0,
        "rotary_context": 16384,
        "padding": 100349,
    },
}
