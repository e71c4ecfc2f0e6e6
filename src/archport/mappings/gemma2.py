"""Gemma 2: the keys of a Gemma, with two more norms in each layer."""

from dataclasses import replace

from ..translate.table import config_field
from . import ACTIVATIONS, gemma
from .gemma import LAYER

TABLE = replace(
    gemma.TABLE,
    classes=("Gemma2ForCausalLM", "Gemma2Model"),
    config=gemma.TABLE.config
    | {
        "activation": config_field("hidden_activation", values={"gelu_pytorch_tanh": "gelu_tanh"} | ACTIVATIONS),
        "query_scalar": "query_pre_attn_scalar",
        "score_cap": "attn_logit_softcapping",
        "logit_cap": "final_logit_softcapping",
        "window": "sliding_window",
        "layer_types": "layer_types",
    },
    nullable=gemma.TABLE.nullable | {"score_cap", "logit_cap"},
    must_agree={"sliding_window_size": "window"},
    harmless=gemma.TABLE.harmless | {"hidden_act"},  # not read here
    weights=gemma.TABLE.weights
    | {
        "blocks.{n}.norm_attn_out.*": f"{LAYER}post_attention_layernorm.*",
        "blocks.{n}.norm_mlp.*": f"{LAYER}pre_feedforward_layernorm.*",
        "blocks.{n}.norm_mlp_out.*": f"{LAYER}post_feedforward_layernorm.*",
    },
)
