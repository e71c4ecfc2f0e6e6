"""What `observe` keeps is what transformers computes there, what it changes is changed, and nothing of it stays."""

import copy
import math
import pickle
import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import archport
from archport import layers
from archport.errors import ConfigError, GenerationError, SourceError
from archport.fast.linears import swap
from archport.generation.decoding import first_overflow
from archport.layers import MLP, Attention, Decoder, Embed, SequentialBlock, experts
from archport.observing import Site, hooked, is_observed, observe, sites, sites_of

from .references import hf_dict, reference, sequences

ARCHITECTURES = ["gpt2", "gptj", "gpt_neox"]  # whose modules are named below
VARIANTS = [*ARCHITECTURES, "gpt_neox sequential", "gpt2 scaled by depth", "gpt_neox without attention bias"]

# Where the reference computes what a site holds: a module, and whether its input or its output.
THEIRS = {
    "gpt2": {
        "embed.tokens": ("transformer.wte", "output"),
        "embed.positions": ("transformer.wpe", "output"),
        "embed": ("transformer.drop", "output"),
        "blocks.{n}": ("transformer.h.{n}", "input"),
        "blocks.{n}.norm_attn": ("transformer.h.{n}.ln_1", "output"),
        "blocks.{n}.attn.out": ("transformer.h.{n}.attn.c_proj", "output"),
        "blocks.{n}.attn": ("transformer.h.{n}.attn", "output"),
        "blocks.{n}.between": ("transformer.h.{n}.ln_2", "input"),
        "blocks.{n}.norm_mlp": ("transformer.h.{n}.ln_2", "output"),
        "blocks.{n}.mlp.up": ("transformer.h.{n}.mlp.c_fc", "output"),
        "blocks.{n}.mlp.activation": ("transformer.h.{n}.mlp.act", "output"),
        "blocks.{n}.mlp.down": ("transformer.h.{n}.mlp.c_proj", "output"),
        "blocks.{n}.mlp": ("transformer.h.{n}.mlp", "output"),
        "blocks.{n}.after": ("transformer.h.{n}", "output"),
        "norm": ("transformer.ln_f", "output"),
        "head": ("{head}", "output"),
        "logits": ("{head}", "output"),
    },
    "gptj": {
        "embed.tokens": ("transformer.wte", "output"),
        "embed": ("transformer.drop", "output"),
        "blocks.{n}": ("transformer.h.{n}", "input"),
        "blocks.{n}.norm": ("transformer.h.{n}.ln_1", "output"),
        "blocks.{n}.attn.out": ("transformer.h.{n}.attn.out_proj", "output"),
        "blocks.{n}.attn": ("transformer.h.{n}.attn", "output"),
        "blocks.{n}.mlp.up": ("transformer.h.{n}.mlp.fc_in", "output"),
        "blocks.{n}.mlp.activation": ("transformer.h.{n}.mlp.act", "output"),
        "blocks.{n}.mlp.down": ("transformer.h.{n}.mlp.fc_out", "output"),
        "blocks.{n}.mlp": ("transformer.h.{n}.mlp", "output"),
        "blocks.{n}.after": ("transformer.h.{n}", "output"),
        "norm": ("transformer.ln_f", "output"),
        "head": ("{head}", "output"),
        "logits": ("{head}", "output"),
    },
    "gpt_neox": {
        "embed.tokens": ("gpt_neox.embed_in", "output"),
        "embed": ("gpt_neox.emb_dropout", "output"),
        "blocks.{n}": ("gpt_neox.layers.{n}", "input"),
        "blocks.{n}.norm_attn": ("gpt_neox.layers.{n}.input_layernorm", "output"),
        "blocks.{n}.attn.qkv": ("gpt_neox.layers.{n}.attention.query_key_value", "output"),
        "blocks.{n}.attn.out": ("gpt_neox.layers.{n}.attention.dense", "output"),
        "blocks.{n}.attn": ("gpt_neox.layers.{n}.attention", "output"),
        "blocks.{n}.norm_mlp": ("gpt_neox.layers.{n}.post_attention_layernorm", "output"),
        "blocks.{n}.mlp.up": ("gpt_neox.layers.{n}.mlp.dense_h_to_4h", "output"),
        "blocks.{n}.mlp.activation": ("gpt_neox.layers.{n}.mlp.act", "output"),
        "blocks.{n}.mlp.down": ("gpt_neox.layers.{n}.mlp.dense_4h_to_h", "output"),
        "blocks.{n}.mlp": ("gpt_neox.layers.{n}.mlp", "output"),
        "blocks.{n}.after": ("gpt_neox.layers.{n}", "output"),
        "norm": ("gpt_neox.final_layer_norm", "output"),
        "head": ("{head}", "output"),
        "logits": ("{head}", "output"),
    },
}
OUT = {
    "gpt2": "transformer.h.{n}.attn.c_proj",
    "gptj": "transformer.h.{n}.attn.out_proj",
    "gpt_neox": "gpt_neox.layers.{n}.attention.dense",
}
LAYER = {"gpt2": "transformer.h.{n}", "gptj": "transformer.h.{n}", "gpt_neox": "gpt_neox.layers.{n}"}


def port_of(model) -> Decoder:
    return archport.from_state_dict(hf_dict(model), model.state_dict(), dtype=model.dtype)


def inside(model, *args, **inputs):
    """What each module of a reference takes and returns in one pass, and the result of the pass."""
    taken, returned, handles = {}, {}, []

    def hook(name):
        def keep(_, args, kwargs, result):
            first = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)), None)
            result = result[0] if isinstance(result, tuple) else result
            taken[name] = first if first is None else first.clone()
            returned[name] = result.clone() if isinstance(result, torch.Tensor) else result

        return keep

    for name, module in model.named_modules():
        handles.append(module.register_forward_hook(hook(name), with_kwargs=True))
    try:
        with torch.no_grad():
            result = model(*args, **inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {"input": taken, "output": returned}, result


def close(a, b, tolerance=1e-5) -> bool:
    """Equal to within a part of the largest number, or of 1."""
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item()))


