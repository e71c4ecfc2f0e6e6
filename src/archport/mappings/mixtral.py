"""Mixtral: Llama's file without biases, and experts in place of each MLP."""

from dataclasses import replace

from ..translate.table import config_field
from . import EXPERTS_HARMLESS, expert_rows, llama

SPARSE = f"{llama.LAYER}block_sparse_moe."
ROUTER = (f"{SPARSE}gate.weight", f"{llama.LAYER}mlp.gate.weight")

TABLE = replace(
    llama.TABLE,
    classes=("MixtralForCausalLM", "MixtralModel"),
    config=llama.UNBIASED
    | {
        "window": "sliding_window",
        "experts": config_field("num_local_experts", "num_experts"),
        "experts_per_token": "num_experts_per_tok",
    },
    nullable=llama.TABLE.nullable | {"window"},
    requires=llama.REQUIRES | llama.NO_BIASES,
    harmless=llama.TABLE.harmless | EXPERTS_HARMLESS | {"router_jitter_noise"},  # noise in train mode only
    weights=llama.WITHOUT_MLP
    | {"blocks.{n}.mlp.router.score.weight": ROUTER}
    | expert_rows(f"{SPARSE}experts.{{e}}.", gate="w1", up="w3", down="w2"),
    modules=llama.ROTARY_MODULE,
)
