"""OPT: queries, keys and values are three weights in the file, one in ours; norms have one name wherever they lie."""

from ..layers import QKV
from ..translate.table import Table, config_field, rearranged
from . import ACTIVATIONS, COMMON_HARMLESS, COMMON_REQUIRES

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
        "token_width": "word_embed_proj_dim",
        "activation": config_field("activation_function", values=ACTIVATIONS),
        "norm_first": "do_layer_norm_before",
        "final_norm": config_field("_remove_final_layer_norm", values={False: True, True: False}),
        "norm_affine": "layer_norm_elementwise_affine",
        "bias": "enable_bias",
        "tied": "tie_word_embeddings",
        "padding": "pad_token_id",
        "residual_dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "init_std": "init_std",
    },
    nullable=frozenset({"token_width", "padding"}),
    requires=COMMON_REQUIRES | {"activation_dropout": (0.0,), "layerdrop": (0.0,)},
    harmless=COMMON_HARMLESS - {"pad_token_id"},
    weights={
        "embed.tokens.weight": "model.decoder.embed_tokens.weight",
        "embed.positions.weight": "model.decoder.embed_positions.weight",
        "embed.project.weight": "model.decoder.project_in.weight",
        "blocks.{n}.norm_attn.*": f"{LAYER}self_attn_layer_norm.*",
        "blocks.{n}.norm_attn_out.*": f"{LAYER}self_attn_layer_norm.*",
        "blocks.{n}.attn.qkv.*": rearranged(THREE, f"{QKV} ... -> {QKV} ..."),
        "blocks.{n}.attn.out.*": f"{LAYER}self_attn.out_proj.*",
        "blocks.{n}.norm_mlp.*": f"{LAYER}final_layer_norm.*",
        "blocks.{n}.norm_mlp_out.*": f"{LAYER}final_layer_norm.*",
        "blocks.{n}.mlp.up.*": f"{LAYER}fc1.*",
        "blocks.{n}.mlp.down.*": f"{LAYER}fc2.*",
        "norm.*": "model.decoder.final_layer_norm.*",
        "norm.norm.*": "model.decoder.final_layer_norm.*",
        "norm.project.weight": "model.decoder.project_out.weight",
        "head.weight": "lm_head.weight",
    },
    tied={"head.weight": "embed.tokens.weight"},
    modules={"blocks.{n}.mlp.activation": f"{LAYER}activation_fn"},
)
