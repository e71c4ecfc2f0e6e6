"""torchtune's decoders: some by its own conversions, others filled, for it has rotary pairs as neighbours."""

from importlib import import_module

import pytest
from torch import nn

import archport
from archport import rearranged

from .ports import Checkpoint, Port, put_down

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs
pytest.importorskip("torchtune")
KV, LAYER = "kv [group k v]", "layers.{n}"
QKV = tuple(f"{LAYER}.attn.{name}_proj.*" for name in "qkv")
ROWS = {
    "embed.tokens.weight": "tok_embeddings.weight",
    "blocks.{n}.norm_attn.weight": f"{LAYER}.sa_norm.scale",
    "blocks.{n}.attn.qkv.*": rearranged(QKV, f"({KV} dim) ... -> ({KV} dim) ..."),
    "blocks.{n}.attn.out.weight": f"{LAYER}.attn.output_proj.weight",
    "blocks.{n}.norm_mlp.weight": f"{LAYER}.mlp_norm.scale",
    "blocks.{n}.mlp.gate.weight": f"{LAYER}.mlp.w1.weight",
    "blocks.{n}.mlp.up.weight": f"{LAYER}.mlp.w3.weight",
    "blocks.{n}.mlp.down.weight": f"{LAYER}.mlp.w2.weight",
    "norm.weight": "norm.scale",
    "head.weight": "output.weight",
}
# Of values too, so that what is rearranged in their output is undone there: the same function.
NEIGHBOURS = ROWS | {
    "blocks.{n}.attn.qkv.*": rearranged(QKV, f"({KV} half two) ... -> ({KV} two half) ..."),
    "blocks.{n}.attn.out.weight": rearranged(
        f"{LAYER}.attn.output_proj.weight", "width (head half two) -> width (head two half)"
    ),
}
GEMMA2 = {
    "norm.weight": "norm.rms_norm.scale",
    "blocks.{n}.norm_attn_out.weight": f"{LAYER}.sa_scale.scale",
    "blocks.{n}.norm_mlp_out.weight": f"{LAYER}.mlp_scale.scale",
}
GEMMA = {name: row for name, row in NEIGHBOURS.items() if name != "head.weight"}  # theirs is the embedding


def made(name, checkpoint):
    """Their model with its own builder's names of the sizes, and its rows."""
    sizes = checkpoint.sizes
    how = {"vocab_size": "vocab_size", "num_layers": "layers", "num_heads": "heads", "num_kv_heads": "kv_heads"}
    how |= {"embed_dim": "width", "intermediate_dim": "mlp_width", "max_seq_len": "context", "norm_eps": "norm_eps"}
    how |= {"head_dim": "head_width"} if name.startswith("gemma") else {}
    settings = {theirs: sizes[ours] for theirs, ours in how.items()} | {"rope_base": sizes["rotary_base"]}
    if name == "gemma2":
        settings |= {
            "hidden_capping_value": sizes["attn_logit_softcapping"],
            "sliding_window_size": sizes["sliding_window"],
        }
        settings |= {one: sizes[one] for one in ("query_pre_attn_scalar",)}
        settings |= {"final_capping_value": sizes["final_logit_softcapping"]}
    family = {"llama": "llama2"}.get(name, name)
    return getattr(import_module(f"torchtune.models.{family}._component_builders"), family)(**settings)


@pytest.mark.parametrize("name", ["qwen2", "phi3"])
def test_converted(name):
    checkpoint = Checkpoint(name)
    sizes = checkpoint.sizes
    convert = getattr(import_module(f"torchtune.models.{name}._convert_weights"), f"{name}_hf_to_tune")
    counts = {"num_heads": sizes["heads"], "num_kv_heads": sizes["kv_heads"], "dim": sizes["width"]}
    model = made(name, checkpoint)
    model.load_state_dict(convert(checkpoint.tensors, **counts))
    assert put_down(Port("torchtune", model, ROWS), name)["same"]


def filled(name, rows):
    model = made(name, Checkpoint(name))
    archport.fill(model, Checkpoint(name).folder, rows)
    return model


@pytest.mark.parametrize(
    ("name", "rows", "fault"),
    [("llama", NEIGHBOURS, None), ("mistral", NEIGHBOURS, "window missing"), ("gemma", GEMMA, None)],
)
def test_filled(name, rows, fault):
    result = put_down(Port("torchtune", filled(name, rows), rows, how="filled by archport"), name)
    assert (result["same"], result["fault"]) == (fault is None, fault)


def test_gemma_2_caps_what_it_should_not():
    """Verify says where; that this is all that differs shows when the cap is moved."""
    rows, name = GEMMA | GEMMA2, "gemma2"
    model, why = filled(name, rows), "it caps what goes into the head, not the logits"
    port = Port("torchtune", model, rows, how="filled by archport", why=why)
    assert not put_down(port, name)["same"]
    cap, model.norm.logit_capping = model.norm.logit_capping, nn.Identity()
    logits = {"reference": Checkpoint(name).folder, "rows": rows, "forward": lambda module, ids: cap(module(ids))}
    assert archport.verify(model, **logits).ok
