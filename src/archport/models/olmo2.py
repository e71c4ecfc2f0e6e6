"""OLMo 2: a Llama with norms after its branches, and of queries and keys across heads. Source: arXiv 2501.00656."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..config import bounded, fixed
from ..layers import AcrossHeads, Block, Decoder, LateRMSNorm, PostNormBlock, WideRotary
from . import llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of an OLMo 2."""

    norm_eps: float = 1e-5
    mlp_bias: bool = fixed(False)
    padding: int | None = bounded(1, least=-1)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LateRMSNorm, eps=cfg.norm_eps)
    rotary = cfg.rotary(kind=WideRotary)

    def block(_: int) -> Block:
        attn = llama.attention(
            cfg,
            q_norm=AcrossHeads(norm(cfg.heads * cfg.head_width)),
            k_norm=AcrossHeads(norm(cfg.kv_heads * cfg.head_width)),
            rotary=rotary,
        )
        mlp = llama.mlp(cfg)
        return PostNormBlock(attn=attn, norm_attn_out=norm(cfg.width), mlp=mlp, norm_mlp_out=norm(cfg.width))

    return llama.decoder(cfg, block, norm=norm(cfg.width))


SIZES = llama.SIZES
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "attention_bias True": {"attention_bias": True},
    "tied True": {"tied": True},
    **llama.ROTARY_VARIANTS,
}
_7B: dict[str, Any] = {"vocab_size": 100352, "context": 4096, "width": 4096, "layers": 32, "heads": 32}
_7B |= {"mlp_width": 11008, "norm_eps": 1e-6, "rotary_base": 500000.0, "padding": 100277}
PUBLISHED = {
    "allenai/OLMo-2-0425-1B": _7B | {"width": 2048, "layers": 16, "heads": 16, "mlp_width": 8192},
    "allenai/OLMo-2-1124-7B": _7B,
    "allenai/OLMo-2-1124-13B": _7B | {"width": 5120, "layers": 40, "heads": 40, "mlp_width": 13824},
}