def snapshot(model) -> dict:
    """All that could be left on the modules."""
    return {
        name: (set(vars(module)), len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }


def heads_of_the_reference(name, values, layer, heads):
    """Queries, keys and values, (batch, seq, heads, head_width), as the reference's own projections return them."""
    returned = values["output"]
    if name == "gptj":
        return [
            returned[f"transformer.h.{layer}.attn.{which}_proj"].unflatten(-1, (heads, -1)) for which in ("q", "k", "v")
        ]
    if name == "gpt2":
        parts = returned[f"transformer.h.{layer}.attn.c_attn"].chunk(3, dim=-1)
        return [part.unflatten(-1, (heads, -1)) for part in parts]
    fused = returned[f"gpt_neox.layers.{layer}.attention.query_key_value"]
    return fused.unflatten(-1, (heads, 3, -1)).unbind(-2)


# --- values ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_site_holds_what_the_reference_computes_there(variant):
    model = reference(variant)
    name, port, ids = model.config.model_type, port_of(model), sequences(model)[0]
    theirs, _ = inside(model, ids)
    with torch.no_grad(), observe(port, "*", "*.*", "*.*.*", "*.*.*.*") as values:
        port(ids)
    head = next(path for path, module in model.named_modules() if module is model.get_output_embeddings())
    compared = 0
    for site, (module, end) in THEIRS[name].items():
        if site.endswith("between") and not variant.startswith("gpt2"):
            continue
        for layer in range(len(port.blocks)) if "{n}" in site else [0]:
            ours, expected = values[site.format(n=layer)], theirs[end][module.format(n=layer, head=head)]
            assert close(ours, expected.reshape(ours.shape)), site.format(n=layer)
            compared += 1
    assert compared >= 30
    if variant == "gpt_neox sequential":
        for layer in range(len(port.blocks)):
            between = theirs["input"][f"gpt_neox.layers.{layer}.post_attention_layernorm"]
            assert close(values[f"blocks.{layer}.between"], between)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stream_and_the_probabilities_are_hidden_states_and_attentions(variant):
    model = reference(variant)
    port, ids = port_of(model), sequences(model)[0]
    with torch.no_grad():
        theirs = model(ids, output_hidden_states=True, output_attentions=True)
        with observe(port, "blocks.*", "norm", "blocks.*.attn.probabilities", "logits") as values:
            port(ids)
    layers = len(port.blocks)
    for layer in range(layers):
        assert close(values[f"blocks.{layer}"], theirs.hidden_states[layer])
        assert close(values[f"blocks.{layer}.attn.probabilities"], theirs.attentions[layer])
    assert close(values["norm"], theirs.hidden_states[layers])
    assert close(values["logits"], theirs.logits)
    assert set(values) == {
        "norm",
        "logits",
        *(f"blocks.{n}" for n in range(layers)),
        *(f"blocks.{n}.attn.probabilities" for n in range(layers)),
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_queries_keys_and_values_are_the_reference_s(variant):
    model = reference(variant)
    name, port, ids = model.config.model_type, port_of(model), sequences(model)[0]
    theirs, result = inside(model, ids, use_cache=True, output_attentions=True)
    with torch.no_grad(), observe(port, "blocks.*.attn.*") as values:
        port(ids)
    for layer, block in enumerate(port.blocks):
        at = f"blocks.{layer}.attn"
        q, k, v = heads_of_the_reference(name, theirs, layer, block.attn.heads)
        assert close(values[f"{at}.q"], q)
        assert close(values[f"{at}.k"], k)
        assert close(values[f"{at}.v"], v)
        assert close(values[f"{at}.heads"].flatten(-2), theirs["input"][OUT[name].format(n=layer)])
        turned = "_rotated" if block.attn.rotary is not None else ""
        cached = result.past_key_values[layer] if not hasattr(result.past_key_values, "layers") else None
        keys = cached[0] if cached else result.past_key_values.layers[layer].keys
        assert close(values[f"{at}.k{turned}"].transpose(1, 2), keys)
        # Of the queries the reference shows no more than its probabilities.
        q, k = (values[f"{at}.{which}{turned}"].transpose(1, 2) for which in ("q", "k"))
        scores = q @ k.mT * block.attn.scale
        future = torch.ones(ids.shape[-1], ids.shape[-1], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -math.inf)
        assert close(scores.softmax(-1), result.attentions[layer])
        assert torch.equal(values[f"{at}.scores"] == -math.inf, scores == -math.inf)
        assert close(values[f"{at}.scores"].masked_fill(future, 0), scores.masked_fill(future, 0))
        assert close(values[f"{at}.scores"].softmax(-1), values[f"{at}.probabilities"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_head_adds_what_the_reference_s_projection_makes_of_it_alone(variant):
    model = reference(variant)
    port, ids = port_of(model), sequences(model)[0]
    with torch.no_grad(), observe(port, "blocks.*.attn.*", "blocks.*.attn") as values:
        logits = port(ids)
    assert close(logits, port(ids).detach())
    for layer, block in enumerate(port.blocks):
        at = f"blocks.{layer}.attn"
        project = model.get_submodule(OUT[model.config.model_type].format(n=layer))
        bias = torch.zeros(()) if project.bias is None else project.bias.detach()
        heads, added = values[f"{at}.heads"], values[f"{at}.projected_heads"]
        for head in range(block.attn.heads):
            alone = torch.zeros_like(heads)
            alone[:, :, head] = heads[:, :, head]
            assert close(added[:, :, head], project(alone.flatten(-2)).detach() - bias)
        assert close(added.sum(2) + bias, values[at])


SYMBOLS = {
    "width": "width",
    "heads": "heads",
    "kv_heads": "heads",
    "head_width": "head_width",
    "mlp_width": "mlp_width",
    "vocab_size": "vocab_size",
}


@pytest.mark.parametrize("variant", ["gpt2", "gptj", "gpt_neox", "gpt_neox sequential"])
def test_every_site_can_be_observed_and_has_the_shape_it_says(variant):
    port = port_of(reference(variant))
    ids = torch.randint(0, 100, (2, 9))
    known = sites(port)
    assert len({site.name for site in known}) == len(known)
    with torch.no_grad(), observe(port, *(site.name for site in known)) as values:
        port(ids)
    assert set(values) == {site.name for site in known}
    sizes = {"batch": 2, "seq": 9, "keys": 9} | {name: getattr(port.config, own) for name, own in SYMBOLS.items()}
    for site in known:
        axes = site.shape.strip("()").split(", ")
        expected = [sizes[axis] if axis in sizes else int(axis) for axis in axes if axis != ".."]
        shape = list(values[site.name].shape)
        assert (shape[-len(expected) :] if axes[0] == ".." else shape) == expected, site
        assert len(values.passes(site.name)) == 1
        assert str(site) == f"{site.name} {site.shape}: {site.meaning}"


def test_sites_are_listed_with_what_a_module_is_made_of_before_its_result():
    port = port_of(reference("gpt2"))
    order = [site.name for site in sites(port) if site.name.startswith(("blocks.0", "embed", "norm", "head", "logits"))]
    assert order[:4] == ["embed.tokens", "embed.positions", "embed", "blocks.0"]
    assert order[-4:] == ["blocks.0.after", "norm", "head", "logits"]
    assert order.index("blocks.0.norm_attn") < order.index("blocks.0.attn.q") < order.index("blocks.0.attn")


# --- every kind of pass ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_of_a_pass_in_pieces_are_those_of_the_whole(variant):
    port = port_of(reference(variant))
    ids = torch.randint(0, 100, (2, 11))
    names = ("blocks.*", "blocks.*.attn.probabilities", "blocks.*.attn.heads", "blocks.*.mlp.activation", "logits")
    with torch.no_grad():
        with observe(port, *names) as whole:
            port(ids)
        cache = archport.KVCache(port, batch=2, capacity=11)
        with observe(port, *names) as pieces:
            for piece in ids.split((4, 1, 5, 1), dim=1):
                port(piece, cache=cache)
    for name in whole:
        assert len(pieces.passes(name)) == 4
        if name.endswith("probabilities"):
            start = 0
            for rows in pieces.passes(name):
                assert close(rows, whole[name][:, :, start : start + rows.shape[2], : start + rows.shape[2]])
                start += rows.shape[2]
        else:
            assert close(torch.cat(pieces.passes(name), 1), whole[name])
    assert pieces["blocks.0"].shape[1] == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_values_of_a_padded_pass_are_the_reference_s_and_finite(name, side):
    model = reference(name)
    port, ids = port_of(model), torch.randint(1, 100, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    mask = mask if side == "left" else mask.flip(1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), observe(port, "blocks.*", "blocks.*.attn.probabilities", "blocks.*.attn.heads") as values:
        logits = port(ids, mask=mask.bool())
        theirs = model(
            ids, attention_mask=mask, position_ids=positions, output_hidden_states=True, output_attentions=True
        )
    assert all(torch.isfinite(values[site]).all() for site in values)
    real = mask.bool()
    assert close(logits[real], theirs.logits[real])
    for layer in range(len(port.blocks)):
        assert close(values[f"blocks.{layer}"][real], theirs.hidden_states[layer][real])
        ours = values[f"blocks.{layer}.attn.probabilities"].transpose(1, 2)[real]
        assert close(ours, theirs.attentions[layer].transpose(1, 2)[real])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_generate_is_observed_pass_by_pass_and_makes_the_same_ids(name):
    port = port_of(reference(name))
    options = {"max_new_tokens": 5, "greedy": True, "end": []}
    expected = archport.generate(port, [3, 5, 7], **options)
    with observe(port, "blocks.1", "blocks.1.attn.probabilities") as values:
        assert archport.generate(port, [3, 5, 7], **options) == expected
    assert [value.shape[1] for value in values.passes("blocks.1")] == [3, 1, 1, 1, 1]
    assert [value.shape[-1] for value in values.passes("blocks.1.attn.probabilities")] == [3, 4, 5, 6, 7]
    with torch.no_grad(), observe(port, "blocks.1") as whole:
        port(torch.tensor(expected)[:, :-1])
    assert close(torch.cat(values.passes("blocks.1"), 1), whole["blocks.1"])


def test_next_logits_score_and_stream_are_observed():
    port = port_of(reference("gpt_neox"))
    ids = torch.randint(0, 100, (1, 9))
    with torch.no_grad(), observe(port, "logits", "blocks.2") as values:
        last = port.next_logits(ids)
    assert close(values["logits"][:, -1], last)
    with observe(port, "logits", "blocks.2") as values:
        archport.score(port, ids[0].tolist())
    assert values["logits"].shape[-1] == port.config.vocab_size
    with observe(port, "blocks.*", "logits") as values:
        port.stream(ids, upto=2)
    assert set(values) == {"blocks.0", "blocks.1"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stream_up_to_a_block_is_what_that_block_is_given(variant):
    model = reference(variant)
    port, ids = port_of(model), sequences(model)[0]
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
        with observe(port, "blocks.*", "blocks.2.after") as values:
            port(ids)
        for layer in range(3):
            assert torch.equal(port.stream(ids, upto=layer), values[f"blocks.{layer}"])
            assert close(port.stream(ids, upto=layer), states[layer])
        assert torch.equal(port.stream(ids, upto=3), port.stream(ids))
        assert torch.equal(port.stream(ids), values["blocks.2.after"])
    for upto in (-1, 4):
        with pytest.raises(ValueError, match=f"before block {upto}: expected 0 to 3"):
            port.stream(ids, upto=upto)
    with pytest.raises(ValueError, match="upto and a cache exclude each other"):
        port.stream(ids, upto=1, cache=archport.KVCache(port, batch=3))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pass_that_begins_from_vectors_is_the_reference_s(name):
    model = reference(name)
    port, ids = port_of(model), sequences(model)[0][:, :9]
    vectors = torch.randn(*ids.shape, port.config.width)
    with torch.no_grad(), observe(port, "embed", "blocks.0") as values:
        assert close(port(inputs_embeds=vectors), model(inputs_embeds=vectors).logits)
        assert torch.equal(values["embed"], values["blocks.0"])
        assert torch.equal(port(inputs_embeds=port.embed.tokens(ids)), port(ids))
        mask = torch.ones_like(ids)
        mask[0, :2] = 0
        assert torch.equal(port(inputs_embeds=port.embed.tokens(ids), mask=mask.bool()), port(ids, mask=mask.bool()))


# --- gradients ---


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_integrated_gradients_are_the_reference_s(name):
    model = reference(name)
    port, ids = port_of(model), sequences(model)[0][:2, :9]

    def integrated(logits_of, vectors, steps=4):
        total = torch.zeros_like(vectors)
        for step in range(1, steps + 1):
            scaled = (vectors * step / steps).requires_grad_()
            logits_of(scaled)[:, -1, 5].sum().backward()
            total += scaled.grad
        return vectors * total / steps

    vectors = port.embed.tokens(ids).detach()
    theirs = integrated(lambda x: model(inputs_embeds=x).logits, vectors)
    assert close(integrated(lambda x: port(inputs_embeds=x), vectors), theirs)
    with observe(port, "blocks.*", "blocks.*.attn.probabilities", "blocks.*.attn.projected_heads"):
        assert close(integrated(lambda x: port(inputs_embeds=x), vectors), theirs)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_values_keep_their_gradients(name):
    model = reference(name)
    port, ids = port_of(model), sequences(model)[0][:, :9]
    states = model(ids, output_hidden_states=True, output_attentions=True)
    theirs = torch.autograd.grad(
        states.logits[:, -1, 3].sum(), [*states.hidden_states[:3], *states.attentions], allow_unused=False
    )
    with observe(port, "blocks.*", "blocks.*.attn.probabilities") as values:
        logit = port(ids)[:, -1, 3].sum()
    layers = range(len(port.blocks))
    names = [*(f"blocks.{n}" for n in layers), *(f"blocks.{n}.attn.probabilities" for n in layers)]
    for name, ours, expected in zip(
        names, torch.autograd.grad(logit, [values[name] for name in names]), theirs, strict=True
    ):
        assert close(ours, expected), name


# --- edits ---


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_silenced_head_is_a_projection_without_its_rows(variant):
    model = reference(variant)
    port, ids, name = copy.deepcopy(port_of(model)), sequences(model)[0][:, :9], model.config.model_type
    width, head = port.config.head_width, 2
    module = model.get_submodule(OUT[name].format(n=1))
    with torch.no_grad():
        columns = module.weight if name == "gpt2" else module.weight.T  # Conv1D keeps them the other way round
        columns[head * width : (head + 1) * width] = 0

    def silence(heads):
        return heads.index_fill(2, torch.tensor([head]), 0)

    def in_place(heads):
        heads[:, :, head] = 0
        return heads

    with torch.no_grad():
        expected = model(ids).logits
        for site in ("heads", "projected_heads"):
            for edit in (silence, in_place):
                with observe(port, "blocks.1.attn.heads", edit={f"blocks.1.attn.{site}": edit}) as values:
                    assert close(port(ids), expected)
                assert bool((values["blocks.1.attn.heads"][:, :, head] == 0).all()) == (site == "heads")
        new = model.generate(
            ids[:1],
            attention_mask=torch.ones_like(ids[:1]),
            max_new_tokens=5,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
        )
        with observe(port, edit={"blocks.1.attn.heads": silence}):
            assert archport.generate(port, ids[:1], max_new_tokens=5, greedy=True, end=[]) == new.tolist()
        assert not close(port(ids), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_patched_stream_is_the_reference_s_with_its_layer_given_another(variant):
    model = reference(variant)
    port, ids = port_of(model), sequences(model)[0][:, :9]
    other = torch.randn(3, port.config.width)

    def patch(stream):
        return torch.cat((stream[:, :4], other[:, None], stream[:, 5:]), 1)

    layer = model.get_submodule(LAYER[model.config.model_type].format(n=1))
    handle = layer.register_forward_pre_hook(lambda _, args: (patch(args[0]), *args[1:]))
    with torch.no_grad():
        expected = model(ids).logits
        handle.remove()
        for site in ("blocks.1", "blocks.0.after"):
            with observe(port, edit={site: patch}):
                assert close(port(ids), expected)
        assert close(port(ids), model(ids).logits)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_edited_probabilities_are_the_reference_s_with_another_softmax(name, monkeypatch):
    model = reference(name)
    port, ids = port_of(model), sequences(model)[0][:, :9]
    softmax = F.softmax

    def to_first(probabilities):
        return F.one_hot(torch.zeros_like(probabilities[..., 0], dtype=torch.long), probabilities.shape[-1]).float()

    with torch.no_grad():
        with monkeypatch.context() as patched:
            patched.setattr(F, "softmax", lambda *args, **kwargs: to_first(softmax(*args, **kwargs)))
            expected = model(ids).logits
        with observe(port, edit={"blocks.*.attn.probabilities": to_first}):
            assert close(port(ids), expected)
        assert not close(port(ids), expected)


def test_patterns_reach_the_same_sites_in_edits_and_chain():
    port = port_of(reference("gpt2"))
    ids = torch.randint(0, 100, (1, 5))
    edit = {"blocks.*.mlp": lambda x: x + 1, "blocks.1.mlp": lambda x: x * 2}
    with torch.no_grad(), observe(port, "blocks.*.mlp", "blocks.*.mlp.down", edit=edit) as values:
        port(ids)
    assert torch.equal(values["blocks.0.mlp"], values["blocks.0.mlp.down"] + 1)
    assert torch.equal(values["blocks.1.mlp"], (values["blocks.1.mlp.down"] + 1) * 2)


def test_an_edit_changes_no_value_that_was_kept_before():
    port = port_of(reference("gpt_neox"))
    with torch.no_grad(), observe(port, "embed", "embed.tokens", edit={"blocks.0": torch.Tensor.zero_}) as values:
        port(torch.tensor([[1, 2, 3]]))
    assert values["embed"].abs().min() > 0
    assert torch.equal(values["embed"], values["embed.tokens"])


@pytest.mark.parametrize("site", ["embed", "blocks.1", "blocks.1.attn.q", "blocks.1.attn.probabilities", "logits"])
def test_an_edit_that_returns_something_else_is_one_clear_error(site):
    port = port_of(reference("gpt2"))
    before, ids = snapshot(port), torch.tensor([[1, 2, 3]])
    shape = {"logits": (1, 3, 131), "blocks.1.attn.q": (1, 3, 5, 12), "blocks.1.attn.probabilities": (1, 5, 3, 3)}
    expected = re.escape(f"expected a tensor of shape {shape.get(site, (1, 3, 60))}")
    for edit, got in [(lambda _: None, "a NoneType"), (lambda x: x[..., :2], "shape")]:
        message = f"the edit of {site} returns {got}.*{expected}"
        with pytest.raises(ValueError, match=message), observe(port, edit={site: edit}):
            port(ids)
        assert snapshot(port) == before


# --- names ---


def test_a_name_that_is_no_site_is_an_error_with_the_nearest():
    port = port_of(reference("gpt2"))
    nearest = {"blocks.0.attn.pattern": "blocks.0.attn", "block.1": "blocks.1", "final_norm": "norm"}
    for name, near in nearest.items():
        for arguments in ({"edit": {name: torch.Tensor.clone}}, {}):
            with (
                pytest.raises(ConfigError, match=rf"{re.escape(name)}.*the nearest are.*{near}"),
                observe(port, *([] if arguments else [name]), **arguments),
            ):
                pass
    with (
        pytest.raises(ConfigError, match=r"found 'blocks\.\*\.none', which is no site"),
        observe(port, "blocks.*.none"),
    ):
        pass
    with pytest.raises(ConfigError, match="found a list, expected a name"), observe(port, ["blocks.0"]):
        pass
    message = "found a Tensor for 'embed', expected a function"
    with pytest.raises(ConfigError, match=message), observe(port, edit={"embed": torch.zeros(1)}):
        pass
    with pytest.raises(SourceError, match="found a Linear, expected a Decoder"), observe(nn.Linear(1, 1), "logits"):
        pass


def test_a_star_stops_at_a_dot():
    port = port_of(reference("gpt2"))
    with torch.no_grad(), observe(port, "blocks.*", "*") as values:
        port(torch.tensor([[1, 2]]))
    assert set(values) == {"embed", "blocks.0", "blocks.1", "blocks.2", "norm", "head", "logits"}


def test_what_was_not_computed_or_not_asked_for_is_a_key_error():
    port = port_of(reference("gpt2"))
    with observe(port, "blocks.1", "blocks.1.attn.heads") as values:
        assert len(values) == 0
        assert list(values) == []
        assert "blocks.1" not in values
        with pytest.raises(KeyError, match="nothing was computed there yet"):
            values["blocks.1"]
        port(torch.tensor([[1, 2]]))
    with pytest.raises(KeyError, match=r"blocks\.2 is not observed; the nearest are blocks\.1"):
        values["blocks.2"]
    assert repr(values) == "Observed(blocks.1 (1, 2, 60), blocks.1.attn.heads (1, 2, 5, 12))"


# --- nothing stays, nothing is in the way ---


class Stopped(Exception):
    pass


def stop(_):
    raise Stopped


def test_nothing_stays_on_the_model_however_the_block_ends():
    port = port_of(reference("gpt_neox"))
    everything = [site.name for site in sites(port)]
    before, ids = snapshot(port), torch.tensor([[1, 2, 3]])
    assert not is_observed(port)
    with observe(port, *everything, edit=dict.fromkeys(everything, torch.Tensor.clone)):
        assert is_observed(port)
        assert snapshot(port) != before
        port(ids)
    assert snapshot(port) == before
    assert not is_observed(port)
    with pytest.raises(Stopped), observe(port, *everything):
        raise Stopped
    assert snapshot(port) == before
    for site in everything:
        with pytest.raises(Stopped), observe(port, *everything, edit={site: stop}):
            port(ids)
        assert snapshot(port) == before
    with pytest.raises(ValueError, match="token 500"), observe(port, *everything):
        port(torch.tensor([[500]]))
    assert snapshot(port) == before
    with pytest.raises(ConfigError), observe(port, *everything, "no such site"):
        pass
    assert snapshot(port) == before
    assert "attend" not in vars(port.blocks[0].attn)


def test_a_step_that_somebody_put_on_a_module_is_there_again_afterwards():
    port = port_of(reference("gpt2"))
    attention = port.blocks[1].attn
    attention.attend = lambda *args: Attention.attend(attention, *args) * 0
    patched = attention.attend
    with torch.no_grad(), observe(port, "blocks.1.attn.heads") as values:
        port(torch.tensor([[1, 2, 3]]))
    assert not values["blocks.1.attn.heads"].any()
    assert attention.attend is patched


def test_only_the_layer_asked_for_attends_eagerly(monkeypatch):
    port = port_of(reference("gpt2"))
    calls = []
    eager = Attention.attend_eagerly
    monkeypatch.setattr(Attention, "attend_eagerly", lambda self, *args: (calls.append(self), eager(self, *args))[1])
    ids = torch.tensor([[1, 2, 3]])
    with observe(port, "blocks.*", "blocks.*.attn.heads", "blocks.*.attn.q"):
        port(ids)
    assert calls == []
    with observe(port, "blocks.1.attn.scores", "blocks.1.attn.probabilities"):
        port(ids)
    assert calls == [port.blocks[1].attn]
    port(ids)
    assert len(calls) == 1


@pytest.mark.parametrize("inner", ["probabilities", "scores", "heads", "projected_heads"])
@pytest.mark.parametrize("outer", ["probabilities", "heads", "projected_heads", "out"])
def test_observed_blocks_nest(outer, inner):
    port = port_of(reference("gptj"))
    ids, before = torch.tensor([[1, 2, 3]]), snapshot(port)

    def halved(x):
        return x / 2

    with torch.no_grad():
        edit = {f"blocks.1.attn.{outer}": halved}
        with observe(port, edit=edit):
            expected = port(ids)
        with observe(port, "blocks.1.attn.heads", "blocks.2", edit=edit) as one:
            with observe(port, f"blocks.1.attn.{inner}", "blocks.2") as two:
                between = snapshot(port)
                assert close(port(ids), expected)
            assert is_observed(port)
            assert snapshot(port) != between
            assert close(port(ids), expected)
        with observe(port, "blocks.2"), observe(port, edit=edit):
            assert close(port(ids), expected)
    assert [len(one.passes(name)) for name in one] == [2, 2]
    assert torch.equal(one.passes("blocks.2")[0], two["blocks.2"])
    assert snapshot(port) == before


def test_the_outer_block_keeps_what_an_edit_of_the_inner_one_lets_go_on():
    port = port_of(reference("gptj"))
    edit = {"blocks.1": torch.zeros_like, "blocks.1.attn.heads": torch.ones_like}
    with torch.no_grad(), observe(port, "blocks.1", "blocks.1.attn.heads") as values, observe(port, edit=edit):
        port(torch.tensor([[1, 2]]))
    assert not values["blocks.1"].any()
    assert (values["blocks.1.attn.heads"] == 1).all()


def test_a_model_that_is_observed_is_not_copied():
    port = port_of(reference("gpt2"))
    for site in ("blocks.1", "blocks.1.attn.heads", "logits"):
        with observe(port, site):
            with pytest.raises(TypeError, match="that is observed cannot be copied or saved"):
                copy.deepcopy(port)
            with pytest.raises(TypeError, match="that is observed cannot be copied or saved"):
                pickle.dumps(port)
            assert set(port.state_dict()) == set(copy.deepcopy(port.state_dict()))
    assert not is_observed(copy.deepcopy(port))


def test_compiled_steps_are_not_observed():
    port = port_of(reference("gpt2"))
    with observe(port, "blocks.1"), pytest.raises(GenerationError, match="a compiled step cannot be observed"):
        archport.generate(port, [1, 2], max_new_tokens=2, compiled=True)


def test_what_is_not_finite_is_looked_for_without_leaving_a_hook():
    port = port_of(reference("gpt_neox"))
    before = snapshot(port)
    with torch.no_grad():
        port.blocks[1].mlp.up.bias[0] = torch.inf
    assert "blocks.1.mlp.up" in first_overflow(port, torch.tensor([[1, 2]]), None)
    with pytest.raises(ValueError, match="token 500"):
        first_overflow(port, torch.tensor([[500]]), None)
    assert snapshot(port) == before


def test_hooked_calls_before_and_after_with_the_name_each_module_has_here():
    linear, calls = nn.Linear(2, 2), []

    def before(name, module, args, kwargs):
        calls.append((name, module, "before"))
        return (args[0] * 0, *args[1:]), kwargs

    def after(name, module, _, __, result):
        calls.append((name, module, "after"))
        return result + 1

    with hooked({"it": linear}, before=before, after=after):
        assert torch.equal(linear(torch.ones(1, 2)), linear.bias[None] + 1)
        assert is_observed(linear)
    assert calls == [("it", linear, "before"), ("it", linear, "after")]
    assert torch.equal(linear(torch.zeros(1, 2)), linear.bias[None])
    assert snapshot(linear) == snapshot(nn.Linear(2, 2))


# --- parts that archport does not know ---


class OwnAttention(nn.Module):
    """One head, written by somebody else, of three maps."""

    def __init__(self, width):
        super().__init__()
        self.wq, self.wk, self.wv = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x, context):
        return self.mix(self.wq(x) @ self.wk(x).mT, self.wv(x), context)

    def mix(self, scores, v, context):
        return scores.masked_fill(~context.visible[:, 0], -math.inf).softmax(-1) @ v


class DescribedAttention(OwnAttention):
    """The same, with a site of its own."""


@sites_of.register
def _(_: DescribedAttention):
    yield Site("mixed", "(batch, seq, width)", "values mixed by the scores", step="mix")
    yield Site("", "(batch, seq, width)", "what it adds to the stream")


class Pair(nn.Module):
    """Returns two things."""

    def forward(self, x):
        return x, x


def decoder_of(attention, **parts) -> Decoder:
    torch.manual_seed(0)
    block = SequentialBlock(
        norm_attn=nn.LayerNorm(12), attn=attention, norm_mlp=nn.RMSNorm(12), mlp=MLP(12, 20, activation="gelu"), **parts
    )
    return Decoder(embed=Embed(50, 12), blocks=[block], norm=nn.Identity(), head=nn.Linear(12, 50, bias=False)).eval()


def test_a_part_that_nobody_described_has_its_result():
    model = decoder_of(OwnAttention(12))
    described = {site.name: site for site in sites(model)}
    assert str(described["blocks.0.attn"]) == "blocks.0.attn: the result of this OwnAttention"
    assert str(described["blocks.0.attn.wq"]) == "blocks.0.attn.wq (.., 12): the result of this Linear"
    assert described["norm"].meaning == "the result of this Identity"
    assert "blocks.0.attn.q" not in described
    with torch.no_grad(), observe(model, *described) as values:
        model(torch.tensor([[1, 2, 3]]))
    assert set(values) == set(described)
    assert torch.equal(values["blocks.0"] + values["blocks.0.attn"], values["blocks.0.between"])


def test_a_part_of_a_plugin_describes_its_own_sites():
    model = decoder_of(DescribedAttention(12))
    described = {site.name: site for site in sites(model)}
    assert str(described["blocks.0.attn.mixed"]).endswith("values mixed by the scores")
    edit = {"blocks.0.attn.mixed": torch.ones_like}
    with torch.no_grad(), observe(model, "blocks.0.attn.mixed", "blocks.0.attn", edit=edit) as values:
        model(torch.tensor([[1, 2, 3]]))
    assert (values["blocks.0.attn.mixed"] == 1).all()
    assert torch.equal(values["blocks.0.attn"], values["blocks.0.attn.mixed"])


def test_a_result_that_is_no_tensor_is_one_clear_error():
    model = decoder_of(OwnAttention(12))
    model.blocks[0].attn.wq = nn.Sequential(Pair())
    message = r"blocks\.0\.attn\.wq: found a tuple, expected a tensor"
    with pytest.raises(ValueError, match=message), observe(model, "blocks.0.attn.wq"):
        model(torch.tensor([[1, 2, 3]]))


class Windowed(Attention):
    """Overrides how it attends, and not how it does so eagerly."""

    def attend(self, q, k, v, context):
        return super().attend(q, k, v, context) * 2


class Gated(Attention):
    """Overrides its output, and not what each head adds."""

    def output(self, heads):
        return super().output(heads).tanh()


class Capped(Windowed):
    """Overrides both ways to attend."""

    def scores(self, q, k, context):
        return super().scores(q, k, context).tanh()

    def attend(self, q, k, v, context):
        return self.attend_eagerly(q, k, v, context)


def test_a_step_that_a_subclass_overrides_is_not_observed_as_if_it_had_not():
    names = {cls: {site.name.rpartition(".")[2] for site in sites_of(cls(12, 3))} for cls in (Windowed, Gated, Capped)}
    assert not names[Windowed] & {"scores", "probabilities"}
    assert names[Capped] >= {"scores", "probabilities", "projected_heads"}
    assert "projected_heads" not in names[Gated]
    assert names[Gated] >= {"scores", "out"}
    model = decoder_of(Capped(12, 3))
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = model(ids)
        with observe(model, "blocks.0.attn.*"):
            assert close(model(ids), expected)


def test_heads_that_share_keys_are_observed_with_their_norms():
    attention = Attention(12, 6, kv_heads=2, head_width=4, q_norm=nn.RMSNorm(4), k_norm=nn.LayerNorm(4))
    model = decoder_of(attention)
    names = [site.name for site in sites(model)]
    with torch.no_grad(), observe(model, *names) as values:
        model(torch.tensor([[1, 2, 3]]))
    assert set(values) == set(names)
    shapes = {"q": (1, 3, 6, 4), "k": (1, 3, 2, 4), "q_norm": (1, 3, 6, 4), "k_norm": (1, 3, 2, 4)}
    for name, shape in shapes.items():
        assert values[f"blocks.0.attn.{name}"].shape == shape
    assert close(values["blocks.0.attn.q_norm"], attention.q_norm(values["blocks.0.attn.q"]).detach())
    assert close(values["blocks.0.attn.k_norm"], attention.k_norm(values["blocks.0.attn.k"]).detach())
    assert values["blocks.0.attn.probabilities"].shape == (1, 6, 3, 3)


def test_packed_linear_maps_are_observed_but_for_what_needs_their_weights():
    model = port_of(reference("gpt2"))
    ids = torch.tensor([[1, 2, 3]])
    plain = {site.name for site in sites(model)}
    with torch.no_grad(), observe(model, *plain) as expected:
        model(ids)
    swap(model)
    packed = {site.name for site in sites(model)}
    missing = {f"blocks.{n}.attn.projected_heads" for n in range(3)}
    assert plain - packed == missing
    with torch.no_grad(), observe(model, *packed) as values:
        model(ids)
    for name in packed:
        assert torch.isfinite(values[name]).all() or name.endswith("scores")
        assert close(values[name].nan_to_num(neginf=0), expected[name].nan_to_num(neginf=0), 1e-3), name


# What a stranger ran into.


def test_looking_at_scores_does_not_overflow_in_half_precision():
    model = archport.build("gpt2", {"vocab_size": 97, "context": 32, "width": 256, "layers": 1, "heads": 2})
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.mul_(200)
        model.half()
        ids = torch.arange(9)[None]
        plain = model(ids)
        with observe(model, "blocks.0.attn.scores") as values:
            observed = model(ids)
    assert plain.isfinite().all()
    assert observed.isfinite().all()
    scores = values["blocks.0.attn.scores"]
    assert torch.equal(scores.isfinite(), torch.ones(9, 9, dtype=torch.bool).tril().expand_as(scores))


@pytest.fixture
def port():
    return port_of(reference("gpt2"))


@pytest.fixture
def ids():
    return sequences(reference("gpt2"))[1]


def test_an_edit_that_was_never_made_is_an_error(port, ids):
    edits = {"blocks.0.mlp": torch.zeros_like, "blocks.2.mlp": torch.zeros_like}
    words = r"nothing was computed at blocks\.2\.mlp, so nothing was changed"
    with pytest.raises(ConfigError, match=words), observe(port, edit=edits):
        port.stream(ids, upto=1)
    with observe(port, edit={"blocks.*.mlp": torch.zeros_like}):  # at some of its sites it was
        port.stream(ids, upto=1)
    with pytest.raises(ZeroDivisionError), observe(port, edit={"blocks.0.mlp": torch.zeros_like}):
        raise ZeroDivisionError  # which is what counts


class OwnForward(Attention):
    """Runs none of the steps but two."""

    def forward(self, x, context):
        q, k, v = self.split(self.qkv(x))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=context.causal).transpose(1, 2).flatten(-2))


def test_steps_that_a_subclass_does_not_run_are_no_sites(port, ids):
    port.blocks[1].attn.__class__ = OwnForward
    names = [site.name for site in sites(port) if site.name.startswith("blocks.1.attn")]
    assert "blocks.1.attn" in names
    assert not {f"blocks.1.attn.{step}" for step in ("q", "k", "v", "scores", "probabilities", "heads")} & set(names)
    with observe(port, *names) as values, torch.no_grad():
        port(ids)
    assert set(values) == set(names)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.double(), "in torch.float64 on cpu"),
        (lambda x: x.to("meta"), "in torch.float32 on meta"),
        (lambda _: None, "returns a NoneType"),
        (lambda x: x[:, :1], "returns shape"),
    ],
)
def test_an_edit_of_another_kind_of_tensor_names_itself(port, ids, change, words):
    pattern = r"the edit of blocks\.1\.attn returns .*expected a tensor of shape"
    with pytest.raises(ValueError, match=pattern) as caught, observe(port, edit={"blocks.1.attn": change}):
        port(ids)
    assert words in str(caught.value)
    assert not is_observed(port)


@pytest.mark.parametrize("edit", [["blocks.1"], torch.zeros_like, {"blocks.1": 3}])
def test_what_is_no_edit_is_one_line(port, edit):
    with pytest.raises(ConfigError, match="edit: found a "), observe(port, edit=edit):
        pass
    with pytest.raises(ConfigError, match="expected `\\*`, which is one part"), observe(port, "blocks.**"):
        pass


def test_sites_have_their_shapes_in_score_too(port, ids):
    with observe(port, "logits", "norm", "blocks.1") as values:
        archport.score(port, ids[:1])
    assert [values[name].ndim for name in ("logits", "norm", "blocks.1")] == [3, 3, 3]
    assert len(values["logits"]) == len(values["norm"]) == 1


def test_values_of_generate_go_on_under_gradient(port, ids):
    with observe(port, "blocks.1") as values:
        archport.generate(port, ids[:1], max_new_tokens=2, greedy=True, end=[])
    direction = values.passes("blocks.1")[0][:, -1:]
    with observe(port, edit={"blocks.1": lambda stream: stream + direction * stream}):
        port(ids[:1]).sum().backward()
    assert port.embed.tokens.weight.grad.abs().max() > 0


def test_a_block_that_is_called_by_keyword_is_observed(port, ids):
    class ByKeyword(Decoder):
        def stream(self, ids=None, **how):
            blocks, self.blocks = self.blocks, nn.ModuleList()
            x = super().stream(ids, **how)
            self.blocks = blocks
            for block in blocks:
                x = block(x=x, context=self.context(ids, x.dtype))
            return x

    with torch.no_grad():
        expected = port(ids)
        port.__class__ = ByKeyword
        with observe(port, "blocks.*", edit={"blocks.0": lambda stream: stream + 0}) as values:
            assert torch.allclose(port(ids), expected)
    assert len(values) == len(port.blocks)


# --- parts that families have ---


def of(block):
    torch.manual_seed(0)
    head = torch.nn.Linear(24, 31, bias=False)
    blocks = [block() for _ in range(2)]
    return layers.Decoder(embed=layers.Embed(31, 24), blocks=blocks, norm=layers.RMSNorm(24, eps=1e-5), head=head)


def parts(mlp=None, **more):
    attn = layers.Attention(24, 4, kv_heads=2, bias=False, rotary=layers.Rotary(6), **more)
    return {"attn": attn, "mlp": mlp or layers.GatedMLP(24, 40, activation="silu")}


def norms(*names):
    return {name: layers.RMSNorm(24, eps=1e-5) for name in names}


ROUTED = {
    "sandwich": lambda: layers.SandwichBlock(
        **norms("norm_attn", "norm_attn_out", "norm_mlp", "norm_mlp_out"), **parts(mask=layers.Window(3), softcap=2.0)
    ),
    "post": lambda: layers.PostNormBlock(**norms("norm_attn_out", "norm_mlp_out"), **parts(mask=layers.Alibi(4))),
    "scaled": lambda: layers.ScaledBlock(scale=0.5, **norms("norm_attn", "norm_mlp"), **parts(mask=layers.Chunked(4))),
    "experts": lambda: layers.SequentialBlock(
        **norms("norm_attn", "norm_mlp"),
        **parts(
            experts.Experts(
                experts.NormalisedRouter(24, 5, top=2),
                [layers.GatedMLP(24, 10, activation="silu") for _ in range(5)],
                experts.SharedExpert(24, layers.GatedMLP(24, 10, activation="silu")),
            ),
            sinks=layers.Sinks(4),
        ),
    ),
}


@pytest.mark.parametrize("kind", ROUTED)
@torch.no_grad()
def test_every_site_of_these_parts_is_a_tensor_of_its_shape(kind):
    model, ids = of(ROUTED[kind]), torch.arange(14).view(2, 7)
    plain = model(ids)
    known = {site.name: site for site in sites(model)}
    with observe(model, *known) as values:
        assert torch.allclose(model(ids), plain, atol=1e-5)
    assert {name for name in known if ".experts." not in name} <= values.keys() <= known.keys()
    sizes = {"batch": 2, "seq": 7, "width": 24, "heads": 4, "kv_heads": 2, "head_width": 6, "keys": 7}
    sizes |= {"vocab_size": 31, "batch * seq": 14, "top": 2, "mlp_width": 10 if kind == "experts" else 40}
    for name, value in values.items():
        names = known[name].shape.strip("()").split(", ")
        said = [sizes.get(one, int(one) if one.isdigit() else None) for one in names if one and one != ".."]
        assert len(said) == value.ndim or ".." in names or not names[0], name
        assert all(one in (None, size) for one, size in zip(said[::-1], value.shape[::-1], strict=False)), name


@torch.no_grad()
def test_branches_products_and_routes_are_what_the_parts_compute():
    model, ids = of(ROUTED["sandwich"]), torch.arange(14).view(2, 7)
    with observe(model, *(site.name for site in sites(model))) as values:
        model(ids)
    one = "blocks.1"
    after = values[one] + values[f"{one}.norm_attn_out"] + values[f"{one}.norm_mlp_out"]
    assert torch.allclose(after, values[f"{one}.after"], atol=1e-6)
    product = torch.nn.functional.silu(values[f"{one}.mlp.gate"]) * values[f"{one}.mlp.up"]
    assert torch.allclose(product, values[f"{one}.mlp.product"])
    assert values[f"{one}.attn.scores"][:, :, 3, 1:4].abs().max() < 2
    assert values[f"{one}.attn.scores"][:, :, 3, 0].isneginf().all()
    model = of(ROUTED["experts"])
    routed = {"blocks.0.mlp.chosen": torch.zeros_like, "blocks.0.mlp.weights": lambda w: torch.full_like(w, 0.5)}
    with observe(model, "blocks.0.mlp", "blocks.0.norm_mlp", edit=routed) as values:
        model(ids)
    mlp, x = model.blocks[0].mlp, values["blocks.0.norm_mlp"]
    assert torch.allclose(values["blocks.0.mlp"], mlp.experts[0](x) + mlp.shared(x), atol=1e-6)
