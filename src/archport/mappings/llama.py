"""Llama: queries, keys and values are three weights in the file, one in ours. Its relatives replace what differs."""

from ..layers import QKV
from ..translate.table import Cell, Field, Table, config_field, rearranged
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

LAYER = "model.layers.{n}."
THREE = tuple(f"{LAYER}self_attn.{part}_proj.*" for part in "qkv")

BIASES = {"attention_bias": "attention_bias", "mlp_bias": "mlp_bias"}
NO_BIASES: dict[str, tuple[object, ...]] = dict.fromkeys(BIASES, (False,))
UNBIASED: dict[str, str | Field] = {
    "vocab_size": "vocab_size",
    "context": config_field("max_position_embeddings", "max_sequence_length"),  # as the first Llamas called it
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_width": "head_dim",
    "mlp_width": "intermediate_size",
    "activation": config_field("hidden_act", values=ACTIVATIONS),
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "padding": "pad_token_id",
    "attention_dropout": "attention_dropout",
    "init_std": "initializer_range",
    **ROTARY,
}
FIELDS = UNBIASED | BIASES
REQUIRES = COMMON_REQUIRES | ROTARY_WHOLE_HEAD

WITHOUT_MLP: dict[str, Cell] = {
    "embed.tokens.weight": "model.embed_tokens.weight",
    "blocks.{n}.norm_attn.*": f"{LAYER}input_layernorm.*",
    "blocks.{n}.attn.qkv.*": rearranged(THREE, f"{QKV} ... -> {QKV} ..."),
    "blocks.{n}.attn.out.*": f"{LAYER}self_attn.o_proj.*",
    "blocks.{n}.norm_mlp.*": f"{LAYER}post_attention_layernorm.*",
    "norm.*": "model.norm.*",
    "head.weight": "lm_head.weight",
}
MLP_ROWS: dict[str, Cell] = {
    "blocks.{n}.mlp.gate.*": f"{LAYER}mlp.gate_proj.*",
    "blocks.{n}.mlp.up.*": f"{LAYER}mlp.up_proj.*",
    "blocks.{n}.mlp.down.*": f"{LAYER}mlp.down_proj.*",
}
ROWS = WITHOUT_MLP | MLP_ROWS
ROTARY_MODULE = {"blocks.{n}.attn.rotary": "model.rotary_emb"}

TABLE = Table(
    classes=("LlamaForCausalLM", "LlamaModel", "LLaMAForCausalLM"),
    prefix="model.",
    config=FIELDS,
    nullable=frozenset({"kv_heads", "head_width", "padding"}),
    supersedes=ROTARY_SUPERSEDES,
    requires=REQUIRES,
    harmless=(COMMON_HARMLESS - {"pad_token_id"})
    | ROTARY_HARMLESS
    | {"pretraining_tp"},  # in how many pieces products are computed, which only rounds differently
    weights=ROWS,
    tied={"head.weight": "embed.tokens.weight"},
    ignored={
        f"{LAYER}self_attn.rotary_emb.inv_freq": ROTARY_TABLE,
        "model.rotary_emb.inv_freq": ROTARY_TABLE,
    },
    modules=ROTARY_MODULE | {"blocks.{n}.mlp.activation": f"{LAYER}mlp.act_fn"},
)
