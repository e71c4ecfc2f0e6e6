"""Mixtral: a Mistral with experts in place of each MLP. Source: arXiv 2401.04088; `MixtralForCausalLM`."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..config import fixed
from ..layers import Block, Decoder, Experts, RMSNorm, SequentialBlock, UncastNormalisedRouter, Window
from . import ExpertsConfig, llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config, ExpertsConfig):
    """Sizes of a Mixtral; `mlp_width` is that of one expert, `window` what each layer sees, None for everything."""

    attention_bias: bool = fixed(False)
    mlp_bias: bool = fixed(False)
    norm_eps: float = 1e-5
    rotary_base: float = 1e6
    window: int | None = None


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, cfg.width, eps=cfg.norm_eps)
    rotary = cfg.rotary()
    window = None if cfg.window is None else Window(cfg.window)

    def block(_: int) -> Block:
        attn = llama.attention(cfg, rotary=rotary, mask=window)
        router = UncastNormalisedRouter(cfg.width, cfg.experts, top=cfg.experts_per_token)
        mlp = Experts(router, [llama.mlp(cfg) for _ in range(cfg.experts)])
        return SequentialBlock(norm_attn=norm(), attn=attn, norm_mlp=norm(), mlp=mlp)

    return llama.decoder(cfg, block, norm=norm())


SIZES = llama.SIZES | {"mlp_width": 38, "experts": 5, "experts_per_token": 3, "window": 9}
VARIANTS: dict[str, dict[str, Any]] = {
    "window None": {"window": None},
    "as many kv heads": {"kv_heads": 6},
    "head_width of width": {"head_width": None},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "square experts": {"mlp_width": 72},
    "every expert": {"experts_per_token": 5},
    "tied True": {"tied": True},
    **llama.ROTARY_VARIANTS,
}
_SPARSE: dict[str, Any] = {"kv_heads": 8, "experts": 8, "experts_per_token": 2}
PUBLISHED = {
    "mistralai/Mixtral-8x7B-v0.1": _SPARSE
    | {"vocab_size": 32000, "context": 32768, "width": 4096, "layers": 32, "heads": 32, "mlp_width": 14336},
    "mistralai/Mixtral-8x22B-v0.1": _SPARSE
    | {"vocab_size": 32000, "context": 65536, "width": 6144, "layers": 56, "heads": 48, "mlp_width": 16384},
}
