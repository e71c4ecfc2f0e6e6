"""StableLM: Llama's file, with one norm a layer where branches are parallel, and a key for the norm of each head."""

from dataclasses import replace

from ..translate.table import Cell, rearranged
from . import COMMON_REQUIRES, ROTARY_FRACTION, llama
from .llama import LAYER, ROWS

NORMS: dict[str, Cell] = {
    "blocks.{n}.norm.*": f"{LAYER}input_layernorm.*",
    "blocks.{n}.attn.q_norm.*": rearranged(f"{LAYER}self_attn.q_layernorm.norms.{{i}}.*", "[head] ... -> [head] ..."),
    "blocks.{n}.attn.k_norm.*": rearranged(f"{LAYER}self_attn.k_layernorm.norms.{{i}}.*", "[kv] ... -> [kv] ..."),
}

TABLE = replace(
    llama.TABLE,
    classes=("StableLmForCausalLM", "StableLmModel"),
    config={name: cell for name, cell in llama.UNBIASED.items() if name != "head_width"}
    | ROTARY_FRACTION
    | {
        "norm_eps": "layer_norm_eps",
        "attention_bias": "use_qkv_bias",
        "qk_norm": "qk_layernorm",
        "parallel": "use_parallel_residual",
        "residual_dropout": "hidden_dropout",
    },
    must_agree={"head_dim": "head_width"},
    nullable=frozenset({"padding"}),
    requires=COMMON_REQUIRES,
    weights=ROWS | NORMS,
    modules={**llama.TABLE.modules, "blocks.{n}.mlp.dropout": f"{LAYER}dropout"},
)
