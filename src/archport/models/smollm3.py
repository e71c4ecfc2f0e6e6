"""SmolLM3: a Llama with some layers without positions, which may see a window.

Source: `SmolLM3ForCausalLM`; layers without positions: arXiv 2501.18795.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..config import bounded, derived
from ..layers import Block, Decoder, RMSNorm, SequentialBlock
from . import LayerTypes, WindowConfig, llama


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config, WindowConfig):
    """Sizes of a SmolLM3: `rotary_layers` has a 1 for each layer with positions, a 0 for each without.

    Those are every `nope_interval`-th unless given. Where `windowed`, layers without positions see a window.
    """

    rotary_base: float = 2e6
    tied: bool = True
    padding: int | None = bounded(128004, least=-1)
    nope_interval: int = 4
    rotary_layers: tuple[Literal[0, 1], ...] = derived(
        lambda cfg: tuple(int((layer + 1) % cfg.nope_interval != 0) for layer in range(cfg.layers))
    )
    windowed: bool = False
    layer_types: LayerTypes = derived(
        lambda cfg: tuple(
            "sliding_attention" if cfg.windowed and not rotary else "full_attention"
            for rotary in cfg.rotary_layers[: cfg.layers]
        )
    )

    def faults(self) -> Iterator[tuple[str, str]]:
        """Each layer has positions or not."""
        yield from super().faults()
        if len(self.rotary_layers) < self.layers:
            yield "rotary_layers", f"found {len(self.rotary_layers)}, expected {self.layers}, one a layer"


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(RMSNorm, cfg.width, eps=cfg.norm_eps)
    rotary, windows = cfg.rotary(), cfg.windows()

    def block(layer: int) -> Block:
        parts = {"rotary": rotary if cfg.rotary_layers[layer] else None, "mask": windows[layer]}
        attn = llama.attention(cfg, **parts)
        return SequentialBlock(norm_attn=norm(), attn=attn, norm_mlp=norm(), mlp=llama.mlp(cfg))

    return llama.decoder(cfg, block, norm=norm())


SIZES = llama.SIZES | {"nope_interval": 2, "windowed": True, "window": 9}
VARIANTS: dict[str, dict[str, Any]] = {
    "windowed False": {"windowed": False, "window": None},
    "layer_types": {"layer_types": ("sliding_attention", "full_attention", "full_attention")},
    "rotary_layers": {"rotary_layers": (0, 1, 1)},
    "one kv head": {"kv_heads": 1},
    "as many kv heads": {"kv_heads": 6},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "attention_bias True": {"attention_bias": True},
    "mlp_bias True": {"mlp_bias": True},
    "tied False": {"tied": False},
    **llama.ROTARY_VARIANTS,
}
_3B: dict[str, Any] = {"vocab_size": 128256, "context": 65536, "width": 2048, "layers": 36, "heads": 16, "kv_heads": 4}
_3B |= {"mlp_width": 11008, "rotary_base": 5e6, "padding": 128004}
PUBLISHED = {"HuggingFaceTB/SmolLM3-3B": _3B, "HuggingFaceTB/SmolLM3-3B-Base": _3B}
