"""Phi-1 and Phi-2: parallel branches through one norm, rotary on a part of each head, a biased head.

Source: arXiv 2306.11644; `PhiForCausalLM`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import LayerNorm, Linear

from ..config import fixed
from ..layers import MLP, Block, Decoder, Embed, SharedNormBlock
from . import llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of a Phi; with `qk_norm`, the heads of queries and keys are normed."""

    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5
    rotary_fraction: float = 0.5
    attention_bias: bool = fixed(True)
    mlp_bias: bool = fixed(True)
    qk_norm: bool = False


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, eps=cfg.norm_eps)
    rotary = cfg.rotary()

    def block(_: int) -> Block:
        norms = {name: norm(cfg.head_width) for name in ("q_norm", "k_norm") if cfg.qk_norm}
        return SharedNormBlock(
            norm=norm(cfg.width),
            attn=llama.attention(cfg, rotary=rotary, dropout=cfg.residual_dropout, **norms),
            mlp=MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, dropout=cfg.residual_dropout),
        )

    embed = Embed(cfg.vocab_size, cfg.width, padding=cfg.padding, dropout=cfg.embed_dropout)
    return llama.decoder(cfg, block, norm=norm(cfg.width), embed=embed, head=Linear(cfg.width, cfg.vocab_size))


SIZES = llama.SIZES | {"head_width": None, "rotary_fraction": 0.84}
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "qk_norm True": {"qk_norm": True},
    "activation gelu": {"activation": "gelu"},
    "tied True": {"tied": True},
    "rotary_fraction 1.0": {"rotary_fraction": 1.0},
    **llama.ROTARY_VARIANTS,
}
_PUBLISHED: dict[str, Any] = {"vocab_size": 51200, "context": 2048, "heads": 32}
PUBLISHED: dict[str, dict[str, Any]] = {
    "microsoft/phi-1_5": _PUBLISHED | {"width": 2048, "layers": 24, "mlp_width": 8192},
    "microsoft/phi-2": _PUBLISHED
    | {"width": 2560, "layers": 32, "mlp_width": 10240, "rotary_fraction": 0.4, "residual_dropout": 0.1},
}
