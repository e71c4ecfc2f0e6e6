"""gpt-oss: Llama's file with sinks, and all experts of a layer in one tensor, gate and up by turns."""

from dataclasses import replace

from ..translate.table import config_field, rearranged
from . import EXPERTS_HARMLESS, llama

MLP = f"{llama.LAYER}mlp."
OURS = "blocks.{n}.mlp.experts.{e}."

TABLE = replace(
    llama.TABLE,
    classes=("GptOssForCausalLM", "GptOssModel"),
    config={name: cell for name, cell in llama.FIELDS.items() if name not in ("activation", "mlp_bias")}
    | {
        "window": "sliding_window",
        "layer_types": "layer_types",
        "experts": config_field("num_local_experts", "num_experts"),
        "experts_per_token": config_field("num_experts_per_tok", "experts_per_token"),
        "alpha": "swiglu_alpha",
        "limit": "swiglu_limit",
    },
    nullable=llama.TABLE.nullable | {"layer_types"},
    requires=llama.REQUIRES | {"mlp_bias": (False,)},
    # The activation is named, but it is always the clamped one; `rope_scaling` says what the context was at first.
    harmless=llama.TABLE.harmless | EXPERTS_HARMLESS | {"hidden_act", "initial_context_length"},
    weights=llama.WITHOUT_MLP
    | {
        "blocks.{n}.attn.sinks.weight": f"{llama.LAYER}self_attn.sinks",
        "blocks.{n}.mlp.router.score.*": f"{MLP}router.*",
        f"{OURS}down.weight": rearranged(f"{MLP}experts.down_proj", "{e} mlp width -> width mlp"),
        f"{OURS}down.bias": rearranged(f"{MLP}experts.down_proj_bias", "{e} width -> width"),
    }
    | {
        f"{OURS}{part}.{kind}": rearranged(
            f"{MLP}experts.gate_up_proj{suffix}", f"{{e}} {width}(mlp [gate up]) -> ([{part}] mlp) {width}"
        )
        for part in ("gate", "up")
        for kind, suffix, width in (("weight", "", "width "), ("bias", "_bias", ""))
    },
    modules=llama.ROTARY_MODULE,
)
