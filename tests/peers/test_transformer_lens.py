"""What `observe` keeps is what TransformerLens caches, by the names in docs/observe.md. Run by `make peers`."""

import re
from pathlib import Path

import pytest
import torch

import archport

from ..references import hf_dict, reference, sequences

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # theirs
PAGE = Path(__file__).parents[2] / "docs" / "observe.md"
ROTARY = {"positional_embedding_type": "rotary"}
# What TransformerLens itself makes of a config, for sizes that no published model has.
CONFIGS = {
    "gpt2": lambda hf: (
        {"d_model": hf.n_embd, "d_mlp": hf.n_inner, "n_heads": hf.n_head, "n_layers": hf.n_layer}
        | {"act_fn": "gelu_new", "eps": hf.layer_norm_epsilon}
    ),
    "gptj": lambda hf: (
        {"d_model": hf.n_embd, "d_mlp": hf.n_inner, "n_heads": hf.n_head, "n_layers": hf.n_layer}
        | {"act_fn": "gelu_new", "eps": hf.layer_norm_epsilon, "parallel_attn_mlp": True}
        | ROTARY
        | {"rotary_dim": hf.rotary_dim, "rotary_adjacent_pairs": True}
    ),
    "gpt_neox": lambda hf: (
        {"d_model": hf.hidden_size, "d_mlp": hf.intermediate_size}
        | {"n_heads": hf.num_attention_heads, "n_layers": hf.num_hidden_layers}
        | {"act_fn": "gelu", "eps": hf.layer_norm_eps, "parallel_attn_mlp": hf.use_parallel_residual}
        | ROTARY
        | {"rotary_dim": hf.hidden_size // hf.num_attention_heads // 2, "rotary_base": 9973}
    ),
}
CONVERT = {"gpt2": "convert_gpt2_weights", "gptj": "convert_gptj_weights", "gpt_neox": "convert_neox_weights"}


def names() -> list[tuple[str, str]]:
    """Their name and ours, as the page has them."""
    rows = re.findall(r"^\| `([\w{}.]*hook_\w+)`[^|]* \| `([^`]+)` \|$", PAGE.read_text(), re.M)
    assert len(rows) > 20
    return rows


def peer_of(model):
    """The same weights in a HookedTransformer."""
    lens = pytest.importorskip("transformer_lens")
    conversions = pytest.importorskip("transformer_lens.pretrained.weight_conversions")
    hf, kind = model.config, model.config.model_type
    sizes = CONFIGS[kind](hf)
    cfg = lens.HookedTransformerConfig(
        d_head=sizes["d_model"] // sizes["n_heads"],
        n_ctx=hf.max_position_embeddings,
        d_vocab=hf.vocab_size,
        normalization_type="LN",
        use_attn_result=True,
        device="cpu",
        **sizes,
    )
    peer = lens.HookedTransformer(cfg)
    peer.load_and_process_state_dict(
        getattr(conversions, CONVERT[kind])(model, cfg),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return peer.eval()


@pytest.mark.parametrize("variant", [*CONFIGS, "gpt_neox sequential"])
def test_values_are_those_of_their_cache(variant):
    model = reference(variant)
    port, peer = archport.from_state_dict(hf_dict(model), model.state_dict()), peer_of(model)
    ids = sequences(model)[0]
    with torch.no_grad(), archport.observe(port, *(site.name for site in archport.sites(port))) as values:
        logits = port(ids)
    with torch.no_grad():
        theirs, cache = peer.run_with_cache(ids, prepend_bos=False)
    compared, worst = set(), 0.0
    pairs = [(their, our, layer) for their, our in names() for layer in range(3 if "{n}" in our else 1)]
    for their, our, layer in pairs:
        key, name = their.format(n=layer), our.format(n=layer)
        if key not in cache or name not in values:
            continue
        expected = cache[key]
        if key.endswith("hook_normalized"):  # theirs is before the norm's weight and bias
            norm = port.get_submodule(name)
            expected = expected * norm.weight + norm.bias
        if key.endswith("scores"):  # minus infinity in both, or a large number in theirs
            future = torch.ones(expected.shape[-2:], dtype=torch.bool).triu(1)
            assert (expected[..., future] < -1e4).all()
            expected = expected.masked_fill(future, -torch.inf)
        ours = values[name].broadcast_to(expected.shape)
        finite = torch.isfinite(ours)
        assert torch.equal(finite, torch.isfinite(expected)), key
        error = ((ours - expected)[finite].abs().max() / expected[finite].abs().max()).item()
        assert error <= 2e-5, f"{key}, {name}: {error}"
        compared.add(our)
        worst = max(worst, error)
    print(f"{variant}: {len(compared)} names, at most {worst:.1e} of the largest apart")
    absent = {
        "gpt2": {"blocks.{n}.norm", "blocks.{n}.attn.q_rotated", "blocks.{n}.attn.k_rotated"},
        "gptj": {"embed.positions", "blocks.{n}.norm_attn", "blocks.{n}.norm_mlp", "blocks.{n}.between"},
        "gpt_neox": {"embed.positions", "blocks.{n}.norm", "blocks.{n}.between"},
        "gpt_neox sequential": {"embed.positions", "blocks.{n}.norm"},
    }
    assert {our for _, our in names()} - compared == absent[variant]
    assert (theirs - logits).abs().max() <= 2e-5 * logits.abs().max()
