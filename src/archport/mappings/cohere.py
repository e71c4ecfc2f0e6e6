"""Cohere: Llama's file with one norm a layer, and in some models norms of queries and keys."""

from dataclasses import replace

from . import llama
from .llama import LAYER, ROWS

NORMS = {
    "blocks.{n}.norm.*": f"{LAYER}input_layernorm.*",
    "blocks.{n}.attn.q_norm.*": f"{LAYER}self_attn.q_norm.*",
    "blocks.{n}.attn.k_norm.*": f"{LAYER}self_attn.k_norm.*",
}

TABLE = replace(
    llama.TABLE,
    classes=("CohereForCausalLM", "CohereModel"),
    config=llama.UNBIASED
    | {
        "attention_bias": "attention_bias",
        "norm_eps": "layer_norm_eps",
        "qk_norm": "use_qk_norm",
        "logit_scale": "logit_scale",
    },
    nullable=frozenset({"kv_heads", "padding"}),
    weights={name: cell for name, cell in ROWS.items() if ".norm_" not in name} | NORMS,
)
