"""SmolLM3: Llama's file, and which layers have positions and windows."""

from dataclasses import replace

from ..translate.table import Field
from . import llama

LAYERS: dict[str, str | Field] = {
    "rotary_layers": "no_rope_layers",  # a 1 is a layer with rotary positions, whatever it is called
    "nope_interval": "no_rope_layer_interval",
    "windowed": "use_sliding_window",
    "window": "sliding_window",
    "layer_types": "layer_types",
}

TABLE = replace(
    llama.TABLE,
    classes=("SmolLM3ForCausalLM", "SmolLM3Model"),
    config=llama.FIELDS | LAYERS,
    nullable=frozenset({"kv_heads", "padding", "rotary_layers", "window", "layer_types"}),
    harmless=llama.TABLE.harmless | {"max_window_layers"},  # which the reference does not read
)
