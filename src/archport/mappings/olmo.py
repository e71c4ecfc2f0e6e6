"""OLMo: Llama's file without the norms, which have no weights."""

from dataclasses import replace

from . import llama

NORMS = {
    "blocks.{n}.norm_attn": f"{llama.LAYER}input_layernorm",
    "blocks.{n}.norm_mlp": f"{llama.LAYER}post_attention_layernorm",
    "norm": "model.norm",
}

TABLE = replace(
    llama.TABLE,
    classes=("OlmoForCausalLM", "OlmoModel"),
    config={name: cell for name, cell in llama.UNBIASED.items() if name != "norm_eps"}
    | {"attention_bias": "attention_bias", "clip": "clip_qkv"},
    nullable=frozenset({"kv_heads", "padding", "clip"}),
    requires=llama.REQUIRES | {"mlp_bias": (False,)},
    weights={name: row for name, row in llama.ROWS.items() if name.removesuffix(".*") not in NORMS},
    modules={**llama.TABLE.modules, **NORMS},
)
