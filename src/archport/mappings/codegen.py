"""CodeGen: GPT-J's names, but the fused rows go shard by shard: its queries, its values, its keys."""

from dataclasses import replace

from ..translate.table import rearranged
from . import MASK, gptj

LAYER = "transformer.h.{n}."

TABLE = replace(
    gptj.TABLE,
    classes=("CodeGenForCausalLM", "CodeGenModel"),
    weights={
        **gptj.TABLE.weights,
        "blocks.{n}.attn.qkv.weight": rearranged(
            f"{LAYER}attn.qkv_proj.weight", "(shard [q v k] head dim) ... -> (shard head [q k v] dim) ..."
        ),
    },
    ignored={**gptj.TABLE.ignored, f"{LAYER}attn.causal_mask": MASK},
)
