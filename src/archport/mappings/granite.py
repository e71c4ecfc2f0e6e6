"""Granite: Llama's file, and four scales in the config."""

from dataclasses import replace

from ..translate.table import Field
from . import llama

SCALES: dict[str, str | Field] = {
    "embed_scale": "embedding_multiplier",
    "attention_scale": "attention_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_divisor": "logits_scaling",
}

TABLE = replace(
    llama.TABLE,
    classes=("GraniteForCausalLM", "GraniteModel"),
    config=llama.FIELDS | SCALES,
    nullable=frozenset({"kv_heads", "padding"}),
)
