"""One file an architecture, named by its model_type: TABLE, literal data. Here: what all HF configs share."""

from ..translate.table import Cell, Field, config_field, rearranged

# The activations we build, by HF's names for them. The first name of each is the one exported.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "quick_gelu": "quick_gelu",
    "relu2": "relu_squared",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
}

# Fields of every HF config whose other values would change the mathematics or the files.
COMMON_REQUIRES: dict[str, tuple[object, ...]] = {
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({},),
    "quantization_config": (),
}

# Fields of every HF config that change neither the weights nor the logits.
COMMON_HARMLESS = frozenset(
    {
        # where the file came from and how HF runs it
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "auto_map",
        "attn_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "gradient_checkpointing",
        "is_decoder",
        "model_max_length",
        "tf_legacy_loss",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_bfloat16",
        "use_cache",
        # what a call returns
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "return_dict",
        # special tokens
        "bos_token_id",
        "cls_token_id",
        "decoder_start_token_id",
        "eos_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "mask_token_id",
        "pad_token_id",
        "prefix",
        "sep_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
        # other tasks
        "cross_attention_hidden_size",
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "task_specific_params",
        "tie_encoder_decoder",
        # settings of generation, kept in the model's config by older versions
        "bad_words_ids",
        "diversity_penalty",
        "do_sample",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "exponential_decay_length_penalty",
        "length_penalty",
        "max_length",
        "min_length",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "output_scores",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict_in_generate",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    }
)

# The ways to change rotary frequencies, by HF's names for them.
ROTARY_TYPES = {name: name for name in ("default", "linear", "dynamic", "llama3", "yarn", "longrope")}

# The settings of RotaryConfig but its fraction, by their names in an object of rotary settings.
ROTARY_SETTINGS = {
    "base": ("rope_theta",),
    "scaling": ("rope_type", "type"),
    "context": ("original_max_position_embeddings",),
    "factor": ("factor",),
    "low_factor": ("low_freq_factor",),
    "high_factor": ("high_freq_factor",),
    "attention_factor": ("attention_factor",),
    "beta_fast": ("beta_fast",),
    "beta_slow": ("beta_slow",),
    "mscale": ("mscale",),
    "mscale_all_dim": ("mscale_all_dim",),
    "truncate": ("truncate",),
    "short_factors": ("short_factor",),
    "long_factors": ("long_factor",),
}


def rotary_rows(*objects: str, **first: str) -> dict[str, Field]:
    """Config rows of rotary settings that lie in any of some objects; `first` spells settings outside of them.

    As in `rotary_rows("rope_scaling", "rope_parameters.full_attention", base="rope_theta")`. What is spelled outside is
    written from scratch under that name, the rest into the first object.
    """
    return {
        f"rotary_{setting}": config_field(
            *([first[setting]] if setting in first else []),
            *(f"{place}.{name}" for place in objects for name in names),
            values=ROTARY_TYPES if setting == "scaling" else None,
        )
        for setting, names in ROTARY_SETTINGS.items()
    }


# Rotary settings lie in `rope_scaling` until transformers 5 and in `rope_parameters` from then on. A table adds the
# fraction of the head that is turned, or, where its architecture has none, requires the whole head.
ROTARY_OBJECTS = ("rope_scaling", "rope_parameters")
ROTARY_SUPERSEDES = {"rope_scaling": "rope_parameters"}
ROTARY_HARMLESS = frozenset(f"{place}.finetuned" for place in ROTARY_OBJECTS)
ROTARY = rotary_rows(*ROTARY_OBJECTS, base="rope_theta")
ROTARY["rotary_context"] = config_field(
    *(f"{place}.original_max_position_embeddings" for place in ROTARY_OBJECTS), "original_max_position_embeddings"
)
FRACTIONS = ("partial_rotary_factor", *(f"{place}.partial_rotary_factor" for place in ROTARY_OBJECTS))
ROTARY_FRACTION = {"rotary_fraction": config_field(*FRACTIONS)}
ROTARY_WHOLE_HEAD: dict[str, tuple[object, ...]] = dict.fromkeys(FRACTIONS, (1.0,))

MASK = "causal mask, which attention makes itself"
MASK_VALUE = "what masked scores were set to; attention masks exactly"
ROTARY_TABLE = "rotary frequencies, computed from the config"

# What a mixture of experts adds to the loss, or gives back beside it.
EXPERTS_HARMLESS = frozenset({"output_router_logits", "router_aux_loss_coef"})


def expert_rows(apart: str, *, gate: str, up: str, down: str) -> dict[str, Cell]:
    """Weights rows of experts: under `apart` each in keys of its own, in a model of transformers 5 all in two."""
    fused = "model.layers.{n}.mlp.experts."
    both, one = f"{fused}gate_up_proj", "blocks.{n}.mlp.experts.{e}."
    return {
        f"{one}gate.weight": (f"{apart}{gate}.weight", rearranged(both, "{e} ([gate up] mlp) ... -> ([gate] mlp) ...")),
        f"{one}up.weight": (f"{apart}{up}.weight", rearranged(both, "{e} ([gate up] mlp) ... -> ([up] mlp) ...")),
        f"{one}down.weight": (f"{apart}{down}.weight", rearranged(f"{fused}down_proj", "{e} width mlp -> width mlp")),
    }


# What has no weights, in models whose modules lie below `transformer`.
TRANSFORMER_MODULES = {
    "embed.dropout": "transformer.drop",
    "blocks.{n}.attn.dropout": "transformer.h.{n}.attn.resid_dropout",
    "blocks.{n}.mlp.activation": "transformer.h.{n}.mlp.act",
    "blocks.{n}.mlp.dropout": "transformer.h.{n}.mlp.dropout",
}
