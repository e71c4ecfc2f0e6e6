"""BLOOM: the fused rows already go head by head, so every weight is used as it lies in the file."""

from ..translate.table import Table, config_field
from . import COMMON_HARMLESS, COMMON_REQUIRES

LAYER = "transformer.h.{n}."

TABLE = Table(
    classes=("BloomForCausalLM", "BloomModel"),
    prefix="transformer.",
    config={
        "vocab_size": "vocab_size",
        "context": "seq_length",
        "width": config_field("hidden_size", "n_embed"),
        "layers": config_field("n_layer", "num_hidden_layers"),
        "heads": config_field("n_head", "num_attention_heads"),
        "norm_eps": "layer_norm_epsilon",
        "normed_stream": "apply_residual_connection_post_layernorm",
        "tied": "tie_word_embeddings",
        "attention_dropout": "attention_dropout",
        "residual_dropout": "hidden_dropout",
        "init_std": "initializer_range",
    },
    # The MLP is four times as wide; computed slowly, in pieces, the reference leaves out biases.
    requires=COMMON_REQUIRES | {"n_inner": (), "slow_but_exact": (False,)},
    harmless=COMMON_HARMLESS
    | {
        "attention_softmax_in_fp32",  # as it always is
        "bias_dropout_fusion",  # settings of the kernels it was trained with
        "masked_softmax_fusion",
        "offset_alibi",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "pretraining_tp",  # in how many pieces products are computed, which only rounds differently
        "unk_token_id",
    },
    weights={
        "embed.tokens.weight": "transformer.word_embeddings.weight",
        "embed.norm.*": "transformer.word_embeddings_layernorm.*",
        "blocks.{n}.norm_attn.*": f"{LAYER}input_layernorm.*",
        "blocks.{n}.attn.qkv.*": f"{LAYER}self_attention.query_key_value.*",
        "blocks.{n}.attn.out.*": f"{LAYER}self_attention.dense.*",
        "blocks.{n}.norm_mlp.*": f"{LAYER}post_attention_layernorm.*",
        "blocks.{n}.mlp.up.*": f"{LAYER}mlp.dense_h_to_4h.*",
        "blocks.{n}.mlp.down.*": f"{LAYER}mlp.dense_4h_to_h.*",
        "norm.*": "transformer.ln_f.*",
        "head.weight": "lm_head.weight",
    },
    tied={"head.weight": "embed.tokens.weight"},
    modules={"blocks.{n}.mlp.activation": f"{LAYER}mlp.gelu_impl"},
)
