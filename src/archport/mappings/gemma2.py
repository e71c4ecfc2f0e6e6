"""Gemma 2: the keys of a Gemma, with two more norms in each layer."""

from dataclasses import replace

from ..translate.table import Field, config_field
from . import ACTIVATIONS, gemma
from .llama import LAYER, ROWS

BEYOND_GEMMA: dict[str, str | Field] = {
    "activation": config_field("hidden_activation", values={"gelu_pytorch_tanh": "gelu_tanh"} | ACTIVATIONS),
    "query_scalar": "query_pre_attn_scalar",
    "logit_cap": "final_logit_softcapping",
    "window": "sliding_window",
    "layer_types": "layer_types",
}
FIELDS = gemma.FIELDS | BEYOND_GEMMA
NORMS = {
    "blocks.{n}.norm_attn_out.*": f"{LAYER}post_attention_layernorm.*",
    "blocks.{n}.norm_mlp.*": f"{LAYER}pre_feedforward_layernorm.*",
    "blocks.{n}.norm_mlp_out.*": f"{LAYER}post_feedforward_layernorm.*",
}

TABLE = replace(
    gemma.TABLE,
    classes=("Gemma2ForCausalLM", "Gemma2Model"),
    config=FIELDS | {"score_cap": "attn_logit_softcapping"},
    nullable=frozenset({"padding", "score_cap", "logit_cap", "window"}),
    must_agree={"sliding_window_size": "window"},
    harmless=gemma.TABLE.harmless | {"hidden_act"},  # not read here
    weights=ROWS | NORMS,
)
