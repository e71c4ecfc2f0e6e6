"""x-transformers can be set up like a Llama; it reads no checkpoints, so archport fills it."""

import pytest

import archport
from archport import rearranged

from .ports import Checkpoint, Port, put_down

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs
theirs = pytest.importorskip("x_transformers")
LAYERS = "attn_layers.layers"


def rows_of_layer(n):
    """Theirs are numbered through, attention and MLP by turns.

    Rotary pairs are neighbours, and keys take turns among the queries: query 0 has key 0, query 1 has key 1.
    """
    attn, mlp, ours = f"{LAYERS}.{2 * n}", f"{LAYERS}.{2 * n + 1}", f"blocks.{n}"
    out = "width (group kv half two) -> width (kv group two half)"
    qkv = tuple(f"{attn}.1.to_{name}.weight" for name in "qkv")
    return {
        f"{ours}.norm_attn.weight": f"{attn}.0.0.g",
        f"{ours}.attn.qkv.weight": rearranged(
            qkv, "([group k v] kv half two) width -> (kv [group k v] two half) width"
        ),
        f"{ours}.attn.out.weight": rearranged(f"{attn}.1.to_out.weight", out),
        f"{ours}.norm_mlp.weight": f"{mlp}.0.0.g",
        f"{ours}.mlp.up.weight": rearranged(f"{mlp}.1.ff.0.proj.weight", "([up gate] mlp) width -> ([up] mlp) width"),
        f"{ours}.mlp.gate.weight": rearranged(
            f"{mlp}.1.ff.0.proj.weight", "([up gate] mlp) width -> ([gate] mlp) width"
        ),
        f"{ours}.mlp.down.weight": f"{mlp}.1.ff.2.weight",
    }


ROWS = {"embed.tokens.weight": "token_emb.emb.weight"}
ROWS |= {name: row for n in range(3) for name, row in rows_of_layer(n).items()}
ROWS |= {"norm.weight": "attn_layers.final_norm.g", "head.weight": "to_logits.weight"}


ALIKE = ("llama, base 10000, eps 1e-12",)


WHY = "norms and rotary have an eps and a base of their own, with no setting"


@pytest.mark.parametrize("name", ["llama", *ALIKE])
def test_a_llama(name):
    checkpoint = Checkpoint(name)
    sizes = checkpoint.sizes
    decoder = theirs.Decoder(
        dim=sizes["width"],
        depth=sizes["layers"],
        heads=sizes["heads"],
        attn_kv_heads=sizes["kv_heads"],
        attn_dim_head=sizes["head_width"],
        rotary_pos_emb=True,
        rotary_emb_dim=sizes["head_width"],
        use_rmsnorm=True,
        norm_add_unit_offset=False,
        ff_glu=True,
        ff_swish=True,
        ff_no_bias=True,
        ff_mult=sizes["mlp_width"] / sizes["width"],
    )
    model = theirs.TransformerWrapper(
        num_tokens=sizes["vocab_size"], max_seq_len=sizes["context"], use_abs_pos_emb=False, attn_layers=decoder
    )
    for path, module in model.named_modules():
        if path.endswith("ff.0.proj"):  # which has one whatever ff_no_bias says
            module.bias = None
    archport.fill(model, checkpoint.folder, ROWS)
    port = Port("x_transformers", model, ROWS, how="filled by archport", why="" if name in ALIKE else WHY)
    assert put_down(port, name)["same"] == (name in ALIKE)
