"""Qwen 3: a Qwen 2 whose queries and keys are normed, head by head. Source: arXiv 2505.09388."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..config import fixed
from ..layers import Block, Decoder, RMSNorm, SequentialBlock
from . import llama, qwen2


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config, qwen2.SwitchedWindows):
    """Sizes of a Qwen 3; a head's width does not follow from the others."""

    head_width: int = 128
    mlp_bias: bool = fixed(False)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, eps=cfg.norm_eps)
    rotary, windows = cfg.rotary(), cfg.windows()

    def block(layer: int) -> Block:
        norms = {"q_norm": norm(cfg.head_width), "k_norm": norm(cfg.head_width)}
        attn = llama.attention(cfg, **norms, rotary=rotary, mask=windows[layer])
        return SequentialBlock(norm_attn=norm(cfg.width), attn=attn, norm_mlp=norm(cfg.width), mlp=llama.mlp(cfg))

    return llama.decoder(cfg, block, norm=norm(cfg.width))


SIZES = qwen2.SIZES
VARIANTS: dict[str, dict[str, Any]] = qwen2.VARIANTS | {"attention_bias True": {"attention_bias": True}}
_QWEN: dict[str, Any] = {"vocab_size": 151936, "context": 40960, "kv_heads": 8, "rotary_base": 1e6}
PUBLISHED = {
    "Qwen/Qwen3-0.6B": _QWEN | {"width": 1024, "layers": 28, "heads": 16, "mlp_width": 3072, "tied": True},
    "Qwen/Qwen3-8B": _QWEN | {"width": 4096, "layers": 36, "heads": 32, "mlp_width": 12288, "full_layers": 36},
}
