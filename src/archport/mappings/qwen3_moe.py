"""Qwen 3 with experts: Llama's file with norms of queries and keys, and experts in place of some MLPs."""

from dataclasses import replace

from . import EXPERTS_HARMLESS, llama, olmoe, qwen3

TABLE = replace(
    llama.TABLE,
    classes=("Qwen3MoeForCausalLM", "Qwen3MoeModel"),
    config=llama.UNBIASED
    | {"attention_bias": "attention_bias"}
    | olmoe.EXPERTS
    | {
        "expert_width": "moe_intermediate_size",
        "sparse_step": "decoder_sparse_step",
        "dense_layers": "mlp_only_layers",
    },
    requires=llama.REQUIRES | {"mlp_bias": (False,), "use_sliding_window": (False,)},
    # Without `use_sliding_window` no layer has the window.
    harmless=llama.TABLE.harmless | EXPERTS_HARMLESS | {"sliding_window", "max_window_layers"},
    weights=dict(qwen3.TABLE.weights) | olmoe.EXPERT_ROWS,
)
