"""Qwen 2: Llama's file, and the windows of some layers."""

from dataclasses import replace

from ..translate.table import Field
from . import llama

WINDOWS: dict[str, str | Field] = {
    "windowed": "use_sliding_window",
    "window": "sliding_window",
    "full_layers": "max_window_layers",
    "layer_types": "layer_types",
}

TABLE = replace(
    llama.TABLE,
    classes=("Qwen2ForCausalLM", "Qwen2Model"),
    config=llama.UNBIASED | WINDOWS,
    nullable=frozenset({"kv_heads", "padding", "window", "layer_types"}),
    requires=llama.REQUIRES | {"mlp_bias": (False,), "attention_bias": (True,), "use_mrope": (False,)},
)
