"""Qwen 2: a Llama with biases on queries, keys and values, and windows in late layers. Source: arXiv 2407.10671."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..config import bounded, derived, fixed
from ..layers import Block, Decoder, RMSNorm, SequentialBlock
from . import LayerTypes, WindowConfig, llama


@dataclass(frozen=True, kw_only=True)
class SwitchedWindows(WindowConfig):
    """Which layers of a Qwen see a window: where `windowed`, all after the first `full_layers`, or `layer_types`."""

    windowed: bool = False
    full_layers: int = bounded(28, least=0)
    layer_types: LayerTypes = derived(
        lambda cfg: tuple(
            "sliding_attention" if cfg.windowed and layer >= cfg.full_layers else "full_attention"
            for layer in range(cfg.layers)
        )
    )

    def faults(self) -> Iterator[tuple[str, str]]:
        """No window is used that is switched off."""
        yield from super().faults()
        if not self.windowed and "sliding_attention" in self.layer_types:
            yield "windowed", "found False, but there are layers of sliding attention"


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config, SwitchedWindows):
    """Sizes of a Qwen 2."""

    attention_bias: bool = fixed(True)
    mlp_bias: bool = fixed(False)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, cfg.width, eps=cfg.norm_eps)
    rotary, windows = cfg.rotary(), cfg.windows()

    def block(layer: int) -> Block:
        attn = llama.attention(cfg, out_bias=False, rotary=rotary, mask=windows[layer])
        return SequentialBlock(norm_attn=norm(), attn=attn, norm_mlp=norm(), mlp=llama.mlp(cfg))

    return llama.decoder(cfg, block, norm=norm())


SIZES = llama.SIZES | {"windowed": True, "window": 9, "full_layers": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "windowed False": {"windowed": False, "window": None},
    "layer_types": {"layer_types": ("sliding_attention", "full_attention", "sliding_attention")},
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "tied True": {"tied": True},
    **llama.ROTARY_VARIANTS,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2-0.5B": {
        "vocab_size": 151936,
        "context": 131072,
        "width": 896,
        "layers": 24,
        "heads": 14,
        "kv_heads": 2,
        "mlp_width": 4864,
        "rotary_base": 1e6,
        "window": 131072,
        "full_layers": 24,
        "tied": True,
    },
    "Qwen/Qwen2.5-7B": {
        "vocab_size": 152064,
        "context": 131072,
        "width": 3584,
        "layers": 28,
        "heads": 28,
        "kv_heads": 4,
        "mlp_width": 18944,
        "rotary_base": 1e6,
        "window": 131072,
    },
}
