"""GPT-NeoX and Pythia: the fused rows already go head by head, so every weight is used as it lies in the file."""

from ..translate.table import Table, config_field
from . import (
    ACTIVATIONS,
    COMMON_HARMLESS,
    COMMON_REQUIRES,
    FRACTIONS,
    MASK,
    MASK_VALUE,
    ROTARY,
    ROTARY_HARMLESS,
    ROTARY_SUPERSEDES,
    ROTARY_TABLE,
)

TABLE = Table(
    classes=("GPTNeoXForCausalLM", "GPTNeoXModel"),
    prefix="gpt_neox.",
    config={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "mlp_width": "intermediate_size",
        **ROTARY,
        "rotary_fraction": config_field("rotary_pct", *FRACTIONS[1:]),
        "rotary_base": config_field("rotary_emb_base", *ROTARY["rotary_base"].spellings[1:]),
        "parallel": "use_parallel_residual",
        "attention_bias": "attention_bias",
        "activation": config_field("hidden_act", values=ACTIVATIONS),
        "norm_eps": "layer_norm_eps",
        "tied": "tie_word_embeddings",
        "embed_dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "residual_dropout": "hidden_dropout",
        "init_std": "initializer_range",
    },
    # The first two are written by some versions of transformers and read by none, but inside of rope_parameters; the
    # fraction there, by none before 5.5.
    must_agree={"rope_theta": "rotary_base", "partial_rotary_factor": "rotary_fraction", "head_dim": "head_width"},
    unread=frozenset({"rope_theta", "partial_rotary_factor"}),
    supersedes=ROTARY_SUPERSEDES,
    requires=COMMON_REQUIRES,
    harmless=COMMON_HARMLESS | ROTARY_HARMLESS | {"classifier_dropout"},
    weights={
        "embed.tokens.weight": "gpt_neox.embed_in.weight",
        "blocks.{n}.norm_attn.*": "gpt_neox.layers.{n}.input_layernorm.*",
        "blocks.{n}.attn.qkv.*": "gpt_neox.layers.{n}.attention.query_key_value.*",
        "blocks.{n}.attn.out.*": "gpt_neox.layers.{n}.attention.dense.*",
        "blocks.{n}.norm_mlp.*": "gpt_neox.layers.{n}.post_attention_layernorm.*",
        "blocks.{n}.mlp.up.*": "gpt_neox.layers.{n}.mlp.dense_h_to_4h.*",
        "blocks.{n}.mlp.down.*": "gpt_neox.layers.{n}.mlp.dense_4h_to_h.*",
        "norm.*": "gpt_neox.final_layer_norm.*",
        "head.weight": "embed_out.weight",
    },
    aliases={"lm_head.weight": "embed_out.weight"},
    tied={"head.weight": "embed.tokens.weight"},
    ignored={
        "gpt_neox.layers.{n}.attention.bias": MASK,
        "gpt_neox.layers.{n}.attention.masked_bias": MASK_VALUE,
        "gpt_neox.layers.{n}.attention.rotary_emb.inv_freq": ROTARY_TABLE,
        "gpt_neox.rotary_emb.inv_freq": ROTARY_TABLE,
    },
    modules={
        "embed.dropout": "gpt_neox.emb_dropout",
        "blocks.{n}.attn.rotary": "gpt_neox.rotary_emb",
        "blocks.{n}.attn.dropout": "gpt_neox.layers.{n}.post_attention_dropout",
        "blocks.{n}.mlp.activation": "gpt_neox.layers.{n}.mlp.act",
        "blocks.{n}.mlp.dropout": "gpt_neox.layers.{n}.post_mlp_dropout",
    },
)
