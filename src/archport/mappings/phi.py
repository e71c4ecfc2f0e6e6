"""Phi: Llama's keys for queries, keys and values, and names of its own for the rest; every linear map has a bias."""

from dataclasses import replace

from ..translate.table import Cell
from . import COMMON_REQUIRES, ROTARY_FRACTION, llama
from .llama import LAYER, ROWS

WEIGHTS: dict[str, Cell] = {
    "embed.tokens.weight": "model.embed_tokens.weight",
    "blocks.{n}.norm.*": f"{LAYER}input_layernorm.*",
    "blocks.{n}.attn.qkv.*": ROWS["blocks.{n}.attn.qkv.*"],
    "blocks.{n}.attn.q_norm.*": f"{LAYER}self_attn.q_layernorm.*",
    "blocks.{n}.attn.k_norm.*": f"{LAYER}self_attn.k_layernorm.*",
    "blocks.{n}.attn.out.*": f"{LAYER}self_attn.dense.*",
    "blocks.{n}.mlp.up.*": f"{LAYER}mlp.fc1.*",
    "blocks.{n}.mlp.down.*": f"{LAYER}mlp.fc2.*",
    "norm.*": "model.final_layernorm.*",
    "head.*": "lm_head.*",
}

TABLE = replace(
    llama.TABLE,
    classes=("PhiForCausalLM", "PhiModel"),
    config={name: cell for name, cell in llama.UNBIASED.items() if name != "head_width"}
    | ROTARY_FRACTION
    | {
        "norm_eps": "layer_norm_eps",
        "qk_norm": "qk_layernorm",
        "embed_dropout": "embd_pdrop",
        "residual_dropout": "resid_pdrop",
    },
    must_agree={"head_dim": "head_width"},
    nullable=frozenset({"kv_heads", "padding"}),
    requires=COMMON_REQUIRES,
    weights=WEIGHTS,
    modules={
        "embed.dropout": "model.embed_dropout",
        "blocks.{n}.attn.rotary": "model.rotary_emb",
        "blocks.{n}.attn.dropout": f"{LAYER}resid_dropout",
        "blocks.{n}.mlp.activation": f"{LAYER}mlp.activation_fn",
        "blocks.{n}.mlp.dropout": f"{LAYER}resid_dropout",
    },
)
