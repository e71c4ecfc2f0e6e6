"""GPT-NeoX and Pythia: the fused rows already go head by head, so every weight is used as it lies in the file."""

from ..translate.table import Table, config_field
from . import ACTIVATIONS, COMMON_HARMLESS, COMMON_REQUIRES, MASK, MASK_VALUE, ROTARY_TABLE

ROTARY_TYPES = {"default": "default", "linear": "linear"}

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
        "rotary_fraction": config_field(
            "rotary_pct", "rope_scaling.partial_rotary_factor", "rope_parameters.partial_rotary_factor"
        ),
        "rotary_base": config_field("rotary_emb_base", "rope_scaling.rope_theta", "rope_parameters.rope_theta"),
        "rotary_scaling": config_field(
            "rope_scaling.type",
            "rope_scaling.rope_type",
            "rope_parameters.type",
            "rope_parameters.rope_type",
            values=ROTARY_TYPES,
        ),
        "rotary_factor": config_field("rope_scaling.factor", "rope_parameters.factor"),
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
    # Read by transformers in some places only, or by some versions: they may repeat the value, not decide it.
    must_agree={"rope_theta": "rotary_base", "partial_rotary_factor": "rotary_fraction", "head_dim": "head_width"},
    supersedes={"rope_scaling": "rope_parameters"},
    requires=COMMON_REQUIRES,
    harmless=COMMON_HARMLESS
    | {
        "classifier_dropout",
        "rope_parameters.original_max_position_embeddings",  # of other rope types
        "rope_scaling.original_max_position_embeddings",
    },
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
