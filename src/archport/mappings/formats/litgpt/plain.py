"""A plain decoder in litgpt: what its files and its config have of any model, and what a family may replace."""

from collections.abc import Mapping
from typing import Any

from ....layers import QKV
from ....translate.table import Cell, Field, Table, sections
from .. import LOST, TIED

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


def table_of(
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
