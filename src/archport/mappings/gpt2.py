"""GPT-2: Conv1D weights lie (in, out), and their fused columns are all queries, then all keys, then all values."""

from ..layers import QKV
from ..translate.table import Table, config_field, rearranged
from . import ACTIVATIONS, COMMON_HARMLESS, COMMON_REQUIRES, MASK, MASK_VALUE, TRANSFORMER_MODULES

TRANSPOSED = "... width -> width ..."

TABLE = Table(
    classes=("GPT2LMHeadModel", "GPT2Model"),
    prefix="transformer.",
    config={
        "vocab_size": "vocab_size",
        "context": config_field("n_positions", "max_position_embeddings", otherwise="n_ctx"),
        "width": config_field("n_embd", "hidden_size"),
        "layers": config_field("n_layer", "num_hidden_layers"),
        "heads": config_field("n_head", "num_attention_heads"),
        "mlp_width": "n_inner",
        "activation": config_field("activation_function", values=ACTIVATIONS),
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
        "embed_dropout": "embd_pdrop",
        "attention_dropout": "attn_pdrop",
        "residual_dropout": "resid_pdrop",
        "init_std": "initializer_range",
        "scale_scores": "scale_attn_weights",
        "scale_scores_by_depth": "scale_attn_by_inverse_layer_idx",
    },
    requires=COMMON_REQUIRES,
    harmless=COMMON_HARMLESS
    | {
        "reorder_and_upcast_attn",  # rounds differently, means the same
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
    },
    weights={
        "embed.tokens.weight": "transformer.wte.weight",
        "embed.positions.weight": "transformer.wpe.weight",
        "blocks.{n}.norm_attn.*": "transformer.h.{n}.ln_1.*",
        "blocks.{n}.attn.qkv.*": rearranged(
            "transformer.h.{n}.attn.c_attn.*", f"... ([group k v] kv dim) -> {QKV} ..."
        ),
        "blocks.{n}.attn.out.*": rearranged("transformer.h.{n}.attn.c_proj.*", TRANSPOSED),
        "blocks.{n}.norm_mlp.*": "transformer.h.{n}.ln_2.*",
        "blocks.{n}.mlp.up.*": rearranged("transformer.h.{n}.mlp.c_fc.*", TRANSPOSED),
        "blocks.{n}.mlp.down.*": rearranged("transformer.h.{n}.mlp.c_proj.*", TRANSPOSED),
        "norm.*": "transformer.ln_f.*",
        "head.weight": "lm_head.weight",
    },
    tied={"head.weight": "embed.tokens.weight"},
    ignored={
        "transformer.h.{n}.attn.bias": MASK,
        "transformer.h.{n}.attn.masked_bias": MASK_VALUE,
    },
    modules=TRANSFORMER_MODULES,
)
