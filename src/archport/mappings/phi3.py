"""Phi-3: queries, keys and values lie one after another in one weight, gate and up-projection in another."""

from dataclasses import replace

from ..layers import QKV
from ..translate.table import Cell, Field, config_field, rearranged, sections
from . import COMMON_REQUIRES, ROTARY, ROTARY_FRACTION, llama
from .llama import LAYER, ROWS

# What longrope was called at first; transformers takes yarn for it too, here.
TYPES = {"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}
OTHERS = {f"rotary_{name}" for name in ("low_factor", "high_factor", "beta_fast", "beta_slow", "truncate")}
OTHERS |= {"rotary_mscale", "rotary_mscale_all_dim", "head_width"}
GATE_UP = f"{LAYER}mlp.gate_up_proj.weight"

BEYOND_LLAMA: dict[str, str | Field] = {
    "rotary_scaling": config_field(*ROTARY["rotary_scaling"].spellings, values=TYPES),
    "rotary_context": config_field(*reversed(ROTARY["rotary_context"].spellings)),
    "window": "sliding_window",
    "residual_dropout": "resid_pdrop",
}
FUSED: dict[str, Cell] = {
    "blocks.{n}.attn.qkv.weight": sections(f"{LAYER}self_attn.qkv_proj.weight", f"{QKV} ... -> {QKV} ..."),
    "blocks.{n}.attn.out.weight": f"{LAYER}self_attn.o_proj.weight",
    "blocks.{n}.mlp.gate.weight": rearranged(GATE_UP, "([gate up] mlp) ... -> ([gate] mlp) ..."),
    "blocks.{n}.mlp.up.weight": rearranged(GATE_UP, "([gate up] mlp) ... -> ([up] mlp) ..."),
    "blocks.{n}.mlp.down.weight": f"{LAYER}mlp.down_proj.weight",
}

TABLE = replace(
    llama.TABLE,
    classes=("Phi3ForCausalLM", "Phi3Model"),
    config={name: cell for name, cell in llama.UNBIASED.items() if name not in OTHERS} | ROTARY_FRACTION | BEYOND_LLAMA,
    must_agree={"head_dim": "head_width"},
    nullable=frozenset({"kv_heads", "padding", "window"}),
    requires=COMMON_REQUIRES | llama.NO_BIASES,
    harmless=llama.TABLE.harmless | {"auto_map", "embd_pdrop"},  # the latter is not read
    weights={name: cell for name, cell in ROWS.items() if ".attn." not in name and ".mlp." not in name} | FUSED,
    modules={
        "blocks.{n}.attn.rotary": "model.rotary_emb",
        "blocks.{n}.attn.dropout": f"{LAYER}resid_attn_dropout",
        "blocks.{n}.mlp.activation": f"{LAYER}mlp.activation_fn",
        "blocks.{n}.mlp.dropout": f"{LAYER}resid_mlp_dropout",
    },
)
