"""OLMoE: a Llama with experts in place of each MLP, and queries and keys normed. Source: arXiv 2409.02060."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..config import bounded, fixed
from ..layers import (
    AcrossHeads,
    Block,
    Decoder,
    Experts,
    GatedMLP,
    NormalisedRouter,
    RMSNorm,
    SequentialBlock,
    SoftmaxRouter,
)
from . import ExpertsConfig, llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config, ExpertsConfig):
    """Sizes of an OLMoE; `mlp_width` is that of one expert, `normalised` weights of a token's experts sum to 1."""

    mlp_bias: bool = fixed(False)
    norm_eps: float = 1e-5
    padding: int | None = bounded(1, least=-1)
    normalised: bool = False


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, eps=cfg.norm_eps)
    across = {"q_norm": cfg.heads * cfg.head_width, "k_norm": cfg.kv_heads * cfg.head_width}
    rotary = cfg.rotary()

    def block(_: int) -> Block:
        norms = {name: AcrossHeads(norm(width)) for name, width in across.items()}
        attn, mlp = llama.attention(cfg, **norms, rotary=rotary), experts(cfg, cfg.mlp_width)
        return SequentialBlock(norm_attn=norm(cfg.width), attn=attn, norm_mlp=norm(cfg.width), mlp=mlp)

    return llama.decoder(cfg, block, norm=norm(cfg.width))


def experts(cfg: Any, mlp_width: int) -> Experts:
    """The experts of a layer and their router."""
    router = (NormalisedRouter if cfg.normalised else SoftmaxRouter)(cfg.width, cfg.experts, top=cfg.experts_per_token)
    return Experts(router, [GatedMLP(cfg.width, mlp_width, activation=cfg.activation) for _ in range(cfg.experts)])


SIZES = {name: size for name, size in llama.SIZES.items() if name != "head_width"}
SIZES |= {"width": 60, "mlp_width": 38, "experts": 5, "experts_per_token": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "normalised True": {"normalised": True},
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "attention_bias True": {"attention_bias": True},
    "square experts": {"mlp_width": 60},
    "norm_eps": {"norm_eps": 1e-3},
    "tied True": {"tied": True},
    **llama.ROTARY_VARIANTS,
}
_7B = {"vocab_size": 50304, "context": 4096, "width": 2048, "layers": 16, "heads": 16, "mlp_width": 1024}
_7B |= {"experts": 64, "experts_per_token": 8}
PUBLISHED = {"allenai/OLMoE-1B-7B-0924": _7B, "allenai/OLMoE-1B-7B-0125-Instruct": _7B}
