"""GPT-Neo: queries, keys and values are three weights in the file, one in ours; only their output has a bias."""

from ..layers import QKV
from ..translate.table import Table, config_field, rearranged
from . import ACTIVATIONS, COMMON_HARMLESS, COMMON_REQUIRES, MASK, MASK_VALUE, TRANSFORMER_MODULES

LAYER = "transformer.h.{n}."
THREE = tuple(f"{LAYER}attn.attention.{part}_proj.weight" for part in "qkv")

TABLE = Table(
    classes=("GPTNeoForCausalLM", "GPTNeoModel"),
    prefix="transformer.",
    config={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "layers": config_field("num_layers", "num_hidden_layers"),
        "heads": config_field("num_heads", "num_attention_heads"),
        "mlp_width": "intermediate_size",
        "attention_types": "attention_types",
        "window": "window_size",
        "activation": config_field("activation_function", values=ACTIVATIONS),
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
        "embed_dropout": "embed_dropout",
        "attention_dropout": "attention_dropout",
        "residual_dropout": "resid_dropout",
        "init_std": "initializer_range",
    },
    must_agree={"attention_layers": "attention_layers"},
    requires=COMMON_REQUIRES,
    harmless=COMMON_HARMLESS | {"classifier_dropout", "summary_*"},
    weights={
        "embed.tokens.weight": "transformer.wte.weight",
        "embed.positions.weight": "transformer.wpe.weight",
        "blocks.{n}.norm_attn.*": f"{LAYER}ln_1.*",
        "blocks.{n}.attn.qkv.weight": rearranged(THREE, f"{QKV} ... -> {QKV} ..."),
        "blocks.{n}.attn.out.*": f"{LAYER}attn.attention.out_proj.*",
        "blocks.{n}.norm_mlp.*": f"{LAYER}ln_2.*",
        "blocks.{n}.mlp.up.*": f"{LAYER}mlp.c_fc.*",
        "blocks.{n}.mlp.down.*": f"{LAYER}mlp.c_proj.*",
        "norm.*": "transformer.ln_f.*",
        "head.weight": "lm_head.weight",
    },
    tied={"head.weight": "embed.tokens.weight"},
    ignored={
        f"{LAYER}attn.attention.bias": MASK,
        f"{LAYER}attn.attention.masked_bias": MASK_VALUE,
    },
    modules=TRANSFORMER_MODULES | {"blocks.{n}.attn.dropout": f"{LAYER}attn.attention.resid_dropout"},
)
