"""Gemma: the keys of a Llama; what its first files call gelu is the tanh form."""

from dataclasses import replace

from ..translate.table import config_field
from . import ACTIVATIONS, llama
from .llama import LAYER as LAYER

# Until transformers 5 the second spelling decides where a file has it, from then on the first.
ACTIVATION = config_field(
    "hidden_act",
    "hidden_activation",
    values={"gelu_pytorch_tanh": "gelu_tanh"} | ACTIVATIONS | {"gelu": "gelu_tanh"},
)

TABLE = replace(
    llama.TABLE,
    classes=("GemmaForCausalLM", "GemmaModel"),
    config={name: cell for name, cell in llama.FIELDS.items() if name != "mlp_bias"} | {"activation": ACTIVATION},
    nullable=frozenset({"padding"}),
    requires=llama.TABLE.requires | {"use_bidirectional_attention": (False,)},
    harmless=llama.TABLE.harmless | {"cache_implementation"},  # of generation
)
