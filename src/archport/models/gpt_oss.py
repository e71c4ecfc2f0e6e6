"""gpt-oss: experts that clamp, sinks in attention, windows in every other layer. Source: arXiv 2508.10925."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..config import derived, fixed
from ..layers import (
    Block,
    ChosenSoftmaxRouter,
    ClampedGatedMLP,
    Decoder,
    Experts,
    LateRMSNorm,
    SequentialBlock,
    Sinks,
)
from . import ExpertsConfig, LayerTypes, RotaryScaling, WindowConfig, llama, rotary_variants


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config, WindowConfig, ExpertsConfig):
    """Sizes of a gpt-oss; `mlp_width` is that of one expert, whose gate has a gain `alpha` and is clamped at `limit`.

    There is no usual way to scale rotary positions, for the reference has one of its own.
    """

    activation: str = fixed("silu")
    norm_eps: float = 1e-5
    attention_bias: bool = True
    mlp_bias: bool = fixed(False)
    window: int = 128
    layer_types: LayerTypes = derived(
        lambda cfg: tuple(("sliding_attention", "full_attention")[layer % 2] for layer in range(cfg.layers))
    )
    alpha: float = 1.702
    limit: float = 7.0
    rotary_base: float = 150000.0
    rotary_scaling: RotaryScaling = field()


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LateRMSNorm, cfg.width, eps=cfg.norm_eps)
    rotary, windows = cfg.rotary(), cfg.windows()

    def block(layer: int) -> Block:
        attn = llama.attention(cfg, rotary=rotary, mask=windows[layer], sinks=Sinks(cfg.heads))
        return SequentialBlock(norm_attn=norm(), attn=attn, norm_mlp=norm(), mlp=experts(cfg))

    return llama.decoder(cfg, block, norm=norm())


def experts(cfg: Config) -> Experts:
    """The experts of a layer and their router."""
    router = ChosenSoftmaxRouter(cfg.width, cfg.experts, top=cfg.experts_per_token, bias=True)
    expert = partial(ClampedGatedMLP, cfg.width, cfg.mlp_width, alpha=cfg.alpha, limit=cfg.limit)
    return Experts(router, [expert() for _ in range(cfg.experts)])


SIZES: dict[str, Any] = llama.SIZES | {
    "mlp_width": 38,
    "experts": 5,
    "experts_per_token": 3,
    "window": 9,
    "alpha": 1.3,
    "limit": 0.7,
}
SIZES |= rotary_variants(5, 11)["rotary_truncate False"]
VARIANTS: dict[str, dict[str, Any]] = {
    "layer_types": {"layer_types": ("full_attention", "full_attention", "sliding_attention")},
    "as many kv heads": {"kv_heads": 6},
    "head_width of width": {"head_width": None},
    "attention_bias False": {"attention_bias": False},
    "square experts": {"mlp_width": 72},
    "tied True": {"tied": True},
    "rotary_truncate True": {"rotary_truncate": True},
    "rotary_scaling default": {"rotary_scaling": "default"},
    **llama.ROTARY_VARIANTS,
    "rotary_scaling longrope": llama.ROTARY_VARIANTS["rotary_scaling longrope"] | {"rotary_context": None},
}
_OSS: dict[str, Any] = {"vocab_size": 201088, "context": 131072, "width": 2880, "heads": 64, "kv_heads": 8}
_OSS |= {"head_width": 64, "mlp_width": 2880, "experts_per_token": 4, "padding": 199999}
_OSS |= {"rotary_scaling": "yarn", "rotary_factor": 32.0, "rotary_context": 4096, "rotary_truncate": False}
PUBLISHED = {
    "openai/gpt-oss-20b": _OSS | {"layers": 24, "experts": 32},
    "openai/gpt-oss-120b": _OSS | {"layers": 36, "experts": 128},
}
