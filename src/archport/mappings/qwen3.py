"""Qwen 3: Qwen 2's file, and norms of queries and keys."""

from dataclasses import replace

from . import llama, qwen2

TABLE = replace(
    qwen2.TABLE,
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    config=llama.UNBIASED | qwen2.WINDOWS | {"attention_bias": "attention_bias"},
    requires=llama.REQUIRES | {"mlp_bias": (False,)},
    weights=llama.ROWS
    | {
        "blocks.{n}.attn.q_norm.*": f"{llama.LAYER}self_attn.q_norm.*",
        "blocks.{n}.attn.k_norm.*": f"{llama.LAYER}self_attn.k_norm.*",
    },
)
