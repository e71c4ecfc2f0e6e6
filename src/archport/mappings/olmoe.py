"""OLMoE: Llama's file with norms of queries and keys, and experts in place of each MLP."""

from dataclasses import replace

from ..translate.table import Field, config_field
from . import EXPERTS_HARMLESS, expert_rows, llama

EXPERTS: dict[str, str | Field] = {
    "experts": config_field("num_experts", "num_local_experts"),
    "experts_per_token": "num_experts_per_tok",
    "normalised": "norm_topk_prob",
}
EXPERT_ROWS = {"blocks.{n}.mlp.router.score.weight": f"{llama.LAYER}mlp.gate.weight"} | expert_rows(
    f"{llama.LAYER}mlp.experts.{{e}}.", gate="gate_proj", up="up_proj", down="down_proj"
)

TABLE = replace(
    llama.TABLE,
    classes=("OlmoeForCausalLM", "OlmoeModel"),
    config={name: cell for name, cell in llama.FIELDS.items() if name not in ("head_width", "mlp_bias")} | EXPERTS,
    nullable=frozenset({"kv_heads", "padding"}),
    # It would clip after the norms of queries and keys.
    requires=llama.REQUIRES | {"mlp_bias": (False,), "head_dim": (), "clip_qkv": ()},
    harmless=llama.TABLE.harmless | EXPERTS_HARMLESS,
    weights=llama.WITHOUT_MLP
    | {f"blocks.{{n}}.attn.{part}_norm.norm.*": f"{llama.LAYER}self_attn.{part}_norm.*" for part in "qk"}
    | EXPERT_ROWS,
    modules=llama.ROTARY_MODULE,
)
