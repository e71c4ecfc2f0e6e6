"""Falcon: the fused rows already go group by group, so every weight is used as it lies in the file."""

from ..translate.table import Table, config_field, only
from . import (
    ACTIVATIONS,
    COMMON_HARMLESS,
    COMMON_REQUIRES,
    ROTARY,
    ROTARY_HARMLESS,
    ROTARY_SUPERSEDES,
    ROTARY_TABLE,
    ROTARY_WHOLE_HEAD,
)

LAYER = "transformer.h.{n}."

TABLE = Table(
    classes=("FalconForCausalLM", "FalconModel"),
    prefix="transformer.",
    config={
        "vocab_size": "vocab_size",
        "context": "max_position_embeddings",
        "width": config_field("hidden_size", "n_embed"),
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "kv_groups": "num_kv_heads",
        "grouped": "new_decoder_architecture",
        "multi_query": "multi_query",
        "parallel": "parallel_attn",
        "norms": "num_ln_in_parallel_attn",
        "bias": "bias",
        "alibi": "alibi",
        "mlp_width": "ffn_hidden_size",
        "activation": config_field("activation", values=ACTIVATIONS),
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
        "init_std": "initializer_range",
        **ROTARY,
    },
    nullable=frozenset({"kv_groups", "mlp_width", "norms"}),
    supersedes=ROTARY_SUPERSEDES,
    requires=COMMON_REQUIRES
    | ROTARY_WHOLE_HEAD
    | {"apply_residual_connection_post_layernorm": (False,), "attention_dropout": (0.0,), "hidden_dropout": (0.0,)},
    harmless=COMMON_HARMLESS | ROTARY_HARMLESS,
    weights={
        "embed.tokens.weight": "transformer.word_embeddings.weight",
        "blocks.{n}.norm.*": f"{LAYER}input_layernorm.*",
        "blocks.{n}.norm_attn.*": (only(f"{LAYER}ln_attn.*", parallel=True), f"{LAYER}input_layernorm.*"),
        "blocks.{n}.attn.qkv.*": f"{LAYER}self_attention.query_key_value.*",
        "blocks.{n}.attn.out.*": f"{LAYER}self_attention.dense.*",
        "blocks.{n}.norm_mlp.*": (only(f"{LAYER}ln_mlp.*", parallel=True), f"{LAYER}post_attention_layernorm.*"),
        "blocks.{n}.mlp.up.*": f"{LAYER}mlp.dense_h_to_4h.*",
        "blocks.{n}.mlp.down.*": f"{LAYER}mlp.dense_4h_to_h.*",
        "norm.*": "transformer.ln_f.*",
        "head.weight": "lm_head.weight",
    },
    tied={"head.weight": "embed.tokens.weight"},
    ignored={
        f"{LAYER}self_attention.maybe_rotary.inv_freq": ROTARY_TABLE,
        f"{LAYER}self_attention.rotary_emb.inv_freq": ROTARY_TABLE,
        "transformer.rotary_emb.inv_freq": ROTARY_TABLE,
    },
    modules={
        "blocks.{n}.attn.rotary": "transformer.rotary_emb",
        "blocks.{n}.mlp.activation": f"{LAYER}mlp.act",
    },
)
