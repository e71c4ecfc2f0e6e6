"""StableLM: a Llama with LayerNorm that turns a quarter of each head, in larger models with parallel branches.

Source: arXiv 2402.17834; `StableLmForCausalLM`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import LayerNorm

from ..config import fixed
from ..layers import Block, Decoder, GatedMLP, LayerNormByHead, SequentialBlock, SharedNormBlock
from . import llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of a StableLM; with `qk_norm`, each head of queries and keys is normed by weights of its own."""

    norm_eps: float = 1e-5
    rotary_fraction: float = 0.25
    mlp_bias: bool = fixed(False)
    qk_norm: bool = False
    parallel: bool = False


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    mlp = partial(GatedMLP, cfg.width, cfg.mlp_width, activation=cfg.activation, dropout=cfg.residual_dropout)
    rotary = cfg.rotary()

    def block(_: int) -> Block:
        heads = {"q_norm": cfg.heads, "k_norm": cfg.kv_heads} if cfg.qk_norm else {}
        norms = {name: LayerNormByHead(count, cfg.head_width, eps=cfg.norm_eps) for name, count in heads.items()}
        attn = llama.attention(cfg, out_bias=False, rotary=rotary, **norms)
        if cfg.parallel:
            return SharedNormBlock(norm=norm(), attn=attn, mlp=mlp())
        return SequentialBlock(norm_attn=norm(), attn=attn, norm_mlp=norm(), mlp=mlp())

    return llama.decoder(cfg, block, norm=norm())


SIZES = llama.SIZES | {"head_width": None, "rotary_fraction": 0.84}
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "qk_norm True": {"qk_norm": True},
    "parallel True": {"parallel": True},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "attention_bias True": {"attention_bias": True},
    "tied True": {"tied": True},
    "rotary_fraction 1.0": {"rotary_fraction": 1.0},
    **llama.ROTARY_VARIANTS,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "stabilityai/stablelm-3b-4e1t": {
        "vocab_size": 50304,
        "context": 4096,
        "width": 2560,
        "layers": 32,
        "heads": 32,
        "mlp_width": 6912,
    },
    "stabilityai/stablelm-2-1_6b": {
        "vocab_size": 100352,
        "context": 4096,
        "width": 2048,
        "layers": 24,
        "heads": 32,
        "mlp_width": 5632,
        "attention_bias": True,
    },
    "stabilityai/stablelm-2-12b": {
        "vocab_size": 100352,
        "context": 4096,
        "width": 5120,
        "layers": 40,
        "heads": 32,
        "kv_heads": 8,
        "mlp_width": 13824,
        "qk_norm": True,
        "parallel": True,
    },
}
