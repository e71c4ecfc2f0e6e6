"""Mistral: Llama's file without biases, and a window."""

from dataclasses import replace

from . import llama

TABLE = replace(
    llama.TABLE,
    classes=("MistralForCausalLM", "MistralModel"),
    config=llama.UNBIASED | {"window": "sliding_window"},
    nullable=llama.TABLE.nullable | {"window"},
    requires=llama.REQUIRES | llama.NO_BIASES | {"layer_types": ()},  # which transformers leaves to Ministral
)
