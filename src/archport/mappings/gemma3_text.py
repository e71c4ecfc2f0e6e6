"""Gemma 3, its text model: the keys of a Gemma 2 and two more norms; a rotary base for each kind of layer."""

from dataclasses import replace

from ..translate.table import config_field
from . import gemma2, rotary_rows
from .gemma import LAYER

GLOBAL, LOCAL = "rope_parameters.full_attention", "rope_parameters.sliding_attention"

TABLE = replace(
    gemma2.TABLE,
    classes=("Gemma3ForCausalLM", "Gemma3TextModel"),
    config={name: cell for name, cell in gemma2.TABLE.config.items() if name != "score_cap"}
    | rotary_rows("rope_scaling", GLOBAL, base="rope_theta")
    | {
        "local_rotary_base": config_field("rope_local_base_freq", f"{LOCAL}.rope_theta"),
        "window_pattern": "sliding_window_pattern",
    },
    nullable=gemma2.TABLE.nullable - {"score_cap"},
    supersedes={},
    requires=gemma2.TABLE.requires
    | {f"{place}.partial_rotary_factor": (1.0,) for place in (GLOBAL, LOCAL)}
    | {"attn_logit_softcapping": (), f"{LOCAL}.rope_type": ("default",)},
    harmless=gemma2.TABLE.harmless | {"_sliding_window_pattern"},  # written beside the layer types it led to
    weights=gemma2.TABLE.weights
    | {f"blocks.{{n}}.attn.{part}_norm.weight": f"{LAYER}self_attn.{part}_norm.weight" for part in "qk"},
)
