"""BigCode: GPT-2's names, but weights lie (out, in), and the fused rows already go group by group."""

from dataclasses import replace

from . import gpt2

LAYER = "transformer.h.{n}."
FIELDS = {name: cell for name, cell in gpt2.TABLE.config.items() if name != "scale_scores_by_depth"}
SERVER = {"inference_runner", "max_batch_size", "max_sequence_length", "pad_key_length", "pre_allocate_kv_cache"}
SERVER |= {"validate_runner_input"}  # settings of how it is served

TABLE = replace(
    gpt2.TABLE,
    classes=("GPTBigCodeForCausalLM", "GPTBigCodeModel"),
    config=FIELDS | {"multi_query": "multi_query"},
    must_agree={"num_key_value_heads": "kv_heads"},
    harmless=(gpt2.TABLE.harmless - {"reorder_and_upcast_attn"})
    | SERVER
    | {"attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"},  # round differently, mean the same
    weights={
        **gpt2.TABLE.weights,
        "blocks.{n}.attn.qkv.*": f"{LAYER}attn.c_attn.*",
        "blocks.{n}.attn.out.*": f"{LAYER}attn.c_proj.*",
        "blocks.{n}.mlp.up.*": f"{LAYER}mlp.c_fc.*",
        "blocks.{n}.mlp.down.*": f"{LAYER}mlp.c_proj.*",
    },
)
