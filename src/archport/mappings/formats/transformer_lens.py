"""TransformerLens' own state dict, unprocessed, beside its cfg: a matrix a head, and every bias, be it zeros."""

from dataclasses import replace

from ...translate.formats import Format
from ...translate.table import Cell, Field, Table, config_field, rearranged
from . import LOST, TIED

LAYER = "blocks.{n}."
HEADS = "(kv [group k v])"


def _names(letter: str, under: str) -> tuple[str, ...]:
    """The keys of queries, keys and values; where heads may share them, the last two start with a line below."""
    return (f"{LAYER}attn.{letter}_Q", *(f"{LAYER}attn.{under}{letter}_{x}" for x in "KV"))


def _attention(under: str = "") -> dict[str, Cell]:
    ours = "(kv [group k v] dim)"
    return {
        "blocks.{n}.attn.qkv.weight": rearranged(_names("W", under), f"{HEADS} width dim -> {ours} width"),
        "blocks.{n}.attn.qkv.bias": rearranged(_names("b", under), f"{HEADS} dim -> {ours}"),
    }


def _norm(ours: str, theirs: str) -> dict[str, Cell]:
    return {f"{ours}.weight": f"{theirs}.w", f"{ours}.bias": f"{theirs}.b"}


ROWS: dict[str, Cell] = {
    "embed.tokens.weight": "embed.W_E",
    "embed.positions.weight": "pos_embed.W_pos",
    **_norm("blocks.{n}.norm", f"{LAYER}ln1"),
    **_norm("blocks.{n}.norm_attn", f"{LAYER}ln1"),
    "blocks.{n}.attn.q_norm.weight": f"{LAYER}attn.q_norm.w",
    "blocks.{n}.attn.k_norm.weight": f"{LAYER}attn.k_norm.w",
    "blocks.{n}.attn.out.weight": rearranged(f"{LAYER}attn.W_O", "head dim width -> width (head dim)"),
    "blocks.{n}.attn.out.bias": f"{LAYER}attn.b_O",
    **_norm("blocks.{n}.norm_mlp", f"{LAYER}ln2"),
    "blocks.{n}.mlp.up.weight": rearranged(f"{LAYER}mlp.W_in", "width mlp -> mlp width"),
    "blocks.{n}.mlp.up.bias": f"{LAYER}mlp.b_in",
    "blocks.{n}.mlp.down.weight": rearranged(f"{LAYER}mlp.W_out", "mlp width -> width mlp"),
    "blocks.{n}.mlp.down.bias": f"{LAYER}mlp.b_out",
    **_norm("norm", "ln_final"),
    "head.weight": rearranged("unembed.W_U", "width vocab -> vocab width"),
    "head.bias": "unembed.b_U",
}
GATE: dict[str, Cell] = {"blocks.{n}.mlp.gate.weight": rearranged(f"{LAYER}mlp.W_gate", "width mlp -> mlp width")}
EXPERT = f"{LAYER}mlp.experts.{{e}}."
EXPERTS: dict[str, Cell] = {
    "blocks.{n}.mlp.router.score.weight": f"{LAYER}mlp.W_gate.weight",
    "blocks.{n}.mlp.experts.{e}.gate.weight": f"{EXPERT}W_gate.weight",
    "blocks.{n}.mlp.experts.{e}.up.weight": f"{EXPERT}W_in.weight",
    "blocks.{n}.mlp.experts.{e}.down.weight": f"{EXPERT}W_out.weight",
}
ZEROS = frozenset(
    {f"blocks.{{n}}.{part}.bias" for part in ("attn.qkv", "attn.out", "mlp.up", "mlp.down")} | {"head.bias"}
)

IGNORED = {f"{LAYER}attn.mask": "causal mask, which attention makes itself"}
IGNORED |= {f"{LAYER}attn.IGNORE": "what masked scores were set to; attention masks exactly"}
IGNORED |= {f"{LAYER}attn.rotary_{wave}": "rotary angles, computed from the config" for wave in ("sin", "cos")}

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
ACTIVATIONS |= {"relu": "relu", "silu": "silu"}
CONFIG: dict[str, str | Field] = {
    "vocab_size": "d_vocab",
    "context": "n_ctx",
    "width": "d_model",
    "layers": "n_layers",
    "heads": "n_heads",
    "head_width": "d_head",
    "mlp_width": "d_mlp",
    "activation": config_field("act_fn", values=ACTIVATIONS),
    "norm_eps": "eps",
}
REQUIRES: dict[str, tuple[object, ...]] = {
    "normalization_type": ("LN",),
    "positional_embedding_type": ("standard",),
    "attention_dir": ("causal",),
    "attn_only": (False,),
    "use_attn_scale": (True,),
    "use_local_attn": (False,),
    "use_qk_norm": (False,),
    "gated_mlp": (False,),
    "parallel_attn_mlp": (False,),
    "post_embedding_ln": (False,),
    "rotary_adjacent_pairs": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "use_normalization_before_and_after": (False,),
    "attn_scores_soft_cap": (-1.0,),
    "output_logits_soft_cap": (-1.0,),
    "use_NTK_by_parts_rope": (False,),
    "load_in_4bit": (False,),
    "num_experts": (),
    "experts_per_token": (),
}
HARMLESS = frozenset(
    {
        "attn_scale",
        "attn_types",
        "checkpoint_index",
        "checkpoint_label_type",
        "checkpoint_value",
        "d_vocab_out",
        "decoder_start_token_id",
        "default_prepend_bos",
        "device",
        "dtype",
        "final_rms",
        "from_checkpoint",
        "init_mode",
        "init_weights",
        "initializer_range",
        "model_name",
        "n_devices",
        "n_params",
        "NTK_*",
        "relative_attention_max_distance",
        "relative_attention_num_buckets",
        "rotary_base",
        "rotary_dim",
        "seed",
        "tie_word_embeddings",
        "tokenizer_name",
        "tokenizer_prepends_bos",
        "trust_remote_code",
        "ungroup_grouped_query_attention",
        "use_attn_in",
        "use_attn_result",
        "use_hook_mlp_in",
        "use_hook_tokens",
        "use_split_qkv_input",
        "window_size",
    }
)


