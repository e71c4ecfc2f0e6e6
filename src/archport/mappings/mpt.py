"""MPT: the fused rows are all queries, then all keys, then all values; some fields lie in `attn_config`."""

from ..layers import QKV
from ..translate.table import Table, config_field, rearranged
from . import COMMON_HARMLESS, COMMON_REQUIRES

LAYER = "transformer.blocks.{n}."

# What transformers 5 puts into `attn_config`, as into every config.
WHOLE_CONFIG = {*COMMON_HARMLESS, *COMMON_REQUIRES, "architectures", "model_type", "tie_word_embeddings"}

TABLE = Table(
    classes=("MptForCausalLM", "MptModel", "MPTForCausalLM"),
    prefix="transformer.",
    config={
        "vocab_size": "vocab_size",
        "context": "max_seq_len",
        "width": config_field("d_model", "hidden_size"),
        "layers": config_field("n_layers", "num_hidden_layers"),
        "heads": config_field("n_heads", "num_attention_heads"),
        "norm_eps": "layer_norm_epsilon",
        "clip": "attn_config.clip_qkv",
        "score_scale": "attn_config.softmax_scale",
        "tied": "tie_word_embeddings",
        "attention_dropout": "attn_config.attn_pdrop",
        "residual_dropout": "attn_config.attn_pdrop",
        "init_std": "initializer_range",
    },
    nullable=frozenset({"clip", "score_scale"}),
    requires=COMMON_REQUIRES
    | {
        "attn_config.alibi": (True,),
        "attn_config.alibi_bias_max": (8,),  # which transformers takes whatever this says
        "attn_config.attn_type": ("multihead_attention",),
        "attn_config.attn_uses_sequence_id": (False,),
        "attn_config.prefix_lm": (False,),
        "attn_config.qk_ln": (False,),
        "expansion_ratio": (4,),
        "logit_scale": (),
        "no_bias": (True,),
        "norm_type": ("low_precision_layernorm", "layernorm"),
    },
    harmless=COMMON_HARMLESS
    | {
        "attn_config.attn_impl",  # how products are computed
        *(f"attn_config.{name}" for name in WHOLE_CONFIG),
        "emb_pdrop",  # rates that transformers does not read
        "resid_pdrop",
        "embedding_fraction",  # of gradients, while it was trained
        "init_config",
        "init_device",
        "learned_pos_emb",  # which it has none of where there is ALiBi
        "tokenizer_name",
        "verbose",
    },
    weights={
        "embed.tokens.weight": "transformer.wte.weight",
        "blocks.{n}.norm_attn.weight": f"{LAYER}norm_1.weight",
        "blocks.{n}.attn.qkv.weight": rearranged(f"{LAYER}attn.Wqkv.weight", f"([group k v] kv dim) ... -> {QKV} ..."),
        "blocks.{n}.attn.out.weight": f"{LAYER}attn.out_proj.weight",
        "blocks.{n}.norm_mlp.weight": f"{LAYER}norm_2.weight",
        "blocks.{n}.mlp.up.weight": f"{LAYER}ffn.up_proj.weight",
        "blocks.{n}.mlp.down.weight": f"{LAYER}ffn.down_proj.weight",
        "norm.weight": "transformer.norm_f.weight",
        "head.weight": "lm_head.weight",
    },
    tied={"head.weight": "embed.tokens.weight"},
    modules={
        "blocks.{n}.attn.dropout": f"{LAYER}resid_attn_dropout",
        "blocks.{n}.mlp.activation": f"{LAYER}ffn.act",
    },
)
