"""StarCoder 2: Llama's file with a plain MLP, and norms that have biases."""

from dataclasses import replace

from . import llama

REPLACED = ("attention_bias", "mlp_bias", "norm_eps")

TABLE = replace(
    llama.TABLE,
    classes=("Starcoder2ForCausalLM", "Starcoder2Model"),
    config={name: cell for name, cell in llama.FIELDS.items() if name not in REPLACED}
    | {
        "norm_eps": "norm_epsilon",
        "bias": "use_bias",
        "window": "sliding_window",
        "embed_dropout": "embedding_dropout",
        "residual_dropout": "residual_dropout",
    },
    nullable=llama.TABLE.nullable | {"window"},
    requires=llama.REQUIRES | {"mlp_type": ("default",), "norm_type": ("layer_norm",)},
    weights={name: row for name, row in llama.ROWS.items() if ".mlp." not in name}
    | {
        "blocks.{n}.mlp.up.*": f"{llama.LAYER}mlp.c_fc.*",
        "blocks.{n}.mlp.down.*": f"{llama.LAYER}mlp.c_proj.*",
    },
    modules={
        "blocks.{n}.attn.rotary": "model.rotary_emb",
        "blocks.{n}.mlp.activation": f"{llama.LAYER}mlp.act",
    },
)
