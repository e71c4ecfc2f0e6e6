"""Falcon: queries share keys and values; rotary halves or ALiBi; parallel residual. Source: `FalconForCausalLM`."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch.nn import LayerNorm, Linear

from ..config import derived
from ..layers import (
    MLP,
    Attention,
    Block,
    Decoder,
    Embed,
    ParallelBlock,
    RoundedAlibi,
    SequentialBlock,
    SharedNormBlock,
)
from . import RotaryConfig, rotary_variants


@dataclass(frozen=True, kw_only=True)
class Config(RotaryConfig):
    """Sizes of a Falcon.

    A `grouped` one, 40B and later, has groups of heads that share a key and a value of `kv_groups`, and `norms` before
    its parallel branches. One before has one key and value, or with `multi_query` False one for each head.
    """

    context: int = 2048
    tied: bool = True
    grouped: bool = False
    kv_groups: int = derived(lambda cfg: cfg.heads)
    multi_query: bool = True
    kv_heads: int = derived(lambda cfg: cfg.kv_groups if cfg.grouped else 1 if cfg.multi_query else cfg.heads)
    parallel: bool = True
    norms: int = derived(lambda cfg: 2 if cfg.grouped else 1)
    bias: bool = False
    alibi: bool = False

    def faults(self) -> Iterator[tuple[str, str]]:
        """Some wirings there are not."""
        yield from super().faults()
        if self.grouped and not self.parallel:
            yield "parallel", "found False, expected True where grouped"
        if self.norms not in ((1, 2) if self.grouped else (1,)):
            yield "norms", f"found {self.norms}, expected 1{' or 2' if self.grouped else ' where not grouped'}"


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    alibi = RoundedAlibi(cfg.heads, factor=cfg.head_width**-0.5) if cfg.alibi else None
    rotary = None if cfg.alibi else cfg.rotary()

    def block() -> Block:
        attn = Attention(cfg.width, cfg.heads, kv_heads=cfg.kv_heads, bias=cfg.bias, rotary=rotary, mask=alibi)
        mlp = MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, bias=cfg.bias)
        if cfg.parallel and cfg.norms == 1:
            return SharedNormBlock(norm=norm(), attn=attn, mlp=mlp)
        wiring = ParallelBlock if cfg.parallel else SequentialBlock
        return wiring(norm_attn=norm(), attn=attn, norm_mlp=norm(), mlp=mlp)

    return Decoder(
        embed=Embed(cfg.vocab_size, cfg.width),
        blocks=[block() for _ in range(cfg.layers)],
        norm=norm(),
        head=Linear(cfg.width, cfg.vocab_size, bias=False),
        tied=cfg.tied,
    )


SIZES = {
    "vocab_size": 113,
    "context": 43,
    "width": 60,
    "layers": 3,
    "heads": 6,
    "kv_groups": 2,
    "grouped": True,
    "parallel": True,
    "norms": 2,
    "alibi": False,
    "mlp_width": 102,
    "norm_eps": 3e-5,
    "rotary_base": 9973.0,
}
_BEFORE: dict[str, Any] = {"grouped": False, "kv_groups": None, "norms": None}
VARIANTS: dict[str, dict[str, Any]] = {
    "norms 1": {"norms": 1},
    "one key and value": _BEFORE,
    "a key and value for each head": _BEFORE | {"multi_query": False},
    "parallel False": _BEFORE | {"parallel": False},
    "bias True": {"bias": True},
    "alibi True": {"alibi": True},
    "alibi True, before": _BEFORE | {"alibi": True, "multi_query": False, "parallel": False, "bias": True},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "tied False": {"tied": False},
    **rotary_variants(5, 19),
}
_WEB: dict[str, Any] = {"multi_query": False, "parallel": False, "bias": True, "alibi": True, "context": 2048}
PUBLISHED: dict[str, dict[str, Any]] = {
    "tiiuae/falcon-rw-1b": _WEB | {"vocab_size": 50304, "width": 2048, "layers": 24, "heads": 32},
    "tiiuae/falcon-7b": {"vocab_size": 65024, "context": 2048, "width": 4544, "layers": 32, "heads": 71},
    "tiiuae/falcon-40b": {
        "vocab_size": 65024,
        "context": 2048,
        "width": 8192,
        "layers": 60,
        "heads": 128,
        "grouped": True,
        "kv_groups": 8,
    },
    "tiiuae/falcon-11B": {
        "vocab_size": 65024,
        "context": 8192,
        "width": 4096,
        "layers": 60,
        "heads": 32,
        "grouped": True,
        "kv_groups": 8,
        "norms": 1,
        "rotary_base": 500042.0,
        "tied": False,
    },
}
