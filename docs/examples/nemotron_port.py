"""Nemotron, ported outside archport as a relative of Llama. Source: arXiv 2402.16819; `NemotronForCausalLM`."""

from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor
from torch.nn import LayerNorm
from torch.nn import functional as F

import archport
from archport.layers import MLP, Block, Decoder, SequentialBlock
from archport.mappings import COMMON_REQUIRES, ROTARY_FRACTION
from archport.mappings import llama as llama_file
from archport.models import llama
from archport.parity.faults import class_fault


class OffsetLayerNorm(LayerNorm):
    """LayerNorm whose gains are kept as their distance from one."""

    def forward(self, x: Tensor) -> Tensor:  # (.., width), same out
        """Norm, each position alone."""
        return F.layer_norm(x, self.normalized_shape, self.weight + 1.0, self.bias, self.eps)


@dataclass(frozen=True, kw_only=True)
class Config(llama.Config):
    """Sizes of a Nemotron, which turns half of each head."""

    activation: str = "relu_squared"
    norm_eps: float = 1e-5
    rotary_fraction: float = 0.5


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(OffsetLayerNorm, cfg.width, eps=cfg.norm_eps)
    rotary = cfg.rotary()

    def block(_: int) -> Block:
        mlp = MLP(cfg.width, cfg.mlp_width, activation=cfg.activation, bias=cfg.mlp_bias)
        return SequentialBlock(norm_attn=norm(), attn=llama.attention(cfg, rotary=rotary), norm_mlp=norm(), mlp=mlp)

    return llama.decoder(cfg, block, norm=norm())


TABLE = replace(
    llama_file.TABLE,
    classes=("NemotronForCausalLM", "NemotronModel"),
    config=llama_file.FIELDS | ROTARY_FRACTION | {"norm_eps": "norm_eps"},
    requires=COMMON_REQUIRES,
    weights={name: row for name, row in llama_file.ROWS.items() if "gate" not in name},
)

SIZES = llama.SIZES | {"head_width": 20}
VARIANTS = {
    "one kv head": {"kv_heads": 1},
    "activation silu": {"activation": "silu"},
    "rotary_fraction 1.0": {"rotary_fraction": 1.0},
    "attention_bias True": {"attention_bias": True},
    "mlp_bias True": {"mlp_bias": True},
    "tied True": {"tied": True},
    **llama.ROTARY_VARIANTS,
}
PUBLISHED = {
    "nvidia/Minitron-4B-Base": {
        "vocab_size": 256000,
        "context": 4096,
        "width": 3072,
        "layers": 32,
        "heads": 24,
        "kv_heads": 8,
        "head_width": 128,
        "mlp_width": 9216,
    },
}


class PlainGain(OffsetLayerNorm):
    """The mistake of nearly every first port: the gain is the weight."""

    def forward(self, x: Tensor) -> Tensor:  # (.., width), same out
        """Norm, each position alone."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


FAULTS = (
    # Planted in a right port: is it noticed?
    class_fault(
        "plain gains",
        faulty="gains of norms are the weights",
        right="adds one to them",
        see="OffsetLayerNorm.forward",
        part=OffsetLayerNorm,
        kind=PlainGain,
    ),
    # Tried on a wrong one: does it explain the difference?
    class_fault(
        "gains from one",
        faulty="gains of norms are kept as their distance from one",
        right="takes them as they are",
        see="OffsetLayerNorm",
        part=LayerNorm,
        kind=OffsetLayerNorm,
    ),
)
archport.register(
    "nemotron",
    config_class=Config,
    build=build,
    table=TABLE,
    sizes=SIZES,
    variants=VARIANTS,
    published=PUBLISHED,
    faults=FAULTS,
)
