"""OLMo 2: Llama's file with other norms."""

from dataclasses import replace

from . import llama

NORMS = {
    "blocks.{n}.attn.q_norm.norm.*": f"{llama.LAYER}self_attn.q_norm.*",
    "blocks.{n}.attn.k_norm.norm.*": f"{llama.LAYER}self_attn.k_norm.*",
    "blocks.{n}.norm_attn_out.*": f"{llama.LAYER}post_attention_layernorm.*",
    "blocks.{n}.norm_mlp_out.*": f"{llama.LAYER}post_feedforward_layernorm.*",
}

TABLE = replace(
    llama.TABLE,
    classes=("Olmo2ForCausalLM", "Olmo2Model"),
    config=llama.UNBIASED | {"attention_bias": "attention_bias"},
    nullable=frozenset({"kv_heads", "padding"}),
    requires=llama.REQUIRES | {"mlp_bias": (False,)},
    weights={name: row for name, row in llama.ROWS.items() if ".norm_" not in name} | NORMS,
)
