"""Cohere, that is Command R and Aya: one norm without bias for both branches, rotary neighbours, scaled logits.

Source: `CohereForCausalLM`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import LayerNorm

from ..config import bounded, fixed
from ..layers import Block, Decoder, LayerNormByHead, LogitScale, SharedNormBlock, WideRotary
from . import llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of a Cohere; with `qk_norm`, each head of queries and keys is normed by weights of its own."""

    norm_eps: float = 1e-5
    rotary_base: float = 500000.0
    tied: bool = True
    mlp_bias: bool = fixed(False)
    padding: int | None = bounded(0, least=-1)
    qk_norm: bool = False
    logit_scale: float = 0.0625


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps, bias=False)
    rotary = cfg.rotary("neighbours", kind=WideRotary)

    def block(_: int) -> Block:
        heads = {"q_norm": cfg.heads, "k_norm": cfg.kv_heads} if cfg.qk_norm else {}
        norms = {name: LayerNormByHead(count, cfg.head_width, eps=cfg.norm_eps) for name, count in heads.items()}
        return SharedNormBlock(norm=norm(), attn=llama.attention(cfg, rotary=rotary, **norms), mlp=llama.mlp(cfg))

    return llama.decoder(cfg, block, norm=norm(), finish=LogitScale(cfg.logit_scale))


SIZES = llama.SIZES | {"logit_scale": 0.7}
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "qk_norm True": {"qk_norm": True},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "attention_bias True": {"attention_bias": True},
    "tied False": {"tied": False},
    "padding None": {"padding": None},
    **llama.ROTARY_VARIANTS,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "CohereForAI/c4ai-command-r-v01": {
        "vocab_size": 256000,
        "context": 8192,
        "width": 8192,
        "layers": 40,
        "heads": 64,
        "mlp_width": 22528,
        "rotary_base": 8e6,
    },
    "CohereForAI/c4ai-command-r-plus": {
        "vocab_size": 256000,
        "context": 8192,
        "width": 12288,
        "layers": 64,
        "heads": 96,
        "kv_heads": 8,
        "mlp_width": 33792,
        "rotary_base": 75e6,
        "qk_norm": True,
        "logit_scale": 0.8333333333333334,
    },
    "CohereForAI/aya-23-8B": {
        "vocab_size": 256000,
        "context": 8192,
        "width": 4096,
        "layers": 32,
        "heads": 32,
        "kv_heads": 8,
        "mlp_width": 14336,
        "rotary_base": 10000.0,
    },
}
