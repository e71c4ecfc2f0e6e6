"""Granite: a Llama with four numbers that scale embeddings, scores, branches and logits.

Source: `GraniteForCausalLM`; arXiv 2408.13359.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..config import bounded
from ..layers import Block, Decoder, Embed, LogitScale, RMSNorm, ScaledBlock
from . import llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of a Granite: logits are divided by `logit_divisor`, the other three multiply."""

    embed_scale: float = bounded(1.0, least=-math.inf)
    attention_scale: float = bounded(1.0, least=-math.inf)
    residual_scale: float = bounded(1.0, least=-math.inf)
    logit_divisor: float = 1.0


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, cfg.width, eps=cfg.norm_eps)
    rotary = cfg.rotary()

    def block(_: int) -> Block:
        attn = llama.attention(cfg, rotary=rotary, scale=cfg.attention_scale)
        parts = {"norm_attn": norm(), "attn": attn, "norm_mlp": norm(), "mlp": llama.mlp(cfg)}
        return ScaledBlock(scale=cfg.residual_scale, **parts)

    embed = Embed(cfg.vocab_size, cfg.width, padding=cfg.padding, scale=cfg.embed_scale)
    return llama.decoder(cfg, block, norm=norm(), embed=embed, finish=LogitScale(1 / cfg.logit_divisor))


SIZES = llama.SIZES | {"embed_scale": 2.3, "attention_scale": 0.21, "residual_scale": 0.37, "logit_divisor": 3.1}
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "attention_bias True": {"attention_bias": True},
    "mlp_bias True": {"mlp_bias": True},
    "tied True": {"tied": True},
    **llama.ROTARY_VARIANTS,
}
_3_0: dict[str, Any] = {"vocab_size": 49155, "context": 4096, "layers": 40, "heads": 32, "kv_heads": 8, "tied": True}
_3_0 |= {"norm_eps": 1e-5, "padding": 0, "attention_dropout": 0.1, "embed_scale": 12.0, "residual_scale": 0.22}
PUBLISHED = {
    "ibm-granite/granite-3.0-2b-base": _3_0
    | {"width": 2048, "mlp_width": 8192, "attention_scale": 0.015625, "logit_divisor": 8.0},
    "ibm-granite/granite-3.0-8b-base": _3_0
    | {"width": 4096, "mlp_width": 12800, "attention_scale": 0.0078125, "logit_divisor": 16.0},
}
