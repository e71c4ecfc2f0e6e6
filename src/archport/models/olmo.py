"""OLMo: a Llama whose LayerNorms have no weights, and which may clip queries, keys and values.

Source: arXiv 2402.00838; `OlmoForCausalLM`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import LayerNorm

from ..config import bounded, fixed
from ..layers import Block, Decoder, SequentialBlock, WideRotary
from . import llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of an OLMo; queries, keys and values are kept within `clip` of 0."""

    norm_eps: float = fixed(1e-5)
    mlp_bias: bool = fixed(False)
    padding: int | None = bounded(1, least=-1)
    clip: float | None = None


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps, elementwise_affine=False)
    rotary = cfg.rotary(kind=WideRotary)

    def block(_: int) -> Block:
        attn = llama.attention(cfg, rotary=rotary, clip=cfg.clip)
        return SequentialBlock(norm_attn=norm(), attn=attn, norm_mlp=norm(), mlp=llama.mlp(cfg))

    return llama.decoder(cfg, block, norm=norm())


SIZES = {name: size for name, size in llama.SIZES.items() if name != "norm_eps"} | {"clip": 0.9}
VARIANTS: dict[str, dict[str, Any]] = {
    "clip None": {"clip": None},
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "attention_bias True": {"attention_bias": True},
    "tied True": {"tied": True},
    **llama.ROTARY_VARIANTS,
}
_7B = {"vocab_size": 50304, "context": 2048, "width": 4096, "layers": 32, "heads": 32, "mlp_width": 11008}
PUBLISHED: dict[str, dict[str, Any]] = {
    "allenai/OLMo-1B-hf": _7B | {"width": 2048, "layers": 16, "heads": 16, "mlp_width": 8192, "tied": True},
    "allenai/OLMo-7B-hf": _7B,
    "allenai/OLMo-7B-0424-hf": _7B | {"context": 4096, "clip": 8.0},
}
