"""Gemma 3, its text model: the keys of a Gemma 2 and two more norms; a rotary base for each kind of layer."""

from dataclasses import replace

from ..translate.table import config_field
from . import gemma, gemma2, rotary_rows
from .llama import LAYER, ROWS

GLOBAL, LOCAL = "rope_parameters.full_attention", "rope_parameters.sliding_attention"
ROTARY = rotary_rows("rope_scaling", GLOBAL, base="rope_theta")
ROTARY["local_rotary_base"] = config_field("rope_local_base_freq", f"{LOCAL}.rope_theta")
WHOLE_HEAD: dict[str, tuple[object, ...]] = {f"{place}.partial_rotary_factor": (1.0,) for place in (GLOBAL, LOCAL)}

TABLE = replace(
    gemma2.TABLE,
    classes=("Gemma3ForCausalLM", "Gemma3TextModel"),
    config=gemma2.FIELDS | ROTARY | {"window_pattern": "sliding_window_pattern"},
    nullable=frozenset({"padding", "logit_cap", "window"}),
    supersedes={},
    requires=gemma.REQUIRES | WHOLE_HEAD | {"attn_logit_softcapping": (), f"{LOCAL}.rope_type": ("default",)},
    harmless=gemma2.TABLE.harmless | {"_sliding_window_pattern"},  # written beside the layer types it led to
    weights=ROWS | gemma2.NORMS | {f"blocks.{{n}}.attn.{x}_norm.*": f"{LAYER}self_attn.{x}_norm.*" for x in "qk"},
)
