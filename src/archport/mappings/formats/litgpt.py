"""litgpt's lit_model.pth and model_config.yaml: one class for all families, all queries, then keys, then values."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...layers import QKV
from ...translate.formats import Format
from ...translate.table import Cell, Field, Table, config_field, sections
from . import LOST, TIED

LAYER = "transformer.h.{n}."
FUSED = f"{LAYER}attn.qkv.*"

# What every model of litgpt has. A part that an architecture has not is in no parameter of ours.
ROWS: dict[str, Cell] = {
    "embed.tokens.weight": "transformer.wte.weight",
    "blocks.{n}.norm.*": f"{LAYER}norm_1.*",
    "blocks.{n}.norm_attn.*": f"{LAYER}norm_1.*",
    # Its first versions called the map `attn.attn`, and kept the order of ours.
    "blocks.{n}.attn.qkv.*": (sections(FUSED, f"{QKV} ... -> {QKV} ..."), f"{LAYER}attn.attn.*"),
    "blocks.{n}.attn.q_norm.*": f"{LAYER}attn.norm_q.*",
    "blocks.{n}.attn.k_norm.*": f"{LAYER}attn.norm_k.*",
    "blocks.{n}.attn.q_norm.norm.*": f"{LAYER}attn.norm_q.*",  # across heads
    "blocks.{n}.attn.k_norm.norm.*": f"{LAYER}attn.norm_k.*",
    "blocks.{n}.attn.out.*": f"{LAYER}attn.proj.*",
    "blocks.{n}.norm_attn_out.*": f"{LAYER}post_attention_norm.*",
    "blocks.{n}.norm_mlp.*": f"{LAYER}norm_2.*",
    "blocks.{n}.norm_mlp_out.*": f"{LAYER}post_mlp_norm.*",
    "blocks.{n}.mlp.down.*": f"{LAYER}mlp.proj.*",
    "norm.*": "transformer.ln_f.*",
    "head.*": "lm_head.*",
}
PLAIN: dict[str, Cell] = {"blocks.{n}.mlp.up.*": f"{LAYER}mlp.fc.*"}
GATED: dict[str, Cell] = {"blocks.{n}.mlp.gate.*": f"{LAYER}mlp.fc_1.*", "blocks.{n}.mlp.up.*": f"{LAYER}mlp.fc_2.*"}
EXPERT = f"{LAYER}mlp.experts.{{e}}."
EXPERTS: dict[str, Cell] = {
    "blocks.{n}.mlp.router.score.weight": f"{LAYER}mlp.gate.weight",
    "blocks.{n}.mlp.experts.{e}.gate.weight": f"{EXPERT}fc_1.weight",
    "blocks.{n}.mlp.experts.{e}.up.weight": f"{EXPERT}fc_2.weight",
    "blocks.{n}.mlp.experts.{e}.down.weight": f"{EXPERT}proj.weight",
}

# What its dataclass takes where a file, of an older version, says nothing.
DEFAULTS: dict[str, Any] = {
    "norm_class_name": "LayerNorm",
    "norm_eps": 1e-5,
    "norm_qk": False,
    "norm_qk_type": "default",
    "post_attention_norm": False,
    "post_mlp_norm": False,
    "parallel_residual": True,
    "shared_attention_norm": False,
    "attn_bias": False,
    "rope_base": 10000,
    "rotary_percentage": 0.25,
    "rope_condense_ratio": 1,
    "rope_interleave": False,
    "bias": True,
    "mlp_class_name": "GptNeoxMLP",
    "gelu_approximate": "none",
    "n_expert": 0,
    "scale_embeddings": False,
    "lm_head_bias": False,
    "norm_1": True,
    "norm_2": True,
}

CONFIG: dict[str, str | Field] = {
    "vocab_size": "padded_vocab_size",
    "context": "block_size",
    "width": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "head_width": "head_size",
    "kv_heads": "n_query_groups",
    "mlp_width": "intermediate_size",
    "norm_eps": "norm_eps",
    "rotary_base": "rope_base",
}
FRACTION: dict[str, str | Field] = {"rotary_fraction": "rotary_percentage"}
ACTIVATION: dict[str, str | Field] = {
    "activation": config_field("gelu_approximate", values={"none": "gelu", "tanh": "gelu_tanh"})
}
HARMLESS = frozenset(
    {
        "name",
        "hf_config",
        "padding_multiple",
        "gelu_approximate",  # where there is no gelu
        "norm_qk_type",  # where no queries are normed
        "n_expert_per_token",
        "moe_intermediate_size",
        "routed_scaling_factor",  # all three without experts
        "norm_topk_prob",  # of groups of experts, which there are not
        "rope_indices",  # without a second base
    }
)
EVERY_LAYER = (None, *((1,) * layers for layers in range(1, 200)))

# The values that make a plain decoder; each family replaces some. An empty tuple expects nothing.
REQUIRES: dict[str, tuple[object, ...]] = {
    "norm_class_name": ("LayerNorm",),
    "norm_qk": (False,),
    "post_attention_norm": (False,),
    "post_mlp_norm": (False,),
    "parallel_residual": (False,),
    "shared_attention_norm": (False,),
    "attn_bias": (False,),
    "attention_scores_scalar": (),
    "sliding_window_size": (),
    "sliding_window_indices": (),
    "attention_logit_softcapping": (),
    "rotary_percentage": (1.0,),
    "rope_condense_ratio": (1,),
    "rope_interleave": (False,),
    "bias": (False,),
    "mlp_class_name": ("LLaMAMLP",),
    "n_expert": (0,),
    "n_shared_expert": (),
    "n_expert_groups": (),
    "n_topk_groups": (),
    "n_topk_scores_per_group": (),
    "first_k_dense_replace": (),
    "scale_embeddings": (False,),
    "lm_head_bias": (False,),
    "final_logit_softcapping": (),
    "norm_1": (True,),
    "norm_2": (True,),
    "latent_attention": (),
    "rope_local_base_freq": (),
}
RMS: dict[str, tuple[object, ...]] = {"norm_class_name": ("RMSNorm",)}
SILU: dict[str, tuple[object, ...]] = {"activation": ("silu",)}
# Its window is that of each layer of which the list says so, or, where there is none, of every layer.
WINDOW: dict[str, str | Field] = {"window": "sliding_window_size"}
WINDOWS: dict[str, tuple[object, ...]] = {"sliding_window_indices": EVERY_LAYER}
LAYER_TYPES = {0: "full_attention", 1: "sliding_attention"}


def _table(
    rows: dict[str, Cell],
    *,
    config: Mapping[str, str | Field] | None = None,
    requires: Mapping[str, tuple[object, ...]] | None = None,
    fixed: dict[str, tuple[object, ...]] | None = None,
    without: tuple[str, ...] = (),
    lost: dict[str, object] | None = None,
    written: dict[str, object] | None = None,
) -> Table:
    """A family: what differs from a plain decoder; `without` are fields that its Config or its config has not."""
    fields = {name: cell for name, cell in {**CONFIG, **(config or {})}.items() if name not in without}
    known = {
        spelling for cell in fields.values() for spelling in ((cell,) if isinstance(cell, str) else cell.spellings)
    }
    required = {name: allowed for name, allowed in {**REQUIRES, **(requires or {})}.items() if name not in known}
    return Table(
        classes=(),
        prefix="",
        config=fields,
        requires=required,
        harmless=HARMLESS - known - required.keys(),
        weights=ROWS | rows,
        fixed=fixed or {},
        lost=LOST | (lost or {}),
        must_agree={"vocab_size": "vocab_size"},
        unread=frozenset({"vocab_size"}),  # the tokenizer's: the model's is the padded one
        written=written or {},
        tied=TIED,
    )


NEOX = _table(
    PLAIN,
    config=FRACTION | ACTIVATION | {"parallel": "parallel_residual"},
    requires={"bias": (True,), "mlp_class_name": ("GptNeoxMLP",), "attn_bias": (False, True)},
    fixed={"attention_bias": (True,)},
)
LLAMA = _table(GATED, requires=RMS, fixed=SILU)
WINDOWED = _table(GATED, config=WINDOW, requires=RMS | WINDOWS, fixed=SILU)
NO_WINDOWS: dict[str, object] = {"window": None, "full_layers": 28}
NOT_WINDOWED: dict[str, tuple[object, ...]] = SILU | {"windowed": (False,)}
QWEN2 = _table(GATED, requires=RMS | {"attn_bias": (True,)}, fixed=NOT_WINDOWED, lost=NO_WINDOWS)
QWEN3 = _table(
    GATED, requires=RMS | {"norm_qk": (True,), "norm_qk_type": ("default",)}, fixed=NOT_WINDOWED, lost=NO_WINDOWS
)
PHI3 = _table(GATED, config=WINDOW | FRACTION, requires=RMS | WINDOWS, fixed=SILU)
OLMO = _table(
    GATED,
    without=("norm_eps",),
    requires={"norm_eps": (1e-5,)},
    fixed=SILU,
    written={"name": "OLMo"},  # by which it leaves the norms without weights
)
OLMO2 = _table(
    GATED,
    requires=RMS
    | {"norm_qk": (True,), "norm_qk_type": ("olmo2",), "norm_1": (False,), "norm_2": (False,)}
    | {"post_attention_norm": (True,), "post_mlp_norm": (True,)},
    fixed=SILU,
)
STABLELM = _table(
    GATED,
    config=FRACTION | {"attention_bias": "attn_bias"},
    fixed=SILU,
)
PHI = _table(
    PLAIN,
    config=FRACTION | ACTIVATION,
    requires={"bias": (True,), "attn_bias": (False, True), "mlp_class_name": ("GptNeoxMLP",), "lm_head_bias": (True,)}
    | {"parallel_residual": (True,), "shared_attention_norm": (True,)},
)
FALCON = _table(
    PLAIN,
    config=ACTIVATION,
    without=("kv_heads",),
    requires={"parallel_residual": (True,), "shared_attention_norm": (True,), "mlp_class_name": ("GptNeoxMLP",)}
    | {"n_query_groups": (1,)},
    fixed={"grouped": (False,), "multi_query": (True,), "parallel": (True,)},
    lost={"kv_groups": None},
)
FALCON_GROUPED = _table(
    PLAIN,
    config=ACTIVATION | {"kv_groups": "n_query_groups"},
    without=("kv_heads",),
    requires={"parallel_residual": (True,), "mlp_class_name": ("GptNeoxMLP",)},
    fixed={"grouped": (True,), "norms": (2,), "parallel": (True,)},
    lost={"multi_query": True},
)
NAMED: dict[str, object] = {"name": "Gemma"}  # by which it adds 1 to the weights of norms
GEMMA_REQUIRES: dict[str, tuple[object, ...]] = RMS | {"mlp_class_name": ("GemmaMLP",), "scale_embeddings": (True,)}
GEMMA = _table(GATED, config=ACTIVATION, requires=GEMMA_REQUIRES, written=NAMED)
SLIDING: dict[str, str | Field] = {
    **ACTIVATION,
    "query_scalar": "attention_scores_scalar",
    "logit_cap": "final_logit_softcapping",
    "window": "sliding_window_size",
    "layer_types": config_field("sliding_window_indices", values=LAYER_TYPES, each=True),
}
SANDWICH: dict[str, tuple[object, ...]] = {"post_attention_norm": (True,), "post_mlp_norm": (True,)}
GEMMA2 = _table(
    GATED,
    config=SLIDING | {"score_cap": "attention_logit_softcapping"},
    requires=GEMMA_REQUIRES | SANDWICH,
    written=NAMED,
)
GEMMA3 = _table(
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
MIXTRAL = _table(
    EXPERTS,
    config=WINDOW | {"experts": "n_expert", "experts_per_token": "n_expert_per_token"},
    requires=RMS
    | WINDOWS
    | {"mlp_class_name": ("LLaMAMoE",), "routed_scaling_factor": (1.0,)}
    | {"moe_intermediate_size": ()},
    fixed=SILU,
)
QWEN3_MOE = _table(
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


def _with_scalings(name: str, table: Table) -> tuple[tuple[str, Table], ...]:
    """A table for each way to change rotary frequencies, which its config says by what it has settings for."""
    place = "rope_adjustments"
    factor = {"rotary_factor": f"{place}.factor"}
    llama3 = factor | {
        "rotary_low_factor": f"{place}.low_freq_factor",
        "rotary_high_factor": f"{place}.high_freq_factor",
        "rotary_context": f"{place}.original_max_seq_len",
    }

    def scaled(kind: str, settings: dict[str, str]) -> Table:
        fixed = {**table.fixed, "rotary_scaling": (kind,)}
        return replace(table, config={**table.config, **settings}, fixed=fixed)

    plain = replace(table, requires={**table.requires, place: ()})
    condensed = replace(
        scaled("linear", {"rotary_factor": "rope_condense_ratio"}),
        requires={field: allowed for field, allowed in plain.requires.items() if field != "rope_condense_ratio"},
    )
    ways = replace(plain, fixed=scaled("default", {}).fixed), scaled("linear", factor), scaled("llama3", llama3)
    return tuple((name, way) for way in (*ways, condensed))


FORMAT = Format(
    title="litgpt",
    defaults=DEFAULTS,
    tables=tuple(
        pair
        for name, table in (
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
        for pair in _with_scalings(name, table)
    ),
)
