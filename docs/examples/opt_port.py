"""OPT, ported outside archport: a Config, a list of parts, a key table. Source: arXiv 2205.01068; `OPTForCausalLM`."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.nn import LayerNorm, Linear

import archport
from archport.config import DecoderConfig, bounded
from archport.layers import MLP, QKV, Attention, Decoder, PositionedEmbed, SequentialBlock
from archport.mappings import ACTIVATIONS, COMMON_HARMLESS, COMMON_REQUIRES
from archport.parity.faults import class_fault
from archport.translate.table import Table, config_field, rearranged

OFFSET = 2  # rows of the position table that OPT leaves unused


class OffsetEmbed(PositionedEmbed):
    """Learned positions whose first is row 2."""

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:  # (batch, seq, width), (seq) or (batch, seq)
        """Add the learned positions."""
        return super().place(vectors, positions + OFFSET)


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Sizes of an OPT; the token `padding` gets no gradient."""

    activation: str = "relu"
    tied: bool = True
    residual_dropout: float = 0.1
    padding: int = bounded(1, least=0)


def build(cfg: Config) -> Decoder:
    """The whole architecture, as a list of parts."""
    norm = partial(LayerNorm, cfg.width, eps=cfg.norm_eps)
    attention = partial(Attention, dropout=cfg.residual_dropout, score_dropout=cfg.attention_dropout)
    mlp = partial(MLP, activation=cfg.activation, dropout=cfg.residual_dropout)
    embed = OffsetEmbed(cfg.vocab_size, cfg.width, context=cfg.context + OFFSET)
    embed.tokens.padding_idx = cfg.padding
    parts = [
        (norm(), attention(cfg.width, cfg.heads), norm(), mlp(cfg.width, cfg.mlp_width)) for _ in range(cfg.layers)
    ]
    blocks = [SequentialBlock(norm_attn=a, attn=b, norm_mlp=c, mlp=d) for a, b, c, d in parts]
    head = Linear(cfg.width, cfg.vocab_size, bias=False)
    return Decoder(embed=embed, blocks=blocks, norm=norm(), head=head, tied=cfg.tied)


LAYER = "model.decoder.layers.{n}."
THREE = tuple(f"{LAYER}self_attn.{part}_proj.*" for part in "qkv")
TABLE = Table(
    classes=("OPTForCausalLM", "OPTModel"),
    prefix="model.",
    config={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "mlp_width": "ffn_dim",
        "activation": config_field("activation_function", values=ACTIVATIONS),
        "tied": "tie_word_embeddings",
        "residual_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "init_std": "init_std",
        "padding": "pad_token_id",
    },
    must_agree={"word_embed_proj_dim": "width"},
    requires=COMMON_REQUIRES
    | {"do_layer_norm_before": (True,), "enable_bias": (True,), "layer_norm_elementwise_affine": (True,)}
    | {"_remove_final_layer_norm": (False,), "layerdrop": (0.0,), "activation_dropout": (0.0,)},
    harmless=COMMON_HARMLESS,
    weights={
        "embed.tokens.weight": "model.decoder.embed_tokens.weight",
        "embed.positions.weight": "model.decoder.embed_positions.weight",
        "blocks.{n}.norm_attn.*": LAYER + "self_attn_layer_norm.*",
        "blocks.{n}.attn.qkv.*": rearranged(THREE, f"qkv (head dim) ... -> {QKV} ..."),
        "blocks.{n}.attn.out.*": LAYER + "self_attn.out_proj.*",
        "blocks.{n}.norm_mlp.*": LAYER + "final_layer_norm.*",
        "blocks.{n}.mlp.up.*": LAYER + "fc1.*",
        "blocks.{n}.mlp.down.*": LAYER + "fc2.*",
        "norm.*": "model.decoder.final_layer_norm.*",
        "head.weight": "lm_head.weight",
    },
    tied={"head.weight": "embed.tokens.weight"},
    modules={"blocks.{n}.mlp.activation": LAYER + "activation_fn"},
)

SIZES = {"vocab_size": 113, "context": 43, "width": 70, "layers": 3, "heads": 5, "mlp_width": 102, "padding": 2}
VARIANTS = {
    "activation gelu": {"activation": "gelu"},
    "activation gelu_tanh": {"activation": "gelu_tanh"},
    "tied False": {"tied": False},
}
PUBLISHED = {
    "facebook/opt-125m": {"vocab_size": 50272, "context": 2048, "layers": 12, "width": 768, "heads": 12},
    "facebook/opt-1.3b": {"vocab_size": 50272, "context": 2048, "layers": 24, "width": 2048, "heads": 32},
}


class FromRowZero(OffsetEmbed):
    """The mistake of nearly every first port: learned positions whose first is row 0."""

    def place(self, vectors: Tensor, positions: Tensor) -> Tensor:  # (batch, seq, width), (seq) or (batch, seq)
        """Add the learned positions of other tokens."""
        return super().place(vectors, positions - OFFSET)


FAULTS = (
    class_fault(
        "positions from row 0",
        "learned positions are read from row 0",
        "reads them from row 2",
        "OffsetEmbed.place",
        OffsetEmbed,
        FromRowZero,
    ),
)
archport.register(
    "opt",
    config_class=Config,
    build=build,
    table=TABLE,
    sizes=SIZES,
    variants=VARIANTS,
    published=PUBLISHED,
    faults=FAULTS,
)
