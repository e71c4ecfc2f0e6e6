"""Qwen 3 with experts in place of the MLP of each layer, or of some. Source: arXiv 2505.09388."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import Module

from ..config import bounded, fixed
from ..layers import Block, Decoder, RMSNorm, SequentialBlock
from . import ExpertsConfig, llama, olmoe


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config, ExpertsConfig):
    """Sizes of a Qwen 3 with experts of `expert_width`, in the last of every `sparse_step` layers.

    The `dense_layers` and all others have an MLP of `mlp_width`. `normalised` weights of a token's experts sum to 1.
    """

    mlp_bias: bool = fixed(False)
    expert_width: int
    normalised: bool = False
    sparse_step: int = 1
    dense_layers: tuple[int, ...] = bounded((), least=0)

    def sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return layer not in self.dense_layers and (layer + 1) % self.sparse_step == 0


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, eps=cfg.norm_eps)
    rotary = cfg.rotary()

    def block(layer: int) -> Block:
        norms = {"q_norm": norm(cfg.head_width), "k_norm": norm(cfg.head_width)}
        attn = llama.attention(cfg, **norms, rotary=rotary)
        mlp: Module = olmoe.experts(cfg, cfg.expert_width) if cfg.sparse(layer) else llama.mlp(cfg)
        return SequentialBlock(norm_attn=norm(cfg.width), attn=attn, norm_mlp=norm(cfg.width), mlp=mlp)

    return llama.decoder(cfg, block, norm=norm(cfg.width))


SIZES = llama.SIZES | {"expert_width": 38, "experts": 5, "experts_per_token": 3, "sparse_step": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "sparse_step 1": {"sparse_step": 1},
    "dense_layers": {"sparse_step": 1, "dense_layers": (0, 2)},
    "normalised True": {"normalised": True},
    "as many kv heads": {"kv_heads": 6},
    "head_width of width": {"head_width": None},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "attention_bias True": {"attention_bias": True},
    "square experts": {"expert_width": 72},
    "tied True": {"tied": True},
    **llama.ROTARY_VARIANTS,
}
_QWEN: dict[str, Any] = {"vocab_size": 151936, "context": 40960, "kv_heads": 4, "head_width": 128, "rotary_base": 1e6}
_QWEN |= {"experts": 128, "experts_per_token": 8, "normalised": True}
PUBLISHED = {
    "Qwen/Qwen3-30B-A3B": _QWEN | {"width": 2048, "layers": 48, "heads": 32, "mlp_width": 6144, "expert_width": 768},
    "Qwen/Qwen3-235B-A22B": _QWEN
    | {"width": 4096, "layers": 94, "heads": 64, "mlp_width": 12288, "expert_width": 1536},
}