def _table(
    kind: str,
    rows: dict[str, Cell],
    *,
    config: dict[str, str | Field] | None = None,
    requires: dict[str, tuple[object, ...]] | None = None,
    whole_head: bool = False,
    repeats: dict[str, str] | None = None,
) -> Table:
    """A family, by the HF class it is for: what differs from a GPT-2. Heads have keys of their own."""
    fields = CONFIG | (config or {})
    known = {
        spelling for cell in fields.values() for spelling in ((cell,) if isinstance(cell, str) else cell.spellings)
    }
    said = REQUIRES | {"original_architecture": (kind,), "n_key_value_heads": ()} | (requires or {})
    return Table(
        classes=(),
        prefix="",
        config=fields,
        requires={name: allowed for name, allowed in said.items() if name not in known},
        harmless=HARMLESS - known - {"rotary_dim"} if whole_head else HARMLESS - known,
        must_agree={"rotary_dim": "head_width"} if whole_head else {},
        weights=ROWS | _attention() | rows,
        tied=TIED,
        ignored=IGNORED,
        lost=LOST,
        zeros=ZEROS,
        repeats=repeats or {},
    )


def _both(name: str, table: Table) -> tuple[tuple[str, Table], ...]:
    """A table for heads with keys of their own, and one for heads that may share them."""
    shared = replace(
        table,
        config={**table.config, "kv_heads": "n_key_value_heads"},
        requires={field: allowed for field, allowed in table.requires.items() if field != "n_key_value_heads"},
        weights={**table.weights, **_attention("_")},
    )
    return (name, table), (name, shared)


def _scaled(name: str, table: Table) -> tuple[tuple[str, Table], ...]:
    """Both, and both with the frequencies of Llama 3."""
    settings = {
        "rotary_factor": "factor",
        "rotary_low_factor": "low_freq_factor",
        "rotary_high_factor": "high_freq_factor",
    }
    rows = {ours: f"NTK_by_parts_{theirs}" for ours, theirs in settings.items()} | {
        "rotary_context": "NTK_original_ctx_len"
    }
    llama3 = replace(
        table,
        config={**table.config, **rows},
        requires={**table.requires, "use_NTK_by_parts_rope": (True,)},
        fixed={**table.fixed, "rotary_scaling": ("llama3",)},
    )
    return *_both(name, table), *_both(name, llama3)


# The head's turned elements are counted, and ours are a share of them.
TURNED: dict[str, str | Field] = {"rotary_fraction": config_field("rotary_dim", of="head_width")}
BASE: dict[str, str | Field] = {"rotary_base": "rotary_base"}
IS_ROTARY: dict[str, tuple[object, ...]] = {"positional_embedding_type": ("rotary",)}
PARALLEL: dict[str, tuple[object, ...]] = {"parallel_attn_mlp": (True,)}
GATED: dict[str, tuple[object, ...]] = IS_ROTARY | {"normalization_type": ("RMS",), "gated_mlp": (True,)}
ONE_NORM = {"blocks.{n}.norm_mlp.*": "blocks.{n}.norm.*"}

GPT2 = _table(
    "GPT2LMHeadModel",
    {},
    config={"scale_scores": "use_attn_scale", "scale_scores_by_depth": "scale_attn_by_inverse_layer_idx"},
)
GPTJ = _table(
    "GPTJForCausalLM",
    {},
    config={"rotary_width": "rotary_dim"},
    requires=IS_ROTARY | PARALLEL | {"rotary_adjacent_pairs": (True,)},
    repeats=ONE_NORM,
)
NEOX = _table("GPTNeoXForCausalLM", {}, config=BASE | TURNED | {"parallel": "parallel_attn_mlp"}, requires=IS_ROTARY)
PHI = _table("PhiForCausalLM", {}, config=BASE | TURNED, requires=IS_ROTARY | PARALLEL, repeats=ONE_NORM)


def _llama(kind: str, requires: dict[str, tuple[object, ...]] | None = None) -> Table:
    return _table(kind, GATE, config=BASE, requires=GATED | (requires or {}), whole_head=True)


def _qwen(kind: str, requires: dict[str, tuple[object, ...]] | None = None) -> Table:
    lost = {**LOST, "window": None, "full_layers": 28}
    return replace(_llama(kind, requires), fixed={"windowed": (False,)}, lost=lost)


MIXTRAL = _table(
    "MixtralForCausalLM",
    EXPERTS,
    config=BASE | {"experts": "num_experts", "experts_per_token": "experts_per_token"},
    requires=GATED,
    whole_head=True,
)

FORMAT = Format(
    title="TransformerLens",
    unlike="there is a matrix for each head",
    tensors_key="state_dict",
    settings_key="cfg",
    tables=(
        ("gpt2", GPT2),
        ("gptj", GPTJ),
        ("gpt_neox", NEOX),
        ("phi", PHI),
        *_scaled("llama", _llama("LlamaForCausalLM")),
        *_scaled("mistral", replace(_llama("MistralForCausalLM"), fixed={"window": (None,)})),
        *_scaled("qwen2", _qwen("Qwen2ForCausalLM")),
        *_scaled("qwen3", _qwen("Qwen3ForCausalLM", {"use_qk_norm": (True,)})),
        *_both("phi3", _llama("Phi3ForCausalLM")),
        *_both("mixtral", MIXTRAL),
    ),
)
