"""The families that litgpt's one class can be, each by what it has other than a plain decoder."""

from ....translate.table import Field, Table, config_field
from .plain import EXPERTS, GATED, PLAIN, table_of

FRACTION: dict[str, str | Field] = {"rotary_fraction": "rotary_percentage"}
ACTIVATION: dict[str, str | Field] = {
    "activation": config_field("gelu_approximate", values={"none": "gelu", "tanh": "gelu_tanh"})
}
RMS: dict[str, tuple[object, ...]] = {"norm_class_name": ("RMSNorm",)}
SILU: dict[str, tuple[object, ...]] = {"activation": ("silu",)}
# Its window is that of each layer of which the list says so, or, where there is none, of every layer.
WINDOW: dict[str, str | Field] = {"window": "sliding_window_size"}
EVERY_LAYER = (None, *((1,) * layers for layers in range(1, 200)))
WINDOWS: dict[str, tuple[object, ...]] = {"sliding_window_indices": EVERY_LAYER}
LAYER_TYPES = {0: "full_attention", 1: "sliding_attention"}

NEOX = table_of(
    PLAIN,
    config=FRACTION | ACTIVATION | {"parallel": "parallel_residual"},
    requires={"bias": (True,), "mlp_class_name": ("GptNeoxMLP",), "attn_bias": (False, True)},
    fixed={"attention_bias": (True,)},
)
LLAMA = table_of(GATED, requires=RMS, fixed=SILU)
WINDOWED = table_of(GATED, config=WINDOW, requires=RMS | WINDOWS, fixed=SILU)
NO_WINDOWS: dict[str, object] = {"window": None, "full_layers": 28}
NOT_WINDOWED: dict[str, tuple[object, ...]] = SILU | {"windowed": (False,)}
QWEN2 = table_of(GATED, requires=RMS | {"attn_bias": (True,)}, fixed=NOT_WINDOWED, lost=NO_WINDOWS)
QWEN3 = table_of(
    GATED, requires=RMS | {"norm_qk": (True,), "norm_qk_type": ("default",)}, fixed=NOT_WINDOWED, lost=NO_WINDOWS
)
PHI3 = table_of(GATED, config=WINDOW | FRACTION, requires=RMS | WINDOWS, fixed=SILU)
OLMO = table_of(
    GATED,
    without=("norm_eps",),
    requires={"norm_eps": (1e-5,)},
    fixed=SILU,
    written={"name": "OLMo"},  # by which it leaves the norms without weights
)
OLMO2 = table_of(
    GATED,
    requires=RMS
    | {"norm_qk": (True,), "norm_qk_type": ("olmo2",), "norm_1": (False,), "norm_2": (False,)}
    | {"post_attention_norm": (True,), "post_mlp_norm": (True,)},
    fixed=SILU,
)
STABLELM = table_of(
    GATED,
    config=FRACTION | {"attention_bias": "attn_bias"},
    fixed=SILU,
)
PHI = table_of(
    PLAIN,
    config=FRACTION | ACTIVATION,
    requires={"bias": (True,), "attn_bias": (False, True), "mlp_class_name": ("GptNeoxMLP",), "lm_head_bias": (True,)}
    | {"parallel_residual": (True,), "shared_attention_norm": (True,)},
)
FALCON = table_of(
    PLAIN,
    config=ACTIVATION,
    without=("kv_heads",),
    requires={"parallel_residual": (True,), "shared_attention_norm": (True,), "mlp_class_name": ("GptNeoxMLP",)}
    | {"n_query_groups": (1,)},
    fixed={"grouped": (False,), "multi_query": (True,), "parallel": (True,)},
    lost={"kv_groups": None},
)
FALCON_GROUPED = table_of(
    PLAIN,
    config=ACTIVATION | {"kv_groups": "n_query_groups"},
    without=("kv_heads",),
    requires={"parallel_residual": (True,), "mlp_class_name": ("GptNeoxMLP",)},
    fixed={"grouped": (True,), "norms": (2,), "parallel": (True,)},
    lost={"multi_query": True},
)
NAMED: dict[str, object] = {"name": "Gemma"}  # by which it adds 1 to the weights of norms
GEMMA_REQUIRES: dict[str, tuple[object, ...]] = RMS | {"mlp_class_name": ("GemmaMLP",), "scale_embeddings": (True,)}
GEMMA = table_of(GATED, config=ACTIVATION, requires=GEMMA_REQUIRES, written=NAMED)
SLIDING: dict[str, str | Field] = {
    **ACTIVATION,
    "query_scalar": "attention_scores_scalar",
    "logit_cap": "final_logit_softcapping",
    "window": "sliding_window_size",
    "layer_types": config_field("sliding_window_indices", values=LAYER_TYPES, each=True),
}
SANDWICH: dict[str, tuple[object, ...]] = {"post_attention_norm": (True,), "post_mlp_norm": (True,)}
GEMMA2 = table_of(
    GATED,
    config=SLIDING | {"score_cap": "attention_logit_softcapping"},
    requires=GEMMA_REQUIRES | SANDWICH,
    written=NAMED,
)
GEMMA3 = table_of(
    GATED,
    config=SLIDING
    | {
        "local_rotary_base": "rope_local_base_freq",
        "layer_types": config_field("sliding_window_indices", "rope_indices", values=LAYER_TYPES, each=True),
    },
    requires=GEMMA_REQUIRES | SANDWICH | {"norm_qk": (True,), "norm_qk_type": ("default",)},
    lost={"window_pattern": 6},
    written=NAMED,
)
MIXTRAL = table_of(
    EXPERTS,
    config=WINDOW | {"experts": "n_expert", "experts_per_token": "n_expert_per_token"},
    requires=RMS
    | WINDOWS
    | {"mlp_class_name": ("LLaMAMoE",), "routed_scaling_factor": (1.0,)}
    | {"moe_intermediate_size": ()},
    fixed=SILU,
)
QWEN3_MOE = table_of(
    GATED | EXPERTS,
    config={
        "experts": "n_expert",
        "experts_per_token": "n_expert_per_token",
        "expert_width": "moe_intermediate_size",
    },
    requires=RMS
    | {"mlp_class_name": ("LLaMAMoE",), "routed_scaling_factor": (1.0,)}
    | {"norm_qk": (True,), "norm_qk_type": ("default",)},
    fixed=SILU | {"normalised": (True,)},
)

# The architecture of archport's that a table is for, the likeliest first.
FAMILIES: tuple[tuple[str, Table], ...] = (
    ("gpt_neox", NEOX),
    ("llama", LLAMA),
    ("mistral", WINDOWED),
    ("phi3", PHI3),
    ("qwen2", QWEN2),
    ("qwen3", QWEN3),
    ("olmo2", OLMO2),
    ("olmo", OLMO),
    ("stablelm", STABLELM),
    ("phi", PHI),
    ("falcon", FALCON),
    ("falcon", FALCON_GROUPED),
    ("gemma", GEMMA),
    ("gemma2", GEMMA2),
    ("gemma3_text", GEMMA3),
    ("mixtral", MIXTRAL),
    ("qwen3_moe", QWEN3_MOE),
)
