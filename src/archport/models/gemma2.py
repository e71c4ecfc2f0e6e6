"""Gemma 2: norms on both sides of each branch, windows on some layers, bent scores and logits.

Source: arXiv 2408.00118; `Gemma2ForCausalLM`.
"""

from dataclasses import dataclass
from typing import Any

from ..config import fixed
from ..layers import Attention, Block, Decoder, SandwichBlock
from . import gemma, llama
from .gemma import decoder, norm
from .llama import attention, mlp


@dataclass(frozen=True, kw_only=True)
class Config(gemma.SlidingConfig):
    """Sizes of a Gemma 2, whose scores are bent below `score_cap`."""

    logit_cap: float | None = 30.0
    score_cap: float | None = 50.0
    window_pattern: int = fixed(2)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    parts = {"rotary": cfg.rotary(), "scale": cfg.query_scalar**-0.5, "softcap": cfg.score_cap}
    windows = cfg.windows()

    def block(layer: int) -> Block:
        return sandwich(cfg, attention(cfg, mask=windows[layer], **parts))

    return decoder(cfg, block, finish=cfg.finish())


def sandwich(cfg: gemma.SlidingConfig, attn: Attention) -> SandwichBlock:
    """A later Gemma's block around its attention."""
    return SandwichBlock(
        norm_attn=norm(cfg),
        attn=attn,
        norm_attn_out=norm(cfg),
        norm_mlp=norm(cfg),
        mlp=mlp(cfg),
        norm_mlp_out=norm(cfg),
    )


SIZES = gemma.SIZES | {"query_scalar": 14, "score_cap": 3.0, "logit_cap": 5.0, "window": 9}
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu": {"activation": "gelu"},
    "attention_bias True": {"attention_bias": True},
    "tied False": {"tied": False},
    "score_cap None": {"score_cap": None},
    "logit_cap None": {"logit_cap": None},
    "other layer_types": {"layer_types": ("full_attention", "full_attention", "sliding_attention")},
    **llama.ROTARY_VARIANTS,
}
_PUBLISHED = {"vocab_size": 256000, "context": 8192}
PUBLISHED = {
    "google/gemma-2-2b": _PUBLISHED | {"width": 2304, "layers": 26, "heads": 8, "kv_heads": 4, "mlp_width": 9216},
    "google/gemma-2-9b": _PUBLISHED | {"width": 3584, "layers": 42, "heads": 16, "kv_heads": 8, "mlp_width": 14336},
}
