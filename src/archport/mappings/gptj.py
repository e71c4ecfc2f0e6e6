"""GPT-J: queries, keys and values are three weights in the file, one in ours; attention has no biases."""

from ..layers import QKV
from ..translate.table import Table, config_field, rearranged
from . import ACTIVATIONS, COMMON_HARMLESS, COMMON_REQUIRES, MASK, MASK_VALUE, ROTARY_TABLE, TRANSFORMER_MODULES

THREE = tuple(f"transformer.h.{{n}}.attn.{part}_proj.weight" for part in "qkv")

TABLE = Table(
    classes=("GPTJForCausalLM", "GPTJModel"),
    prefix="transformer.",
    config={
        "vocab_size": "vocab_size",
        "context": config_field("n_positions", "max_position_embeddings"),
        "width": config_field("n_embd", "hidden_size"),
        "layers": config_field("n_layer", "num_hidden_layers"),
        "heads": config_field("n_head", "num_attention_heads"),
        "mlp_width": "n_inner",
        "rotary_width": "rotary_dim",
        "activation": config_field("activation_function", values=ACTIVATIONS),
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
        "embed_dropout": "embd_pdrop",
        "attention_dropout": "attn_pdrop",
        "residual_dropout": "resid_pdrop",
        "init_std": "initializer_range",
    },
    requires=COMMON_REQUIRES | {"rotary": (True,), "scale_attn_weights": (True,)},
    harmless=COMMON_HARMLESS
    | {
        "n_ctx",  # n_positions, as the original code called it
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    },
    weights={
        "embed.tokens.weight": "transformer.wte.weight",
        "blocks.{n}.norm.*": "transformer.h.{n}.ln_1.*",
        "blocks.{n}.attn.qkv.weight": rearranged(THREE, f"{QKV} ... -> {QKV} ..."),
        "blocks.{n}.attn.out.weight": "transformer.h.{n}.attn.out_proj.weight",
        "blocks.{n}.mlp.up.*": "transformer.h.{n}.mlp.fc_in.*",
        "blocks.{n}.mlp.down.*": "transformer.h.{n}.mlp.fc_out.*",
        "norm.*": "transformer.ln_f.*",
        "head.*": "lm_head.*",
    },
    tied={"head.weight": "embed.tokens.weight"},
    ignored={
        "transformer.h.{n}.attn.bias": MASK,
        "transformer.h.{n}.attn.masked_bias": MASK_VALUE,
        "transformer.h.{n}.attn.embed_positions": ROTARY_TABLE,
    },
    modules=TRANSFORMER_MODULES | {"blocks.{n}.attn.rotary": "transformer.rotary_emb"},  # in transformers 5.24 on
)
