"""Llama: rotary halves, grouped heads, RMSNorm, gated MLP. Source: arXiv 2302.13971; `LlamaForCausalLM`.

Its relatives put other parts into `decoder`, `attention` and `mlp`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import Linear, Module

from ..config import bounded
from ..layers import Attention, Block, Decoder, Embed, GatedMLP, RMSNorm, SequentialBlock
from . import RotaryConfig, rotary_variants


@dataclass(frozen=True, kw_only=True)
class Config(RotaryConfig):
    """Sizes of a Llama; the embedding's row `padding` is not trained."""

    activation: str = "silu"
    norm_eps: float = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    padding: int | None = bounded(None, least=-1)

    def faults(self) -> Iterator[tuple[str, str]]:
        """The embedding has the row of padding."""
        yield from super().faults()
        if self.padding is not None and self.padding >= self.vocab_size:
            yield "padding", f"found {self.padding}, expected a token of the {self.vocab_size} there are"


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, cfg.width, eps=cfg.norm_eps)
    rotary = cfg.rotary()

    def block(_: int) -> Block:
        return SequentialBlock(norm_attn=norm(), attn=attention(cfg, rotary=rotary), norm_mlp=norm(), mlp=mlp(cfg))

    return decoder(cfg, block, norm=norm())


def attention(cfg: Config, **parts: Any) -> Attention:
    """A Llama's attention, with more parts or other ones."""
    usual: dict[str, Any] = {"kv_heads": cfg.kv_heads, "head_width": cfg.head_width, "bias": cfg.attention_bias}
    usual |= {"score_dropout": cfg.attention_dropout}
    return Attention(cfg.width, cfg.heads, **(usual | parts))


def mlp(cfg: Config) -> GatedMLP:
    """A Llama's MLP."""
    return GatedMLP(cfg.width, cfg.mlp_width, activation=cfg.activation, bias=cfg.mlp_bias)


def decoder(cfg: Config, block: Callable[[int], Block], *, norm: Module, **parts: Any) -> Decoder:
    """A Llama's embedding and head around blocks made for each layer, with more parts or other ones."""
    usual: dict[str, Any] = {"embed": Embed(cfg.vocab_size, cfg.width, padding=cfg.padding)}
    usual |= {"head": Linear(cfg.width, cfg.vocab_size, bias=False), "tied": cfg.tied}
    return Decoder(blocks=[block(layer) for layer in range(cfg.layers)], norm=norm, **(usual | parts))


SIZES = {
    "vocab_size": 113,
    "context": 43,
    "width": 72,
    "layers": 3,
    "heads": 6,
    "kv_heads": 2,
    "head_width": 10,
    "mlp_width": 102,
    "norm_eps": 3e-3,  # large, or what it adds to the square of a loud stream is lost in float32
    "rotary_base": 9973.0,
    "padding": 7,
}
_ROTARY = rotary_variants(pairs=5, context=11)
VARIANTS: dict[str, dict[str, Any]] = {
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "attention_bias True": {"attention_bias": True},
    "mlp_bias True": {"mlp_bias": True},
    "tied True": {"tied": True},
    **_ROTARY,
}
# For relatives: each setting once, in as few models as can say them.
ROTARY_VARIANTS = {name: _ROTARY[name] for name in ("rotary_scaling llama3", "rotary_scaling longrope")}
ROTARY_VARIANTS["rotary_scaling yarn"] = _ROTARY["rotary_truncate False"] | _ROTARY["rotary_mscale"]
_SMALL: dict[str, Any] = {"vocab_size": 128256, "context": 131072, "rotary_base": 500000.0, "tied": True}
_SMALL |= {"rotary_scaling": "llama3", "rotary_factor": 32.0, "rotary_low_factor": 1.0, "rotary_high_factor": 4.0}
_SMALL |= {"rotary_context": 8192, "kv_heads": 8, "mlp_width": 8192, "norm_eps": 1e-5}
_8B: dict[str, Any] = {"vocab_size": 128256, "context": 8192, "width": 4096, "layers": 32, "heads": 32, "kv_heads": 8}
_8B |= {"mlp_width": 14336, "norm_eps": 1e-5, "rotary_base": 500000.0}
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": {
        "vocab_size": 32000,
        "context": 4096,
        "width": 4096,
        "layers": 32,
        "heads": 32,
        "mlp_width": 11008,
        "norm_eps": 1e-5,
    },
    "meta-llama/Meta-Llama-3-8B": _8B,
    "meta-llama/Llama-3.1-8B": _8B
    | {
        "context": 131072,
        "rotary_scaling": "llama3",
        "rotary_context": 8192,
        "rotary_factor": 8.0,
        "rotary_low_factor": 1.0,
        "rotary_high_factor": 4.0,
    },
    "meta-llama/Llama-3.2-1B": _SMALL | {"width": 2048, "layers": 16, "heads": 32, "head_width": 64},
    "meta-llama/Llama-3.2-3B": _SMALL | {"width": 3072, "layers": 28, "heads": 24, "head_width": 128},
}
