"""Gemma 3, its text model: normed queries and keys, and frequencies of their own for layers with a window.

Source: arXiv 2503.19786; `Gemma3ForCausalLM`.
"""

from dataclasses import dataclass
from typing import Any

from ..layers import Block, Decoder, Rotary
from . import gemma, llama
from .gemma import decoder, norm
from .gemma2 import sandwich
from .llama import attention


@dataclass(frozen=True, kw_only=True)
class Config(gemma.SlidingConfig):
    """Sizes of a Gemma 3, whose layers with a window turn by `local_rotary_base` alone."""

    rotary_base: float = 1000000.0
    local_rotary_base: float = 10000.0


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    local = Rotary(cfg.rotary_width, base=cfg.local_rotary_base)
    rotary, windows = {"full_attention": cfg.rotary(), "sliding_attention": local}, cfg.windows()

    def block(layer: int) -> Block:
        parts: dict[str, Any] = {"q_norm": norm(cfg, cfg.head_width), "k_norm": norm(cfg, cfg.head_width)}
        parts |= {"rotary": rotary[cfg.layer_types[layer]], "mask": windows[layer]}
        return sandwich(cfg, attention(cfg, scale=cfg.query_scalar**-0.5, **parts))

    return decoder(cfg, block, finish=cfg.finish())


SIZES = gemma.SIZES | {"local_rotary_base": 97.0, "query_scalar": 14, "window": 9, "window_pattern": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu": {"activation": "gelu"},
    "attention_bias True": {"attention_bias": True},
    "tied False": {"tied": False},
    "logit_cap 5.0": {"logit_cap": 5.0},
    "window_pattern 3": {"window_pattern": 3},
    "other layer_types": {"layer_types": ("full_attention", "full_attention", "sliding_attention")},
    **llama.ROTARY_VARIANTS,
}
_PUBLISHED = {"context": 32768, "window": 512, "kv_heads": 1, "heads": 4}
PUBLISHED = {
    "google/gemma-3-1b-pt": _PUBLISHED | {"vocab_size": 262144, "width": 1152, "layers": 26, "mlp_width": 6912},
    "google/gemma-3-270m": _PUBLISHED | {"vocab_size": 262144, "width": 640, "layers": 18, "mlp_width": 2048},
}
