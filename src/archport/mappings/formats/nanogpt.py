"""nanoGPT's ckpt.pt: GPT-2's names, but linear maps lie (out, in), the head is tied, and biases may be left out."""

from ...layers import QKV
from ...translate.formats import Format
from ...translate.table import Table, rearranged
from . import LOST, TIED

LAYER = "transformer.h.{n}."

GPT2 = Table(
    classes=(),
    prefix="",
    config={
        "vocab_size": "vocab_size",
        "context": "block_size",
        "width": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "embed_dropout": "dropout",
        "attention_dropout": "dropout",
        "residual_dropout": "dropout",
    },
    requires={},
    harmless=frozenset({"bias"}),
    # Its own way to load OpenAI's weights takes those of the other gelu, too.
    fixed={"activation": ("gelu", "gelu_tanh"), "tied": (True,)},
    lost=LOST,
    weights={
        "embed.tokens.weight": "transformer.wte.weight",
        "embed.positions.weight": "transformer.wpe.weight",
        "blocks.{n}.norm_attn.*": f"{LAYER}ln_1.*",
        "blocks.{n}.attn.qkv.*": rearranged(f"{LAYER}attn.c_attn.*", f"([group k v] kv dim) ... -> {QKV} ..."),
        "blocks.{n}.attn.out.*": f"{LAYER}attn.c_proj.*",
        "blocks.{n}.norm_mlp.*": f"{LAYER}ln_2.*",
        "blocks.{n}.mlp.up.*": f"{LAYER}mlp.c_fc.*",
        "blocks.{n}.mlp.down.*": f"{LAYER}mlp.c_proj.*",
        "norm.*": "transformer.ln_f.*",
        "head.weight": "lm_head.weight",
    },
    tied=TIED,
    ignored={f"{LAYER}attn.bias": "causal mask, which attention makes itself"},
    bias_field="bias",
)

FORMAT = Format(
    title="nanoGPT",
    tables=(("gpt2", GPT2),),
    defaults={"bias": True, "dropout": 0.0},
    unlike="the linear weights are transposed",
    tensors_key="model",
    settings_key="model_args",
    others={"iter_num": 0, "best_val_loss": 1e9, "config": {}},
)
