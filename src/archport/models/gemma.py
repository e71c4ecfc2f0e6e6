"""Gemma: a Llama with scaled embeddings and weights of norms that start at zero. Source: arXiv 2403.08295.

Its relatives put other parts into `decoder` and `attention`; the reference class is `GemmaForCausalLM`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..config import bounded, derived, fixed
from ..layers import Block, Decoder, OffsetRMSNorm, ScaledEmbed, SequentialBlock, SoftCap
from . import LayerTypes, WindowConfig, llama
from .llama import attention, mlp


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of a Gemma, whose heads are 256 wide unless told otherwise."""

    head_width: int = 256
    activation: str = "gelu_tanh"
    tied: bool = True
    mlp_bias: bool = fixed(False)
    padding: int | None = bounded(0, least=-1)


@dataclass(frozen=True, kw_only=True)
class SlidingConfig(Config, WindowConfig):
    """Sizes of the later Gemmas, whose layers slide, but each `window_pattern`th unless `layer_types` say otherwise.

    Scores are divided by the root of `query_scalar`, logits bent below `logit_cap`.
    """

    query_scalar: int = 256
    logit_cap: float | None = None
    window: int | None = 4096
    window_pattern: int = 6
    layer_types: LayerTypes = derived(
        lambda cfg: tuple(
            "sliding_attention" if (layer + 1) % cfg.window_pattern else "full_attention" for layer in range(cfg.layers)
        )
    )

    def finish(self) -> SoftCap | None:
        """What bends the logits."""
        return None if self.logit_cap is None else SoftCap(self.logit_cap)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    rotary = cfg.rotary()

    def block(_: int) -> Block:
        attn = attention(cfg, rotary=rotary)
        return SequentialBlock(norm_attn=norm(cfg), attn=attn, norm_mlp=norm(cfg), mlp=mlp(cfg))

    return decoder(cfg, block)


def norm(cfg: Config, width: int | None = None) -> OffsetRMSNorm:
    """A Gemma's norm, of the stream unless another width is given."""
    return OffsetRMSNorm(width or cfg.width, eps=cfg.norm_eps)


def decoder(cfg: Config, block: Callable[[int], Block], **parts: Any) -> Decoder:
    """A Gemma's embedding, last norm and head around blocks made for each layer, with more parts."""
    embed = ScaledEmbed(cfg.vocab_size, cfg.width, scale=cfg.width**0.5, padding=cfg.padding)
    return llama.decoder(cfg, block, norm=norm(cfg), embed=embed, **parts)


SIZES = llama.SIZES | {"width": 30, "mlp_width": 58}  # not so wide that loud scores leave no key but one
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation silu": {"activation": "silu"},
    "attention_bias True": {"attention_bias": True},
    "tied False": {"tied": False},
    "padding None": {"padding": None},
    **llama.ROTARY_VARIANTS,
}
_PUBLISHED = {"vocab_size": 256000, "context": 8192}
PUBLISHED = {
    "google/gemma-2b": _PUBLISHED | {"width": 2048, "layers": 18, "heads": 8, "kv_heads": 1, "mlp_width": 16384},
    "google/gemma-7b": _PUBLISHED | {"width": 3072, "layers": 28, "heads": 16, "kv_heads": 16, "mlp_width": 24576},
}
