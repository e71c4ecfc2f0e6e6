"""Gemma: the keys of a Llama; what its first files call gelu is the tanh form."""

from dataclasses import replace

from ..translate.table import config_field
from . import ACTIVATIONS, llama

# Until transformers 5 the second spelling decides where a file has it, from then on the first.
ACTIVATION = config_field(
    "hidden_act",
    "hidden_activation",
    values={"gelu_pytorch_tanh": "gelu_tanh"} | ACTIVATIONS | {"gelu": "gelu_tanh"},
)

FIELDS = llama.UNBIASED | {"attention_bias": "attention_bias", "activation": ACTIVATION}
REQUIRES = llama.REQUIRES | {"use_bidirectional_attention": (False,)}

TABLE = replace(
    llama.TABLE,
    classes=("GemmaForCausalLM", "GemmaModel"),
    config=FIELDS,
    nullable=frozenset({"padding"}),
    requires=REQUIRES,
    harmless=llama.TABLE.harmless | {"cache_implementation"},  # of generation
)
