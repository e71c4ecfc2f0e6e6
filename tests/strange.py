"""A decoder of parts that archport has never seen, under names that it has never seen; in mathematics a Llama.

Own attention, norm, gated MLP and block, none of them a subclass of archport's, and an embedding that is. The oracle is
transformers' Llama under another model_type.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import archport
from archport import registry
from archport.config import DecoderConfig
from archport.layers import AttentionContext, Decoder, Embed, Rotary
from archport.mappings import COMMON_HARMLESS, COMMON_REQUIRES
from archport.translate.table import Table, config_field, rearranged

NAME = "strange"


class Lookup(Embed):
    """Token ids to vectors, by a class of its own."""


class Evener(nn.Module):
    """RMSNorm: no mean, no bias, and no attribute that says eps."""

    def __init__(self, width: int, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return self.gain * (wide * (wide.square().mean(-1, keepdim=True) + self.floor).rsqrt()).to(x.dtype)


class Mixer(nn.Module):
    """Attention with three projections and fewer keys than queries; gives its output in a tuple, as some do."""

    def __init__(self, width: int, heads: int, groups: int, rotary: Rotary) -> None:
        super().__init__()
        self.sizes, self.turn = (heads, groups, width // heads), rotary
        self.ask = nn.Linear(width, width, bias=False)
        self.offer = nn.Linear(width, groups * (width // heads), bias=False)
        self.give = nn.Linear(width, groups * (width // heads), bias=False)
        self.join = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, context: AttentionContext) -> tuple[Tensor, None]:  # (batch, seq, width), same out
        heads, groups, size = self.sizes
        q = context.rotated(self.ask(x).unflatten(-1, (heads, size)).transpose(1, 2), self.turn)
        k = context.rotated(self.offer(x).unflatten(-1, (groups, size)).transpose(1, 2), self.turn)
        v = self.give(x).unflatten(-1, (groups, size)).transpose(1, 2)
        k, v = context.extend(k, v)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=context.mask, is_causal=context.causal, enable_gqa=True
        )
        return self.join(mixed.transpose(1, 2).flatten(-2)), None


class Gated(nn.Module):
    """An MLP with a gate, both maps in one weight."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.both = nn.Linear(width, 2 * hidden, bias=False)
        self.bend = nn.SiLU()
        self.back = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (batch, seq, width), same out
        gate, up = self.both(x).chunk(2, dim=-1)
        return self.back(self.bend(gate) * up)


class Stage(nn.Module):
    """A layer that is no Block of archport's."""

    def __init__(self, first: nn.Module, mixer: nn.Module, second: nn.Module, gated: nn.Module) -> None:
        super().__init__()
        self.first, self.mixer, self.second, self.gated = first, mixer, second, gated

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:  # (batch, seq, width), same out
        x = x + self.mixer(self.first(x), context)[0]
        return x + self.gated(self.second(x))


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Sizes of a strange decoder."""

    activation: str = "silu"
    mlp_width: int = 11008
    norm_eps: float = 1e-6
    groups: int | None = None
    rotary_base: float = 10000.0

    @property
    def axes(self) -> dict[str, int]:
        """Of the patterns in the table."""
        return super().axes | {"half": 2, "hidden": self.mlp_width}


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    rotary = Rotary(cfg.head_width, base=cfg.rotary_base)
    return Decoder(
        embed=Lookup(cfg.vocab_size, cfg.width),
        blocks=[
            Stage(
                Evener(cfg.width, cfg.norm_eps),
                Mixer(cfg.width, cfg.heads, cfg.groups or cfg.heads, rotary),
                Evener(cfg.width, cfg.norm_eps),
                Gated(cfg.width, cfg.mlp_width),
            )
            for _ in range(cfg.layers)
        ],
        norm=Evener(cfg.width, cfg.norm_eps),
        head=nn.Linear(cfg.width, cfg.vocab_size, bias=False),
        tied=cfg.tied,
    )


LAYER = "model.layers.{n}."
TABLE = Table(
    classes=("StrangeForCausalLM",),
    prefix="model.",
    config={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "groups": "num_key_value_heads",
        "mlp_width": "intermediate_size",
        "activation": config_field("hidden_act", values={"silu": "silu"}),
        "norm_eps": "rms_norm_eps",
        "tied": "tie_word_embeddings",
        "init_std": "initializer_range",
        "rotary_base": config_field("rope_theta", "rope_parameters.rope_theta"),
    },
    must_agree={"head_dim": "head_width"},
    requires=COMMON_REQUIRES
    | {"attention_bias": (False,), "mlp_bias": (False,), "attention_dropout": (0.0,), "pretraining_tp": (1,)}
    | {"rope_scaling": (None,), "rope_parameters.rope_type": ("default",)},
    harmless=COMMON_HARMLESS,
    weights={
        "embed.tokens.weight": "model.embed_tokens.weight",
        "blocks.{n}.first.gain": LAYER + "input_layernorm.weight",
        "blocks.{n}.mixer.ask.weight": LAYER + "self_attn.q_proj.weight",
        "blocks.{n}.mixer.offer.weight": LAYER + "self_attn.k_proj.weight",
        "blocks.{n}.mixer.give.weight": LAYER + "self_attn.v_proj.weight",
        "blocks.{n}.mixer.join.weight": LAYER + "self_attn.o_proj.weight",
        "blocks.{n}.second.gain": LAYER + "post_attention_layernorm.weight",
        "blocks.{n}.gated.both.weight": rearranged(
            (LAYER + "mlp.gate_proj.weight", LAYER + "mlp.up_proj.weight"),
            "[gate up] hidden ... -> ([gate up] hidden) ...",
        ),
        "blocks.{n}.gated.back.weight": LAYER + "mlp.down_proj.weight",
        "norm.gain": "model.norm.weight",
        "head.weight": "lm_head.weight",
    },
    tied={"head.weight": "embed.tokens.weight"},
    nullable=frozenset({"groups"}),
)
SIZES = {"vocab_size": 113, "context": 43, "width": 60, "layers": 3, "heads": 6, "groups": 2, "mlp_width": 104}
SIZES |= {"norm_eps": 3e-5, "rotary_base": 9973.0}
VARIANTS = {"tied True": {"tied": True}}


@contextmanager
def registered() -> Iterator[str]:
    """The architecture and its reference, for as long as it is needed."""
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    config_class = type("StrangeConfig", (LlamaConfig,), {"model_type": NAME})
    model_class = type("StrangeForCausalLM", (LlamaForCausalLM,), {"config_class": config_class})
    AutoConfig.register(NAME, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    archport.register(NAME, config_class=Config, build=build, table=TABLE, sizes=SIZES, variants=VARIANTS)
    try:
        yield NAME
    finally:
        del registry._registered[NAME]


@pytest.fixture
def strange() -> Iterator[str]:
    """The name of the architecture, registered for one test."""
    with registered() as name:
        yield name
