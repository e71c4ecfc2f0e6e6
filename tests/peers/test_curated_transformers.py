"""curated-transformers' causal models: what they have no setting for, they compute in their own way."""

import json

import pytest
import torch

from archport.translate.table import rearranged, sections

from .ports import Checkpoint, Port, put_down

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs
models = pytest.importorskip("curated_transformers.models")
layers = pytest.importorskip("curated_transformers.layers")
LAYER = "decoder.layers.{n}"
QKV = "(kv [group k v] dim)"
ROWS = {
    "embed.tokens.weight": "decoder.embeddings.piece_embeddings.weight",
    "blocks.{n}.norm_attn.*": f"{LAYER}.attn_input_layer_norm.*",
    "blocks.{n}.attn.qkv.*": f"{LAYER}.mha.input.*",
    "blocks.{n}.attn.out.*": f"{LAYER}.mha.output.*",
    "blocks.{n}.norm_mlp.*": f"{LAYER}.ffn_input_layer_norm.*",
    "blocks.{n}.mlp.up.*": f"{LAYER}.ffn.intermediate.*",
    "blocks.{n}.mlp.down.*": f"{LAYER}.ffn.output.*",
    "norm.*": "decoder.output_layer_norm.*",
    "head.*": "output_embeddings.*",
}
LLAMA = ROWS | {
    "blocks.{n}.attn.qkv.*": rearranged(
        tuple(f"{LAYER}.mha.{name}.*" for name in ("query", "key", "value")), f"{QKV} ... -> {QKV} ..."
    ),
    "blocks.{n}.mlp.gate.*": f"{LAYER}.ffn.gate.*",
}
MPT = {name: row for name, row in ROWS.items() if name != "head.*"}  # their head is the embedding
MPT |= {"blocks.{n}.attn.qkv.*": sections(f"{LAYER}.mha.input.*", f"{QKV} ... -> {QKV} ...")}
MODELS = {
    "gpt_neox": ("GPTNeoXCausalLM", ROWS),
    "gpt_neox sequential": ("GPTNeoXCausalLM", ROWS),
    "llama": ("LlamaCausalLM", LLAMA),
    "llama, base 10000, eps 1e-12": ("LlamaCausalLM", LLAMA),
    "falcon": ("FalconCausalLM", ROWS),
    "mpt": ("MPTCausalLM", MPT),
}


# They have no setting for these.
FAULTS = {"gpt_neox sequential": "parallel for sequential", "llama": "rotary base 10000"}


def forward(module, ids):
    return module(ids, layers.AttentionMask(torch.ones_like(ids, dtype=torch.bool))).logits


@pytest.mark.parametrize("name", MODELS)
def test_causal_models(name):
    kind, rows = MODELS[name]
    checkpoint = Checkpoint(name)
    hf = json.loads((checkpoint.folder / "config.json").read_text())
    model = getattr(models, kind).from_hf_config(hf_config=hf | {"torch_dtype": "float32"})
    state = dict(type(model).state_dict_from_hf(checkpoint.tensors))
    if "output_embeddings.weight" in model.state_dict():  # the checkpoint's may be tied
        state.setdefault("output_embeddings.weight", state["decoder.embeddings.piece_embeddings.weight"])
    model.load_state_dict(state)
    result = put_down(Port("curated_transformers", model, rows, forward), name)
    assert (result["same"], result["fault"]) == (name not in FAULTS, FAULTS.get(name))
